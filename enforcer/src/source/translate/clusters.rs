//! User clusters: which there are, what their lists say, and what belongs to them.
//!
//! Input: Cluster objects and the objects of their control-plane namespaces, the Seed's defaults, the
//! former snapshot. Output: the clusters of the snapshot. Invariant: a cluster is never less
//! restricted because something of it cannot be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_policy::{
    model::{self, ClusterId, ExposeStrategy, RangeList, Snapshot},
    problem::ProblemKind,
};

use super::{
    allowed,
    egress::{self, Gate, Shared, Subject},
    frontends,
    memory::{Environment, Made, Recall},
    mode, pods,
    quota::Quota,
    ranges,
    report::{Claims, Place, Report},
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
    namespace: String,
    strategy: ExposeStrategy,
    allowed: Option<RangeList>,
    gate: Option<Gate>,
}

/// A cluster on its way.
enum Draft {
    /// As it was before.
    Same(Made),
    New {
        control_plane: ControlPlane,
        /// What is wrong so far.
        report: Report,
        former: Option<Arc<model::Cluster>>,
    },
}

/// Translates all clusters, but for what all of them share with the shared proxy.
pub(super) fn translate(
    objects: &Objects,
    environment: &Environment,
    shared: &Shared<'_>,
    mut recall: Recall<'_>,
    former: Option<&Snapshot>,
    report: &mut Report,
) -> BTreeMap<ClusterId, Made> {
    let former_of = |id: &ClusterId| former.and_then(|former| former.clusters.get(id));
    let mut drafts = Vec::with_capacity(objects.clusters.len());
    for (Key { name, .. }, stored) in &objects.clusters {
        let id = ClusterId(name.to_string());
        let former = former_of(&id);
        drafts.push(match recall.take(&id, former) {
            Some(made) => (id, Draft::Same(made)),
            None => {
                let mut report = Report::default();
                let control_plane =
                    read(&id, stored, objects, environment, former.map(AsRef::as_ref), &mut report);
                (id, Draft::New { control_plane, report, former: former.cloned() })
            }
        });
    }
    for id in unread_ids(objects, former) {
        let former = former_of(&id);
        let control_plane = unread(&id, former.map(AsRef::as_ref));
        let report = Report::default();
        drafts.push((id, Draft::New { control_plane, report, former: former.cloned() }));
    }
    let namespaces = drafts.iter().map(|(id, draft)| (draft.namespace(), id));
    report_shared_namespaces(&in_order(namespaces), objects, report);
    drafts
        .into_iter()
        .map(|(id, draft)| {
            let made = draft.complete(&id, objects, environment, shared);
            report.extend(made.problems.iter().cloned());
            (id, made)
        })
        .collect()
}

/// Clusters by the namespaces of their control planes, in order.
pub(super) fn claims(
    clusters: &BTreeMap<ClusterId, Arc<model::Cluster>>,
) -> Vec<(&str, &ClusterId)> {
    in_order(clusters.iter().map(|(id, cluster)| (cluster.namespace.as_str(), id)))
}

fn in_order<'a>(
    claims: impl Iterator<Item = (&'a str, &'a ClusterId)>,
) -> Vec<(&'a str, &'a ClusterId)> {
    let mut claims = Vec::from_iter(claims);
    claims.sort_unstable();
    claims
}

impl Draft {
    fn namespace(&self) -> &str {
        match self {
            Self::Same(made) => &made.cluster.namespace,
            Self::New { control_plane, .. } => &control_plane.namespace,
        }
    }

    /// Adds what belongs to the control plane.
    fn complete(
        self,
        id: &ClusterId,
        objects: &Objects,
        environment: &Environment,
        shared: &Shared<'_>,
    ) -> Made {
        match self {
            Self::Same(made) => made,
            Self::New { control_plane, mut report, former } => {
                let read = former.as_deref();
                let cluster =
                    complete(id, control_plane, objects, environment, shared, read, &mut report);
                Made { cluster: Arc::new(cluster), problems: report.take(), former }
            }
        }
    }
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
    id: &ClusterId,
    stored: &Stored<Cluster>,
    objects: &Objects,
    Environment { settings, seed, .. }: &Environment,
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
            let namespace = usual_namespace(id);
            if !is_inhabited(objects, &namespace) {
                report.add(place(NAMESPACE), "", ProblemKind::NoNamespace);
            }
            namespace
        }
        written => written.to_owned(),
    };
    let gate = Gate::of(stored, place(""), report);
    ControlPlane { namespace, strategy, allowed, gate }
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

fn unread(id: &ClusterId, former: Option<&model::Cluster>) -> ControlPlane {
    let gate = Gate::unread(former);
    if let Some(model::Cluster { namespace, strategy, allowed, .. }) = former.cloned() {
        return ControlPlane { namespace, strategy, allowed, gate };
    }
    let object = Kind::Cluster.reference("", &id.0);
    let place = Place { object: &object, file: "", field: allowed::ALLOWED_RANGES };
    let allowed = Some(ranges::unreadable(place));
    ControlPlane { namespace: usual_namespace(id), strategy: STRICTEST, allowed, gate }
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

fn report_shared_namespaces(claims: &Claims<'_>, objects: &Objects, report: &mut Report) {
    for claims in claims.chunk_by(|(left, _), (right, _)| left == right) {
        for (namespace, id) in claims {
            let Some((_, other)) = claims.iter().find(|(_, other)| other != id) else { continue };
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
    id: &ClusterId,
    control_plane: ControlPlane,
    objects: &Objects,
    Environment { settings, guard, .. }: &Environment,
    shared: &Shared<'_>,
    former: Option<&model::Cluster>,
    report: &mut Report,
) -> model::Cluster {
    let ControlPlane { namespace, strategy, allowed, gate } = control_plane;
    let former = former.filter(|former| former.namespace == namespace);
    let quota = Quota { limit: settings.limits.addresses, namespace: &namespace, former };

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
        let subject = Subject { id, namespace: &namespace, quota };
        egress::of(&gate, subject, objects, shared, report)
    });
    let mode = mode::of(objects, &namespace, former, report);
    model::Cluster {
        id: id.clone(),
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
