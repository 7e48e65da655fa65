//! The judge: decides a packet from the snapshot alone, range by range.
//!
//! It never sees rules, images or the data path, shares no code with `compile`, and is as slow as
//! it is plain. Tests hold the kernel against it; `explain` takes its words from it.

mod leaving;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Cluster, ClusterId, ExposeStrategy, Frontend, FrontendAddress, LoadBalancerRanges, Origin,
    Protocol, RangeList, SeedDefaults, Side, Snapshot,
};

pub use leaving::{Carries, Departure, Does, Leaving, Owner, depart};

/// A packet, before any address of it is rewritten, and what the node knows of its connection.
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
    /// Where it comes in.
    pub side: Side,
    /// What it does to its connection.
    pub segment: Segment,
    /// Whether the node itself opened, or masqueraded, a connection to this source from this port.
    pub answers_node: bool,
}

/// What a packet does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// TCP with SYN and without ACK, without data.
    Open,
    /// TCP with SYN and without ACK, with data.
    OpenData,
    /// Any other TCP segment without data.
    Bare,
    /// Any other TCP segment with data, and every UDP packet.
    Data,
}

impl Segment {
    /// Whether it carries data.
    #[must_use]
    pub fn has_data(self) -> bool {
        match self {
            Self::OpenData | Self::Data => true,
            Self::Open | Self::Bare => false,
        }
    }

    /// Whether it asks for a new connection.
    #[must_use]
    pub fn opens(self) -> bool {
        match self {
            Self::Open | Self::OpenData => true,
            Self::Bare | Self::Data => false,
        }
    }
}

/// What becomes of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No frontend that any list restricts.
    Unguarded,
    /// Admitted by a range of each claimant that has lists.
    Listed(Vec<(ClusterId, Admitted)>),
    /// Admitted to its own cluster's control plane: a pod of it.
    OwnPod(ClusterId),
    /// Admitted by every list.
    Exempt(Exemption),
    /// Decided by the load balancer whose address this is: `--trusted-proxies`.
    TrustedProxy(IpNet),
    /// Part of a connection that the node opened.
    Reply,
    /// A handshake or its end from a probe range.
    Probe(IpNet),
    /// Dropped: the claimants that do not admit the source.
    NotListed(Vec<ClusterId>),
    /// Dropped: data from a probe range.
    ProbeData(IpNet),
}

impl Answer {
    /// Whether the packet passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unguarded
            | Self::Listed(_)
            | Self::OwnPod(_)
            | Self::Exempt(_)
            | Self::TrustedProxy(_)
            | Self::Reply
            | Self::Probe(_) => true,
            Self::NotListed(_) | Self::ProbeData(_) => false,
        }
    }

    /// The reason under which the data path counts it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unguarded => "unguarded",
            Self::Listed(_) => "listed",
            Self::OwnPod(_) => "own_pod",
            Self::Exempt(_) => "exempt",
            Self::TrustedProxy(_) => "trusted_proxy",
            Self::Reply => "reply",
            Self::Probe(_) => "probe",
            Self::NotListed(_) => "not_listed",
            Self::ProbeData(_) => "probe_data",
        }
    }
}

/// The range that admits a source to one claimant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The range.
    pub range: IpNet,
    /// The object and field.
    pub origin: Origin,
    /// Position in the field's list.
    pub position: u32,
}

/// Why every list admits a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// An address of this Node.
    Node(String),
    /// The address of another node's tunnel device.
    TunnelPeer,
    /// A pod range of this Node.
    PodRange(String, IpNet),
    /// A pod of the shared `nodeport-proxy`.
    SharedProxyPod,
    /// `--exempt`
    Option(IpNet),
}

/// One claimant's lists at the frontend that a packet names.
struct Claim<'a> {
    claimant: ClusterId,
    lists: Vec<&'a RangeList>,
}

/// Decides a packet.
#[must_use]
pub fn admit(snapshot: &Snapshot, packet: &Packet) -> Answer {
    let source = packet.source;
    let restricted: Vec<Claim<'_>> = claims(snapshot, packet)
        .into_iter()
        .filter(|claim| claim.lists.iter().any(|list| list.written > 0))
        .collect();
    if restricted.is_empty() {
        return Answer::Unguarded;
    }
    let mut listed = Vec::new();
    let mut refused = Vec::new();
    for Claim { claimant, lists } in &restricted {
        match admitted(lists, source) {
            Some(by) => listed.push((claimant.clone(), by)),
            None => refused.push(claimant.clone()),
        }
    }
    if refused.is_empty() {
        return Answer::Listed(listed);
    }
    refused.dedup();
    let steered =
        snapshot.clusters.values().any(|cluster| cluster.api_server_pods.contains(&source));
    if !steered && let Some(exemption) = exemption(snapshot, source, packet.side) {
        return Answer::Exempt(exemption);
    }
    if let Some(owner) = only_owner(snapshot, source)
        && restricted.iter().all(|claim| claim.claimant == *owner)
        && !is_spoofed(snapshot, source, packet.side)
    {
        return Answer::OwnPod(owner.clone());
    }
    if !steered && let Some(range) = holding(&snapshot.options.trusted_proxies, source) {
        return Answer::TrustedProxy(range);
    }
    let is_tcp = packet.protocol == Protocol::Tcp;
    if packet.answers_node && is_tcp && !packet.segment.opens() {
        return Answer::Reply;
    }
    match probe_range(snapshot, source).filter(|_| !steered && is_tcp) {
        Some(range) if packet.segment.has_data() => Answer::ProbeData(range),
        Some(range) => Answer::Probe(range),
        None => Answer::NotListed(refused),
    }
}

/// Who claims the frontend that a packet names, with the lists that count there. One cluster may
/// claim it in two ways, of which the lists differ.
fn claims<'a>(snapshot: &'a Snapshot, packet: &Packet) -> Vec<Claim<'a>> {
    let mut claims = Vec::new();
    for cluster in snapshot.clusters.values() {
        for frontend in &cluster.frontends {
            if is_named(snapshot, frontend, packet) {
                let lists = lists(snapshot, cluster, frontend);
                claims.push(Claim { claimant: cluster.id.clone(), lists });
            }
        }
    }
    for frontend in &snapshot.shared_proxy {
        if is_named(snapshot, frontend, packet) {
            let lists = snapshot.seed.iter().flat_map(|seed| &seed.load_balancer_ranges).collect();
            claims.push(Claim { claimant: frontend.shared_claimant(), lists });
        }
    }
    claims
}

fn is_named(snapshot: &Snapshot, frontend: &Frontend, packet: &Packet) -> bool {
    frontend.protocol == packet.protocol
        && match frontend.at {
            FrontendAddress::Node { port } => {
                port == packet.port && is_of_a_node(snapshot, packet.destination)
            }
            FrontendAddress::Address { address, port } => {
                port == packet.port && address == packet.destination
            }
        }
}

/// Every node of the seed answers at a nodePort. What this node's pods send to another one arrives
/// there with this node's address, so that it is told here who they are.
fn is_of_a_node(snapshot: &Snapshot, address: IpAddr) -> bool {
    let Snapshot { nodes, this_node, .. } = snapshot;
    is_loopback(address)
        || this_node.addresses.contains(&address)
        || this_node.tunnel_peers.contains(&address)
        || nodes.values().any(|node| node.addresses.contains(&address))
}

/// Of the node, though on no interface to the outside: destination NAT does not ask where a packet
/// came in. The kernel itself refuses ::1.
fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(_) => false,
    }
}

/// The lists of a cluster that count at one of its frontends, whether they hold anything or not.
#[must_use]
pub fn lists<'a>(
    snapshot: &'a Snapshot,
    cluster: &'a Cluster,
    frontend: &Frontend,
) -> Vec<&'a RangeList> {
    let options = &snapshot.options;
    let mut lists: Vec<&RangeList> = cluster.allowed.iter().collect();
    if let Some(seed) = &snapshot.seed {
        if cluster.allowed.is_some() || options.seed_defaults == SeedDefaults::Always {
            lists.extend(&seed.default_ranges);
        }
        if cluster.strategy == ExposeStrategy::LoadBalancer
            || frontend.kind.is_shared_proxy()
            || options.lb_ranges == LoadBalancerRanges::Everywhere
        {
            lists.extend(&seed.load_balancer_ranges);
        }
    }
    lists
}

fn admitted(lists: &[&RangeList], source: IpAddr) -> Option<Admitted> {
    for list in lists {
        for range in &list.ranges {
            if range.net.contains(&source) {
                return Some(Admitted {
                    range: range.net,
                    origin: list.origin.clone(),
                    position: range.position,
                });
            }
        }
    }
    None
}

/// The cluster whose control plane the pod belongs to, if it is exactly one.
fn only_owner(snapshot: &Snapshot, source: IpAddr) -> Option<&ClusterId> {
    let mut owners = snapshot.clusters.values().filter(|cluster| {
        cluster.own_pods.contains(&source) || cluster.api_server_pods.contains(&source)
    });
    let owner = owners.next()?;
    owners.next().is_none().then_some(&owner.id)
}

/// A pod of this node does not send on an uplink.
fn is_spoofed(snapshot: &Snapshot, source: IpAddr, side: Side) -> bool {
    let local = snapshot.nodes.get(&snapshot.this_node.name);
    match side {
        Side::Uplink => local.is_some_and(|node| holding(&node.pod_ranges, source).is_some()),
        Side::Pod => false,
    }
}

fn exemption(snapshot: &Snapshot, source: IpAddr, side: Side) -> Option<Exemption> {
    let exempt_seed = snapshot.options.exempt_seed;
    if let Some(range) = holding(&snapshot.options.exempt, source) {
        return Some(Exemption::Option(range));
    }
    if exempt_seed.nodes {
        for (name, node) in &snapshot.nodes {
            if node.addresses.contains(&source) {
                return Some(Exemption::Node(name.clone()));
            }
        }
        if snapshot.this_node.tunnel_peers.contains(&source) {
            return Some(Exemption::TunnelPeer);
        }
    }
    if is_spoofed(snapshot, source, side) {
        return None;
    }
    if snapshot.shared_proxy_pods.contains(&source) {
        return Some(Exemption::SharedProxyPod);
    }
    if exempt_seed.pods {
        for (name, node) in &snapshot.nodes {
            if let Some(range) = holding(&node.pod_ranges, source) {
                return Some(Exemption::PodRange(name.clone(), range));
            }
        }
    }
    None
}

fn probe_range(snapshot: &Snapshot, source: IpAddr) -> Option<IpNet> {
    let probes = &snapshot.options.probes;
    let connected = snapshot.this_node.connected.iter().filter(|_| probes.connected);
    holding(probes.ranges.iter().chain(connected), source)
}

/// The first range that holds an address.
fn holding<'a>(ranges: impl IntoIterator<Item = &'a IpNet>, address: IpAddr) -> Option<IpNet> {
    ranges.into_iter().find(|range| range.contains(&address)).copied()
}
