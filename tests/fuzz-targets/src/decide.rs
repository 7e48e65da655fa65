//! `decide`: a packet to a small seed is judged as the oracle judges it, at both depths and on both
//! sides of the node.

use enforcer_ebpf::{
    decide::judge,
    parse::{Depth, Link},
    verdict::{self, Action, Judgement, Reason},
};
use enforcer_policy::{
    model::{Protocol, Side},
    oracle::{Packet, Segment, admit},
};

use crate::{
    bytes::Bytes,
    parse::{Plain, plain, split},
    world::World,
};

/// The first byte says where the packet begins and on which side it comes in, the others are the
/// packet.
pub fn run(data: &[u8]) {
    let Some((link, packet)) = split(data) else { return };
    let side = side(data);
    let world = World::get();
    let reason = reason(link, side, packet);
    let Some(plain) = plain(link, packet) else {
        // Nobody is admitted by half a packet.
        assert!(
            reason.is_none_or(|reason| reason.action() == Action::Drop || is_usual(reason)),
            "{reason:?}"
        );
        return;
    };
    let answer = admit(&world.snapshot, &question(&plain, side));
    // What is behind more headers than are followed is dropped unseen.
    if reason != Some(Reason::HiddenTransport) {
        assert_eq!(reason.map(Reason::name), Some(answer.reason()), "{plain:?} {answer:?}");
    }
}

/// Which side an input comes in on.
pub fn side(data: &[u8]) -> Side {
    if data.first().is_some_and(|first| first & 2 != 0) { Side::Pod } else { Side::Uplink }
}

/// Why the program passes or drops a packet in that world; nothing where it cannot tell, and passes it.
pub fn reason(link: Link, side: Side, packet: &[u8]) -> Option<Reason> {
    let side = match side {
        Side::Uplink => verdict::Side::Uplink,
        Side::Pod => verdict::Side::Pod,
    };
    let image = &World::get().image;
    let at = |depth| match judge(&Bytes(packet), side, link, depth, image) {
        Judgement::Final(verdict) => Some(verdict.reason),
        Judgement::Unclear => None,
    };
    let (common, full) = (at(Depth::Common), at(Depth::Full));
    assert!(common.is_none() || common == full, "{common:?} {full:?}");
    full
}

/// Of packets that the kernel or the other parser refuses, such as one with a short IP header, the
/// program still reads ports: whoever is listed may send them.
fn is_usual(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unguarded
            | Reason::Listed
            | Reason::OwnPod
            | Reason::Exempt
            | Reason::TrustedProxy
            | Reason::Probe
    )
}

fn question(plain: &Plain, side: Side) -> Packet {
    let Plain { source, destination, protocol, ports, flags: (syn, ack), data, .. } = *plain;
    let protocol = if protocol == 6 { Protocol::Tcp } else { Protocol::Udp };
    let segment = match (protocol, syn && !ack, data) {
        (Protocol::Udp, _, _) | (Protocol::Tcp, false, true) => Segment::Data,
        (Protocol::Tcp, true, true) => Segment::OpenData,
        (Protocol::Tcp, true, false) => Segment::Open,
        (Protocol::Tcp, false, false) => Segment::Bare,
    };
    let (port, answers_node) = (ports.1, false);
    Packet { source, destination, protocol, port, side, segment, answers_node }
}
