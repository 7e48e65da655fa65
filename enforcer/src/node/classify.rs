//! What the facts mean: addresses of the node, and interfaces to guard.
//!
//! Input: [`Facts`], the [`Selection`], addresses of the Node object. Output: a [`NodeState`], and
//! the [`Role`] of every device. Invariants: pure; where a device cannot be told apart from one
//! that lets strangers in, it is guarded; a packet from outside meets one guarded device in the
//! clear, the lowest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{PodInterface, Side},
    plan::{Interface, LinkLayer},
};
use ipnet::IpNet;

use super::{
    NodeState, Selection, Unguardable, UnguardableReason,
    facts::{Facts, Kind, Link, Lower, Route},
};

/// What a device is to a packet from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Packets from outside the node enter here: hardware, whether it holds an address or not
    /// (the kernel answers for all addresses of the node on every device), and in nodes that are
    /// containers themselves the lowest device of theirs.
    Uplink,
    /// Packets that came encapsulated enter here in the clear.
    Tunnel,
    /// Packets from a pod of this node enter here.
    PodFacing,
    /// Packets seen here were seen before, or never come from outside.
    Inside,
}

/// Computes the state of the node.
#[must_use]
pub fn classify(
    facts: &Facts,
    selection: &Selection,
    node_addresses: &BTreeSet<IpAddr>,
) -> NodeState {
    let roles = roles(facts, node_addresses);
    let (addresses, local_ranges) = addresses(facts);
    let mut state = NodeState {
        addresses,
        local_ranges,
        tunnel_peers: tunnel_peers(facts, &roles),
        connected: connected(facts, &roles),
        ..NodeState::default()
    };
    match selection {
        Selection::Auto => {
            for (link, role) in facts.links.values().zip(roles.values()) {
                match role {
                    Role::Uplink | Role::Tunnel | Role::PodFacing => {
                        select(link, *role, &mut state)
                    }
                    Role::Inside => {}
                }
            }
        }
        Selection::Named(names) => {
            state.missing.clone_from(names);
            for (link, role) in facts.links.values().zip(roles.values()) {
                if state.missing.remove(&link.name) {
                    select(link, *role, &mut state);
                }
            }
        }
    }
    state.pod_interfaces = pod_interfaces(facts, &state.interfaces);
    state.unguardable.sort();
    state
}

/// The role of every device, by number.
#[must_use]
pub fn roles(facts: &Facts, node_addresses: &BTreeSet<IpAddr>) -> BTreeMap<u32, Role> {
    let topology = Topology { links: &facts.links };
    let uplinks = uplink_pairs(facts, topology, node_addresses);
    let role = |link: &Link| topology.role(link, uplinks.contains(&link.index));
    facts.links.values().map(|link| (link.index, role(link))).collect()
}

fn select(link: &Link, role: Role, state: &mut NodeState) {
    let Link { index, name, arphrd, preempted, .. } = link;
    state.unguardable.extend(
        preempted
            .map(|by| Unguardable { name: name.clone(), reason: UnguardableReason::Preempted(by) }),
    );
    let side = match role {
        Role::PodFacing => Side::Pod,
        // Named by the operator, a device inside counts as one that strangers come through.
        Role::Uplink | Role::Tunnel | Role::Inside => Side::Uplink,
    };
    match header(*arphrd) {
        Header::Known(link) => {
            state.interfaces.push(Interface { index: *index, name: name.clone(), link, side });
        }
        Header::Unknown => state.unguardable.push(Unguardable {
            name: name.clone(),
            reason: UnguardableReason::LinkLayer { arphrd: *arphrd },
        }),
        Header::NoIp => {}
    }
}

/// Those of the guarded interfaces that lead to a pod whose network namespace can be named.
fn pod_interfaces(facts: &Facts, guarded: &[Interface]) -> Vec<PodInterface> {
    let pods = guarded.iter().filter(|interface| interface.side == Side::Pod);
    let pod = |Interface { index, name, .. }: &Interface| {
        let netns = facts.links.get(index)?.far?.netns;
        let addresses = facts.pods.get(index).into_iter().flatten();
        let addresses = addresses.copied().filter(|address| !is_link_local(*address)).collect();
        Some(PodInterface { index: *index, name: name.clone(), netns, addresses })
    };
    pods.filter_map(pod).collect()
}

/// What packets of a device begin with.
enum Header {
    Known(LinkLayer),
    /// No IP packet ever comes out of it.
    NoIp,
    Unknown,
}

/// Link headers that the libc crate does not know, from `linux/if_arp.h`.
mod arphrd {
    pub(super) const MCTP: u16 = 290;
    pub(super) const RAWIP: u16 = 519;
    pub(super) const IP6GRE: u16 = 823;
    pub(super) const NETLINK: u16 = 824;
    pub(super) const VSOCKMON: u16 = 826;
}

fn header(arphrd: u16) -> Header {
    match arphrd {
        libc::ARPHRD_ETHER => Header::Known(LinkLayer::Ethernet),
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | arphrd::RAWIP
        | arphrd::IP6GRE => Header::Known(LinkLayer::Raw),
        // PIM registers carry packets to multicast groups alone.
        libc::ARPHRD_CAN
        | libc::ARPHRD_PIMREG
        | libc::ARPHRD_IEEE80211_PRISM
        | libc::ARPHRD_IEEE80211_RADIOTAP
        | arphrd::MCTP
        | arphrd::NETLINK
        | arphrd::VSOCKMON => Header::NoIp,
        _ => Header::Unknown,
    }
}

fn addresses(facts: &Facts) -> (BTreeSet<IpAddr>, BTreeSet<IpNet>) {
    let service_device = facts.service_device();
    let (mut addresses, mut ranges) = (BTreeSet::new(), BTreeSet::new());
    for assigned in &facts.addresses {
        if Some(assigned.index) != service_device {
            addresses.insert(assigned.address);
        }
    }
    for route in &facts.routes {
        match route {
            Route::Local { index, range } if index.is_none() || *index != service_device => {
                if range.prefix_len() == range.max_prefix_len() {
                    addresses.insert(range.addr());
                } else {
                    ranges.insert(*range);
                }
            }
            Route::Local { .. } | Route::Default { .. } => {}
        }
    }
    addresses.retain(|address| !address.is_loopback());
    ranges.retain(|range| !range.network().is_loopback());
    (addresses, ranges)
}

/// What the other nodes' tunnel devices hold, as this node's tunnels are told.
fn tunnel_peers(facts: &Facts, roles: &BTreeMap<u32, Role>) -> BTreeSet<IpAddr> {
    let of_tunnel = |index: &u32| roles.get(index) == Some(&Role::Tunnel);
    let peers = facts.neighbours.iter().filter(|neighbour| of_tunnel(&neighbour.index));
    peers.map(|neighbour| neighbour.address).filter(|address| !is_link_local(*address)).collect()
}

/// Networks of the addresses that lie on uplinks, or on what stands on uplinks alone.
fn connected(facts: &Facts, roles: &BTreeMap<u32, Role>) -> BTreeSet<IpNet> {
    let topology = Topology { links: &facts.links };
    let on_uplink = |index: u32| {
        let lowest = topology.lowest(index);
        let role = |index| roles.get(index).copied();
        lowest.iter().any(|index| role(index) == Some(Role::Uplink))
            && !lowest.iter().any(|index| role(index) == Some(Role::Tunnel))
    };
    let networks = facts.addresses.iter().filter(|assigned| {
        assigned.network.prefix_len() < assigned.network.max_prefix_len()
            && !is_link_local(assigned.address)
            && on_uplink(assigned.index)
    });
    networks.map(|assigned| assigned.network).collect()
}

/// Ends of pairs into other namespaces that are no pods' ends but the node's own way out: it is a
/// container itself, or a test.
fn uplink_pairs(
    facts: &Facts,
    topology: Topology<'_>,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeSet<u32> {
    let mut ways_out = BTreeSet::new();
    for route in &facts.routes {
        match route {
            Route::Default { through } => ways_out.extend(through),
            Route::Local { .. } => {}
        }
    }
    let service_device = facts.service_device();
    for assigned in &facts.addresses {
        if Some(assigned.index) == service_device {
            continue;
        }
        // CNIs give pods' ends no address, a link-local one or the gateway's as a host address;
        // a subnet on one is a network of its own.
        let subnet = || {
            assigned.network.prefix_len() < assigned.network.max_prefix_len()
                && !is_link_local(assigned.address)
                && topology.kind(assigned.index) == Some(Kind::Pair)
        };
        if node_addresses.contains(&assigned.address) || subnet() {
            ways_out.insert(assigned.index);
        }
    }
    let mut pairs = BTreeSet::new();
    for way_out in ways_out {
        let lowest = topology.lowest(way_out);
        let role = |index: &u32| topology.links.get(index).map(|link| topology.role(link, false));
        // A bridge with an uplink of its own has pods on its other ports.
        if !lowest.iter().any(|index| role(index) == Some(Role::Uplink)) {
            pairs.extend(lowest.iter().filter(|index| role(index) == Some(Role::PodFacing)));
        }
    }
    pairs
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// How devices stand on each other.
#[derive(Clone, Copy)]
struct Topology<'a> {
    links: &'a BTreeMap<u32, Link>,
}

impl<'a> Topology<'a> {
    fn kind(self, index: u32) -> Option<Kind> {
        self.links.get(&index).map(|link| link.kind)
    }

    fn ports(self, controller: u32) -> impl Iterator<Item = &'a Link> {
        self.links.values().filter(move |link| link.controller == Some(controller))
    }

    /// `uplink`: it is known to be one, whatever it looks like.
    fn role(self, link: &Link, uplink: bool) -> Role {
        if link.arphrd == libc::ARPHRD_LOOPBACK {
            return Role::Inside;
        }
        match (link.kind, link.lower) {
            (Kind::Silent | Kind::Controller | Kind::Switch, _) => Role::Inside,
            (Kind::Decapsulating, _) => Role::Tunnel,
            (Kind::Hardware, _) if self.ports(link.index).next().is_some() => Role::Inside,
            (Kind::Hardware, _) if is_representor(link) => Role::PodFacing,
            (Kind::Hardware, _) => Role::Uplink,
            (Kind::Stacked | Kind::Pair, Lower::Here(_)) => Role::Inside,
            (Kind::Pair, Lower::Elsewhere | Lower::None) if !uplink => Role::PodFacing,
            (Kind::Stacked | Kind::Pair, Lower::Elsewhere | Lower::None) => Role::Uplink,
        }
    }

    /// The devices of this namespace at which packets come in that `index` receives.
    fn lowest(self, index: u32) -> BTreeSet<u32> {
        let (mut lowest, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![index]);
        while let Some(index) = open.pop() {
            let Some(link) = self.links.get(&index) else { continue };
            if !seen.insert(index) {
                continue;
            }
            match (link.kind, link.lower) {
                (Kind::Controller, _) => open.extend(self.ports(index).map(|port| port.index)),
                (Kind::Switch, _) => open.extend(self.switched().map(|port| port.index)),
                (Kind::Stacked, Lower::Here(lower)) => open.push(lower),
                (Kind::Pair, Lower::Here(peer)) => {
                    open.extend(self.neighbours(peer).map(|port| port.index));
                }
                (Kind::Hardware, _) if self.ports(index).next().is_some() => {
                    open.extend(self.ports(index).map(|port| port.index));
                }
                (
                    Kind::Hardware
                    | Kind::Decapsulating
                    | Kind::Silent
                    | Kind::Stacked
                    | Kind::Pair,
                    _,
                ) => {
                    lowest.insert(index);
                }
            }
        }
        lowest
    }

    /// Ports of all bridges of Open vSwitch: each points to the one device `ovs-system`.
    fn switched(self) -> impl Iterator<Item = &'a Link> {
        let switch = move |index| self.kind(index) == Some(Kind::Switch);
        self.links.values().filter(move |link| link.controller.is_some_and(switch))
    }

    /// The other ports of the controller that `port` is on.
    fn neighbours(self, port: u32) -> impl Iterator<Item = &'a Link> {
        let controller = self.links.get(&port).and_then(|link| link.controller);
        let ports = controller.into_iter().flat_map(move |controller| self.ports(controller));
        ports.filter(move |link| link.index != port)
    }
}

/// The host's end of a virtual function (`pf0vf3`, `c1pf0vf3`) or subfunction (`pf0sf88`), which
/// a pod holds.
fn is_representor(link: &Link) -> bool {
    let Some(port) = link.port_name.as_deref() else { return false };
    let Some((_, function)) = port.split_once("pf") else { return false };
    let function = function.trim_start_matches(|c: char| c.is_ascii_digit());
    function.starts_with("vf") || function.starts_with("sf")
}

#[cfg(test)]
mod draw;
#[cfg(test)]
mod tests;
