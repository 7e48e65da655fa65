//! The demo.
//!
//! Input: arguments to pass on. Output: the program's own output and exit code. Invariant: xtask
//! becomes the program, so that Ctrl-C and SIGTERM reach the one that has to clean up.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::build::{BpfBuilder, Profile, agent, locked, with_product};
use crate::child::{announce, become_program, cargo, program, run as run_command};
use crate::machine::Machine;
use crate::packages::{NETWORK, install, missing};
use crate::project::Project;

/// `cargo xtask demo`.
pub(crate) fn run(project: &Project, args: &[OsString]) -> Result<ExitCode> {
    build_for_root(project, "demo")?;
    Err(become_program(prepared(project)?.args(args)))
}

/// Builds what a program with network namespaces needs, or says how to become root.
pub(crate) fn build_for_root(project: &Project, subcommand: &str) -> Result<BpfBuilder> {
    let machine = Machine::observe();
    if !machine.root {
        bail!(
            "`cargo xtask {subcommand}` makes network namespaces and needs root:\n  \
             sudo env {} cargo xtask {subcommand}",
            kept_variables()
        );
    }
    install(project, &machine, &missing(NETWORK))?;
    let bpf = BpfBuilder::prepare(project, &machine)?;
    bpf.object(project)?;
    agent(project, Profile::Release)?;
    Ok(bpf)
}

/// The demo program, built around the present agent.
pub(crate) fn prepared(project: &Project) -> Result<Command> {
    announce("building the demo", "about 1 minute the first time");
    let mut build = cargo(project);
    // The whole workspace, so that the features are those of the tests and nothing is built twice.
    build.args(["build", "--workspace", "--bin", "demo", "--target-dir"]).arg(project.target());
    run_command(with_product(build.args(locked(project)), project))?;
    let mut demo = program(project, project.target().join("debug/demo"));
    with_product(&mut demo, project);
    Ok(demo)
}

/// sudo replaces these, and with them the way to cargo.
fn kept_variables() -> &'static str {
    if std::env::var_os("CARGO_HOME").is_some() || std::env::var_os("RUSTUP_HOME").is_some() {
        "PATH=\"$PATH\" HOME=\"$HOME\" CARGO_HOME=\"$CARGO_HOME\" RUSTUP_HOME=\"$RUSTUP_HOME\""
    } else {
        "PATH=\"$PATH\" HOME=\"$HOME\""
    }
}
