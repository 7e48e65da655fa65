//! What the kernel says about the node, typed and not yet judged.
//!
//! Input: nothing; `wire` makes these values from netlink, tests make them by hand. Output:
//! [`Facts`]. Invariant: no fact is left out because another one is odd.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Preemption;

/// One consistent listing of links, addresses, routes and neighbours, and what pods' ends hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Network devices by number.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of network devices.
    pub addresses: Vec<Assigned>,
    /// The routes that matter here.
    pub routes: Vec<Route>,
    /// Neighbours that somebody wrote down for good.
    pub neighbours: Vec<Neighbour>,
    /// Addresses of the far ends of links that have one ([`Link::far`]), by number of the link. An
    /// empty set where none can be asked.
    pub pods: BTreeMap<u32, BTreeSet<IpAddr>>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, the same for as long as it lives.
    pub index: u32,
    /// Its name at the moment.
    pub name: String,
    /// How packets get to it.
    pub kind: Kind,
    /// Its link header, `ARPHRD_*`.
    pub arphrd: u16,
    /// The device it stands on (VLAN), or the other end (veth).
    pub lower: Lower,
    /// The other end, where that is in a network namespace that can be named.
    pub far: Option<Far>,
    /// The bond, bridge, VRF or switch that it is a port of (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// Name of its port on a switch chip (`IFLA_PHYS_PORT_NAME`), `pf0vf1`.
    pub port_name: Option<String>,
    /// What sees its packets before a program at ingress does.
    pub preempted: Option<Preemption>,
}

/// The end of a pair that is in another network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Far {
    /// Its number there (`IFLA_LINK`).
    pub index: u32,
    /// The number by which the node's network namespace knows the other one (`IFLA_LINK_NETNSID`).
    pub netns: u32,
}

/// `IFLA_LINK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// None.
    None,
    /// A device of this network namespace.
    Here(u32),
    /// A device of another network namespace, where its number means nothing to us.
    Elsewhere,
}

/// How packets get to a device: the kinds of `IFLA_INFO_KIND` by what matters to a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A driver's own device. Has no kind; `lo` neither.
    Hardware,
    /// What its other end sends: veth, netkit.
    Pair,
    /// Packets that its lower device has received as they are: VLAN, MACVLAN, IPVLAN.
    Stacked,
    /// Packets that its ports have received as they are: bond, team, bridge, VRF.
    Controller,
    /// As a controller, but its ports point to another device of the same kind: Open vSwitch.
    Switch,
    /// Packets that no device below shows in the clear: tunnels, decryption, `tun`. Also every
    /// kind that is not known here: one program too many harms less than a way around it.
    Decapsulating,
    /// Never any from outside: dummy, ifb, nlmon, CAN.
    Silent,
}

impl Kind {
    /// From `IFLA_INFO_KIND`.
    #[must_use]
    pub fn of(info_kind: Option<&str>) -> Self {
        match info_kind {
            None => Self::Hardware,
            Some("veth" | "netkit") => Self::Pair,
            Some("vlan" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap") => Self::Stacked,
            Some("bond" | "team" | "bridge" | "vrf") => Self::Controller,
            Some("openvswitch") => Self::Switch,
            Some("dummy" | "ifb" | "nlmon" | "vsockmon" | "can" | "vcan" | "vxcan" | "slcan") => {
                Self::Silent
            }
            Some(_) => Self::Decapsulating,
        }
    }
}

/// An address of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The device's number.
    pub index: u32,
    /// The node's own address, not the peer's.
    pub address: IpAddr,
    /// What is reached through the device: the network of the address, or of the peer's.
    pub network: IpNet,
}

/// A permanent neighbour: what network plugins tell a tunnel about the other nodes' tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Number of the device that it is reached through.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
}

/// A route that says something about the node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A default route of the main table.
    Default {
        /// The devices it leads through.
        through: Vec<u32>,
    },
    /// The node takes packets to this range as its own (type `local`, table `local`).
    Local {
        /// The device it was made for.
        index: Option<u32>,
        /// The range, mostly one address.
        range: IpNet,
    },
}

/// Holds the addresses of services in kube-proxy's IPVS mode, which are no addresses of the node.
pub const SERVICE_DEVICE: &str = "kube-ipvs0";

impl Facts {
    /// Numbers of the devices that packets come out of which came encapsulated.
    #[must_use]
    pub fn tunnels(&self) -> BTreeSet<u32> {
        let tunnels = self.links.values().filter(|link| link.kind == Kind::Decapsulating);
        tunnels.map(|link| link.index).collect()
    }

    /// Number of the device that holds service addresses.
    #[must_use]
    pub fn service_device(&self) -> Option<u32> {
        self.links.values().find(|link| link.name == SERVICE_DEVICE).map(|link| link.index)
    }
}
