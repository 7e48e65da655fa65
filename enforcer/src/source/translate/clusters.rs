//! User clusters: which there are, what their lists say, and what belongs to them.
//!
//! Input: Cluster objects and the objects of their control-plane namespaces, the Seed's defaults, the
//! former snapshot. Output: the clusters of the snapshot. Invariant: a cluster is never less
//! restricted because something of it cannot be read.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_policy::{
    model::{self, ClusterId, ExposeStrategy, RangeList, Snapshot},
    problem::ProblemKind,
};

use super::{
    Settings, allowed,
    egress::{self, Gate, Shared, Subject},
    frontends,
    guard_pods::Guard,
    mode, pods,
    quota::Quota,
    ranges,
    report::{Place, Report},
    seed::Chosen,
    unread,
};
use crate::source::{
    objects::{Cluster, Kind},
    store::{Key, Objects, Stored, in_namespace},
};

const NAMESPACE: &str = "status.namespaceName";

/// What is assumed where a strategy is written that nothing here knows: every list applies.
const STRICTEST: ExposeStrategy = ExposeStrategy::LoadBalancer;

/// An expose strategy as written.
pub(super) enum Strategy {
    /// One of KKP's.
    Known(ExposeStrategy),
    /// Nothing is written.
    Absent,
    /// Something else is.
    Unknown(ProblemKind),
}

/// What the Cluster object itself says.
struct ControlPlane {
    id: ClusterId,
    namespace: String,
    strategy: ExposeStrategy,
    allowed: Option<RangeList>,
    gate: Option<Gate>,
}

/// Translates all clusters.
pub(super) fn translate(
    objects: &Objects,
    settings: &Settings,
    seed: &Chosen,
    guard: &Guard,
    shared: &Shared<'_>,
    former: Option<&Snapshot>,
    report: &mut Report,
) -> BTreeMap<ClusterId, model::Cluster> {
    let former_of = |id: &ClusterId| former.and_then(|former| former.clusters.get(id));
    let mut control_planes = Vec::new();
    for (Key { name, .. }, stored) in &objects.clusters {
        let id = ClusterId(name.clone());
        let former = former_of(&id);
        control_planes.push(read(id, stored, objects, settings, seed, former, report));
    }
    for id in unread_ids(objects, former) {
        let former = former_of(&id);
        control_planes.push(unread(id, former));
    }
    report_shared_namespaces(&control_planes, objects, report);
    control_planes
        .into_iter()
        .map(|control_plane| {
            let former = former_of(&control_plane.id);
            let limit = settings.limits.addresses;
            let cluster = complete(control_plane, objects, guard, shared, limit, former, report);
            (cluster.id.clone(), cluster)
        })
        .collect()
}

impl Strategy {
    /// Reads one.
    pub(super) fn of(text: &str) -> Self {
        match text {
            "" => Self::Absent,
            "NodePort" => Self::Known(ExposeStrategy::NodePort),
            "LoadBalancer" => Self::Known(ExposeStrategy::LoadBalancer),
            "Tunneling" => Self::Known(ExposeStrategy::Tunneling),
            _unknown => {
                let reason = "expected NodePort, LoadBalancer or Tunneling".to_owned();
                Self::Unknown(ProblemKind::WrongShape { reason })
            }
        }
    }
}

fn read(
    id: ClusterId,
    stored: &Stored<Cluster>,
    objects: &Objects,
    settings: &Settings,
    seed: &Chosen,
    former: Option<&model::Cluster>,
    report: &mut Report,
) -> ControlPlane {
    let Cluster { metadata: _, spec, status } = &*stored.object;
    let object = Kind::Cluster.reference("", &id.0);
    let place = |field| Place { object: &object, file: &stored.file, field };

    let known = match Strategy::of(&spec.expose_strategy) {
        Strategy::Known(strategy) => Some(strategy),
        Strategy::Absent => seed.strategy,
        Strategy::Unknown(kind) => {
            report.add(place("spec.exposeStrategy"), &spec.expose_strategy, kind);
            None
        }
    };
    let bound = allowed::Bound {
        entries: settings.limits.ranges,
        former: former.and_then(|former| former.allowed.as_ref()),
    };
    let former = former.map_or(STRICTEST, |former| former.strategy);
    let strategy = known.unwrap_or(former);
    let allowed = allowed::of(&stored.object, known, bound, place(""), report);
    if strategy == ExposeStrategy::Tunneling {
        let (seed, defaults) = (seed.seed.as_ref(), settings.options.seed_defaults);
        allowed::report_tunneling(allowed.as_ref(), seed, defaults, place(""), report);
    }
    mode::report_annotated(&stored.object, place(""), report);
    let namespace = match status.namespace_name.as_str() {
        "" => {
            let namespace = usual_namespace(&id);
            if !is_inhabited(objects, &namespace) {
                report.add(place(NAMESPACE), "", ProblemKind::NoNamespace);
            }
            namespace
        }
        written => written.to_owned(),
    };
    let gate = Gate::of(stored, place(""), report);
    ControlPlane { id, namespace, strategy, allowed, gate }
}

/// Clusters that are there, or may be, and of which no version can be read.
fn unread_ids(objects: &Objects, former: Option<&Snapshot>) -> BTreeSet<ClusterId> {
    let kind = Kind::Cluster.to_string();
    let failed = objects.failed.iter().filter(|object| object.kind == kind);
    let failed = failed.map(|object| ClusterId(object.name.clone()));
    let possible = former.filter(|_| objects.incomplete).map(|former| former.clusters.keys());
    failed
        .chain(possible.into_iter().flatten().cloned())
        .filter(|id| !objects.clusters.contains_key(&Key::new("", &id.0)))
        .collect()
}

fn unread(id: ClusterId, former: Option<&model::Cluster>) -> ControlPlane {
    let gate = Gate::unread(former);
    if let Some(model::Cluster { namespace, strategy, allowed, .. }) = former.cloned() {
        return ControlPlane { id, namespace, strategy, allowed, gate };
    }
    let object = Kind::Cluster.reference("", &id.0);
    let place = Place { object: &object, file: "", field: allowed::ALLOWED_RANGES };
    let allowed = Some(ranges::unreadable(place));
    ControlPlane { namespace: usual_namespace(&id), id, strategy: STRICTEST, allowed, gate }
}

/// Where KKP puts the control plane of a cluster that does not say it yet.
fn usual_namespace(ClusterId(id): &ClusterId) -> String {
    format!("cluster-{id}")
}

fn is_inhabited(objects: &Objects, namespace: &str) -> bool {
    objects.namespaces.contains_key(&Key::new("", namespace))
        || in_namespace(&objects.services, namespace).next().is_some()
        || in_namespace(&objects.pods, namespace).next().is_some()
        || in_namespace(&objects.endpoint_slices, namespace).next().is_some()
}

fn report_shared_namespaces(
    control_planes: &[ControlPlane],
    objects: &Objects,
    report: &mut Report,
) {
    let mut claims: BTreeMap<&str, BTreeSet<&ClusterId>> = BTreeMap::new();
    for ControlPlane { id, namespace, .. } in control_planes {
        claims.entry(namespace).or_default().insert(id);
    }
    for (namespace, ids) in claims {
        for id in &ids {
            report.claim(namespace, id);
            let Some(other) = ids.iter().find(|other| *other != id) else { continue };
            let object = Kind::Cluster.reference("", &id.0);
            let stored = objects.clusters.get(&Key::new("", &id.0));
            let file = stored.map_or("", |stored| &stored.file);
            let place = Place { object: &object, file, field: NAMESPACE };
            let other = (**other).clone();
            report.add(place, namespace, ProblemKind::Conflict { other });
        }
    }
}

/// Adds what belongs to the control plane.
fn complete(
    control_plane: ControlPlane,
    objects: &Objects,
    guard: &Guard,
    shared: &Shared<'_>,
    limit: usize,
    former: Option<&model::Cluster>,
    report: &mut Report,
) -> model::Cluster {
    let ControlPlane { id, namespace, strategy, allowed, gate } = control_plane;
    let former = former.filter(|former| former.namespace == namespace);
    let quota = Quota { limit, namespace: &namespace, former };

    let mut frontends = BTreeSet::new();
    for role in &frontends::ROLES {
        let opened = frontends::of(objects, &namespace, role, guard, report);
        frontends.extend(opened.into_iter().map(|opened| opened.frontend));
    }
    let of_former = former.into_iter().flat_map(|former| &former.frontends);
    frontends.extend(of_former.filter(|it| unread::is_kept(it, objects, guard)).cloned());
    let frontends = quota.frontends(frontends, report);

    let mut pods = pods::of(objects, &namespace, &guard.hosts);
    if let Some(former) = former.filter(|_| unread::pods(objects, &namespace)) {
        pods.own.extend(&former.own_pods);
        pods.api_servers.extend(&former.api_server_pods);
    }
    let pods = quota.pods(pods, report);
    let egress = gate.map(|gate| {
        let subject = Subject { id: &id, namespace: &namespace, quota };
        egress::of(&gate, subject, objects, shared, report)
    });
    let mode = mode::of(objects, &namespace, former, report);
    model::Cluster {
        id,
        namespace,
        strategy,
        allowed,
        frontends,
        own_pods: pods.own,
        api_server_pods: pods.api_servers,
        mode,
        egress,
    }
}
