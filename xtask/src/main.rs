//! `cargo xtask`: builds the enforcer, shows it at work, tests and measures it.
//!
//! Input: the command line. Output: the exit code of what was asked for; progress on standard error.
//! Invariant: everything is built in `<workspace>/target`, tools are installed in
//! `<workspace>/.tools`, and nothing else of the machine changes except the user's caches (cargo's,
//! Go's, and one for the control plane and the kernels of the tests) and Debian packages that were announced before.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod bench;
mod build;
mod child;
mod control_plane;
mod debug;
mod demo;
mod fuzz;
mod go;
mod image;
mod kernels;
mod machine;
mod needs;
mod outcome;
mod packages;
mod project;
mod purity;
mod test;
mod tiers;
mod toolchain;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

use crate::build::Profile;
use crate::project::Project;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows, tests and measures the enforcer")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the BPF program and the agent that embeds it; sets up the toolchain if needed
    Build {
        /// Profile of the agent; the BPF program is always optimised
        #[arg(long, value_enum, default_value_t = Profile::Release)]
        profile: Profile,
    },
    /// Show the enforcer at work with real packets, in network namespaces of its own (as root)
    Demo {
        /// Passed on to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the test tiers and close with a table of what ran
    Test {
        /// Only this tier; may be repeated
        #[arg(long = "tier", value_name = "NAME", value_parser = PossibleValuesParser::new(tiers::names()))]
        tiers: Vec<String>,
        /// Passed on to the test programs, such as a part of a test's name
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Measure the data path, beside what users would otherwise run, and the agent at fleet scale;
    /// closes with a table of what is promised (as root, about 10 minutes)
    Bench {
        /// Which part to measure: all, micro, pod, macro, told, agent
        #[arg(long, default_value = "all")]
        part: String,
        /// Few rounds and scales: to see that everything runs, not to decide anything
        #[arg(long)]
        quick: bool,
        /// Passed on to the benchmark
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Fuzz parser, decisions, translation, compiler and planner, guided by coverage
    Fuzz {
        /// Add inputs that reach new code to the corpus in the repository
        #[arg(long)]
        keep: bool,
        /// How long each target is fuzzed
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Only these targets
        #[arg(value_name = "TARGET", value_parser = PossibleValuesParser::new(fuzz::TARGETS))]
        targets: Vec<String>,
    },
    /// Run `enforcer debug` of the built agent, or that of a pod
    Debug {
        #[command(flatten)]
        place: debug::Place,
        /// Arguments of `enforcer debug`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build the container image for this machine and those that it can build for
    Image,
    /// Build etcd, kube-apiserver and kubectl for the tests, once, and print their folder
    ControlPlane,
    /// Format, clippy, dependency rules: the tier `lint`
    Lint,
}

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    let project = Project::of_this_workspace();
    let done = match command {
        Command::Build { profile } => build::run(&project, profile),
        Command::Demo { args } => demo::run(&project, &args),
        Command::Test { tiers, args } => test::run(&project, &tiers, &args),
        Command::Bench { part, quick, args } => bench::run(&project, &part, quick, &args),
        Command::Debug { place, args } => debug::run(&project, &place, &args),
        Command::Fuzz { keep, minutes, targets } => fuzz::run(&project, &targets, minutes, keep),
        Command::Image => image::run(&project),
        Command::ControlPlane => control_plane::run(&project),
        Command::Lint => test::run(&project, &["lint".to_owned()], &[]),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
