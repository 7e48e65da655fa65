//! Runs test tiers.
//!
//! Input: tier names and arguments for the test programs. Output: their output, a closing table,
//! the exit code. Invariant: a failing tier does not stop the next, and a tier that could not run
//! says so.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::build::{locked, with_product};
use crate::child::{cargo, code, program, shown};
use crate::machine::ci;
use crate::needs::{Needs, Unmet};
use crate::outcome::{Counts, Row, closing, last_line};
use crate::project::Project;
use crate::tiers::{Step, TIERS, Tier};
use crate::{demo, kernels, purity, tools};

/// How long the output may stay open after a test program has ended.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// `cargo xtask test`: the named tiers, or all.
pub(crate) fn run(project: &Project, names: &[String], extra: &[OsString]) -> Result<ExitCode> {
    let chosen = |tier: &&Tier| names.is_empty() || names.iter().any(|name| name == tier.name);
    let mut needs = Needs::of(project);
    let rows: Vec<Row> = TIERS
        .iter()
        .filter(chosen)
        .map(|tier| run_tier(project, &mut needs, tier, extra))
        .collect();
    show_scenarios();
    let (table, sum) = closing(&rows, ci());
    println!("\n{table}\n{}", last_line(sum));
    Ok(if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How lines begin that belong into a table of their own (`tests/src/faults.rs`): what may lose nothing and
/// let nothing through, and what opens the node by itself until it is undone.
const SCENARIO: [&str; 2] = ["scenario |", "attack |"];

/// Such lines, in the order in which they came.
static SCENARIOS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Shows the table of scenarios, if there were any.
fn show_scenarios() {
    let scenarios = SCENARIOS.lock().unwrap_or_else(PoisonError::into_inner);
    if scenarios.is_empty() {
        return;
    }
    for (kind, last) in SCENARIO.into_iter().zip(["longest pause", "open for"]) {
        println!("\n{kind} pairs sent | lost | let through | {last}");
        scenarios.iter().filter(|line| line.starts_with(kind)).for_each(|line| println!("{line}"));
    }
}

fn run_tier(project: &Project, needs: &mut Needs<'_>, tier: &Tier, extra: &[OsString]) -> Row {
    eprintln!("\n==> tier {}: {}", tier.name, tier.proves);
    let start = Instant::now();
    let (mut lacks, mut breaks) = (Vec::new(), Vec::new());
    for unmet in needs.unmet(tier.needs) {
        match unmet {
            Unmet::Missing { what, how } => {
                eprintln!("{} needs {what}", tier.name);
                if let Some(how) = how {
                    eprintln!("{how}");
                }
                lacks.push(what);
            }
            Unmet::Broken(why) => {
                eprintln!("error: {why}");
                breaks.push(why);
            }
        }
    }
    if !breaks.is_empty() {
        return Row::broken(tier.name, breaks.join("; "), start.elapsed());
    }
    if !lacks.is_empty() {
        return Row::not_run(tier.name, lacks.join("; "), start.elapsed());
    }
    let (mut tests, mut checks) = (Counts::default(), Counts::default());
    for step in tier.steps {
        match run_step(project, step, extra) {
            Ok(Ran::Tests(counts)) => tests.add(counts),
            Ok(Ran::Check(counts)) => checks.add(counts),
            Err(error) => {
                eprintln!("error: {error:#}");
                checks.add(Counts::FAIL);
            }
        }
    }
    Row::of_run(tier.name, tier.has_tests().then_some(tests), checks, start.elapsed())
}

enum Ran {
    Tests(Counts),
    Check(Counts),
}

fn run_step(project: &Project, step: &Step, extra: &[OsString]) -> Result<Ran> {
    match step {
        Step::Tests(args) => run_tests(project, args, extra),
        Step::Cargo(args) => {
            let mut command = cargo(project);
            command.args(*args).env("CARGO_TARGET_DIR", project.target());
            decide(with_product(&mut command, project))
        }
        Step::DependencyRules => {
            let mut deny = program(project, tools::cargo_deny(project)?);
            decide(deny.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))
        }
        Step::RealCrds if project.real_crds().is_none() => {
            eprintln!("$ no CRDs of KKP beside the project: the tests that read them were ignored");
            Ok(Ran::Check(Counts::default()))
        }
        Step::RealCrds => {
            run_tests(project, &["--workspace", "--lib", "source::objects"], &["--ignored".into()])
        }
        Step::PureCrate => {
            eprintln!("$ the policy core is pure");
            purity::check(project).map(|()| Ran::Check(Counts::PASS))
        }
        Step::Guests => kernels::run(project).map(Ran::Tests),
        Step::Demo => decide(&mut demo::prepared(project)?),
    }
}

fn run_tests(project: &Project, args: &[&str], extra: &[OsString]) -> Result<Ran> {
    let mut command = cargo(project);
    command.args(["test", "--no-fail-fast", "--target-dir"]).arg(project.target());
    command.args(locked(project)).args(args).arg("--");
    // What tests in the kernel and on the wire measure is to be read, not only checked. Unit tests
    // measure nothing, and those of this program print what looks like a result.
    if args.contains(&"--test") && !args.contains(&"--lib") {
        command.arg("--show-output");
    }
    command.args(extra);
    count_tests(with_product(&mut command, project)).map(Ran::Tests)
}

/// The exit code counts as one test.
fn decide(command: &mut Command) -> Result<Ran> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if status.success() {
        return Ok(Ran::Check(Counts::PASS));
    }
    eprintln!("error: {} ended with {}", shown(command), code(status));
    Ok(Ran::Check(Counts::FAIL))
}

/// Passes the output through and adds up what the test programs say. An unsuccessful end without a
/// failed test counts as one: a program that did not build, or died.
fn count_tests(command: &mut Command) -> Result<Counts> {
    let shown = shown(command);
    eprintln!("$ {shown}");
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {shown}"))?;
    let lines = lines_of(child.stdout.take().context("no output to read")?);
    let (mut counts, mut ended) = (Counts::default(), None);
    let status = loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                println!("{line}");
                if SCENARIO.iter().any(|kind| line.starts_with(kind)) {
                    SCENARIOS.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
                }
                counts.add(Counts::of_result_line(&line).unwrap_or_default());
            }
            Err(RecvTimeoutError::Disconnected) => break child.wait()?,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, Instant::now()));
        }
        if let Some((status, when)) = ended
            && when.elapsed() > LEFTOVERS
        {
            eprintln!("error: a test left a process behind, which keeps its output open");
            counts.add(Counts::FAIL);
            break status;
        }
    };
    if !status.success() && counts.failed == 0 {
        counts.add(Counts::FAIL);
    }
    Ok(counts)
}

/// Lines as they come, from a thread of their own: reading must not outlast the child.
pub(crate) fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(script: &str) -> Counts {
        count_tests(Command::new("sh").args(["-c", script])).unwrap()
    }

    fn line(passed: u32, failed: u32) -> String {
        format!("echo 'test result: x. {passed} passed; {failed} failed; 0 ignored; 0 measured'; ")
    }

    #[test]
    fn result_lines_of_several_programs_are_added() {
        let counts = counted(&(line(2, 0) + &line(3, 0)));
        assert_eq!(counts, Counts { passed: 5, failed: 0, skipped: 0 });
    }

    #[test]
    fn an_unsuccessful_end_without_a_failed_test_is_a_failure() {
        assert_eq!(counted(&(line(2, 0) + "exit 101")).failed, 1);
        assert_eq!(counted(&(line(2, 1) + "exit 101")).failed, 1);
        assert_eq!(counted(&(line(2, 0) + "kill -SEGV $$")).failed, 1);
    }

    #[test]
    fn a_process_left_behind_is_a_failure_and_does_not_block() {
        let start = Instant::now();
        assert_eq!(counted(&(line(1, 0) + "sleep 30 & exit 0")).failed, 1);
        assert!(start.elapsed() < Duration::from_secs(20));
    }
}
