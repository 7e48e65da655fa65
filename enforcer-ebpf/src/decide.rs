//! A packet and an image to one [`Verdict`]: the only place where a packet's fate is decided.
//!
//! Order, so that what is common leaves first: protocol and destination port (one bit), destination
//! address, frontend, allowlist, exemptions. No connection state: removing a range cuts live
//! connections with the next packet.

use crate::{
    abi::{ADDRESS_ALSO_NODE, ADDRESS_NODE, Image, POLICY_EXEMPT, Policy},
    parse::{Depth, Flow, Link, Packet, Parsed, Transport, V4, V6, parse},
    tables::{self, Tables},
};

/// Why a packet passes or is dropped; also the index of its counter in the map `REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Not addressed to a frontend.
    Unguarded = 0,
    /// The source is in the cluster's allowlist.
    Listed = 1,
    /// The source is exempt seed-wide.
    Exempt = 2,
    /// The source is in neither.
    NotListed = 3,
    /// A first fragment that does not hold the transport imageer.
    ShortFragment = 4,
    /// The transport imageer of a packet to a guarded address cannot be found.
    HiddenTransport = 5,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Unguarded,
        Self::Listed,
        Self::Exempt,
        Self::NotListed,
        Self::ShortFragment,
        Self::HiddenTransport,
    ];

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unguarded => "unguarded",
            Self::Listed => "listed",
            Self::Exempt => "exempt",
            Self::NotListed => "not_listed",
            Self::ShortFragment => "short_fragment",
            Self::HiddenTransport => "hidden_transport",
        }
    }

    /// What is done with the packet.
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Unguarded | Self::Listed | Self::Exempt => Action::Pass,
            Self::NotListed | Self::ShortFragment | Self::HiddenTransport => Action::Drop,
        }
    }
}

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the next program see it.
    Pass,
    /// Drop it.
    Drop,
}

/// The decision on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// Counter slot of the cluster, [`Verdict::NO_CLUSTER`] where none is concerned.
    pub cluster: u32,
}

impl Verdict {
    /// No cluster is concerned.
    pub const NO_CLUSTER: u32 = u32::MAX;

    #[inline(always)]
    const fn of_node(reason: Reason) -> Self {
        Self { reason, cluster: Self::NO_CLUSTER }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Decided.
    Final(Verdict),
    /// This depth cannot tell, see [`Parsed::Unclear`].
    Unclear,
}

/// Parses a packet and decides it.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(packet: &P, link: Link, depth: Depth, tables: &T) -> Judgement {
    match parse(packet, link, depth) {
        Parsed::Unjudged => Judgement::Final(Verdict::of_node(Reason::Unguarded)),
        Parsed::Unclear => Judgement::Unclear,
        Parsed::V4(flow) => Judgement::Final(decide(&flow, tables)),
        Parsed::V6(flow) => Judgement::Final(decide(&flow, tables)),
    }
}

/// Decides a flow.
#[inline(always)]
pub fn decide<A: Address, T: Tables>(flow: &Flow<A>, tables: &T) -> Verdict {
    let unguarded = Verdict::of_node(Reason::Unguarded);
    let image = tables.image();
    let (protocol, port, whole) = match flow.transport {
        Transport::Ports { protocol, destination, whole, source: _ } => {
            (protocol as u32, u32::from(destination), whole)
        }
        Transport::Hidden => {
            return match flow.destination.number(image) {
                0 => unguarded,
                _ => Verdict::of_node(Reason::HiddenTransport),
            };
        }
    };
    if !tables::port_is_guarded(image, protocol, port) {
        return unguarded;
    }
    let number = flow.destination.number(image);
    if number == 0 {
        return unguarded;
    }
    let mut index = tables::frontend_policy(image, number & !ADDRESS_ALSO_NODE, protocol, port);
    if index == 0 && number & ADDRESS_ALSO_NODE != 0 {
        index = tables::frontend_policy(image, ADDRESS_NODE, protocol, port);
    }
    if index == 0 {
        return unguarded;
    }
    let policy = tables::policy(image, index);
    let verdict = |reason| Verdict { reason, cluster: policy.counter };
    if !whole {
        return verdict(Reason::ShortFragment);
    }
    if flow.source.is_in(policy, tables) {
        return verdict(Reason::Listed);
    }
    if flow.source.is_in(tables::policy(image, POLICY_EXEMPT), tables) {
        return verdict(Reason::Exempt);
    }
    verdict(Reason::NotListed)
}

/// What `decide` asks of an address of either family.
pub trait Address: Copy {
    /// Number of this address as a destination, 0 if no frontend has it.
    fn number(self, image: &Image) -> u32;
    /// Whether the policy admits this address as a source.
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool;
}

impl Address for V4 {
    #[inline(always)]
    fn number(self, image: &Image) -> u32 {
        tables::address4_number(image, self.0)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits4(policy, self.0)
    }
}

impl Address for V6 {
    #[inline(always)]
    fn number(self, image: &Image) -> u32 {
        tables::address6_number(image, self.high, self.low)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits6(policy, self.high, self.low)
    }
}
