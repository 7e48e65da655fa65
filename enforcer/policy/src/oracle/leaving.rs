//! The judge of what gated pods send: peer by peer, from the snapshot alone.

use std::{collections::BTreeSet, net::IpAddr};

use crate::model::{Cluster, Peer, PeerPort, PodInterface, Protocol, Snapshot};

/// A packet that comes in on the host's end of a pod's interface, and what the kernel knows of the
/// pod's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Number of the interface.
    pub interface: u32,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// What it carries.
    pub carries: Carries,
    /// Whether the pod listens on the source port.
    pub listens: bool,
    /// Who owns the connection.
    pub owner: Owner,
}

/// What a packet of a pod carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request.
    Echo,
    /// A TCP segment.
    Tcp {
        /// What it does to its connection.
        does: Does,
        /// Whether it carries data.
        data: bool,
    },
}

/// What a TCP segment does, by its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// SYN without ACK.
    Asks,
    /// SYN with ACK.
    Accepts,
    /// RST.
    Resets,
    /// Anything else.
    GoesOn,
}

/// Who owns the connection that a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No socket of the pod.
    Nobody,
    /// A socket with the connection, which sent the segment itself.
    Sender,
    /// A socket with the connection, though it is not known who sent the segment.
    Connection,
    /// What the kernel remembers of a connection before it is made or after its end.
    Remnant,
}

/// What becomes of a packet of a pod, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The interface is no gated pod's.
    NotGated,
    /// The policy names the destination; the peer, and its place in the list.
    Peer(Peer),
    /// The pod was asked.
    Served,
    /// The policy does not name the destination.
    NotPeer,
    /// The source is not the pod's.
    SpoofedSource,
    /// No connection of the pod.
    Forged,
}

impl Departure {
    /// The reason under which the data path counts it; `None` where it does not look.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::NotGated => None,
            Self::Peer(_) => Some("peer"),
            Self::Served => Some("served"),
            Self::NotPeer => Some("not_peer"),
            Self::SpoofedSource => Some("spoofed_source"),
            Self::Forged => Some("forged"),
        }
    }
}

/// Decides a packet.
#[must_use]
pub fn depart(snapshot: &Snapshot, packet: &Leaving) -> Departure {
    let interfaces = &snapshot.this_node.pod_interfaces;
    let Some(interface) = interfaces.iter().find(|known| known.index == packet.interface) else {
        return Departure::NotGated;
    };
    let (clusters, addresses) = holders(snapshot, interface);
    let Some(cluster) = clusters.first() else { return Departure::NotGated };
    // One address of each family counts: pods have no more.
    let own = addresses.iter().find(|address| address.is_ipv4() == packet.source.is_ipv4());
    if own != Some(&packet.source) || packet.source.is_unspecified() {
        return Departure::SpoofedSource;
    }
    let peer = match clusters.len() {
        1 => granted(cluster, packet),
        // Whose pod it is, is not clear.
        _ => None,
    };
    let granted = |otherwise| peer.clone().map_or(otherwise, Departure::Peer);
    match packet.carries {
        Carries::Udp | Carries::Echo | Carries::Tcp { does: Does::Asks, .. } => {
            granted(Departure::NotPeer)
        }
        Carries::Tcp { does: Does::Accepts, data } => {
            if packet.listens && !data {
                Departure::Served
            } else {
                Departure::Forged
            }
        }
        Carries::Tcp { does: Does::Resets, data } => {
            if data {
                Departure::Forged
            } else {
                Departure::Served
            }
        }
        Carries::Tcp { does: Does::GoesOn, data } => match (packet.owner, packet.listens) {
            (Owner::Sender, true) => Departure::Served,
            (Owner::Sender, false) => granted(Departure::NotPeer),
            (Owner::Remnant, _) if data => granted(Departure::Forged),
            (Owner::Connection | Owner::Remnant, true) => granted(Departure::Served),
            (Owner::Connection | Owner::Remnant, false) => granted(Departure::NotPeer),
            (Owner::Nobody, _) => granted(Departure::Forged),
        },
    }
}

/// Clusters with a gated pod at this interface, and the addresses of these pods there.
fn holders<'a>(
    snapshot: &'a Snapshot,
    interface: &PodInterface,
) -> (Vec<&'a Cluster>, BTreeSet<IpAddr>) {
    let (mut clusters, mut addresses) = (Vec::new(), BTreeSet::new());
    for cluster in snapshot.clusters.values() {
        let pods = cluster.egress.iter().flat_map(|egress| &egress.pods);
        let here: BTreeSet<IpAddr> = pods
            .flat_map(|pod| &pod.addresses)
            .filter(|address| interface.addresses.contains(address))
            .copied()
            .collect();
        if !here.is_empty() {
            clusters.push(&**cluster);
            addresses.extend(here);
        }
    }
    (clusters, addresses)
}

fn granted(cluster: &Cluster, packet: &Leaving) -> Option<Peer> {
    let egress = cluster.egress.as_ref()?;
    let at_port = |peer: &Peer| match (peer.port, packet.carries) {
        (PeerPort::Any, _) => true,
        (PeerPort::Only(Protocol::Tcp, port), Carries::Tcp { .. })
        | (PeerPort::Only(Protocol::Udp, port), Carries::Udp) => port == packet.port,
        (PeerPort::Only(..), Carries::Tcp { .. } | Carries::Udp | Carries::Echo) => false,
    };
    let holds = |peer: &&Peer| at_port(peer) && peer.net.contains(&packet.destination);
    egress.peers.iter().find(holds).cloned()
}
