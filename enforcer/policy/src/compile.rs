//! Snapshot to rules: which sources each frontend admits.
//!
//! Input: a [`Snapshot`]. Output: [`Rules`], still in terms of addresses and ranges, and the problems
//! that only show when clusters are seen together. Invariant: a frontend that any claim restricts is
//! restricted, and admits what all its claims admit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    model::{
        Cluster, ClusterId, Frontend, FrontendAddress, Options, Protocol, RangeList, Seed,
        SeedDefaults, Snapshot,
    },
    problem::{Problem, ProblemKind},
    ranges::RangeSet,
};

mod revision;

pub use revision::{Revision, revision};

/// What the kernel of one node is to enforce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Addresses of the node: destinations of nodePorts.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Sources outside any cluster's list.
    pub exempt: Exempt,
    /// Pods that are not simply exempt.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// Policies, each of one cluster.
    pub policies: Vec<Policy>,
    /// Guarded frontends and the policy of each, an index into `policies`. A frontend that admits
    /// every source is not among them.
    pub frontends: BTreeMap<FrontendKey, usize>,
    /// Digest of what does not depend on the node.
    pub revision: Revision,
}

/// Sources outside any cluster's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Every policy admits them on uplinks and tunnels.
    pub uplink: RangeSet,
    /// Every policy admits them on pod-facing interfaces.
    pub pod_facing: RangeSet,
    /// Load balancers that enforce the lists themselves.
    pub trusted: RangeSet,
    /// Sources of TCP segments without data.
    pub probes: RangeSet,
}

/// A pod of some control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The one cluster that it belongs to; `None` if several claim it.
    pub cluster: Option<ClusterId>,
    /// Its owner steers it: no exemption counts for it.
    pub api_server: bool,
    /// In this node's own pod ranges: on an uplink its address is spoofed.
    pub local: bool,
}

/// What a packet names when it is sent to a frontend.
pub type FrontendKey = (Protocol, FrontendAddress);

/// Sources that a cluster's frontends admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The cluster, for counters.
    pub cluster: ClusterId,
    /// What its lists admit.
    pub admitted: Arc<RangeSet>,
    /// Whether the pods of its control plane are admitted besides.
    pub own_pods: bool,
}

/// Whom an allowlist admits. Absent is not empty: only the first lets everybody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No list applies.
    Unrestricted,
    /// These, and the exemptions.
    Only(Arc<RangeSet>),
}

impl Admission {
    fn intersection(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Unrestricted, Self::Unrestricted) => Self::Unrestricted,
            (Self::Only(set), Self::Unrestricted) => Self::Only(set),
            (Self::Unrestricted, Self::Only(set)) => Self::Only(set.clone()),
            (Self::Only(left), Self::Only(right)) => Self::Only(Arc::new(left.intersection(right))),
        }
    }
}

/// Compiles a snapshot.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> (Rules, Vec<Problem>) {
    let Snapshot { options, seed, clusters, nodes: _, this_node } = snapshot;
    let spoofed = own_pod_ranges(snapshot);
    let admissions: BTreeMap<&ClusterId, Admission> = clusters
        .values()
        .map(|cluster| (&cluster.id, admission(cluster, seed.as_ref(), options, &spoofed)))
        .collect();
    let mut rules = Rules {
        node_addresses: this_node.addresses.clone(),
        exempt: Exempt { uplink: exemptions(snapshot, &spoofed), ..Exempt::default() },
        pods: BTreeMap::new(),
        policies: Vec::new(),
        frontends: BTreeMap::new(),
        revision: revision(snapshot),
    };
    let mut policies = Policies::default();
    let mut problems = Vec::new();
    for (key, claims) in claims(clusters, &this_node.addresses) {
        let Some((first, others)) = claims.split_first() else { continue };
        let mut joint = admissions[&first.cluster.id].clone();
        let mut owner = first.cluster;
        for other in others {
            if other.cluster.id == owner.id {
                continue;
            }
            let theirs = &admissions[&other.cluster.id];
            if joint == Admission::Unrestricted {
                owner = other.cluster;
            }
            joint = joint.intersection(theirs);
            problems.push(conflict(first, other.cluster));
        }
        match joint {
            Admission::Unrestricted => {}
            Admission::Only(admitted) => {
                rules.frontends.insert(key, policies.index(&owner.id, admitted));
            }
        }
    }
    rules.policies = policies.all;
    problems.sort();
    problems.dedup();
    (rules, problems)
}

/// Policies that exist already, by cluster: rarely more than one each.
#[derive(Default)]
struct Policies<'a> {
    all: Vec<Policy>,
    of_cluster: BTreeMap<&'a ClusterId, Vec<usize>>,
}

impl<'a> Policies<'a> {
    /// Index of the policy, added if it is new.
    fn index(&mut self, cluster: &'a ClusterId, admitted: Arc<RangeSet>) -> usize {
        let known = self.of_cluster.entry(cluster).or_default();
        if let Some(index) = known.iter().find(|index| self.all[**index].admitted == admitted) {
            return *index;
        }
        known.push(self.all.len());
        self.all.push(Policy { cluster: cluster.clone(), admitted, own_pods: false });
        self.all.len() - 1
    }
}

/// The truth table of KKP (docs/DESIGN.md, "Whom a list admits"), and the cluster's own pods.
fn admission(
    cluster: &Cluster,
    seed: Option<&Seed>,
    options: &Options,
    spoofed: &RangeSet,
) -> Admission {
    let own = cluster.allowed.as_ref();
    let defaults = seed.and_then(|seed| seed.default_ranges.as_ref());
    let balancer = seed.and_then(|seed| seed.load_balancer_ranges.as_ref());
    let defaults = match (own, options.seed_defaults) {
        (Some(_), SeedDefaults::Appended | SeedDefaults::Always) | (None, SeedDefaults::Always) => {
            defaults
        }
        (None, SeedDefaults::Appended) => None,
    };
    let lists = [own, defaults, balancer];
    if lists.iter().flatten().all(|list| list.written == 0) {
        return Admission::Unrestricted;
    }
    let listed: RangeSet = lists.into_iter().flatten().flat_map(nets).collect();
    let pods: RangeSet = cluster.own_pods.iter().collect();
    Admission::Only(Arc::new(listed.union(&pods.difference(spoofed))))
}

fn nets(list: &RangeList) -> impl Iterator<Item = IpNet> {
    list.ranges.iter().map(|range| range.net)
}

/// Pod ranges of this node: a packet that comes in on an uplink from there is spoofed.
fn own_pod_ranges(snapshot: &Snapshot) -> RangeSet {
    let node = snapshot.nodes.get(&snapshot.this_node.name);
    node.into_iter().flat_map(|node| node.pod_ranges.iter().copied()).collect()
}

/// What every policy admits on uplinks: nodes and pod ranges of the seed and what the operator
/// named, without API server pods, which belong to the owners of clusters.
fn exemptions(snapshot: &Snapshot, spoofed: &RangeSet) -> RangeSet {
    let Snapshot { options, seed: _, clusters, nodes, this_node: _ } = snapshot;
    let addresses = nodes.values().flat_map(|node| &node.addresses).map(|a| IpNet::from(*a));
    let pods = nodes.values().flat_map(|node| node.pod_ranges.iter().copied());
    let named = options.exempt.iter().copied();
    let steered: RangeSet =
        clusters.values().flat_map(|cluster| &cluster.api_server_pods).collect();
    let nodes: RangeSet = addresses.filter(|_| options.exempt_seed.nodes).collect();
    let pods: RangeSet = pods.filter(|_| options.exempt_seed.pods).collect();
    let named: RangeSet = named.collect();
    nodes.union(&pods.difference(spoofed)).union(&named).difference(&steered)
}

/// One cluster's claim on a frontend.
#[derive(Clone, Copy)]
struct Claim<'a> {
    cluster: &'a Cluster,
    frontend: &'a Frontend,
}

/// Every frontend with all that claim it, in the order of cluster ids.
///
/// An external IP may be an address of the node. A packet to it then meets a nodePort of the same
/// number too, so that both count.
fn claims<'a>(
    clusters: &'a BTreeMap<ClusterId, Cluster>,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<FrontendKey, Vec<Claim<'a>>> {
    let mut claims: BTreeMap<FrontendKey, Vec<Claim<'a>>> = BTreeMap::new();
    for cluster in clusters.values() {
        for frontend in &cluster.frontends {
            let key = (frontend.protocol, frontend.at);
            claims.entry(key).or_default().push(Claim { cluster, frontend });
        }
    }
    let shared: Vec<_> = claims
        .keys()
        .filter_map(|key| match *key {
            (protocol, FrontendAddress::Address { address, port })
                if node_addresses.contains(&address) =>
            {
                let node_port = claims.get(&(protocol, FrontendAddress::Node { port }))?;
                Some((*key, node_port.clone()))
            }
            (_, FrontendAddress::Address { .. } | FrontendAddress::Node { .. }) => None,
        })
        .collect();
    for (key, node_port) in shared {
        claims.entry(key).or_default().extend(node_port);
    }
    for claims in claims.values_mut() {
        claims.sort_by(|left, right| left.cluster.id.cmp(&right.cluster.id));
    }
    claims
}

fn conflict(first: &Claim<'_>, other: &Cluster) -> Problem {
    let port = match first.frontend.at {
        FrontendAddress::Node { port } => format!("nodePort {port}"),
        FrontendAddress::Address { address, port } => format!("{address} port {port}"),
    };
    Problem {
        cluster: Some(first.cluster.id.clone()),
        object: first.frontend.service.clone(),
        file: String::new(),
        field: "spec.ports".to_owned(),
        value: port,
        kind: ProblemKind::Conflict { other: other.id.clone() },
    }
}
