//! Puts the BPF object where `kernel::object` embeds it from.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=ENFORCER_BPF_OBJECT");
    let workspace =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("..");
    let object = env::var_os("ENFORCER_BPF_OBJECT")
        .map_or_else(|| workspace.join("target/bpf/enforcer.bpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("enforcer.bpf.o");
    if let Err(error) = fs::copy(&object, out) {
        println!(
            "cargo::error=no BPF object at {} ({error}); `cargo xtask build` makes it",
            object.display()
        );
    }
}
