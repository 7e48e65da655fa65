//! Whom the API server pods of this node may connect to, and at which interfaces that is judged.
//!
//! Input: a snapshot. Output: a policy for each cluster that has gated pods here, the interfaces
//! that policies bind, and what is wrong. Invariant: an interface that holds an address of a gated pod
//! has a policy; where it is not clear whose pod it is, one that grants nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{EgressPod, EgressPolicy, lists::Sets};
use crate::{
    model::{
        Cluster, ClusterId, Egress, GatedPod, Mode, PeerPort, PodInterface, Protocol, Snapshot,
    },
    problem::{Problem, ProblemKind},
    ranges::RangeSet,
};

/// What is to be enforced at pods' interfaces.
pub(super) struct Compiled {
    /// Each of one cluster.
    pub(super) policies: Vec<EgressPolicy>,
    /// By number of the interface.
    pub(super) pods: BTreeMap<u32, EgressPod>,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

/// A gated pod and whose it is.
#[derive(Clone, Copy)]
struct Claim<'a> {
    cluster: &'a Cluster,
    pod: &'a GatedPod,
    /// Index of its cluster's policy.
    policy: usize,
}

/// Compiles the egress part of a snapshot.
pub(super) fn compile(snapshot: &Snapshot, sets: &mut Sets) -> Compiled {
    let interfaces = &snapshot.this_node.pod_interfaces;
    let mut policies = Vec::new();
    let mut claims = Vec::new();
    for cluster in snapshot.clusters.values() {
        let Some(egress) = cluster.egress.as_ref().filter(|egress| !egress.pods.is_empty()) else {
            continue;
        };
        let of_cluster = egress.pods.iter();
        claims.extend(of_cluster.map(|pod| Claim { cluster, pod, policy: policies.len() }));
        policies.push(policy(cluster, egress, sets));
    }
    let mut pods = BTreeMap::new();
    let mut problems = Vec::new();
    for interface in interfaces {
        let holders: Vec<Claim<'_>> =
            claims.iter().filter(|claim| claim.holds(interface)).copied().collect();
        let Some(first) = holders.first() else { continue };
        let policy = if holders.iter().all(|other| other.policy == first.policy) {
            first.policy
        } else {
            problems.extend(contested(&holders, interface));
            index(&mut policies, nobody(&holders))
        };
        pods.insert(interface.index, bound(interface, &holders, policy));
    }
    for claim in &claims {
        problems.extend(misplaced(*claim, interfaces, &pods));
    }
    Compiled { policies, pods, problems }
}

/// What a cluster's peers are, as sets.
fn policy(cluster: &Cluster, egress: &Egress, sets: &mut Sets) -> EgressPolicy {
    let mut nets: BTreeMap<Option<(Protocol, u16)>, Vec<IpNet>> = BTreeMap::new();
    for peer in &egress.peers {
        let port = match peer.port {
            PeerPort::Any => None,
            PeerPort::Only(protocol, port) => Some((protocol, port)),
        };
        nets.entry(port).or_default().push(peer.net);
    }
    // In one form, so that equal sets are one.
    let mut set = |nets: &Vec<IpNet>| sets.of(IpNet::aggregate(nets));
    let any_port = set(&nets.remove(&None).unwrap_or_default());
    let ports = nets.iter().filter_map(|(port, nets)| Some(((*port)?, set(nets)))).collect();
    EgressPolicy { cluster: cluster.id.clone(), mode: cluster.mode, any_port, ports }
}

/// The policy of an interface that pods of several clusters claim.
fn nobody(holders: &[Claim<'_>]) -> EgressPolicy {
    let audits = holders.iter().all(|holder| holder.cluster.mode == Mode::Audit);
    EgressPolicy {
        cluster: holders.first().map_or_else(|| ClusterId(String::new()), Claim::id),
        mode: if audits { Mode::Audit } else { Mode::Enforce },
        any_port: Arc::new(RangeSet::default()),
        ports: BTreeMap::new(),
    }
}

fn index(policies: &mut Vec<EgressPolicy>, policy: EgressPolicy) -> usize {
    if let Some(known) = policies.iter().position(|known| *known == policy) {
        return known;
    }
    policies.push(policy);
    policies.len() - 1
}

/// The addresses of the interface that are those pods'.
fn bound(interface: &PodInterface, holders: &[Claim<'_>], policy: usize) -> EgressPod {
    let theirs: BTreeSet<IpAddr> =
        holders.iter().flat_map(|holder| holder.common(interface)).collect();
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    };
    let (v4, v6): (Option<Ipv4Addr>, Option<Ipv6Addr>) =
        (theirs.iter().find_map(v4), theirs.iter().find_map(v6));
    EgressPod { netns: interface.netns, v4, v6, policy }
}

impl Claim<'_> {
    fn id(&self) -> ClusterId {
        self.cluster.id.clone()
    }

    fn common<'a>(&'a self, interface: &'a PodInterface) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.pod.addresses.intersection(&interface.addresses).copied()
    }

    fn holds(&self, interface: &PodInterface) -> bool {
        self.common(interface).next().is_some()
    }

    fn problem(&self, value: String, reason: String) -> Problem {
        Problem {
            cluster: Some(self.id()),
            object: self.pod.object.clone(),
            file: String::new(),
            field: "status.podIPs".to_owned(),
            value,
            kind: ProblemKind::Egress { reason },
        }
    }
}

/// One problem for every pod of several clusters at one interface.
fn contested<'a>(holders: &'a [Claim<'_>], interface: &'a PodInterface) -> Vec<Problem> {
    let problem = |holder: &Claim<'_>| {
        let other = holders.iter().find(|other| other.policy != holder.policy)?;
        let reason = format!(
            "{} of cluster {} is at interface {} too; neither may connect anywhere",
            other.pod.object, other.cluster.id, interface.name
        );
        Some(holder.problem(shown(holder.common(interface)), reason))
    };
    holders.iter().filter_map(problem).collect()
}

/// What is wrong with the interfaces of a pod.
fn misplaced(
    claim: Claim<'_>,
    interfaces: &[PodInterface],
    bound: &BTreeMap<u32, EgressPod>,
) -> Vec<Problem> {
    let addresses = &claim.pod.addresses;
    let of_pod: Vec<&PodInterface> =
        interfaces.iter().filter(|interface| claim.holds(interface)).collect();
    if of_pod.is_empty() && !addresses.is_empty() {
        let reason =
            "not enforceable: no pod's interface on this node holds the address (the host's \
                      network, a sandbox of its own, or hardware of its own)"
                .to_owned();
        return vec![claim.problem(shown(addresses.iter().copied()), reason)];
    }
    let mut problems = Vec::new();
    for address in addresses {
        let at: Vec<&str> = of_pod
            .iter()
            .filter(|interface| interface.addresses.contains(address))
            .map(|interface| interface.name.as_str())
            .collect();
        if at.len() > 1 {
            let reason = format!("is at interfaces {}; all are held to it", at.join(", "));
            problems.push(claim.problem(address.to_string(), reason));
        }
    }
    let namespaces: BTreeSet<u32> = of_pod.iter().map(|interface| interface.netns).collect();
    let free: Vec<&str> = interfaces
        .iter()
        .filter(|interface| namespaces.contains(&interface.netns))
        .filter(|interface| !bound.contains_key(&interface.index))
        .map(|interface| interface.name.as_str())
        .collect();
    if !free.is_empty() {
        let reason = format!(
            "not enforceable at {}, other interfaces of the pod's network namespace",
            free.join(", ")
        );
        problems.push(claim.problem(shown(addresses.iter().copied()), reason));
    }
    problems
}

fn shown(addresses: impl Iterator<Item = IpAddr>) -> String {
    let texts: Vec<String> = addresses.map(|address| address.to_string()).collect();
    Problem::shorten(&texts.join(","))
}

#[cfg(test)]
mod tests;
