//! What observers see of the agent, and whether it is ready.

use std::{sync::Arc, time::SystemTime};

use enforcer_policy::problem::Problem;

use crate::reconcile::Report;

/// What observers see.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The last attempt; nothing is enforced in the first one.
    pub report: Report,
    /// Since when the source cannot be read.
    pub source_stale_since: Option<SystemTime>,
    /// What recent traffic gives away.
    pub observed: Arc<Vec<Problem>>,
}

impl Status {
    /// Why `/readyz` says no, in words; empty if it says yes.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let Self { report, source_stale_since: _, observed: _ } = self;
        let mut reasons = Vec::new();
        match report.enforced {
            None => reasons.push("no image is enforced yet".to_owned()),
            Some(enforced) if enforced != report.wanted => {
                reasons.push(format!("image {enforced} is enforced, {} is wanted", report.wanted));
            }
            Some(_) => {}
        }
        if let Some(why) = &report.failure {
            reasons.push(format!("the image is not applied: {why}"));
        }
        for (interface, why) in &report.unguarded {
            reasons.push(format!("interface {interface} is not guarded: {why}"));
        }
        for interface in &report.attaching {
            reasons.push(format!("interface {} is about to be guarded", interface.name));
        }
        if report.enforced.is_some() && report.guarded.is_empty() {
            reasons.push("no interface is guarded".to_owned());
        }
        if reasons.is_empty() && !report.is_enforced() {
            reasons.push("the last change could not be applied whole".to_owned());
        }
        reasons
    }

    /// What `/readyz` adds where what is enforced may be old.
    #[must_use]
    pub fn staleness(&self) -> Option<String> {
        let since = jiff::Timestamp::try_from(self.source_stale_since?).ok()?;
        Some(format!(
            "stale since {since:.0}: the source cannot be read, its last word is enforced"
        ))
    }
}
