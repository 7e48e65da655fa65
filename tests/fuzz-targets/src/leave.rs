//! `leave`: what a gated pod sends is judged as the oracle judges it, whatever the kernel knows of its
//! sockets; and no packet that another parser does not understand leaves without a good reason.

use std::net::IpAddr;

use enforcer_ebpf::{
    address::Address,
    leave::{Connection, Sender, Sockets, judge_leaving, state},
    parse::{Depth, Link, Parsed, Reach, V4, V6, parse},
    tables::egress_entry,
    verdict::{Action, Reason},
};
use enforcer_policy::oracle::{Carries, Does, Leaving, Owner, depart};

use crate::{
    bytes::Bytes,
    parse::{Plain, plain, split},
    world::{GATED_INTERFACE, World},
};

/// The first byte says where the packet begins and what the kernel knows of the pod's sockets, the others
/// are the packet.
pub fn run(data: &[u8]) {
    let Some((link, packet)) = split(data) else { return };
    let first = data[0];
    let plain = plain(link, packet);
    let sockets = MadeUp {
        listens: first & 2 != 0,
        may_reset: first & 4 != 0,
        owner: [Owner::Nobody, Owner::Sender, Owner::Connection, Owner::Remnant]
            [usize::from(first >> 3 & 3)],
        ports: plain.as_ref().map_or((SERVED, CLIENT), |plain| plain.ports),
    };
    let reason = reason(link, packet, &sockets);
    match plain.and_then(|plain| question(&plain, &sockets)) {
        Some(question) => agrees(reason, &question, &sockets),
        None => is_excused(reason, link, packet, &sockets),
    }
}

const SERVED: u16 = 6443;
const CLIENT: u16 = 40_000;

/// Why the program passes or drops a packet of the gated pod.
fn reason(link: Link, packet: &[u8], sockets: &MadeUp) -> Reason {
    let image = &World::gated().image;
    let entry = egress_entry(enforcer_ebpf::tables::Tables::image(image), GATED_INTERFACE)
        .unwrap_or_else(|| panic!("the pod is gated"));
    let length = packet.len() as u32;
    judge_leaving(&Bytes(packet), link, length, entry, image, sockets).reason
}

fn agrees(reason: Reason, question: &Leaving, sockets: &MadeUp) {
    let answer = depart(&World::gated().snapshot, question);
    // Behind more headers than are followed, or another route.
    if reason == Reason::HiddenTransport {
        return;
    }
    if reason == Reason::ResetLimit {
        assert!(!sockets.may_reset, "{question:?}");
        assert_eq!(answer.reason(), Some(Reason::Served.name()), "{question:?}");
        return;
    }
    assert_eq!(Some(reason.name()), answer.reason(), "{question:?} {answer:?}");
}

/// What passes without ports that both parsers see goes to a peer, belongs to a connection that a socket
/// says is there, or is how neighbours are found.
fn is_excused(reason: Reason, link: Link, packet: &[u8], sockets: &MadeUp) {
    if reason.action() == Action::Drop {
        return;
    }
    let seen = parse(&Bytes(packet), link, Depth::Full, Reach::Everything);
    let (destination, protocol): (Option<IpAddr>, u8) = match seen {
        Parsed::V4(flow) => (Some(v4(flow.destination)), flow.protocol),
        Parsed::V6(flow) => (Some(v6(flow.destination)), flow.protocol),
        Parsed::Unjudged | Parsed::Unclear | Parsed::Buried => (None, 0),
    };
    let owned = !matches!(sockets.owner, Owner::Nobody);
    let granted = destination.is_some_and(is_some_peer);
    let excused = [
        (Reason::Peer, granted),
        (Reason::Served, sockets.listens || sockets.may_reset),
        // ARP has no addresses that are followed.
        (Reason::Neighbour, destination.is_none() || protocol == 58),
        (Reason::IcmpError, matches!(protocol, 1 | 58) && (owned || granted)),
    ];
    let excused = excused.contains(&(reason, true));
    assert!(excused, "{reason:?} {seen:?} {sockets:?}");
}

/// Whether any port of an address is granted.
fn is_some_peer(destination: IpAddr) -> bool {
    let clusters = World::gated().snapshot.clusters.values();
    clusters
        .flat_map(|cluster| &cluster.egress)
        .flat_map(|egress| &egress.peers)
        .any(|peer| peer.net.contains(&destination))
}

fn question(plain: &Plain, sockets: &MadeUp) -> Option<Leaving> {
    let Plain { source, destination, protocol, ports, flags, resets, data, trailed } = *plain;
    let does = match flags {
        _ if resets => Does::Resets,
        (true, false) => Does::Asks,
        (true, true) => Does::Accepts,
        (false, _) => Does::GoesOn,
    };
    let carries = match protocol {
        6 => Carries::Tcp { does, data: data || trailed },
        17 => Carries::Udp,
        _ => return None,
    };
    let (interface, port) = (GATED_INTERFACE, ports.1);
    let MadeUp { listens, owner, .. } = *sockets;
    Some(Leaving { interface, source, destination, port, carries, listens, owner })
}

fn v4(V4(address): V4) -> IpAddr {
    IpAddr::V4(address.into())
}

fn v6(V6 { high, low }: V6) -> IpAddr {
    IpAddr::V6((u128::from(high) << 64 | u128::from(low)).into())
}

/// Sockets as the input makes them up.
#[derive(Debug)]
struct MadeUp {
    listens: bool,
    may_reset: bool,
    owner: Owner,
    /// Of the packet, as far as both parsers see them.
    ports: (u16, u16),
}

impl Sockets for MadeUp {
    fn sender(&self) -> Sender {
        let (local, remote) = self.ports;
        match self.owner {
            Owner::Sender => Sender { state: state::ESTABLISHED, local, remote },
            Owner::Nobody | Owner::Connection | Owner::Remnant => Sender::default(),
        }
    }

    fn owner<A: Address>(&self, _connection: &Connection<A>) -> u32 {
        match self.owner {
            Owner::Nobody if self.listens => state::LISTEN,
            Owner::Nobody => 0,
            Owner::Sender | Owner::Connection => state::ESTABLISHED,
            Owner::Remnant => state::TIME_WAIT,
        }
    }

    fn listens<A: Address>(&self, _local: A, _port: u16) -> bool {
        self.listens
    }

    fn listened(&self, _port: u16) -> bool {
        self.listens
    }

    fn may_reset(&self) -> bool {
        self.may_reset
    }

    fn asks<A: Address>(&self, _resolver: A, _cluster: u32) {}
}
