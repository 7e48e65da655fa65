//! Cargo tools of pinned versions: bpf-linker, cargo-deny and cargo-fuzz.
//!
//! Input: a toolchain. Output: the path of a fitting tool. Invariant: tools are installed in the
//! project's own folder, never in the user's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::child::{announce, ask, cargo, program, run_as_progress};
use crate::machine::{Machine, find};
use crate::packages::{self, BPF_SUPPORT};
use crate::project::Project;
use crate::toolchain::Toolchain;

const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM of the package table.
const PACKAGED_LLVM: u32 = 22;
const CARGO_DENY_VERSION: &str = "0.20.2";
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// A bpf-linker that reads what the toolchain's LLVM writes.
pub(crate) fn bpf_linker(
    project: &Project,
    machine: &Machine,
    toolchain: Toolchain,
) -> Result<PathBuf> {
    let ours = project.tools().join("bin/bpf-linker");
    let needed = toolchain.compiler().llvm;
    if version_of(project, &ours).is_some_and(|version| version == BPF_LINKER_VERSION)
        && linked_llvm(&project.tools()).is_none_or(|llvm| llvm >= needed)
    {
        return Ok(ours);
    }
    if let (Toolchain::Nightly(_), Some(theirs)) = (toolchain, find("bpf-linker"))
        && version_of(project, &theirs).is_some_and(|version| fits(&version))
    {
        return Ok(theirs);
    }
    let mut install = install(project, "bpf-linker", BPF_LINKER_VERSION);
    let absent = packages::missing(BPF_SUPPORT);
    // Elsewhere than on Debian, whatever LLVM the linker's own default finds.
    if needed <= PACKAGED_LLVM && (absent.is_empty() || machine.apt) {
        packages::install(project, machine, &absent).context("cannot build bpf-linker")?;
        install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{PACKAGED_LLVM}")).args([
            "--no-default-features",
            "--features",
            &format!("llvm-{PACKAGED_LLVM}"),
        ]);
    }
    announce("installing bpf-linker into .tools", "about 40 s");
    run_as_progress(&mut install).with_context(|| {
        format!("cannot build bpf-linker; it needs LLVM {needed} or newer with its headers")
    })?;
    Ok(ours)
}

/// cargo-deny, for the dependency rules.
pub(crate) fn cargo_deny(project: &Project) -> Result<PathBuf> {
    let ours = project.tools().join("bin/cargo-deny");
    if version_of(project, &ours).is_some_and(|version| version == CARGO_DENY_VERSION) {
        return Ok(ours);
    }
    announce("installing cargo-deny into .tools", "about 1.5 minutes");
    run_as_progress(&mut install(project, "cargo-deny", CARGO_DENY_VERSION))
        .context("cannot build cargo-deny")?;
    Ok(ours)
}

/// cargo-fuzz, which builds and runs fuzz targets.
pub(crate) fn cargo_fuzz(project: &Project) -> Result<PathBuf> {
    let ours = project.tools().join("bin/cargo-fuzz");
    if version_of(project, &ours).is_some_and(|version| version == CARGO_FUZZ_VERSION) {
        return Ok(ours);
    }
    announce("installing cargo-fuzz into .tools", "about 20 s");
    run_as_progress(&mut install(project, "cargo-fuzz", CARGO_FUZZ_VERSION))
        .context("cannot build cargo-fuzz")?;
    Ok(ours)
}

fn install(project: &Project, name: &str, version: &str) -> Command {
    let mut install = cargo(project);
    install
        .args(["install", name, "--version", version, "--locked", "--force", "--root"])
        .arg(project.tools())
        // Flags meant for this project would break the tools.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // They run for moments: optimised, cargo-deny alone takes over 4 minutes to build on 2 cores.
    for (setting, value) in
        [("LTO", "off"), ("OPT_LEVEL", "0"), ("CODEGEN_UNITS", "16"), ("DEBUG", "0")]
    {
        install.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    install
}

fn version_of(project: &Project, tool: &Path) -> Option<String> {
    let said = ask(program(project, tool).arg("--version"))?;
    said.split_whitespace().nth(1).map(str::to_owned)
}

/// At least the pinned version: the agent's own builds are proven with that.
fn fits(version: &str) -> bool {
    let parts = |version: &str| {
        let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        [numbers.next(), numbers.next(), numbers.next()]
    };
    parts(version) >= parts(BPF_LINKER_VERSION)
}

/// The LLVM that the installed bpf-linker was built for, from cargo's own record.
fn linked_llvm(tools: &Path) -> Option<u32> {
    feature_llvm(&std::fs::read_to_string(tools.join(".crates2.json")).ok()?)
}

fn feature_llvm(record: &str) -> Option<u32> {
    let entry = record.split_once("\"bpf-linker ")?.1;
    let feature = entry.split_once("\"features\":[\"llvm-")?.1;
    feature.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_linker_does_not_fit() {
        assert!(fits("0.13.0"));
        assert!(fits("0.13.1"));
        assert!(fits("1.0.0"));
        assert!(!fits("0.9.15"));
        assert!(!fits("unknown"));
    }

    #[test]
    fn the_linkers_llvm_is_read_from_cargos_record() {
        let record = r#"{"installs":{"cargo-deny 0.20.2 (r)":{"features":[]},"bpf-linker 0.13.0 (r)":{"version_req":"=0.13.0","bins":["bpf-linker"],"features":["llvm-22"]}}}"#;
        assert_eq!(feature_llvm(record), Some(22));
        assert_eq!(feature_llvm(r#"{"installs":{}}"#), None);
    }
}
