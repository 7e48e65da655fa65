//! Which Seed governs the clusters, and what it says.
//!
//! Input: the visible Seeds, `--seed`, the former snapshot. Output: the Seed, if there is exactly
//! one that it can be. Invariant: a Seed that is there and cannot be read restricts like the former
//! one, or, where there was none, like one whose lists have no valid entry.

use std::collections::BTreeSet;

use enforcer_policy::{
    model::{self, ExposeStrategy, ObjectRef, RangeList, Snapshot},
    problem::ProblemKind,
};

use super::{
    Settings,
    clusters::Strategy,
    egress::GATE,
    ranges,
    report::{Place, Report},
};
use crate::source::{
    objects::{ClusterTemplate, Kind, Seed},
    store::{Key, Objects, Stored},
};

const DEFAULT_RANGES: &str = "spec.defaultAPIServerAllowedIPRanges";
const SOURCE_RANGES: &str = "spec.nodeportProxy.envoy.loadBalancerService.sourceRanges";

/// The label of templates that a Seed may name.
const TEMPLATE_SCOPE: (&str, &str) = ("scope", "seed");

/// KKP's strategy for clusters where neither they nor the Seed name one.
const KKP_DEFAULT: ExposeStrategy = ExposeStrategy::NodePort;

/// What follows from the Seeds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The Seed that governs the clusters.
    pub(super) seed: Option<model::Seed>,
    /// Strategy of clusters that name none; `None` where that cannot be known.
    pub(super) strategy: Option<ExposeStrategy>,
}

impl Chosen {
    /// Of a Seed that cannot be read now: its default strategy is not known.
    fn unread(seed: model::Seed) -> Self {
        Self { seed: Some(seed), strategy: None }
    }
}

/// Chooses and translates the Seed.
pub(super) fn choose(
    objects: &Objects,
    settings: &Settings,
    former: Option<&Snapshot>,
    report: &mut Report,
) -> Chosen {
    let former = former.and_then(|former| former.seed.as_ref());
    let none = Chosen { seed: None, strategy: Some(KKP_DEFAULT) };
    let mut visible = visible(objects, settings);
    if let Some(name) = &settings.seed_name {
        visible.retain(|object| object.name == *name);
    }
    let visible = Vec::from_iter(visible);
    let read = |object: &ObjectRef, report: &mut Report| match objects
        .seeds
        .get(&Key::new(&object.namespace, &object.name))
    {
        Some(stored) => translate(object, stored, objects, report),
        None => Chosen::unread(unread(object.clone(), former)),
    };
    match visible.as_slice() {
        [object] => read(object, report),
        [first, ..] => {
            report.add(whole(first, ""), "", ProblemKind::AmbiguousSeed);
            // A second Seed must not take the restrictions of the first away.
            let used =
                former.and_then(|former| visible.iter().find(|seed| seed.name == former.name));
            used.map_or(none, |seed| read(seed, report))
        }
        [] => absent(objects, settings, former, report).unwrap_or(none),
    }
}

/// The Seeds in KKP's namespace, those without a namespace included; all others only if there is
/// none. Those that cannot be read count.
fn visible(objects: &Objects, settings: &Settings) -> BTreeSet<ObjectRef> {
    let readable = objects.seeds.keys().map(|key| Kind::Seed.reference(&key.namespace, &key.name));
    let kind = Kind::Seed.to_string();
    let failed = objects.failed.iter().filter(|object| object.kind == kind).cloned();
    let all: BTreeSet<ObjectRef> = readable.chain(failed).collect();
    let ours = |object: &&ObjectRef| {
        object.namespace.is_empty() || object.namespace == settings.kubermatic_namespace
    };
    let in_namespace: BTreeSet<ObjectRef> = all.iter().filter(ours).cloned().collect();
    if in_namespace.is_empty() { all } else { in_namespace }
}

fn translate(
    object: &ObjectRef,
    stored: &Stored<Seed>,
    objects: &Objects,
    report: &mut Report,
) -> Chosen {
    let Seed { metadata: _, spec } = &*stored.object;
    let place = |field| Place { object, file: &stored.file, field };
    let mut list = |entries: &Option<Vec<String>>, field| {
        let entries = entries.as_ref()?;
        Some(ranges::list(entries.iter().map(String::as_str), place(field), report))
    };
    let default_ranges = list(&spec.default_api_server_allowed_ip_ranges, DEFAULT_RANGES);
    let source_ranges = &spec.nodeport_proxy.envoy.load_balancer_service.source_ranges;
    let load_balancer_ranges = list(source_ranges, SOURCE_RANGES);
    let strategy = match Strategy::of(&spec.expose_strategy) {
        Strategy::Known(strategy) => Some(strategy),
        Strategy::Absent => Some(KKP_DEFAULT),
        Strategy::Unknown(kind) => {
            report.add(place("spec.exposeStrategy"), &spec.expose_strategy, kind);
            None
        }
    };
    let seed = model::Seed {
        name: object.name.clone(),
        default_ranges,
        load_balancer_ranges,
        new_clusters_gate: new_clusters_gate(&spec.default_cluster_template, objects),
    };
    Chosen { seed: Some(seed), strategy }
}

/// What KKP's webhook writes into new clusters: the gate is on, unless the seed's template says that it
/// is off. `None` where the template is not there or cannot be read.
fn new_clusters_gate(template: &str, objects: &Objects) -> Option<bool> {
    if template.is_empty() {
        return Some(true);
    }
    let stored = objects.cluster_templates.get(&Key::new("", template))?;
    let ClusterTemplate { metadata, spec } = &*stored.object;
    let (label, value) = TEMPLATE_SCOPE;
    let is_for_seeds = metadata.label(label) == value;
    is_for_seeds.then(|| spec.features.get(GATE).copied().flatten().unwrap_or(true))
}

/// A Seed that is there and of which no version can be read.
fn unread(object: ObjectRef, former: Option<&model::Seed>) -> model::Seed {
    if let Some(former) = former.filter(|former| former.name == object.name) {
        return former.clone();
    }
    let list = |field| -> Option<RangeList> { Some(ranges::unreadable(whole(&object, field))) };
    model::Seed {
        default_ranges: list(DEFAULT_RANGES),
        load_balancer_ranges: list(SOURCE_RANGES),
        new_clusters_gate: None,
        name: object.name,
    }
}

/// No Seed that it can be.
fn absent(
    objects: &Objects,
    settings: &Settings,
    former: Option<&model::Seed>,
    report: &mut Report,
) -> Option<Chosen> {
    let wanted = settings.seed_name.as_deref();
    let former = former.filter(|former| wanted.is_none_or(|name| name == former.name));
    if let Some(former) = former.filter(|_| objects.incomplete) {
        return Some(Chosen::unread(former.clone()));
    }
    if let Some(name) = wanted {
        let object = Kind::Seed.reference("", name);
        report.add(whole(&object, ""), "", ProblemKind::UnknownSeed);
    }
    None
}

fn whole<'a>(object: &'a ObjectRef, field: &'a str) -> Place<'a> {
    Place { object, file: "", field }
}
