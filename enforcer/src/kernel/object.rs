//! The BPF object that `cargo xtask build` made, embedded.

/// The object file.
pub const BPF_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer.bpf.o"));
