//! What tiers came to, and the closing table.
//!
//! Input: lines of test programs, results of tiers. Output: counts, a table, the last line.
//! Invariant: what did not run is never read as passed.

use std::fmt::Write as _;
use std::time::Duration;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed(String),
    NotRun(String),
}

/// One tier of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) tier: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) counts: Counts,
    pub(crate) took: Duration,
}

impl Counts {
    pub(crate) const PASS: Self = Self { passed: 1, failed: 0, skipped: 0 };
    pub(crate) const FAIL: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// From the line with which a test program closes, if it is one.
    pub(crate) fn of_result_line(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            let mut fields = numbers.split("; ");
            fields.find_map(|field| field.strip_suffix(what)?.trim().parse::<u64>().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }

    pub(crate) fn add(&mut self, other: Self) {
        let Self { passed, failed, skipped } = other;
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
    }

    pub(crate) fn ran(self) -> u64 {
        self.passed + self.failed
    }
}

impl Row {
    /// A tier that ran. Tests that were expected and did not come are a failure.
    pub(crate) fn of_run(
        tier: &'static str,
        tests: Option<Counts>,
        checks: Counts,
        took: Duration,
    ) -> Self {
        let mut counts = checks;
        counts.add(tests.unwrap_or_default());
        let outcome = if tests.is_some_and(|tests| tests.ran() == 0) {
            counts.add(Counts::FAIL);
            Outcome::Failed("ran no tests".to_owned())
        } else if counts.failed > 0 {
            Outcome::Failed(format!("{} failed", counts.failed))
        } else {
            Outcome::Passed
        };
        Self { tier, outcome, counts, took }
    }

    /// A tier that could not start.
    pub(crate) fn not_run(tier: &'static str, needs: String, took: Duration) -> Self {
        let counts = Counts { skipped: 1, ..Counts::default() };
        Self { tier, outcome: Outcome::NotRun(needs), counts, took }
    }

    /// A tier whose subject does not build.
    pub(crate) fn broken(tier: &'static str, why: String, took: Duration) -> Self {
        Self { tier, outcome: Outcome::Failed(why), counts: Counts::FAIL, took }
    }
}

/// The table, and below it the sum; `ci` makes what did not run a failure.
pub(crate) fn closing(rows: &[Row], ci: bool) -> (String, Counts) {
    let mut text = format!("{:<8} {:<8} {:>6} {:>8}\n", "tier", "result", "tests", "time");
    let mut sum = Counts::default();
    for Row { tier, outcome, counts, took } in rows {
        let (result, detail) = match outcome {
            Outcome::Passed => ("passed", String::new()),
            Outcome::Failed(why) => ("FAILED", first_line(why)),
            Outcome::NotRun(needs) => ("NOT RUN", format!("needs {}", first_line(needs))),
        };
        let (ran, seconds) = (counts.ran(), took.as_secs_f64());
        let skipped = match (outcome, counts.skipped) {
            (Outcome::Passed | Outcome::Failed(_), 1..) => format!("{} ignored", counts.skipped),
            _ => String::new(),
        };
        let remark = [detail, skipped].into_iter().filter(|part| !part.is_empty());
        let remark = remark.collect::<Vec<_>>().join(", ");
        let line = format!("{tier:<8} {result:<8} {ran:>6} {seconds:>6.1} s  {remark}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
        sum.add(match outcome {
            Outcome::NotRun(_) if ci => Counts::FAIL,
            Outcome::Passed | Outcome::Failed(_) | Outcome::NotRun(_) => *counts,
        });
    }
    (text, sum)
}

/// The line that scripts read: `N passed, N failed`, with `, N skipped` if there are any.
pub(crate) fn last_line(sum: Counts) -> String {
    let Counts { passed, failed, skipped } = sum;
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!("{passed} passed, {failed} failed{skipped}")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(1500);

    fn counts(passed: u64, failed: u64, skipped: u64) -> Counts {
        Counts { passed, failed, skipped }
    }

    #[test]
    fn result_lines_are_read() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        assert_eq!(Counts::of_result_line(line), Some(counts(3, 0, 1)));
        let line = "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        assert_eq!(Counts::of_result_line(line), Some(counts(10, 2, 0)));
    }

    #[test]
    fn other_lines_are_not() {
        for line in [
            "",
            "test a ... ok",
            "running 3 tests",
            "test result: ok",
            " test result: ok. 1 passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(Counts::of_result_line(line), None, "{line}");
        }
    }

    #[test]
    fn a_tier_that_ran_no_tests_fails() {
        let row = Row::of_run("unit", Some(counts(0, 0, 3)), Counts::PASS, TOOK);
        assert_eq!(row.outcome, Outcome::Failed("ran no tests".to_owned()));
        assert_eq!(row.counts.failed, 1);
        let checks_only = Row::of_run("lint", None, Counts::PASS, TOOK);
        assert_eq!(checks_only.outcome, Outcome::Passed);
    }

    #[test]
    fn one_failure_fails_its_tier() {
        let row = Row::of_run("unit", Some(counts(5, 0, 0)), Counts::FAIL, TOOK);
        assert_eq!(row.outcome, Outcome::Failed("1 failed".to_owned()));
    }

    #[test]
    fn what_did_not_run_is_skipped_and_in_ci_a_failure() {
        let rows = [
            Row::of_run("unit", Some(counts(5, 0, 0)), Counts::PASS, TOOK),
            Row::not_run("kernel", "root".to_owned(), TOOK),
        ];
        let (table, sum) = closing(&rows, false);
        assert!(table.contains("kernel   NOT RUN"), "{table}");
        assert!(table.contains("needs root"), "{table}");
        assert_eq!(last_line(sum), "6 passed, 0 failed, 1 skipped");
        assert_eq!(last_line(closing(&rows, true).1), "6 passed, 1 failed");
    }

    #[test]
    fn the_table_has_a_line_for_every_tier() {
        let rows = [
            Row::of_run("unit", Some(counts(12, 0, 2)), Counts::default(), TOOK),
            Row::broken("kernel", "does not build\nlong story".to_owned(), TOOK),
        ];
        let (table, sum) = closing(&rows, false);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "unit     passed       12    1.5 s  2 ignored");
        assert_eq!(lines[2], "kernel   FAILED        1    1.5 s  does not build");
        assert_eq!(lines.len(), 3);
        assert_eq!(last_line(sum), "12 passed, 1 failed, 2 skipped");
    }
}
