//! A packet to a frontend and an image to one [`Verdict`]: the only place where its fate is decided.
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
    address::Address,
    parse::{Depth, Flow, Link, Packet, Parsed, Reach, Segment, Transport, parse, segment},
    tables::{self, Tables},
    verdict::{Judgement, Reason, Side, Verdict},
};

/// Parses a packet that enters the node and decides it.
#[inline(always)]
pub fn judge<P: Packet, T: Tables>(
    packet: &P,
    side: Side,
    link: Link,
    depth: Depth,
    tables: &T,
) -> Judgement {
    Judgement::Final(match parse(packet, link, depth, Reach::Frontends) {
        Parsed::Unjudged => Verdict::of_node(Reason::Unguarded),
        Parsed::Unclear => return Judgement::Unclear,
        Parsed::Buried => Verdict::of_node(Reason::HiddenTransport),
        Parsed::V4(flow) => decide(&flow, side, tables, || segment(packet, &flow)),
        Parsed::V6(flow) => decide(&flow, side, tables, || segment(packet, &flow)),
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
    let whole = match flow.transport {
        Transport::Ports => true,
        Transport::Short => false,
        Transport::Hidden if flow.destination.has_frontend(image) => {
            return Verdict::of_node(Reason::HiddenTransport);
        }
        Transport::Hidden | Transport::Fragment | Transport::Other => return unguarded,
    };
    let (number, port) = (flow.kind as u32, u32::from(flow.destination_port));
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
    Verdict::of_policy(reason, index, policy)
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
    // In line, as every stranger comes here.
    let known = source.is_in(tables::policy(image, others), tables);
    let mut probes = false;
    if known {
        let pod = source.pod(image);
        let own = policy.own_pods != 0
            && pod & POD_CLUSTER == u32::from(policy.own_pods)
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
    flow.is_tcp()
        && tables.opened(&Opened {
            remote: flow.source.mapped(),
            local: flow.destination.mapped(),
            ports: u32::from(flow.source_port) << 16 | u32::from(flow.destination_port),
            reserved: 0,
        })
}
