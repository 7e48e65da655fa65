//! What only a pod sends: answers that nobody asked for, words of routers, other pods' addresses, everything
//! that is no TCP.

use std::net::{IpAddr, SocketAddr};

use super::{Aim, Class, Shape};
use crate::packets::{Packet, flags};

const DATA: &[u8] = b"what the pod has to tell";
/// Stream control (RFC 9260).
const SCTP: u8 = 132;
/// Resets that one shape sends at once: more than may leave in a moment.
const FLOOD: u16 = 1_000;

/// All of them, of a pod that listens on `served`; `others` are addresses that are not its own.
pub fn classes(served: u16, others: &[IpAddr], v6: bool) -> Vec<Class> {
    vec![
        answers(served, "answers with data", DATA),
        answers(served, "answers without data", b""),
        Class::new("a flood of resets", vec![resets(served)]),
        routers(v6).that_arrives_nowhere(),
        sources(others, v6),
        datagrams(served),
        messages(v6),
        associations(v6),
    ]
}

/// Segments of connections that there are not, from the port that is listened on and from others.
fn answers(served: u16, name: &'static str, data: &'static [u8]) -> Class {
    let kinds = [
        ("SYN-ACK", flags::SYN | flags::ACK),
        ("SYN-ACK, urgent", flags::SYN | flags::ACK | flags::URG | flags::PSH),
        ("RST", flags::RST),
        ("RST-ACK", flags::RST | flags::ACK),
        ("SYN-RST", flags::SYN | flags::RST),
        ("ACK", flags::ACK),
        ("PSH", flags::ACK | flags::PSH),
        ("FIN", flags::FIN | flags::ACK),
        ("nothing", 0),
    ];
    let ports = [Some(served), None];
    let shapes = kinds.into_iter().flat_map(|(kind, bits)| {
        ports.map(|port| {
            let name = format!("{kind} from {}", port.map_or("any port", |_| "its own port"));
            Shape::new(name, move |aim: &Aim, _| {
                let from = SocketAddr::new(aim.from.ip(), port.unwrap_or(aim.from.port()));
                let packet = Packet::tcp(from, aim.to).flags(bits).numbers(1, 1).payload(data);
                vec![packet.frame(aim.mac, aim.node)]
            })
        })
    });
    Class::new(name, shapes.collect())
}

fn resets(served: u16) -> Shape {
    Shape::new("from its own port", move |aim, _| {
        let from = SocketAddr::new(aim.from.ip(), served);
        let one = |number: u16| {
            let to = SocketAddr::new(aim.to.ip(), 1_024 + number);
            Packet::tcp(from, to).flags(flags::RST).frame(aim.mac, aim.node)
        };
        (0..FLOOD).map(one).collect()
    })
}

/// Router advertisements and redirects (RFC 4861, RFC 792, RFC 1256), to the peer and to all.
fn routers(v6: bool) -> Class {
    let kinds: &[u8] = if v6 { &[134, 137] } else { &[5, 9] };
    let everybody: [u8; 4] = [224, 0, 0, 1];
    let all: IpAddr = if v6 {
        std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()
    } else {
        everybody.into()
    };
    let shapes = kinds.iter().flat_map(|&kind| {
        [None, Some(all)].map(|to| {
            Shape::new(format!("type {kind} to {to:?}"), move |aim: &Aim, _| {
                let to = to.unwrap_or(aim.to.ip());
                let packet = Packet::icmp(aim.from.ip(), to, kind, 0, [64, 0, 7, 8]);
                vec![packet.ttl(255).payload(DATA).frame(aim.mac, aim.node)]
            })
        })
    });
    Class::new("words of routers", shapes.collect())
}

/// Everything in the name of somebody else.
fn sources(others: &[IpAddr], v6: bool) -> Class {
    let of_family = others.iter().copied().filter(|address| address.is_ipv6() == v6);
    let shapes = of_family.flat_map(|source| {
        [flags::SYN, flags::ACK | flags::PSH, flags::RST].map(|bits| {
            Shape::new(format!("{bits:#04x} as {source}"), move |aim: &Aim, _| {
                let from = SocketAddr::new(source, aim.from.port());
                let packet = Packet::tcp(from, aim.to).flags(bits).payload(DATA);
                vec![packet.frame(aim.mac, aim.node)]
            })
        })
    });
    Class::new("sources of others", shapes.collect())
}

fn datagrams(served: u16) -> Class {
    let ports = [(None, None), (Some(served), None), (None, Some(0)), (Some(53), None)];
    let shapes = ports.into_iter().map(|(from, to): (Option<u16>, Option<u16>)| {
        Shape::new(format!("{from:?} to {to:?}"), move |aim: &Aim, _| {
            let from = SocketAddr::new(aim.from.ip(), from.unwrap_or(aim.from.port()));
            let to = SocketAddr::new(aim.to.ip(), to.unwrap_or(aim.to.port()));
            vec![Packet::udp(from, to).payload(DATA).frame(aim.mac, aim.node)]
        })
    });
    Class::new("datagrams", shapes.collect())
}

/// ICMP that is no error: a way to carry data too.
fn messages(v6: bool) -> Class {
    let kinds: &[u8] = if v6 { &[128, 129, 139] } else { &[8, 0, 13, 15] };
    let shapes = kinds.iter().map(|&kind| {
        Shape::new(format!("type {kind}"), move |aim: &Aim, _| {
            let (from, to) = (aim.from.ip(), aim.to.ip());
            let packet = Packet::icmp(from, to, kind, 0, [0, 7, 0, 1]).payload(DATA);
            vec![packet.frame(aim.mac, aim.node)]
        })
    });
    Class::new("ICMP that is no error", shapes.collect())
}

/// SCTP that opens an association, and what carries whole packets for nobody's device.
fn associations(v6: bool) -> Class {
    let sctp = Shape::new("SCTP INIT", |aim: &Aim, _| {
        let (from, to) = (aim.from.port().to_be_bytes(), aim.to.port().to_be_bytes());
        let chunk = [1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1];
        let payload = [&from[..], &to, &[0; 8], &chunk].concat();
        let packet = Packet::raw(aim.from.ip(), aim.to.ip(), SCTP).payload(payload);
        vec![packet.frame(aim.mac, aim.node)]
    });
    let tunnels: [(u8, &str); 5] =
        [(4, "IP in IP"), (41, "6in4"), (47, "GRE"), (50, "ESP"), (94, "IPIP of old")];
    let tunnels = tunnels.into_iter().map(move |(number, name)| {
        Shape::new(name, move |aim: &Aim, _| {
            let inner = Packet::tcp(aim.from, aim.to).payload(DATA).ip_bytes();
            let packet = Packet::raw(aim.from.ip(), aim.to.ip(), number).payload(inner);
            vec![packet.frame(aim.mac, aim.node)]
        })
    });
    // An IPv4 address of the peer's, written as IPv6 has it.
    let mapped = (!v6).then(|| {
        Shape::new("to a mapped address", |aim: &Aim, _| {
            let map = |address: IpAddr| match address {
                IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
                IpAddr::V6(_) => address,
            };
            let (from, to) = (map(aim.from.ip()), map(aim.to.ip()));
            let (from, to) =
                (SocketAddr::new(from, aim.from.port()), SocketAddr::new(to, aim.to.port()));
            vec![Packet::tcp(from, to).payload(DATA).frame(aim.mac, aim.node)]
        })
    });
    let shapes = [sctp].into_iter().chain(tunnels).chain(mapped);
    Class::new("associations and tunnels", shapes.collect())
}
