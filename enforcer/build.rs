//! Puts the BPF objects where `kernel::object` embeds them from.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Beside the object: the same for kernels whose arrays take no value as large as an image.
const IN_PARTS: &str = "enforcer-parts.bpf.o";

fn main() {
    println!("cargo::rerun-if-env-changed=ENFORCER_BPF_OBJECT");
    let workspace =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let object = env::var_os("ENFORCER_BPF_OBJECT")
        .map_or_else(|| workspace.join("target/bpf/enforcer.bpf.o"), PathBuf::from);
    embed(&object, "enforcer.bpf.o");
    embed(&object.with_file_name(IN_PARTS), IN_PARTS);
}

fn embed(object: &Path, name: &str) {
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(name);
    if let Err(error) = fs::copy(object, out) {
        println!(
            "cargo::error=no BPF object at {} ({error}); `cargo xtask build` makes it",
            object.display()
        );
    }
}
