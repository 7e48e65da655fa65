//! One log line per change, and one per problem that is new or mended.

use std::{collections::BTreeSet, time::Duration};

use enforcer_policy::changes::Change;

use crate::reconcile::Report;

/// Tells the difference between two reports.
pub(super) fn log(former: &Report, report: &Report) {
    if report.steps > 0 || (former.enforced.is_none() && report.enforced.is_some()) {
        tracing::info!(
            revision = %report.wanted,
            mode = if report.audits { "audit" } else { "enforce" },
            clusters = report.counters.len(),
            frontends = report.frontends,
            interfaces = report.guarded.len() + report.attaching.len(),
            took_ms = milliseconds(report.took),
            changed = report.changes.len(),
            by = by(&report.changes),
            what = some(&report.changes),
            "image in force"
        );
    }
    for problem in new(&former.problems, &report.problems) {
        tracing::warn!(%problem, "problem");
    }
    for problem in new(&report.problems, &former.problems) {
        tracing::info!(%problem, "mended");
    }
    if !former.attaching.is_empty() && report.attaching.is_empty() {
        tracing::info!(interfaces = report.guarded.len(), "programs are attached");
    }
    for (interface, why) in new(&former.unguarded, &report.unguarded) {
        tracing::warn!(interface, why, "not guarded");
    }
    for (interface, _) in new(&report.unguarded, &former.unguarded) {
        tracing::info!(interface, "no longer unguarded");
    }
    if report.failure != former.failure {
        match &report.failure {
            Some(why) => tracing::error!(why, "image is not applied"),
            None => tracing::info!("images are applied again"),
        }
    }
}

/// To the microsecond.
fn milliseconds(took: Duration) -> f64 {
    took.as_micros() as f64 / 1e3
}

/// Changes, or objects, that one log line names.
const NAMED: usize = 8;

/// The objects that a change comes from.
fn by(changes: &[Change]) -> String {
    let objects: BTreeSet<&str> = changes.iter().map(|change| change.object.as_str()).collect();
    shortened(objects.len(), objects.into_iter().map(str::to_owned))
}

/// The changes themselves.
fn some(changes: &[Change]) -> String {
    shortened(changes.len(), changes.iter().map(ToString::to_string))
}

fn shortened(all: usize, words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.take(NAMED).collect();
    if all > NAMED {
        words.push(format!("and {} more", all - NAMED));
    }
    words.join("; ")
}

/// What is in the second list and not in the first.
fn new<'a, T: PartialEq>(former: &[T], now: &'a [T]) -> impl Iterator<Item = &'a T> {
    now.iter().filter(|item| !former.contains(item))
}
