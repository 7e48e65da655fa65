//! What runs on other kernels: tests that other tiers run here, a selection of them.
//!
//! Input: what kind of kernel it is. Output: lines for the first process of a guest
//! (`tests/src/bin/guest.rs`). Invariant: emulated, everything takes ten to twenty times as long, most of
//! all the verifier; what is chosen loads the programs about a dozen times.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::build::{locked, with_product};
use crate::child::{announce, cargo, shown};
use crate::project::Project;

/// Where the agent is in a guest.
pub(super) const AGENT: &str = "/guest/enforcer";
/// The first process.
const INIT: &str = "/init";

/// What a kernel counts the memory of BPF maps as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// As the cgroup's.
    Accounted,
    /// As locked by the process (before Linux 5.11): who may not lock it is refused.
    Locked,
}

/// Tests of one program.
#[derive(Debug)]
pub(super) struct Line {
    /// What the table calls them.
    pub(super) name: &'static str,
    program: &'static str,
    /// Parts of the tests' names; all tests if there are none.
    tests: &'static [&'static str],
    /// Seconds after which it is ended.
    pub(super) limit: u64,
}

/// In this order. Together: every entry point of the BPF object, the way in which programs are attached
/// there, sockets of pods as that kernel shows them, and that nothing needs a running agent.
const WORKS: &[Line] = &[
    Line {
        name: "shapes",
        program: "datapath_shapes",
        tests: &["extension_headers_in_any_order", "truncated_packets"],
        limit: 300,
    },
    Line { name: "oracle", program: "datapath_oracle", tests: &["the_kernel_agrees"], limit: 300 },
    Line {
        name: "leaving",
        program: "datapath_leaving",
        tests: &["the_kernel_agrees"],
        limit: 300,
    },
    Line { name: "agent", program: "guest_agent", tests: &[], limit: 300 },
    Line {
        name: "connections",
        program: "agent_changes",
        tests: &["a_removed_range_stalls"],
        limit: 300,
    },
    Line {
        name: "egress",
        program: "agent_egress",
        tests: &["forged::what_belongs_to_no_connection", "gate::connections_to_what"],
        limit: 600,
    },
];

/// Besides, where a kernel can refuse something: the agent says what, and touches nothing.
const REFUSED: &[Line] =
    &[Line { name: "refusal", program: "guest_refusal", tests: &[], limit: 300 }];

/// What runs on such a kernel.
pub(super) fn of(memory: Memory) -> Vec<&'static Line> {
    let besides = match memory {
        Memory::Accounted => &[],
        Memory::Locked => REFUSED,
    };
    besides.iter().chain(WORKS).collect()
}

/// The lines as the guest reads them.
pub(super) fn text(lines: &[&Line]) -> String {
    let line = |Line { name, program, tests, limit }: &Line| {
        format!(
            "{limit} {name} ENFORCER_BIN={AGENT} ENFORCER_TESTS_FEWER=10 ENFORCER_TESTS_PATIENCE=6 \
             {} --nocapture {}\n",
            place(program),
            tests.join(" ")
        )
    };
    lines.iter().copied().map(line).collect()
}

fn place(program: &str) -> String {
    format!("/guest/tests/{program}")
}

/// The test programs, built.
#[derive(Debug)]
pub(super) struct Programs {
    places: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Builds them, with the first process.
    pub(super) fn build(project: &Project) -> Result<Self> {
        announce("building what runs on other kernels", "about 2 minutes the first time");
        let mut names: Vec<&str> = WORKS.iter().chain(REFUSED).map(|line| line.program).collect();
        names.dedup();
        let mut command = cargo(project);
        command.args(["test", "--no-run", "--target-dir"]).arg(project.target());
        command.args(locked(project)).args(["--workspace", "--bin", "guest"]);
        names.iter().for_each(|name| {
            command.args(["--test", name]);
        });
        with_product(&mut command, project).stderr(Stdio::piped());
        let shown = shown(&command);
        eprintln!("$ {shown}");
        let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
        let said = child.stderr.take().context("no output to read")?;
        let mut places = Vec::new();
        for line in BufReader::new(said).lines() {
            let line = line.context("cannot read what cargo says")?;
            if let Some((name, path)) = executable(&line) {
                places.extend(
                    names.contains(&name).then(|| (place(name), project.root().join(path))),
                );
            } else {
                eprintln!("{line}");
            }
        }
        if !child.wait().context("cannot wait for cargo")?.success() {
            bail!("{shown} failed");
        }
        for name in names {
            if !places.iter().any(|(known, _)| *known == place(name)) {
                bail!("cargo has not said where {name} is");
            }
        }
        places.push((INIT.to_owned(), project.target().join("debug/guest")));
        Ok(Self { places })
    }

    /// Places in the guest, and files.
    pub(super) fn places(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.places.iter().map(|(place, file)| (place.as_str(), file))
    }
}

/// The test and the file that a line of `cargo test --no-run` tells of.
fn executable(line: &str) -> Option<(&str, &str)> {
    let (source, file) = line.trim().strip_prefix("Executable ")?.split_once(" (")?;
    let source = source.rsplit_once("tests/")?.1;
    let name = source.strip_suffix(".rs")?.trim_end_matches("/main");
    Some((name, file.strip_suffix(')')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_cargo_says() {
        let said = "  Executable tests/agent_debug.rs (target/debug/deps/agent_debug-0aaa)";
        assert_eq!(executable(said), Some(("agent_debug", "target/debug/deps/agent_debug-0aaa")));
        let said = "  Executable tests/agent_egress/main.rs (target/debug/deps/agent_egress-dd)";
        assert_eq!(executable(said), Some(("agent_egress", "target/debug/deps/agent_egress-dd")));
        assert_eq!(executable("  Executable unittests src/bin/guest.rs (target/debug/x)"), None);
        assert_eq!(executable("    Finished `test` profile"), None);
    }

    #[test]
    fn the_guest_reads_one_line_for_each_program() {
        let lines = of(Memory::Locked);
        let text = text(&lines);
        assert_eq!(text.lines().count(), WORKS.len() + 1);
        assert!(
            text.contains("/guest/tests/datapath_oracle --nocapture the_kernel_agrees\n"),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.split(' ').next().unwrap().parse::<u64>().is_ok(), "{line}");
        }
    }
}
