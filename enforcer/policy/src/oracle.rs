//! The judge: decides a connection from the snapshot alone, range by range.
//!
//! It never sees rules, images or the data path, shares no code with `compile`, and is as slow as
//! it is plain. Tests hold the kernel against it; `explain` takes its words from it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Cluster, ClusterId, FrontendAddress, Origin, Protocol, RangeList, SeedDefaults, Snapshot,
};

/// A packet as it comes in on an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No frontend that any list restricts.
    Unguarded,
    /// Admitted: for each claiming cluster with a list, what admits the source.
    Listed(Vec<(ClusterId, Admitted)>),
    /// Admitted by every list.
    Exempt(Exemption),
    /// Dropped: the clusters that do not admit the source.
    NotListed(Vec<ClusterId>),
}

impl Answer {
    /// Whether the packet passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unguarded | Self::Listed(_) | Self::Exempt(_) => true,
            Self::NotListed(_) => false,
        }
    }
}

/// What admits a source to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// A range of a list.
    Range {
        /// The range.
        range: IpNet,
        /// The object and field.
        origin: Origin,
        /// Position in the field's list.
        position: u32,
    },
    /// The source is a pod of the control plane itself.
    OwnPod,
}

/// Why every list admits a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// An address of this Node.
    Node(String),
    /// A pod range of this Node.
    PodRange(String, IpNet),
    /// `--exempt`
    Option(IpNet),
}

/// Decides a packet.
#[must_use]
pub fn admit(snapshot: &Snapshot, packet: &Packet) -> Answer {
    let restricted: Vec<&Cluster> = snapshot
        .clusters
        .values()
        .filter(|cluster| claims(snapshot, cluster, packet))
        .filter(|cluster| is_restricted(snapshot, cluster))
        .collect();
    if restricted.is_empty() {
        return Answer::Unguarded;
    }
    let mut listed = Vec::new();
    let mut refused = Vec::new();
    for cluster in restricted {
        match admitted(snapshot, cluster, packet.source) {
            Some(by) => listed.push((cluster.id.clone(), by)),
            None => refused.push(cluster.id.clone()),
        }
    }
    if refused.is_empty() {
        return Answer::Listed(listed);
    }
    exemption(snapshot, packet.source).map_or(Answer::NotListed(refused), Answer::Exempt)
}

fn claims(snapshot: &Snapshot, cluster: &Cluster, packet: &Packet) -> bool {
    cluster.frontends.iter().any(|frontend| {
        frontend.protocol == packet.protocol
            && match frontend.at {
                FrontendAddress::Node { port } => {
                    port == packet.port
                        && snapshot.this_node.addresses.contains(&packet.destination)
                }
                FrontendAddress::Address { address, port } => {
                    port == packet.port && address == packet.destination
                }
            }
    })
}

/// The lists that count for a cluster, whether they hold anything or not.
fn lists<'a>(snapshot: &'a Snapshot, cluster: &'a Cluster) -> Vec<&'a RangeList> {
    let mut lists: Vec<&RangeList> = cluster.allowed.iter().collect();
    if let Some(seed) = &snapshot.seed {
        if cluster.allowed.is_some() || snapshot.options.seed_defaults == SeedDefaults::Always {
            lists.extend(&seed.default_ranges);
        }
        lists.extend(&seed.load_balancer_ranges);
    }
    lists
}

fn is_restricted(snapshot: &Snapshot, cluster: &Cluster) -> bool {
    lists(snapshot, cluster).iter().any(|list| list.written > 0)
}

fn admitted(snapshot: &Snapshot, cluster: &Cluster, source: IpAddr) -> Option<Admitted> {
    for list in lists(snapshot, cluster) {
        for range in &list.ranges {
            if range.net.contains(&source) {
                return Some(Admitted::Range {
                    range: range.net,
                    origin: list.origin.clone(),
                    position: range.position,
                });
            }
        }
    }
    (cluster.own_pods.contains(&source) && !is_spoofed(snapshot, source))
        .then_some(Admitted::OwnPod)
}

/// A pod of this node does not send on an uplink.
fn is_spoofed(snapshot: &Snapshot, source: IpAddr) -> bool {
    snapshot
        .nodes
        .get(&snapshot.this_node.name)
        .is_some_and(|node| node.pod_ranges.iter().any(|range| range.contains(&source)))
}

fn exemption(snapshot: &Snapshot, source: IpAddr) -> Option<Exemption> {
    if snapshot.clusters.values().any(|cluster| cluster.api_server_pods.contains(&source)) {
        return None;
    }
    for range in &snapshot.options.exempt {
        if range.contains(&source) {
            return Some(Exemption::Option(*range));
        }
    }
    for (name, node) in &snapshot.nodes {
        if snapshot.options.exempt_seed.nodes && node.addresses.contains(&source) {
            return Some(Exemption::Node(name.clone()));
        }
        if !snapshot.options.exempt_seed.pods || is_spoofed(snapshot, source) {
            continue;
        }
        if let Some(range) = node.pod_ranges.iter().find(|range| range.contains(&source)) {
            return Some(Exemption::PodRange(name.clone(), *range));
        }
    }
    None
}
