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
mod memory;
mod mode;
mod nodes;
mod outside;
mod pods;
mod quota;
mod ranges;
mod report;
mod seed;
mod shared_proxy;
mod unread;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_policy::{
    model::{Cluster, ClusterId, Options, Snapshot, ThisNode},
    problem::Problem,
};

use self::{
    egress::Shared,
    guard_pods::Guard,
    memory::{Environment, Memory, Recall},
    outside::Outside,
    report::Report,
    shared_proxy::SharedProxy,
};
pub use self::{
    egress::{Destination, DestinationError, EgressDns, EgressSettings, Learned},
    guard_pods::GuardPods,
};
use super::store::{Objects, Touched};

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

/// Translates one state of the objects after the other, and no cluster anew of which nothing has changed.
/// What it remembers changes no result.
#[derive(Debug, Default)]
pub struct Translator {
    /// Objects are the same as before only as long as those are kept.
    before: Option<(Arc<Objects>, Memory)>,
}

impl Translator {
    /// Translates objects. `learned` is what the agent found out by itself, `former` the snapshot that is
    /// in force, or was before a restart.
    pub fn translate(
        &mut self,
        objects: &Arc<Objects>,
        settings: &Settings,
        this_node: &ThisNode,
        learned: &Learned,
        former: Option<&Snapshot>,
    ) -> Translated {
        let (objects_before, memory) = self.before.take().unzip();
        let touched = objects_before.as_ref().map(|before| Touched::between(before, objects));
        let (translated, memory) =
            translate_after(touched.zip(memory), objects, settings, this_node, learned, former);
        self.before = Some((Arc::clone(objects), memory));
        translated
    }
}

/// Translates objects, remembering nothing.
#[must_use]
pub fn translate(
    objects: &Objects,
    settings: &Settings,
    this_node: &ThisNode,
    learned: &Learned,
    former: Option<&Snapshot>,
) -> Translated {
    translate_after(None, objects, settings, this_node, learned, former).0
}

/// Translates objects after others, of which `before` remembers something.
fn translate_after(
    before: Option<(Touched<'_>, Memory)>,
    objects: &Objects,
    settings: &Settings,
    this_node: &ThisNode,
    learned: &Learned,
    former: Option<&Snapshot>,
) -> (Translated, Memory) {
    let mut report = Report::new(objects);
    let seed = seed::choose(objects, settings, former, &mut report);
    let nodes = nodes::translate(objects, former, &mut report);
    let hosts = nodes.values().flat_map(|node| &node.addresses).copied().collect();
    let (outside_before, before) = match before {
        Some((touched, memory)) => {
            let Memory { outside, environment, clusters } = memory;
            (outside, Some((touched, environment, clusters)))
        }
        None => (None, None),
    };
    let outside = (settings.guard_pods == GuardPods::Auto).then(|| {
        let before = outside_before.zip(before.as_ref().map(|(touched, ..)| touched));
        Outside::find(objects, &settings.options, &nodes, &hosts, before)
    });
    let guard = Guard::decide(settings, &nodes, this_node, hosts, outside.as_ref(), &mut report);
    let environment = Environment {
        settings: settings.clone(),
        seed,
        guard,
        this_node: this_node.name.clone(),
        failed: objects.failed.clone(),
        incomplete: objects.incomplete,
    };
    let recall = before.map(|(touched, environment_before, clusters)| {
        Recall::new(environment_before, clusters, touched, &environment)
    });
    let Environment { seed, guard, .. } = &environment;
    let shared = Shared::new(objects, settings, &nodes, &guard.hosts, this_node, learned);
    let all_made = clusters::translate(
        objects,
        &environment,
        &shared,
        recall.unwrap_or_default(),
        former,
        &mut report,
    );
    let names = shared.names();
    let mut clusters: BTreeMap<ClusterId, Arc<Cluster>> =
        all_made.iter().map(|(id, made)| (id.clone(), Arc::clone(&made.cluster))).collect();
    let SharedProxy { frontends: shared_proxy, pods: shared_proxy_pods } = shared_proxy::distribute(
        objects,
        &settings.kubermatic_namespace,
        &mut clusters,
        guard,
        former,
        &mut report,
    );
    keep_equal(&mut clusters, former);
    let problems = report.finish(&clusters::claims(&clusters));
    let snapshot = Snapshot {
        options: settings.options.clone(),
        seed: seed.seed.clone(),
        clusters,
        shared_proxy,
        shared_proxy_pods,
        nodes,
        this_node: this_node.clone(),
    };
    let memory = Memory { outside, clusters: memory::remembered(all_made, &snapshot), environment };
    (Translated { snapshot, problems, names }, memory)
}

/// Takes the former snapshot's own clusters in place of equal ones.
fn keep_equal(clusters: &mut BTreeMap<ClusterId, Arc<Cluster>>, former: Option<&Snapshot>) {
    let Some(former) = former else { return };
    for (id, cluster) in clusters {
        if let Some(former) = former.clusters.get(id)
            && former == cluster
        {
            *cluster = Arc::clone(former);
        }
    }
}

#[cfg(test)]
mod tests;
