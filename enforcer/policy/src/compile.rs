//! Snapshot to rules: which sources each frontend admits, and whom API servers may connect to.
//!
//! Input: a [`Snapshot`]. Output: [`Rules`], still in terms of addresses and ranges, and the problems
//! that only show when clusters are seen together. Invariant: a frontend that any claim restricts is
//! restricted, and its lists admit what the lists of all its claims admit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    model::{ClusterId, FrontendAddress, Mode, Protocol, Reject, Snapshot},
    problem::Problem,
    ranges::RangeSet,
};

mod claims;
mod egress;
mod lists;
mod memory;
mod revision;
mod sources;

use self::{
    claims::Claim,
    lists::{Lists, Sets},
    memory::Memory,
};
pub use self::{
    lists::Admission,
    revision::{Revision, revision},
};

/// What the kernel of one node is to enforce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Addresses at which nodePorts are reached: this node's, and those of the other nodes, since
    /// what pods send there arrives with this node's address, which is exempt.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Sources outside any cluster's list.
    pub exempt: Exempt,
    /// Pods of control planes that ranges do not decide: API servers, and those outside
    /// `exempt.pod_facing`.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// Policies, each of one cluster.
    pub policies: Vec<Policy>,
    /// Guarded frontends and the policy of each, an index into `policies`. A frontend that admits
    /// every source is not among them.
    pub frontends: BTreeMap<FrontendKey, usize>,
    /// Policies for connections that API servers open, each of one cluster.
    pub egress_policies: Vec<EgressPolicy>,
    /// Pods' interfaces whose connections are judged, and by which of `egress_policies`.
    pub egress: BTreeMap<u32, EgressPod>,
    /// What becomes of packets that nothing admits.
    pub mode: Mode,
    /// How denied packets are answered.
    pub reject: Reject,
    /// Digest of what does not depend on the node.
    pub revision: Revision,
}

impl Rules {
    /// Whether nodePorts are reached at an address.
    #[must_use]
    pub fn is_of_a_node(&self, address: IpAddr) -> bool {
        sources::is_of_a_node(&self.node_addresses, address)
    }
}

/// What a packet names when it is sent to a frontend.
pub type FrontendKey = (Protocol, FrontendAddress);

/// Sources outside any cluster's list. None of them counts for an API server pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    /// Sources that every policy admits, on uplinks and tunnels.
    pub uplink: RangeSet,
    /// Sources that every policy admits on pod-facing interfaces: those of `uplink`, and this node's
    /// own pods.
    pub pod_facing: RangeSet,
    /// `--trusted-proxies`: load balancers that enforce the lists themselves.
    pub trusted: RangeSet,
    /// `--probe-ranges`: sources whose TCP segments pass unless they carry data.
    pub probes: RangeSet,
}

/// A pod of a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The one cluster whose control plane it belongs to; `None` if several claim it.
    pub cluster: Option<ClusterId>,
    /// Its owner steers it: nothing but its own cluster's policy and lists admit it.
    pub api_server: bool,
    /// In this node's own pod ranges: on an uplink its address is spoofed.
    pub local: bool,
}

/// Sources that a cluster's frontends admit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The cluster, for counters and for its own pods; for frontends of the shared proxy that lead to
    /// no single cluster, namespace and name of its service.
    pub cluster: ClusterId,
    /// Sources that the lists admit, pods not among them. Equal sets of one [`Rules`] are one `Arc`.
    pub admitted: Arc<RangeSet>,
    /// Whether pods of `cluster` are admitted: not where lists of other clusters count as well.
    pub own_pods: bool,
    /// What becomes of packets that nothing admits: `audit` only where all claimants are in audit mode.
    pub mode: Mode,
}

/// Whom the API servers of a cluster may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    /// The cluster, for counters.
    pub cluster: ClusterId,
    /// What becomes of packets that nothing admits.
    pub mode: Mode,
    /// Destinations at every port.
    pub any_port: Arc<RangeSet>,
    /// Destinations at one port.
    pub ports: BTreeMap<(Protocol, u16), Arc<RangeSet>>,
}

/// The host's end of a gated pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPod {
    /// Number by which the node's network namespace knows the pod's one.
    pub netns: u32,
    /// The pod's own IPv4 address: any other source is spoofed.
    pub v4: Option<Ipv4Addr>,
    /// The pod's own IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Index into [`Rules::egress_policies`].
    pub policy: usize,
}

/// Compiles snapshots one after the other, and makes no list anew that the one before had. What it
/// remembers changes no result.
#[derive(Debug, Default)]
pub struct Compiler {
    sets: Sets,
    memory: Memory,
}

impl Compiler {
    /// Compiles a snapshot.
    pub fn compile(&mut self, snapshot: &Snapshot) -> (Rules, Vec<Problem>) {
        self.sets.begin();
        let mut clusters = self.memory.recall(snapshot);
        let revision = revision::of(snapshot, &mut clusters);
        let mut lists = Lists::new(snapshot, &mut clusters, &mut self.sets);
        let compiled = compile_with(snapshot, &mut lists, revision);
        self.memory.note(clusters);
        self.sets.forget_unused();
        compiled
    }

    /// Sets that had to be made for the last snapshot.
    #[must_use]
    pub fn made(&self) -> usize {
        self.sets.made()
    }
}

/// Compiles one snapshot.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> (Rules, Vec<Problem>) {
    Compiler::default().compile(snapshot)
}

/// Frontends that several claim, with all who do: only sources that the lists of all of them admit pass.
#[must_use]
pub fn contested(snapshot: &Snapshot) -> BTreeMap<FrontendKey, BTreeSet<ClusterId>> {
    claims::contested(snapshot, &sources::node_addresses(snapshot))
}

fn compile_with<'a>(
    snapshot: &'a Snapshot,
    lists: &mut Lists<'a, '_>,
    revision: Revision,
) -> (Rules, Vec<Problem>) {
    let mut policies = Policies::new(snapshot.clusters.len());
    let mut frontends = Vec::new();
    let mut problems = BTreeSet::new();
    let node_addresses = sources::node_addresses(snapshot);
    let claims = claims::claims(snapshot, &node_addresses);
    for claims in claims.chunk_by(|(left, _), (right, _)| left == right) {
        problems.extend(claims::conflicts(claims));
        let Some((key, _)) = claims.first() else { continue };
        if let Some(policy) = policies.of(claims, lists) {
            frontends.push((*key, policy));
        }
    }
    let egress = egress::compile(snapshot, lists.sets());
    problems.extend(egress.problems);
    let exempt = sources::exempt(snapshot);
    let rules = Rules {
        node_addresses,
        pods: sources::pods(snapshot, &exempt),
        exempt,
        policies: policies.all,
        frontends: frontends.into_iter().collect(),
        egress_policies: egress.policies,
        egress: egress.pods,
        mode: snapshot.options.mode,
        reject: snapshot.options.reject,
        revision,
    };
    (rules, problems.into_iter().collect())
}

/// What all claims on one frontend admit; `None` where none of them restricts it.
fn joint<'a>(claims: &[(FrontendKey, Claim<'a>)], lists: &mut Lists<'a, '_>) -> Option<Policy> {
    let mut joint: Option<Policy> = None;
    for (_, claim) in claims {
        let admitted = match lists.admission(claim) {
            Admission::Unrestricted => continue,
            Admission::Only(admitted) => admitted,
        };
        let cluster = claim.claimant();
        let mode = claim.cluster.map_or(Mode::Enforce, |(_, cluster)| cluster.mode);
        joint = Some(match joint {
            None => Policy { cluster, admitted, own_pods: true, mode },
            Some(Policy { cluster: first, admitted: others, own_pods, mode: former }) => Policy {
                own_pods: own_pods && first == cluster,
                cluster: first,
                admitted: lists.sets().both(others, &admitted),
                mode: if former == mode { mode } else { Mode::Enforce },
            },
        });
    }
    joint
}

/// Policies that exist already.
struct Policies {
    all: Vec<Policy>,
    /// Of frontends that one cluster alone claims, by its place and whether the load balancer ranges count.
    alone: Vec<[Option<Option<usize>>; 2]>,
    /// Of the others, by cluster: rarely more than two each.
    of_cluster: BTreeMap<ClusterId, Vec<usize>>,
}

impl Policies {
    fn new(clusters: usize) -> Self {
        Self { all: Vec::new(), alone: vec![[None; 2]; clusters], of_cluster: BTreeMap::new() }
    }

    /// Index of the policy of a frontend, which is added if it is new; `None` where nothing restricts it.
    fn of<'a>(
        &mut self,
        claims: &[(FrontendKey, Claim<'a>)],
        lists: &mut Lists<'a, '_>,
    ) -> Option<usize> {
        let [(_, claim @ Claim { cluster: Some((at, _)), .. })] = claims else {
            return joint(claims, lists).map(|policy| self.index(policy));
        };
        let balanced = usize::from(lists.is_balanced(claim));
        if let Some(known) = self.alone[*at][balanced] {
            return known;
        }
        let index = joint(claims, lists).map(|policy| self.index(policy));
        self.alone[*at][balanced] = Some(index);
        index
    }

    fn index(&mut self, policy: Policy) -> usize {
        let known = self.of_cluster.entry(policy.cluster.clone()).or_default();
        if let Some(index) = known.iter().find(|index| self.all[**index] == policy) {
            return *index;
        }
        known.push(self.all.len());
        self.all.push(policy);
        self.all.len() - 1
    }
}
