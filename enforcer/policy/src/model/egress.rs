//! Whom the API server pods of a cluster may open connections to.
//!
//! Only clusters with the gate `apiserverNetworkPolicy` have an [`Egress`]; for the pods of all others
//! nothing is asked.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ObjectRef, Origin, Protocol};

/// The gate is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Whom they may connect to. None at all is a policy too: everything is denied.
    pub peers: Vec<Peer>,
    /// The API server pods of this cluster that run on this node.
    pub pods: Vec<GatedPod>,
}

/// A destination that a policy grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The destination's address, or a range of them.
    pub net: IpNet,
    /// At which ports.
    pub port: PeerPort,
    /// The object and field that grant it.
    pub origin: Origin,
}

/// Ports of a [`Peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PeerPort {
    /// Every port of TCP and UDP, and ICMP echo.
    Any,
    /// One port of one protocol.
    Only(Protocol, u16),
}

/// An API server pod of this node whose cluster has the gate on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatedPod {
    /// The Pod.
    pub object: ObjectRef,
    /// Its addresses, `status.podIPs`; none before the network plugin has given it one.
    pub addresses: BTreeSet<IpAddr>,
}

/// The host's end of a pod's interface, as netlink shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodInterface {
    /// Number of the host's end.
    pub index: u32,
    /// Its name at the moment.
    pub name: String,
    /// Number by which this network namespace knows the pod's one (`IFLA_LINK_NETNSID`).
    pub netns: u32,
    /// Addresses of the other end (`IFA_TARGET_NETNSID`), link-local ones left out.
    pub addresses: BTreeSet<IpAddr>,
}
