//! How xtask starts other programs.
//!
//! Input: a program and its arguments. Output: its exit status, as a result or as our own exit
//! code. Invariant: no child inherits what `cargo run` or an outer build exported about itself.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::machine::{ci, search_path};
use crate::project::Project;

/// Announces a step that takes a while, with an estimate: "about 40 s".
pub(crate) fn announce(what: &str, estimate: &str) {
    eprintln!("==> {what} ({estimate})");
}

/// A program in the workspace root, with the environment that every child gets.
pub(crate) fn program(project: &Project, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(project.root()).env("PATH", search_path());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_the_outer_build) {
            command.env_remove(name);
        }
    }
    command
}

/// Cargo of the toolchain that runs xtask.
pub(crate) fn cargo(project: &Project) -> Command {
    let mut command = program(project, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if ci() {
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}

/// A program of another toolchain: nothing of the present one may reach it.
pub(crate) fn foreign(project: &Project, name: impl AsRef<OsStr>) -> Command {
    let mut command = program(project, name);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_this_toolchain) {
            command.env_remove(name);
        }
    }
    // Empty means none, also against a wrapper named in the user's cargo configuration.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

/// Runs to the end; an error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Like `run`, with the child's standard output on our standard error.
pub(crate) fn run_as_progress(command: &mut Command) -> Result<()> {
    run(command.stdin(Stdio::null()).stdout(io::stderr()))
}

/// Standard output of a question; `None` when the program is absent or fails.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Becomes the program: signals reach it, and its exit code is ours. Returns only on failure.
pub(crate) fn become_program(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(format!("cannot start {}", shown(command)))
}

/// Exit code as a shell reports it.
pub(crate) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Some build scripts watch these variables: left in place, crates would be built again after each
/// change between `cargo` and `cargo xtask`. The others would move the output.
fn is_about_the_outer_build(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "CARGO_BIN_NAME",
        "CARGO_BUILD_BUILD_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_TARGET_DIR",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_DIR",
        "OUT_DIR",
    ];
    NAMES.contains(&name) || name.starts_with("CARGO_PKG_")
}

fn is_about_this_toolchain(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    const FAMILIES: [&str; 4] =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_BPFEL_", "CARGO_UNSTABLE_"];
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_exports_is_recognised() {
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_TARGET_DIR"] {
            assert!(is_about_the_outer_build(name), "{name}");
        }
        for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
            assert!(is_about_this_toolchain(name), "{name}");
        }
    }

    #[test]
    fn where_cargo_and_rustup_live_reaches_every_child() {
        for name in
            ["CARGO_HOME", "RUSTUP_HOME", "PATH", "HOME", "CARGO_HTTP_PROXY", "CARGO_NET_OFFLINE"]
        {
            assert!(!is_about_the_outer_build(name), "{name}");
            assert!(!is_about_this_toolchain(name), "{name}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(2)), 130);
    }
}
