//! The node as netlink shows it: its addresses, and the interfaces that are to be guarded.
//!
//! Input: links, addresses, routes and neighbours of the network namespace of the calling thread, the
//! operator's [`Selection`], and the addresses of the Node object. Output: a [`NodeState`], once
//! ([`observe`]) or whenever it changes ([`watch`]). Invariant: a state is computed from listings
//! that the kernel did not change underneath, never from remembered messages; where a listing
//! fails, the last state stays.
//!
//! Reading order: [`facts`] (what the kernel says), [`mod@classify`] (what it means; pure),
//! `wire` (bytes to facts), `listing` and `events` (the sockets), `pods` (what pods' ends hold), `watch`
//! (the loop).

pub mod classify;
mod events;
pub mod facts;
mod listing;
mod pods;
mod watch;
mod wire;

use std::{collections::BTreeSet, fmt, io, net::IpAddr, str::FromStr};

use enforcer_policy::{model::PodInterface, plan::Interface};
use ipnet::IpNet;
use rtnetlink::packet_core::DecodeError;

pub use self::{
    classify::classify,
    watch::{NodeWatch, observe, watch},
};

/// What the node looks like at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Every address at which the node answers: those of all its interfaces (secondary, moving,
    /// tentative and link-local ones and those of `lo` included) and those that only a route of
    /// type `local` names. Without 127.0.0.0/8, ::1 and the service addresses on `kube-ipvs0`.
    /// IPv6 link-local addresses are listed without their interface: a nodePort answers there too.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges at which the node answers as a whole (routes of type `local` shorter than a host
    /// route, "AnyIP"). [`NodeState::addresses`] cannot name them, so frontends there are not
    /// guarded: to be reported.
    pub local_ranges: BTreeSet<IpNet>,
    /// Addresses of other nodes' tunnel devices: the permanent neighbours of this node's tunnels.
    pub tunnel_peers: BTreeSet<IpAddr>,
    /// Subnets that the uplinks are directly connected to, through their own addresses or those of
    /// bonds, VLANs and bridges above them. Neither single addresses nor link-local ones.
    pub connected: BTreeSet<IpNet>,
    /// The host's ends of pods' interfaces, those that are guarded, with the addresses of the pods,
    /// link-local ones left out.
    pub pod_interfaces: Vec<PodInterface>,
    /// Interfaces to guard, by number.
    pub interfaces: Vec<Interface>,
    /// Selected by name, but not there now. Guarded from the moment they appear.
    pub missing: BTreeSet<String>,
    /// Selected, but not possible to guard; by name.
    pub unguardable: Vec<Unguardable>,
}

/// An interface that packets enter and at which the program cannot judge all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unguardable {
    /// Name of the interface.
    pub name: String,
    /// What stands in the way.
    pub reason: UnguardableReason,
}

/// Why an interface cannot be guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnguardableReason {
    /// Its packets begin with a header that the program does not know.
    LinkLayer {
        /// The `ARPHRD_*` number of the header.
        arphrd: u16,
    },
    /// It is guarded, but something else sees its packets first and may let them past us.
    Preempted(Preemption),
}

/// What sees packets before our program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Preemption {
    /// An XDP program: it may redirect packets or send them back.
    Xdp,
    /// A netkit device: its own program may redirect a pod's packets.
    Netkit,
}

impl fmt::Display for Unguardable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, reason } = self;
        match reason {
            UnguardableReason::LinkLayer { arphrd } => {
                write!(f, "{name}: packets with a link header of type {arphrd} cannot be judged")
            }
            UnguardableReason::Preempted(Preemption::Xdp) => {
                write!(
                    f,
                    "an XDP program on {name} sees packets first and may redirect them past us: \
                     remove it (ip link set {name} xdp off), or put up with it (--tolerate xdp)"
                )
            }
            UnguardableReason::Preempted(Preemption::Netkit) => {
                write!(
                    f,
                    "{name} is a netkit device, whose program may redirect packets past us: use \
                     veth, or put up with it (--tolerate netkit)"
                )
            }
        }
    }
}

/// `--interfaces`: which interfaces are guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// Those through which packets from outside or from pods reach the node, see
    /// [`classify::Role`].
    #[default]
    Auto,
    /// Exactly these.
    Named(BTreeSet<String>),
}

impl FromStr for Selection {
    type Err = SelectionError;

    /// Reads `auto` or `NAME,NAME,…`.
    fn from_str(text: &str) -> Result<Self, SelectionError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.split(',').map(interface_name).collect::<Result<_, _>>().map(Self::Named)
    }
}

/// The rule of the kernel's `dev_valid_name`.
fn interface_name(name: &str) -> Result<String, SelectionError> {
    let forbidden = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || matches!(name, "." | "..") || name.contains(forbidden) {
        return Err(SelectionError::NotAName { name: name.to_owned() });
    }
    if name.len() >= libc::IFNAMSIZ {
        return Err(SelectionError::TooLong { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

/// A value of `--interfaces` that names no interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Empty, or with a character that no interface's name has.
    #[error("`{name}` cannot be the name of an interface; write `auto` or NAME,NAME")]
    NotAName {
        /// As written.
        name: String,
    },
    /// Longer than the kernel allows.
    #[error("`{name}` is too long for the name of an interface (15 bytes)")]
    TooLong {
        /// As written.
        name: String,
    },
}

/// What a listing lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Network devices.
    Links,
    /// Addresses of network devices.
    Addresses,
    /// IPv4 routes.
    RoutesV4,
    /// IPv6 routes.
    RoutesV6,
    /// Neighbours.
    Neighbours,
    /// Addresses of a device in a pod's network namespace.
    PodAddresses,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "network devices",
            Self::Addresses => "addresses",
            Self::RoutesV4 => "IPv4 routes",
            Self::RoutesV6 => "IPv6 routes",
            Self::Neighbours => "neighbours",
            Self::PodAddresses => "addresses of a pod",
        })
    }
}

/// The node could not be observed. All of these may pass: [`watch`] tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel does not tell us of changes.
    #[error("cannot subscribe to changes of network devices, addresses, routes and neighbours")]
    Subscribe(#[source] io::Error),
    /// The subscription broke.
    #[error("cannot read changes of network devices, addresses, routes and neighbours")]
    Events(#[source] io::Error),
    /// A listing failed.
    #[error("cannot list {listing}")]
    List {
        /// Of what.
        listing: Listing,
        /// Why.
        source: io::Error,
    },
    /// A listing holds what we cannot read. It fails as a whole: an interface left out would be
    /// one that is no longer guarded.
    #[error("cannot read the kernel's list of {listing}")]
    Malformed {
        /// Of what.
        listing: Listing,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The kernel marked every one of several listings as inconsistent.
    #[error("{listing} changed again and again while they were listed")]
    Torn {
        /// Of what.
        listing: Listing,
    },
    /// No thread to watch the node.
    #[error("cannot start the thread that watches the node")]
    Thread(#[source] io::Error),
    /// The thread ended before it saw the node.
    #[error("the thread that watches the node ended at its start")]
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Selection {
        Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn interfaces_are_auto_or_a_list_of_names() {
        assert_eq!("auto".parse(), Ok(Selection::Auto));
        assert_eq!("eth0".parse(), Ok(named(&["eth0"])));
        assert_eq!("eth1,bond0.5,eth0,eth1".parse(), Ok(named(&["bond0.5", "eth0", "eth1"])));
    }

    #[test]
    fn what_cannot_be_an_interface_is_refused_by_name() {
        for text in ["", "eth0,", "eth0, eth1", "a/b", "..", "eth0:1"] {
            let refused = text.parse::<Selection>();
            assert!(matches!(refused, Err(SelectionError::NotAName { .. })), "{text}: {refused:?}");
        }
        let long = "sixteen-letters-".parse::<Selection>();
        assert_eq!(long, Err(SelectionError::TooLong { name: "sixteen-letters-".to_owned() }));
    }
}
