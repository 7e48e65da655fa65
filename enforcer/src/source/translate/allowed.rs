//! The list that a cluster's owner wrote (C), and where.
//!
//! Input: a Cluster and its expose strategy, as far as that is known. Output: the list, and a report on
//! what was written without effect. Invariant: where it is not clear which of two places counts, the
//! one that says something does.

use enforcer_policy::{
    model::{ExposeStrategy, RangeList, Seed, SeedDefaults},
    problem::ProblemKind,
};

use super::{
    ranges,
    report::{Place, Report},
};
use crate::source::objects::Cluster;

/// Path of KKP's own field.
pub(super) const ALLOWED_RANGES: &str = "spec.apiServerAllowedIPRanges.cidrBlocks";

/// Stands for the field where KKP's webhook refuses it: strategies NodePort and Tunneling.
const ANNOTATION: &str = "enforcer.k8c.io/allowed-ip-ranges";
const ANNOTATION_FIELD: &str = "metadata.annotations[enforcer.k8c.io/allowed-ip-ranges]";

/// How many entries a list may have, and what counts in place of a longer one.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    /// `--max-ranges-per-cluster`
    pub(super) entries: usize,
    /// The list in force.
    pub(super) former: Option<&'a RangeList>,
}

impl Bound<'_> {
    /// Reads a list, or takes the former one for one that is too long. Nothing of that is read: reading is
    /// what the bound is for.
    fn list<'e>(
        self,
        entries: impl Iterator<Item = &'e str> + Clone,
        place: Place<'_>,
        report: &mut Report,
    ) -> RangeList {
        let count = entries.clone().count();
        if count <= self.entries {
            return ranges::list(entries, place, report);
        }
        let reason = format!("{count} entries, and {} are allowed", self.entries);
        report.add(place, "", ProblemKind::OverLimit { reason });
        let former = self.former.filter(|former| (1..=self.entries).contains(&former.written));
        former.cloned().unwrap_or_else(|| ranges::unreadable(place))
    }
}

/// Reads C. `strategy` is `None` where it can only be assumed.
pub(super) fn of(
    cluster: &Cluster,
    strategy: Option<ExposeStrategy>,
    bound: Bound<'_>,
    whole: Place<'_>,
    report: &mut Report,
) -> Option<RangeList> {
    let field = cluster.spec.api_server_allowed_ip_ranges.as_ref();
    let field = |report: &mut Report| {
        let entries = field?.cidr_blocks.iter().map(String::as_str);
        Some(bound.list(entries, Place { field: ALLOWED_RANGES, ..whole }, report))
    };
    let text = cluster.metadata.annotation(ANNOTATION);
    let annotated = Place { field: ANNOTATION_FIELD, ..whole };
    if text.trim().is_empty() {
        return field(report);
    }
    let annotation = |report: &mut Report| bound.list(text.split(','), annotated, report);
    match strategy {
        Some(ExposeStrategy::LoadBalancer) => {
            let reason = format!("strategy LoadBalancer has {ALLOWED_RANGES}, which counts");
            report.add(annotated, text, ProblemKind::NotEnforced { reason });
            field(report)
        }
        Some(ExposeStrategy::NodePort | ExposeStrategy::Tunneling) => {
            if cluster.spec.api_server_allowed_ip_ranges.is_some() {
                let reason = format!("the annotation {ANNOTATION} counts instead");
                let place = Place { field: ALLOWED_RANGES, ..whole };
                report.add(place, "", ProblemKind::NotEnforced { reason });
            }
            Some(annotation(report))
        }
        None => field(report).or_else(|| Some(annotation(report))),
    }
}

/// Says which part of a list cannot be enforced with strategy Tunneling.
pub(super) fn report_tunneling(
    allowed: Option<&RangeList>,
    seed: Option<&Seed>,
    defaults: SeedDefaults,
    whole: Place<'_>,
    report: &mut Report,
) {
    let defaults = match defaults {
        SeedDefaults::Appended => allowed.is_some(),
        SeedDefaults::Always => true,
    };
    let of_seed = seed.and_then(|seed| seed.default_ranges.as_ref()).filter(|_| defaults);
    if allowed.into_iter().chain(of_seed).all(|list| list.written == 0) {
        return;
    }
    let field = allowed.map_or("", |list| list.origin.field.as_str());
    let reason = "strategy Tunneling brings the clients of all clusters in on the same ports of the \
                  shared nodeport-proxy, where one cluster's list cannot be told from another's; its \
                  own frontends are guarded"
        .to_owned();
    report.add(Place { field, ..whole }, "", ProblemKind::NotEnforced { reason });
}
