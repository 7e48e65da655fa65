//! Benchmarks.
//!
//! Input: which part to measure. Output: what the benchmark prints, and its exit code. Invariant:
//! everything that is measured is a release build.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::build::{locked, with_product};
use crate::child::{announce, become_program, cargo, program, run as run_command};
use crate::demo::build_for_root;
use crate::machine::Machine;
use crate::packages::{BENCH, install, missing};
use crate::project::Project;

/// `cargo xtask bench`.
pub(crate) fn run(
    project: &Project,
    part: &str,
    quick: bool,
    args: &[OsString],
) -> Result<ExitCode> {
    build_for_root(project, "bench")?.bench_object(project)?;
    // Without them the report says what was left out.
    if let Err(error) = install(project, &Machine::observe(), &missing(BENCH)) {
        announce(&format!("{error:#}"), "the rest is measured without it");
    }
    announce("building the benchmark", "about 2 minutes the first time");
    let mut build = cargo(project);
    build.args(["build", "--release", "--package", "enforcer-bench", "--bin", "bench"]);
    build.args(locked(project)).arg("--target-dir").arg(project.target());
    run_command(with_product(&mut build, project))?;
    let mut bench = program(project, project.target().join("release/bench"));
    bench.env("ENFORCER_BENCH_OBJECT", project.bench_object()).args(["--part", part]).args(args);
    if quick {
        bench.arg("--quick");
    }
    Err(become_program(with_product(&mut bench, project)))
}
