//! From the seed's objects to the snapshot that decisions are made from.
//!
//! Input: [`Objects`], what the operator set, this node, what the agent learned by itself, and the
//! former snapshot. Output: the new
//! [`Snapshot`] and every problem in the input. Pure. Invariants: equal input gives equal output;
//! an error in the input never removes a restriction. What cannot be read is taken from the former
//! snapshot; where that knows nothing of it, a list of ranges that cannot be read counts as one
//! without any valid entry, which admits exemptions only.

mod allowed;
mod clusters;
pub(super) mod egress;
mod frontends;
mod guard_pods;
mod mode;
mod nodes;
mod pods;
mod quota;
mod ranges;
mod report;
mod seed;
mod shared_proxy;
mod unread;

use std::collections::BTreeSet;

use enforcer_policy::{
    model::{Options, Snapshot, ThisNode},
    problem::Problem,
};

use self::{egress::Shared, guard_pods::Guard, report::Report, shared_proxy::SharedProxy};
pub use self::{
    egress::{Destination, DestinationError, EgressDns, EgressSettings, Learned},
    guard_pods::GuardPods,
};
use super::store::Objects;

/// What the operator set, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Options that change verdicts; passed on.
    pub options: Options,
    /// `--seed`: the Seed that governs the clusters, needed where several are visible.
    pub seed_name: Option<String>,
    /// `--kubermatic-namespace`: where KKP keeps its Seeds and the shared `nodeport-proxy`.
    pub kubermatic_namespace: String,
    /// `--guard-pods`
    pub guard_pods: GuardPods,
    /// What the operator set about egress.
    pub egress: EgressSettings,
    /// What one cluster may use up.
    pub limits: Limits,
}

/// What one cluster may use up of what all clusters share: its owner writes the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `--max-ranges-per-cluster`: entries of its list.
    pub ranges: usize,
    /// `--max-addresses-per-cluster`: frontends besides nodePorts, pods, and peers in its own namespace,
    /// of each kind.
    pub addresses: usize,
    /// Problems that are told, and with them Events.
    pub problems: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ranges: 20_000, addresses: 1_000, problems: 20 }
    }
}

/// The result of a translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// What decisions are made from.
    pub snapshot: Snapshot,
    /// What is wrong with the input, each problem once, in order.
    pub problems: Vec<Problem>,
    /// Hosts in URLs whose addresses are to be found out: see [`Learned`].
    pub names: BTreeSet<String>,
}

/// Translates objects. `learned` is what the agent found out by itself, `former` the snapshot that is in
/// force, or was before a restart.
#[must_use]
pub fn translate(
    objects: &Objects,
    settings: &Settings,
    this_node: &ThisNode,
    learned: &Learned,
    former: Option<&Snapshot>,
) -> Translated {
    let mut report = Report::new(objects);
    let seed = seed::choose(objects, settings, former, &mut report);
    let nodes = nodes::translate(objects, former, &mut report);
    let guard = Guard::decide(objects, settings, &nodes, this_node, &mut report);
    let shared = Shared::new(objects, settings, &nodes, &guard.hosts, this_node, learned);
    let mut clusters =
        clusters::translate(objects, settings, &seed, &guard, &shared, former, &mut report);
    let names = shared.names();
    let SharedProxy { frontends: shared_proxy, pods: shared_proxy_pods } = shared_proxy::distribute(
        objects,
        &settings.kubermatic_namespace,
        &mut clusters,
        &guard,
        former,
        &mut report,
    );
    let snapshot = Snapshot {
        options: settings.options.clone(),
        seed: seed.seed,
        clusters,
        shared_proxy,
        shared_proxy_pods,
        nodes,
        this_node: this_node.clone(),
    };
    Translated { snapshot, problems: report.finish(), names }
}

#[cfg(test)]
mod tests;
