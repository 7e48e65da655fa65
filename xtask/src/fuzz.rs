//! Coverage-guided fuzzing.
//!
//! Input: targets and minutes. Output: libFuzzer's own words, and a line per target with executions and
//! coverage. Invariant: the corpus in the repository is read, never written; what is new is kept under
//! `target/`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::build::BpfBuilder;
use crate::child::{announce, program, shown};
use crate::machine::Machine;
use crate::project::Project;
use crate::tools;

/// Programs of `tests/fuzz`.
pub(crate) const TARGETS: [&str; 5] = ["parse", "decide", "translate", "compile", "plan"];

/// `cargo xtask fuzz`: the named targets, or all, one after the other.
pub(crate) fn run(project: &Project, names: &[String], minutes: u64) -> Result<ExitCode> {
    // The agent's library holds it.
    BpfBuilder::prepare(project, &Machine::observe())?.object(project)?;
    let tool = tools::cargo_fuzz(project)?;
    let mut lines = Vec::new();
    for target in
        TARGETS.iter().filter(|it| names.is_empty() || names.iter().any(|name| name == *it))
    {
        announce(&format!("fuzzing {target}"), &format!("{minutes} minutes"));
        lines.push(fuzz(project, &tool, target, minutes)?);
    }
    println!("\n{}", lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

fn fuzz(project: &Project, tool: &std::path::Path, target: &str, minutes: u64) -> Result<String> {
    let folder = project.root().join("tests/fuzz");
    let found = project.target().join("fuzz-corpus").join(target);
    let findings = project.target().join("fuzz-findings").join(target);
    for folder in [&found, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = program(project, tool);
    command
        .current_dir(&folder)
        // The compiler of the project is stable: the flags of coverage are not, in its words.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0")
        .env("ENFORCER_BPF_OBJECT", project.object())
        .args(["run", "--sanitizer", "none", "--fuzz-dir", ".", "--target-dir"])
        .arg(project.target().join("fuzz"))
        .args([target])
        .arg(&found)
        .arg(folder.join("corpus").join(target))
        .args(["--", "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=20"])
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-artifact_prefix={}/", findings.display()));
    let dictionary = folder.join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(&command)))?;
    let (mut coverage, mut executions) = (String::new(), String::new());
    for line in BufReader::new(child.stderr.take().context("no output to read")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        eprintln!("{line}");
        if let Some(said) = coverage_of(&line) {
            coverage = said;
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            executions = count.trim().to_owned();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{target} found something, or did not run ({status}): see {}", findings.display());
    }
    Ok(format!("{target}: {executions} executions, {coverage}, nothing found"))
}

/// `cov: 12 ft: 34` of a line of libFuzzer's.
fn coverage_of(line: &str) -> Option<String> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "cov:");
    let (_, edges) = (words.next()?, words.next()?);
    let (name, features) = (words.next()?, words.next()?);
    (name == "ft:").then(|| format!("{edges} edges and {features} features covered"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_read_from_libfuzzers_lines() {
        let line = "#8192\tpulse  cov: 512 ft: 1033 corp: 118/9kb lim: 68 exec/s: 4096 rss: 41Mb";
        assert_eq!(coverage_of(line).unwrap(), "512 edges and 1033 features covered");
        assert_eq!(coverage_of("INFO: Loaded 1 modules"), None);
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let folder = Project::of_this_workspace().root().join("tests/fuzz");
        for target in TARGETS {
            assert!(folder.join("fuzz_targets").join(format!("{target}.rs")).exists(), "{target}");
            assert!(folder.join("corpus").join(target).read_dir().unwrap().count() > 0, "{target}");
        }
    }
}
