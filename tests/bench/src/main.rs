//! `cargo xtask bench`: figures as ratios to a floor measured in the same run, the agent at fleet
//! scale, and a table of what was promised.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is the output")]

mod case;
mod fleet;
mod micro;
mod plot;
mod pod;
mod report;
mod rig;
mod target;
mod wire;
mod world;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

use crate::target::Target;

/// Measures, and writes JSON, Markdown and plots.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// What to measure.
    #[arg(long, value_enum, default_value = "all")]
    part: Part,
    /// Few rounds and scales: to see that everything runs, not to decide anything.
    #[arg(long)]
    quick: bool,
    /// Object with the programs that only benches load.
    #[arg(long, env = "ENFORCER_BENCH_OBJECT")]
    programs: PathBuf,
    /// Folder for the report.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Rounds of micro; the figures are medians over them. Macro makes a third of them, agent three
    /// edits for each.
    #[arg(long, default_value_t = 31)]
    pub(crate) rounds: usize,
    /// Packets of one program in one round.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) packets: u32,
    /// Numbers of API servers.
    #[arg(long, value_delimiter = ',', default_value = "1,10000")]
    pub(crate) servers: Vec<usize>,
    /// Numbers of ranges of the measured API server; macro has none with 1.
    #[arg(long, value_delimiter = ',', default_value = "1,10,1000,100000")]
    pub(crate) ranges: Vec<usize>,
    /// Numbers of clusters of the agent part.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000,10000")]
    pub(crate) clusters: Vec<usize>,
    /// Fail if a budget of micro is missed by more than this factor.
    #[arg(long)]
    gate: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything.
    All,
    /// The data path, with `test_run`.
    Micro,
    /// What gated pods send.
    Pod,
    /// Connections and floods beside other filters, in network namespaces.
    Macro,
    /// Denied packets that somebody is told of, and those that nobody is.
    Told,
    /// The agent at fleet scale.
    Agent,
}

impl Arguments {
    /// Rounds of macro.
    pub(crate) fn wire_rounds(&self) -> usize {
        (self.rounds / 3).max(1)
    }

    /// Numbers of ranges of macro.
    pub(crate) fn wire_ranges(&self) -> impl Iterator<Item = usize> {
        self.ranges.iter().copied().filter(|ranges| *ranges > 1)
    }

    /// Edits of one Cluster.
    pub(crate) fn edits(&self) -> usize {
        self.rounds * 3
    }

    fn quicken(mut self) -> Self {
        if self.quick {
            self.rounds = 9;
            self.clusters = vec![100, 1000];
            self.servers = vec![1];
            self.ranges = vec![10, 1000];
        }
        self
    }

    fn has(&self, part: Part) -> bool {
        self.part == Part::All || self.part == part
    }
}

/// What one run has to say.
struct Run {
    out: PathBuf,
    text: String,
    parts: Map<String, Value>,
    targets: Vec<Target>,
}

impl Run {
    fn add(
        &mut self,
        name: &str,
        measured: &impl serde::Serialize,
        text: &str,
        targets: Vec<Target>,
    ) -> Result<()> {
        let measured = serde_json::to_value(measured)?;
        std::fs::write(self.out.join(format!("{name}.md")), text)?;
        let json = serde_json::to_vec_pretty(&measured)?;
        std::fs::write(self.out.join(format!("{name}.json")), json)?;
        println!("{text}");
        self.text += &format!("## {name}\n\n{text}\n");
        self.parts.insert(name.into(), measured);
        self.targets.extend(targets);
        Ok(())
    }

    /// Writes the whole, and says what was promised.
    fn end(mut self) -> Result<()> {
        let table = target::table(&self.targets);
        let text = format!("# Bench\n\n{}\n## Promises\n\n{table}", self.text);
        std::fs::write(self.out.join("report.md"), text)?;
        self.parts.insert("targets".into(), serde_json::to_value(&self.targets)?);
        let json = serde_json::to_vec_pretty(&Value::Object(self.parts))?;
        std::fs::write(self.out.join("report.json"), json)?;
        println!("{table}");
        Ok(())
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse().quicken();
    let programs = std::fs::read(&arguments.programs)
        .with_context(|| format!("cannot read {}", arguments.programs.display()))?;
    let out = arguments.out.clone();
    std::fs::create_dir_all(&out)?;
    let mut run = Run { out, text: String::new(), parts: Map::new(), targets: Vec::new() };
    let mut missed = Vec::new();
    if arguments.has(Part::Micro) {
        let measured = micro::measure(&programs, &arguments)?;
        let text = report::markdown(&measured);
        run.add("micro", &measured, &text, report::targets(&measured.rows))?;
        if let Some(margin) = arguments.gate {
            missed = report::missed(&measured.rows, margin);
        }
    }
    if arguments.has(Part::Pod) {
        let rows = pod::measure(&programs, &arguments)?;
        run.add("pod", &rows, &pod::markdown(&rows), pod::targets(&rows))?;
    }
    if arguments.has(Part::Macro) {
        let measured = wire::measure(&programs, &arguments)?;
        let text = wire::report::markdown(&measured);
        run.add("macro", &measured, &text, wire::report::targets(&measured))?;
        wire::report::plots(&measured, &run.out)?;
    }
    if arguments.has(Part::Told) {
        let measured = wire::told::measure(&programs, &arguments)?;
        let text = wire::told::markdown(&measured);
        run.add("told", &measured, &text, wire::told::targets(&measured))?;
    }
    if arguments.has(Part::Agent) {
        let measured = fleet::measure(&arguments)?;
        let text = fleet::report::markdown(&measured);
        run.add("agent", &measured, &text, fleet::report::targets(&measured))?;
        fleet::report::plots(&measured, &run.out)?;
    }
    run.end()?;
    for line in &missed {
        eprintln!("over the budget: {line}");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
