//! Where things lie in this workspace.
//!
//! Input: the folder this crate was compiled in. Output: absolute paths. Invariant: the target
//! folder is `<workspace>/target`, whatever `CARGO_TARGET_DIR` says, so that scripts find what
//! they are promised.

use std::path::{Path, PathBuf};

/// The workspace on disk.
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    pub(crate) fn of_this_workspace() -> Self {
        let member = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: member.parent().unwrap_or(member).to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Target folder of the BPF program: another compiler, so nothing is shared with the host's.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target().join("bpf")
    }

    /// The BPF object that the agent embeds.
    pub(crate) fn object(&self) -> PathBuf {
        self.bpf_target().join("enforcer.bpf.o")
    }

    /// The same for kernels whose arrays take no value as large as an image; the agent embeds both.
    pub(crate) fn object_in_parts(&self) -> PathBuf {
        self.bpf_target().join("enforcer-parts.bpf.o")
    }

    /// The BPF object that only benchmarks load.
    pub(crate) fn bench_object(&self) -> PathBuf {
        self.bpf_target().join("bench.bpf.o")
    }

    /// The agent as it is shipped, tested and shown.
    pub(crate) fn agent(&self) -> PathBuf {
        self.target().join("release/enforcer")
    }

    /// Container images and what their builders keep.
    pub(crate) fn images(&self) -> PathBuf {
        self.target().join("image")
    }

    /// KKP's own CRDs, where they lie beside the project.
    pub(crate) fn real_crds(&self) -> Option<PathBuf> {
        Some(self.root.join("../shared/kkp-crds")).filter(|folder| folder.is_dir())
    }

    /// Root of `cargo install` for tools that the build needs; binaries are in its `bin`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    pub(crate) fn has_lock_file(&self) -> bool {
        self.root.join("Cargo.lock").exists()
    }
}
