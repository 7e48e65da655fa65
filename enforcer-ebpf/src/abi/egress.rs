//! The part of the ABI that concerns connections which API server pods open.
//!
//! A gated pod's interface has an [`EgressEntry`]. Its policy is a [`Policy`](super::Policy) record
//! with the destinations that are granted at every port; destinations granted at one port are lists of
//! their own, found by (policy, protocol, port) in [`PORT_PEERS`](super::PORT_PEERS).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the map of [`Listened`] ports and of its pin.
pub const MAP_LISTENED: &str = "LISTENED";

/// Ports that are remembered; the least recently used is forgotten first.
pub const LISTENED: u32 = 8 << 10;

/// What is known of a gated pod's interface. Number 0 is an empty slot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct EgressEntry {
    /// Number of the host's end.
    pub interface: u32,
    /// Number by which the host's network namespace knows the pod's one; `u32::MAX` is its own.
    pub netns: u32,
    /// Number of the policy record.
    pub policy: u32,
    /// The pod's IPv4 address, 0 if it has none.
    pub v4: u32,
    /// The pod's IPv6 address, zeroes if it has none.
    pub v6: [u64; 2],
}

/// A port that a pod listens on, or did when it last answered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Listened {
    /// Number of the host's end of its interface.
    pub interface: u32,
    /// The port.
    pub port: u32,
}

/// Name of the map of [`Asked`] resolvers and of its pin.
pub const MAP_ASKED: &str = "ASKED";

/// Resolvers that are remembered; the least recently asked is forgotten first.
pub const ASKED: u32 = 2 << 10;

/// Port of DNS.
pub const DNS_PORT: u16 = 53;

/// Key of the map `ASKED`: whom the gated pods of a cluster ask for names. The value is the time of the
/// last question, in nanoseconds of `CLOCK_MONOTONIC`. No verdict reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Asked {
    /// The destination; IPv4 is mapped (RFC 4291, 2.5.5.2).
    pub resolver: [u64; 2],
    /// Counter slot of the cluster's egress.
    pub cluster: u32,
    /// Makes the padding explicit.
    pub reserved: u32,
}

/// Key of the list of destinations that an egress policy grants at one port; protocol 0 is TCP, 1
/// UDP.
#[inline(always)]
#[must_use]
pub const fn port_peers_key(policy: u32, protocol: u32, port: u32) -> u64 {
    (policy as u64) << 17 | (protocol as u64) << 16 | port as u64
}

const _: () = {
    assert!(size_of::<EgressEntry>() == 32);
    assert!(size_of::<Listened>() == 8);
    assert!(size_of::<Asked>() == 24);
};
