//! One kernel in QEMU, from its start to its end.
//!
//! Input: an image and an initramfs. Output: what the guest's console said, as a row of a table. Invariant:
//! it ends within its limit, and a guest that ends early, or without a word, has failed.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::child::{ask, program};
use crate::outcome::Counts;
use crate::project::Project;
use crate::test::lines_of;

pub(super) const EMULATOR: &str = "qemu-system-x86_64";

/// What a guest's images and the verifier's states have room in.
const MEMORY: &str = "1536";

/// Quiet, at its end at once, and without what makes emulation slow and protects nobody here.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on mitigations=off rdinit=/init";

/// A kernel to start.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) series: &'static str,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) series: &'static str,
    kernel: String,
    tests: Counts,
    /// How each program ended, in order.
    ends: Vec<(String, String)>,
    wrong: Vec<String>,
    took: Duration,
}

/// The major version of QEMU, if it is here.
pub(super) fn emulator_version(project: &Project) -> Option<u32> {
    let said = ask(program(project, EMULATOR).arg("--version"))?;
    said.split_once("version ")?.1.split('.').next()?.parse().ok()
}

impl Guest {
    /// Runs it, with these programs in its plan.
    pub(super) fn run(
        &self,
        project: &Project,
        expected: &[&str],
        limit: Duration,
    ) -> Result<Report> {
        let begin = Instant::now();
        let mut report = Report { series: self.series, ..Report::default() };
        let mut running = Running(self.start(project)?);
        let lines = lines_of(running.0.stdout.take().context("no console to read")?);
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    let line = line.trim_end_matches('\r');
                    println!("{:<6} | {line}", self.series);
                    report.read(line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    report.wrong.push(format!("has not ended within {} s", limit.as_secs()));
                    break;
                }
            }
        }
        drop(running);
        report.close(expected);
        report.took = begin.elapsed();
        Ok(report)
    }

    fn start(&self, project: &Project) -> Result<Child> {
        let mut qemu = program(project, EMULATOR);
        // Emulated everywhere: virtual machines that offer KVM may fail at its use, and not all do.
        qemu.args(["-machine", "accel=tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY]);
        qemu.args(["-nodefaults", "-display", "none", "-net", "none", "-no-reboot"]);
        qemu.args(["-serial", "stdio", "-monitor", "none"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        qemu.args(["-append", COMMAND_LINE]).stdin(Stdio::null()).stdout(Stdio::piped());
        qemu.spawn().with_context(|| format!("cannot start {EMULATOR}"))
    }
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Report {
    /// A guest that could not be started.
    pub(super) fn failed(series: &'static str, why: String) -> Self {
        Self { series, wrong: vec![why], ..Self::default() }
    }

    /// Tests, and one failure more where there is one that no test has.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = self.tests;
        if !self.wrong.is_empty() && counts.failed == 0 {
            counts.add(Counts::FAIL);
        }
        counts
    }

    fn read(&mut self, line: &str) {
        if let Some(counts) = Counts::of_result_line(line) {
            self.tests.add(counts);
        }
        let Some(said) = line.strip_prefix("guest: ") else { return };
        if let Some(kernel) = said.strip_prefix("kernel ") {
            kernel.clone_into(&mut self.kernel);
        } else if let Some(error) = said.strip_prefix("error: ") {
            self.wrong.push(error.to_owned());
        } else if let Some((name, end)) = ended(said) {
            self.ends.push((name.to_owned(), end.to_owned()));
        }
    }

    /// Every program must have ended well, and tests must have run.
    fn close(&mut self, expected: &[&str]) {
        for name in expected {
            match self.ends.iter().find(|(known, _)| known == name) {
                Some((_, end)) if end == "code 0" => {}
                Some((_, end)) => self.wrong.push(format!("{name} ended with {end}")),
                None => self.wrong.push(format!("{name} has not run")),
            }
        }
        if self.tests.passed < expected.len() as u64 {
            self.wrong.push(format!("only {} tests have passed", self.tests.passed));
        }
    }
}

/// The program's name and how it ended.
fn ended(said: &str) -> Option<(&str, &str)> {
    let (name, rest) = said.strip_prefix("program ")?.split_once(" ended with ")?;
    Some((name, rest.rsplit_once(" after ")?.0))
}

/// All guests.
pub(super) fn table(reports: &[Report]) -> String {
    let mut text = format!("{:<28} {:<8} {:>6} {:>8}\n", "kernel", "result", "tests", "time");
    for report in reports {
        let Report { series, kernel, tests, ends: _, wrong, took } = report;
        let name = if kernel.is_empty() { series } else { kernel.as_str() };
        let result = if wrong.is_empty() { "passed" } else { "FAILED" };
        let seconds = took.as_secs_f64();
        let line = format!(
            "{name:<28} {result:<8} {:>6} {seconds:>6.1} s  {}",
            tests.ran(),
            wrong.join("; ")
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &[&str], expected: &[&str]) -> Report {
        let mut report = Report { series: "6.1", ..Report::default() };
        lines.iter().for_each(|line| report.read(line));
        report.close(expected);
        report
    }

    const TEST: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";
    const FAILED: &str = "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured";

    #[test]
    fn a_guest_whose_programs_all_end_well_has_passed() {
        let said = [
            "guest: kernel 6.1.0-56-cloud-amd64",
            "guest: program shapes begins",
            TEST,
            "guest: program shapes ended with code 0 after 3.1 s",
            "guest: end",
        ];
        let report = heard(&said, &["shapes"]);
        assert!(report.wrong.is_empty(), "{report:?}");
        assert_eq!(report.counts(), Counts { passed: 2, failed: 0, skipped: 0 });
        assert!(table(&[report]).contains("6.1.0-56-cloud-amd64         passed        2"));
    }

    #[test]
    fn a_program_that_fails_hangs_or_is_missing_fails_its_kernel() {
        for (said, expected) in [
            (&[FAILED, "guest: program shapes ended with code 101 after 3.1 s"][..], "code 101"),
            (&[TEST, "guest: program shapes ended with nothing within 9 s after 9.0 s"], "nothing"),
            (&["guest: program shapes ended with code 0 after 3.1 s"], "only 0 tests"),
            (&["guest: error: cannot load /guest/modules/000-veth.ko"], "cannot load"),
            (&["Kernel panic - not syncing"], "shapes has not run"),
            (&[], "shapes has not run"),
        ] {
            let report = heard(said, &["shapes"]);
            assert!(report.wrong.join("; ").contains(expected), "{report:?}");
            assert_eq!(report.counts().failed, 1, "{report:?}");
            assert!(table(&[report]).contains("FAILED"));
        }
    }

    #[test]
    fn a_guest_that_could_not_start_is_a_failure() {
        let report = Report::failed("6.12", "cannot start".to_owned());
        assert_eq!(report.counts(), Counts::FAIL);
    }
}
