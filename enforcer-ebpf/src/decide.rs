//! A packet and an image to one [`Verdict`]: the only place where a packet's fate is decided.
//!
//! Order, so that what is common leaves first: protocol and destination port (one bit), frontend,
//! allowlist; only for who is in no list, what else may admit. No connection state but the
//! connections that the node itself opened: removing a range cuts live connections with the next
//! packet.

use crate::{
    abi::{
        Image, Opened, POD_API_SERVER, POD_CLUSTER, POD_LOCAL, POLICY_EXEMPT_POD,
        POLICY_EXEMPT_UPLINK, POLICY_OTHERS_POD, POLICY_OTHERS_UPLINK, POLICY_PROBES,
        POLICY_TRUSTED, Policy,
    },
    parse::{
        Depth, Flow, Link, Packet, Parsed, Protocol, Segment, Transport, V4, V6, parse, segment,
    },
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
    /// The transport header of a packet to a guarded address cannot be found.
    HiddenTransport = 10,
}

impl Reason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 11] = [
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
            | Self::Probe => Action::Pass,
            Self::NotListed | Self::ProbeData | Self::ShortFragment | Self::HiddenTransport => {
                Action::Drop
            }
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

/// Parses a packet that enters the node and decides it.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(
    packet: &P,
    side: Side,
    link: Link,
    depth: Depth,
    tables: &T,
) -> Judgement {
    Judgement::Final(match parse(packet, link, depth) {
        Parsed::Unjudged => Verdict::of_node(Reason::Unguarded),
        Parsed::Unclear => return Judgement::Unclear,
        Parsed::V4(flow) => decide(&flow, side, tables, || segment(packet, &flow.transport)),
        Parsed::V6(flow) => decide(&flow, side, tables, || segment(packet, &flow.transport)),
    })
}

/// Decides a flow. `segment` is asked only for who is in no list.
#[inline(always)]
pub fn decide<A: Address, T: Tables>(
    flow: &Flow<A>,
    side: Side,
    tables: &T,
    segment: impl FnOnce() -> Segment,
) -> Verdict {
    let unguarded = Verdict::of_node(Reason::Unguarded);
    let image = tables.image();
    let Transport::Ports { protocol, destination: port, whole, .. } = flow.transport else {
        return match flow.destination.has_frontend(image) {
            true => Verdict::of_node(Reason::HiddenTransport),
            false => unguarded,
        };
    };
    let (number, port) = (protocol as u32, u32::from(port));
    if !tables::port_is_guarded(image, number, port) {
        return unguarded;
    }
    let index = policy_at(flow.destination, image, number, port);
    if index == 0 {
        return unguarded;
    }
    let policy = tables::policy(image, index);
    let reason = if !whole {
        Reason::ShortFragment
    } else if flow.source.is_in(policy, tables) {
        Reason::Listed
    } else {
        unlisted(flow, side, policy, tables, segment)
    };
    Verdict { reason, cluster: policy.counter }
}

/// Policy of the frontend at a destination, 0 if there is none. An external IP that is an address
/// of a node too has entries of its own for all its frontends.
#[inline(always)]
fn policy_at<A: Address>(destination: A, image: &Image, protocol: u32, port: u32) -> u32 {
    let index = destination.frontend_policy(image, protocol, port);
    if index != 0 {
        return index;
    }
    let index = tables::node_port_policy(image, protocol, port);
    if index != 0 && destination.is_node(image) { index } else { 0 }
}

/// Why a source that is in no list passes or is denied.
#[inline(always)]
fn unlisted<A: Address, T: Tables>(
    flow: &Flow<A>,
    side: Side,
    policy: &Policy,
    tables: &T,
    segment: impl FnOnce() -> Segment,
) -> Reason {
    let image = tables.image();
    let source = flow.source;
    let (others, exempt) = match side {
        Side::Uplink => (POLICY_OTHERS_UPLINK, POLICY_EXEMPT_UPLINK),
        Side::Pod => (POLICY_OTHERS_POD, POLICY_EXEMPT_POD),
    };
    let is_in = |index| source.is_held(index, tables);
    let known = is_in(others);
    let mut probes = false;
    if known {
        let pod = source.pod(image);
        let own = policy.own_pods != 0
            && pod & POD_CLUSTER == policy.own_pods
            && (matches!(side, Side::Pod) || pod & POD_LOCAL == 0);
        if pod & POD_API_SERVER == 0 {
            if is_in(exempt) {
                return Reason::Exempt;
            }
            if own {
                return Reason::OwnPod;
            }
            if is_in(POLICY_TRUSTED) {
                return Reason::TrustedProxy;
            }
            probes = flow.is_tcp() && is_in(POLICY_PROBES);
        } else if own {
            return Reason::OwnPod;
        }
    }
    // Not before the lists: the verifier would walk through them once for every kind of segment.
    let segment = segment();
    if may_reply(segment) && is_opened(flow, tables) {
        return Reason::Reply;
    }
    if !probes {
        return Reason::NotListed;
    }
    match segment {
        Segment::Open | Segment::Bare => Reason::Probe,
        Segment::OpenData | Segment::Data => Reason::ProbeData,
    }
}

/// A segment that opens a connection is never a reply. Neither is UDP: what the node sends from a
/// guarded UDP port looks the same whether it asks or answers.
#[inline(always)]
fn may_reply(segment: Segment) -> bool {
    match segment {
        Segment::Open | Segment::OpenData => false,
        Segment::Bare | Segment::Data => true,
    }
}

#[inline(always)]
fn is_opened<A: Address, T: Tables>(flow: &Flow<A>, tables: &T) -> bool {
    match flow.transport {
        Transport::Ports { protocol: Protocol::Tcp, source, destination, .. } => {
            tables.opened(&Opened {
                remote: flow.source.mapped(),
                local: flow.destination.mapped(),
                ports: u32::from(source) << 16 | u32::from(destination),
                reserved: 0,
            })
        }
        Transport::Ports { protocol: Protocol::Udp, .. } | Transport::Hidden => false,
    }
}

/// Looks at a packet that leaves the node, to the network or to a pod: if it opens a connection from a
/// guarded port of a node, that is handed to `remember`, since replies are addressed like a client's
/// packets to that port. The node may be another one that sends to a pod here.
#[inline(always)]
pub fn watch<P: Packet, T: Tables>(
    packet: &P,
    link: Link,
    depth: Depth,
    tables: &T,
    remember: impl FnOnce(&Opened),
) -> Watched {
    match parse(packet, link, depth) {
        Parsed::Unjudged => {}
        Parsed::Unclear => return Watched::Unclear,
        Parsed::V4(flow) => watch_flow(packet, &flow, tables, remember),
        Parsed::V6(flow) => watch_flow(packet, &flow, tables, remember),
    }
    Watched::Done
}

/// Whether a depth could tell what an outgoing packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It could.
    Done,
    /// It could not, see [`Parsed::Unclear`].
    Unclear,
}

#[inline(always)]
fn watch_flow<P: Packet, A: Address, T: Tables>(
    packet: &P,
    flow: &Flow<A>,
    tables: &T,
    remember: impl FnOnce(&Opened),
) {
    let Transport::Ports { protocol: Protocol::Tcp, source: port, destination, .. } =
        flow.transport
    else {
        return;
    };
    let image = tables.image();
    if !tables::port_is_guarded(image, Protocol::Tcp as u32, u32::from(port)) {
        return;
    }
    match segment(packet, &flow.transport) {
        Segment::Open | Segment::OpenData => {}
        Segment::Bare | Segment::Data => return,
    }
    if flow.source.is_node(image) {
        remember(&Opened {
            remote: flow.destination.mapped(),
            local: flow.source.mapped(),
            ports: u32::from(destination) << 16 | u32::from(port),
            reserved: 0,
        });
    }
}

/// What `decide` asks of an address of either family.
pub trait Address: Copy {
    /// Policy of the frontend at this address, 0 if there is none.
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32;
    /// Whether it is an address of a node of the seed.
    fn is_node(self, image: &Image) -> bool;
    /// Whether any frontend is at this address.
    fn has_frontend(self, image: &Image) -> bool;
    /// What is known of the pod with this address: bits `abi::POD_*`.
    fn pod(self, image: &Image) -> u32;
    /// Whether the policy's list holds this address.
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool;
    /// The same by the policy's number, for lists that are not asked of every packet.
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool;
    /// As an IPv6 address, upper and lower half; IPv4 is mapped (RFC 4291, 2.5.5.2).
    fn mapped(self) -> [u64; 2];
}

impl Address for V4 {
    #[inline(always)]
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32 {
        tables::frontend4_policy(image, self.0, protocol, port)
    }

    #[inline(always)]
    fn is_node(self, image: &Image) -> bool {
        tables::is_node4(image, self.0)
    }

    /// Asked only of IPv6: nothing hides the ports of an IPv4 packet.
    #[inline(always)]
    fn has_frontend(self, _image: &Image) -> bool {
        false
    }

    #[inline(always)]
    fn pod(self, image: &Image) -> u32 {
        tables::pod4(image, self.0)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits4(policy, self.0)
    }

    #[inline(always)]
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool {
        tables.holds4(policy, self.0)
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        [0, 0xffff << 32 | u64::from(self.0)]
    }
}

impl Address for V6 {
    #[inline(always)]
    fn frontend_policy(self, image: &Image, protocol: u32, port: u32) -> u32 {
        tables::frontend6_policy(image, self.high, self.low, protocol, port)
    }

    #[inline(always)]
    fn is_node(self, image: &Image) -> bool {
        tables::is_node6(image, self.high, self.low)
    }

    #[inline(always)]
    fn has_frontend(self, image: &Image) -> bool {
        self.is_node(image) || tables::has_frontend6(image, self.high, self.low)
    }

    #[inline(always)]
    fn pod(self, image: &Image) -> u32 {
        tables::pod6(image, self.high, self.low)
    }

    #[inline(always)]
    fn is_in<T: Tables>(self, policy: &Policy, tables: &T) -> bool {
        tables.admits6(policy, self.high, self.low)
    }

    #[inline(always)]
    fn is_held<T: Tables>(self, policy: u32, tables: &T) -> bool {
        tables.holds6(policy, self.high, self.low)
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        [self.high, self.low]
    }
}
