//! What is decided about a packet, and why: words that everything else shares.

use crate::abi::{POLICY_AUDIT, Policy};

/// Why a packet passes or is dropped; also the index of its counter in the map `REASONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    /// Not addressed to a frontend.
    Unguarded = 0,
    /// The source is in the cluster's allowlist.
    Listed = 1,
    /// The source is a pod of the cluster's own control plane.
    OwnPod = 2,
    /// The source is exempt seed-wide.
    Exempt = 3,
    /// The source is a load balancer that enforces the list itself.
    TrustedProxy = 4,
    /// It belongs to a connection that the node itself opened.
    Reply = 5,
    /// The source may probe health, and the segment carries no data.
    Probe = 6,
    /// None of these.
    NotListed = 7,
    /// The source may probe health, but the segment carries data.
    ProbeData = 8,
    /// A first fragment that does not hold the transport header.
    ShortFragment = 9,
    /// The transport header of a packet to a guarded address, or of a gated pod, cannot be found, or its
    /// addresses cannot.
    HiddenTransport = 10,
    /// A gated pod's packet to somebody whom its policy names.
    Peer = 11,
    /// A gated pod's packet in a connection that it was asked for.
    Served = 12,
    /// ARP and its like in IPv6, by which a pod finds its neighbours.
    Neighbour = 13,
    /// A gated pod's ICMP error about a packet that it may answer.
    IcmpError = 14,
    /// A gated pod's packet to somebody whom its policy does not name.
    NotPeer = 15,
    /// A gated pod's packet with a source address that is not its own.
    SpoofedSource = 16,
    /// A gated pod's segment that belongs to no connection of it.
    Forged = 17,
    /// A gated pod speaks as a router: IPv6 router advertisement or redirect.
    RouterMessage = 18,
    /// More resets without a connection than a pod may send in a moment.
    ResetLimit = 19,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 20] = [
        Self::Unguarded,
        Self::Listed,
        Self::OwnPod,
        Self::Exempt,
        Self::TrustedProxy,
        Self::Reply,
        Self::Probe,
        Self::NotListed,
        Self::ProbeData,
        Self::ShortFragment,
        Self::HiddenTransport,
        Self::Peer,
        Self::Served,
        Self::Neighbour,
        Self::IcmpError,
        Self::NotPeer,
        Self::SpoofedSource,
        Self::Forged,
        Self::RouterMessage,
        Self::ResetLimit,
    ];

    /// The name in metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unguarded => "unguarded",
            Self::Listed => "listed",
            Self::OwnPod => "own_pod",
            Self::Exempt => "exempt",
            Self::TrustedProxy => "trusted_proxy",
            Self::Reply => "reply",
            Self::Probe => "probe",
            Self::NotListed => "not_listed",
            Self::ProbeData => "probe_data",
            Self::ShortFragment => "short_fragment",
            Self::HiddenTransport => "hidden_transport",
            Self::Peer => "peer",
            Self::Served => "served",
            Self::Neighbour => "neighbour",
            Self::IcmpError => "icmp_error",
            Self::NotPeer => "not_peer",
            Self::SpoofedSource => "spoofed_source",
            Self::Forged => "forged",
            Self::RouterMessage => "router_message",
            Self::ResetLimit => "reset_limit",
        }
    }

    /// Whether it is one for packets that gated pods send, and for no others.
    #[must_use]
    pub const fn is_of_gated_pods(self) -> bool {
        match self {
            Self::Peer
            | Self::Served
            | Self::Neighbour
            | Self::IcmpError
            | Self::NotPeer
            | Self::SpoofedSource
            | Self::Forged
            | Self::RouterMessage
            | Self::ResetLimit => true,
            Self::Unguarded
            | Self::Listed
            | Self::OwnPod
            | Self::Exempt
            | Self::TrustedProxy
            | Self::Reply
            | Self::Probe
            | Self::NotListed
            | Self::ProbeData
            | Self::ShortFragment
            | Self::HiddenTransport => false,
        }
    }

    /// What is done with the packet.
    #[inline(always)]
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Unguarded
            | Self::Listed
            | Self::OwnPod
            | Self::Exempt
            | Self::TrustedProxy
            | Self::Reply
            | Self::Probe
            | Self::Peer
            | Self::Served
            | Self::Neighbour
            | Self::IcmpError => Action::Pass,
            Self::NotListed
            | Self::ProbeData
            | Self::ShortFragment
            | Self::HiddenTransport
            | Self::NotPeer
            | Self::SpoofedSource
            | Self::Forged
            | Self::RouterMessage
            | Self::ResetLimit => Action::Drop,
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

/// Where a packet enters the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From outside: an uplink, or a tunnel that packets come out of.
    Uplink,
    /// From a pod of this node.
    Pod,
}

/// The decision on one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// Counter slot of the cluster, [`Verdict::NO_CLUSTER`] where none is concerned.
    pub cluster: u32,
    /// Number of the policy record that was asked, 0 if none was.
    pub policy: u32,
    /// Whether that policy only audits: what is denied passes.
    pub audits: bool,
}

impl Verdict {
    /// No cluster is concerned.
    pub const NO_CLUSTER: u32 = u32::MAX;

    /// No policy has a say.
    #[inline(always)]
    pub(crate) const fn of_node(reason: Reason) -> Self {
        Self { reason, cluster: Self::NO_CLUSTER, policy: 0, audits: false }
    }

    /// The policy with this number has decided.
    #[inline(always)]
    pub const fn of_policy(reason: Reason, number: u32, policy: &Policy) -> Self {
        let audits = policy.flags & POLICY_AUDIT != 0;
        Self { reason, cluster: policy.counter, policy: number, audits }
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

impl Judgement {
    /// Whether it concerns a frontend.
    #[inline(always)]
    #[must_use]
    pub const fn is_guarded(self) -> bool {
        match self {
            Self::Final(Verdict { reason, .. }) => reason as u32 != Reason::Unguarded as u32,
            Self::Unclear => false,
        }
    }
}
