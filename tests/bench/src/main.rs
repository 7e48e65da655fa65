//! `cargo xtask bench`: figures as ratios to a floor measured in the same run.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is the output")]

mod case;
mod micro;
mod report;
mod rig;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

/// Measures, and writes JSON and Markdown.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(long, value_enum, default_value = "micro")]
    part: Part,
    /// Object with the programs that only benches load.
    #[arg(long, env = "ENFORCER_BENCH_OBJECT")]
    programs: PathBuf,
    /// Folder for the report.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Rounds; the figures are medians over them.
    #[arg(long, default_value_t = 31)]
    pub(crate) rounds: usize,
    /// Packets of one program in one round.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) packets: u32,
    /// Numbers of API servers.
    #[arg(long, value_delimiter = ',', default_value = "1,10000")]
    pub(crate) servers: Vec<usize>,
    /// Numbers of ranges of the measured API server.
    #[arg(long, value_delimiter = ',', default_value = "1,10,1000,100000")]
    pub(crate) ranges: Vec<usize>,
    /// Fail if a budget is missed by more than this factor.
    #[arg(long)]
    gate: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// The data path, with `test_run`.
    Micro,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let programs = std::fs::read(&arguments.programs)
        .with_context(|| format!("cannot read {}", arguments.programs.display()))?;
    std::fs::create_dir_all(&arguments.out)?;
    let measured = match arguments.part {
        Part::Micro => micro::measure(&programs, &arguments)?,
    };
    let text = report::markdown(&measured);
    std::fs::write(arguments.out.join("micro.md"), &text)?;
    std::fs::write(arguments.out.join("micro.json"), serde_json::to_vec_pretty(&measured)?)?;
    println!("{text}");
    let Some(margin) = arguments.gate else { return Ok(ExitCode::SUCCESS) };
    let missed = report::missed(&measured.rows, margin);
    for line in &missed {
        eprintln!("over the budget: {line}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
