//! Coverage-guided fuzzing.
//!
//! Input: targets and minutes. Output: libFuzzer's own words, and a line per target with executions and
//! coverage. Invariant: the corpus in the repository is read, and written with `--keep` alone; what is new
//! is under `target/`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::build::BpfBuilder;
use crate::child::{announce, program, run_as_progress, shown};
use crate::machine::Machine;
use crate::project::Project;
use crate::tools;

/// Programs of `tests/fuzz`.
pub(crate) const TARGETS: [&str; 6] = ["parse", "decide", "leave", "translate", "compile", "plan"];

/// Inputs that are kept of one run.
const KEPT: usize = 48;

/// `cargo xtask fuzz`: the named targets, or all, one after the other. With `keep`, inputs that reach code
/// which the corpus in the repository does not reach are added to it.
pub(crate) fn run(
    project: &Project,
    names: &[String],
    minutes: u64,
    keep: bool,
) -> Result<ExitCode> {
    // The agent's library holds it.
    BpfBuilder::prepare(project, &Machine::observe())?.object(project)?;
    build(project)?;
    let mut lines = Vec::new();
    for name in TARGETS.iter().filter(|it| names.is_empty() || names.iter().any(|name| name == *it))
    {
        let target = Target::of(project, name)?;
        announce(&format!("fuzzing {name}"), &format!("{minutes} minutes"));
        lines.push(target.fuzz(project, minutes)?);
        if keep {
            target.keep(project)?;
        }
    }
    println!("\n{}", lines.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// All targets at once: they share everything that takes long.
fn build(project: &Project) -> Result<()> {
    let tool = tools::cargo_fuzz(project)?;
    announce("building the fuzz targets, instrumented", "5 to 10 minutes the first time");
    run_as_progress(
        program(project, &tool)
            .current_dir(folder(project))
            // The compiler of the project is stable: the flags of coverage are not, in its words.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_INCREMENTAL", "0")
            .env("ENFORCER_BPF_OBJECT", project.object())
            .args(["build", "--sanitizer", "none", "--fuzz-dir", ".", "--target-dir"])
            .arg(built(project)),
    )
}

fn folder(project: &Project) -> PathBuf {
    project.root().join("tests/fuzz")
}

fn built(project: &Project) -> PathBuf {
    project.target().join("fuzz")
}

/// One target, and where its inputs are.
struct Target {
    name: String,
    program: PathBuf,
    /// In the repository.
    corpus: PathBuf,
    /// What is new.
    found: PathBuf,
    findings: PathBuf,
}

impl Target {
    fn of(project: &Project, name: &str) -> Result<Target> {
        // cargo-fuzz names the folder after the platform that it was built for.
        let platforms = fs::read_dir(built(project)).context("nothing was built")?;
        let program = platforms
            .filter_map(|entry| Some(entry.ok()?.path().join("release").join(name)))
            .find(|program| program.is_file())
            .with_context(|| format!("{name} was not built"))?;
        let corpus = folder(project).join("corpus").join(name);
        let found = project.target().join("fuzz-corpus").join(name);
        let findings = project.target().join("fuzz-findings").join(name);
        for folder in [&found, &findings] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Target { name: name.to_owned(), program, corpus, found, findings })
    }

    fn command(&self, project: &Project) -> Command {
        let mut command = program(project, &self.program);
        command
            .args(["-rss_limit_mb=2048", "-timeout=20"])
            .arg(format!("-artifact_prefix={}/", self.findings.display()));
        command
    }

    /// Runs for that long; what was found, or an error.
    fn fuzz(&self, project: &Project, minutes: u64) -> Result<String> {
        let mut command = self.command(project);
        command.args(["-print_final_stats=1", &format!("-max_total_time={}", minutes * 60)]);
        let dictionary = folder(project).join(format!("{}.dict", self.name));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.args([&self.found, &self.corpus]);
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
        let (name, findings) = (&self.name, self.findings.display());
        if !status.success() {
            bail!("{name} found something, or did not run ({status}): see {findings}");
        }
        if executions.is_empty() || coverage.is_empty() {
            bail!("{name} did not say what it did");
        }
        Ok(format!("{name}: {executions} executions, {coverage}, nothing found"))
    }

    /// Adds to the corpus as few of the new inputs as reach what only they reach, those that reach most
    /// first, and not more than [`KEPT`]. How often a place is reached does not count.
    fn keep(&self, project: &Project) -> Result<()> {
        let before = files(&self.corpus)?;
        announce(&format!("keeping what {} found", self.name), "a moment");
        run_as_progress(
            self.command(project)
                .args(["-set_cover_merge=1", "-use_counters=0"])
                .args([&self.corpus, &self.found]),
        )?;
        let mut new: Vec<PathBuf> =
            files(&self.corpus)?.into_iter().filter(|file| !before.contains(file)).collect();
        // libFuzzer writes them in the order in which it chose them.
        let written = |file: &PathBuf| fs::metadata(file).and_then(|it| it.modified()).ok();
        new.sort_by_key(written);
        for file in new.iter().skip(KEPT) {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
        eprintln!("{}: {} files more", self.name, new.len().min(KEPT));
        Ok(())
    }
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
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
