//! Whom the API servers of a cluster may connect to, and which of its pods that concerns.
//!
//! Input: the gate, the objects of the control-plane namespace, what all clusters share ([`Shared`]),
//! what the agent has learned from elsewhere ([`Learned`]), the former snapshot. Output: an [`Egress`]
//! where the gate is on. Invariants: an owner cannot widen it, except by the port of one URL outside of
//! the seed; what cannot be read keeps what it granted before. Peers are named only where a gated pod
//! runs here.
//!
//! Reading order: `peers` (a control plane's own), `shared` (the seed's), `allow` and `urls` (what people
//! write).

mod allow;
mod peers;
mod shared;
mod urls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{self, ClusterId, Egress, GatedPod, Origin, Peer, PeerPort},
    problem::ProblemKind,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::allow::{Destination, DestinationError};
pub(super) use self::shared::Shared;
pub(in crate::source) use self::shared::{API_SERVER, DNS_NAMESPACE, INGRESS_NAMESPACES};
use super::{
    pods,
    quota::Quota,
    report::{Place, Report},
    unread,
};
use crate::source::{
    objects::{Cluster, Kind},
    store::{Key, Objects, Stored, in_namespace},
};

/// The feature gate of a Cluster.
pub(super) const GATE: &str = "apiserverNetworkPolicy";

/// Adds destinations, on a control-plane Namespace.
const ALLOW: &str = "enforcer.k8c.io/egress-allow";
const ALLOW_FIELD: &str = "metadata.annotations[enforcer.k8c.io/egress-allow]";

/// Names the authorization webhook, on a control-plane Namespace: KKP has its URL in a Secret.
const WEBHOOK: &str = "enforcer.k8c.io/authorization-webhook";
const WEBHOOK_FIELD: &str = "metadata.annotations[enforcer.k8c.io/authorization-webhook]";

const ISSUER_FIELD: &str = "spec.oidc.issuerURL";

/// What the operator set about egress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressSettings {
    /// `--egress-dns`
    pub dns: EgressDns,
    /// `--egress-allow`
    pub allow: Vec<Destination>,
}

/// `--egress-dns`: whom API servers may ask for names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressDns {
    /// As KKP does: anybody, at port 53.
    #[default]
    Any,
    /// The cluster's own resolver, the seed's, and what is allowed besides.
    Derived,
}

/// What the agent has learned that is in no object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Addresses of the hosts in URLs.
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Whom API servers of this node were seen to ask for names, at port 53.
    pub dns: BTreeMap<ClusterId, BTreeSet<IpAddr>>,
}

/// What the Cluster object says of egress, while its gate is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate {
    issuer: String,
    file: String,
}

impl Gate {
    /// Of a Cluster; `None` where it is off. Reports what an owner may not write.
    pub(super) fn of(
        stored: &Stored<Cluster>,
        place: Place<'_>,
        report: &mut Report,
    ) -> Option<Self> {
        let Cluster { metadata, spec, status: _ } = &*stored.object;
        let allowed = metadata.annotation(ALLOW);
        if !allowed.is_empty() {
            let reason =
                "a cluster's owner can write here; it counts on the control-plane Namespace";
            let kind = ProblemKind::NotEnforced { reason: reason.to_owned() };
            report.add(Place { field: ALLOW_FIELD, ..place }, allowed, kind);
        }
        let is_on = spec.features.get(GATE).copied().flatten().unwrap_or(false);
        let file = stored.file.to_string();
        is_on.then(|| Self { issuer: spec.oidc.issuer_url.clone(), file })
    }

    /// Of a Cluster that cannot be read: as it was, and on where nothing is known of it.
    pub(super) fn unread(former: Option<&model::Cluster>) -> Option<Self> {
        former.is_none_or(|former| former.egress.is_some()).then(Self::default)
    }
}

/// Where a cluster's control plane runs.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a ClusterId,
    pub(super) namespace: &'a str,
    pub(super) quota: Quota<'a>,
}

/// Translates one cluster whose gate is on.
pub(super) fn of(
    gate: &Gate,
    subject: Subject<'_>,
    objects: &Objects,
    shared: &Shared<'_>,
    report: &mut Report,
) -> Egress {
    let former = subject.quota.former.and_then(|former| former.egress.as_ref());
    let pods = gated_pods(subject, objects, shared.this_node, former);
    let namespace = operators(subject, objects, report);
    if pods.is_empty() {
        return Egress { peers: Vec::new(), pods };
    }
    let mut own = Peers::default();
    peers::add(subject, objects, shared.hosts, &mut own);
    let mut peers = Peers::default();
    peers.extend(subject.quota.peers(own.finish(), report));
    peers.extend(shared.peers.iter().cloned());
    peers.extend(namespace.allowed.iter().cloned());
    let issuer = urls::Written {
        url: &gate.issuer,
        object: &Kind::Cluster.reference("", &subject.id.0),
        file: &gate.file,
        field: ISSUER_FIELD,
        by_owner: true,
    };
    for written in [issuer, namespace.webhook()] {
        urls::add(written, shared, &mut peers, report);
    }
    for peer in former.into_iter().flat_map(|former| &former.peers) {
        if is_kept(peer, objects) {
            peers.extend([peer.clone()]);
        }
    }
    shared.add_dns(subject, &mut peers, report);
    Egress { peers: peers.finish(), pods }
}

/// What operators wrote on the Namespace.
struct Operators {
    object: model::ObjectRef,
    file: String,
    allowed: Vec<Peer>,
    webhook: String,
}

impl Operators {
    fn webhook(&self) -> urls::Written<'_> {
        let Self { object, file, allowed: _, webhook } = self;
        urls::Written { url: webhook, object, file, field: WEBHOOK_FIELD, by_owner: false }
    }
}

fn operators(subject: Subject<'_>, objects: &Objects, report: &mut Report) -> Operators {
    let object = Kind::Namespace.reference("", subject.namespace);
    let stored = objects.namespaces.get(&Key::new("", subject.namespace));
    let annotation = |name| stored.map_or("", |stored| stored.object.metadata.annotation(name));
    let file = stored.map_or_else(String::new, |stored| stored.file.to_string());
    let place = Place { object: &object, file: &file, field: ALLOW_FIELD };
    let allowed = allow::list(annotation(ALLOW), place, report);
    let webhook = annotation(WEBHOOK).trim().to_owned();
    Operators { allowed, webhook, file, object }
}

/// The API server pods of this node.
fn gated_pods(
    subject: Subject<'_>,
    objects: &Objects,
    this_node: &str,
    former: Option<&Egress>,
) -> Vec<GatedPod> {
    let mut pods: BTreeMap<String, GatedPod> = BTreeMap::new();
    for (key, stored) in in_namespace(&objects.pods, subject.namespace) {
        let pod = &*stored.object;
        let is_here = pod.spec.node_name.is_empty() || pod.spec.node_name == this_node;
        if pods::is_api_server(pod) && !pods::has_ended(pod) && is_here {
            let object = Kind::Pod.reference(&key.namespace, &key.name);
            let addresses = pods::written_addresses(pod).collect();
            pods.insert(key.name.to_string(), GatedPod { object, addresses });
        }
    }
    // Of one that cannot be read, or that no list has yet, the interface stays bound.
    if unread::pods(objects, subject.namespace) {
        for pod in former.into_iter().flat_map(|former| &former.pods) {
            if !objects.pods.contains_key(&Key::new(subject.namespace, &pod.object.name)) {
                pods.entry(pod.object.name.clone()).or_insert_with(|| pod.clone());
            }
        }
    }
    pods.into_values().collect()
}

/// Whether what granted a former peer may still be there unread.
fn is_kept(peer: &Peer, objects: &Objects) -> bool {
    let object = &peer.origin.object;
    let is_pods =
        [Kind::Pod, Kind::EndpointSlice].iter().any(|kind| object.kind == kind.to_string());
    objects.may_exist(object) || (is_pods && unread::pods(objects, &object.namespace))
}

/// Peers, each destination once: the first that grants it is its origin.
#[derive(Default)]
struct Peers {
    all: BTreeMap<(IpNet, PeerPort), Origin>,
}

impl Peers {
    fn add(&mut self, net: IpNet, port: PeerPort, origin: &Origin) {
        self.all.entry((net, port)).or_insert_with(|| origin.clone());
    }

    fn extend(&mut self, peers: impl IntoIterator<Item = Peer>) {
        for Peer { net, port, origin } in peers {
            self.all.entry((net, port)).or_insert(origin);
        }
    }

    fn finish(self) -> Vec<Peer> {
        let all = self.all.into_iter();
        all.map(|((net, port), origin)| Peer { net, port, origin }).collect()
    }
}
