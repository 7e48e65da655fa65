//! Every shape in which a stranger can send a TCP segment: what fragroute, nmap and scapy do, by class.
//!
//! Input: a [`Segment`] to be. Output: the packets that carry it, from the Ethernet header on, in the
//! order in which they are sent. Invariant: the same segment gives the same packets, so that what
//! arrives with a filter can be held against what arrives without.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::packets::{Fragment, Mac, Packet, checksum, flags, protocol};

mod bytes;
pub mod leaving;
mod strange;

use bytes::{Overlap, fragments, framed, tagged};

/// Between whom, and on which cable.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// The stranger.
    pub from: SocketAddr,
    /// The frontend.
    pub to: SocketAddr,
    /// The Ethernet address of the stranger.
    pub mac: Mac,
    /// The Ethernet address of the node.
    pub node: Mac,
}

/// What a TCP segment does, or a datagram carries.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Whether it is a UDP datagram: flags and numbers mean nothing then.
    pub datagram: bool,
    /// Flags, see [`flags`].
    pub flags: u8,
    /// Sequence and acknowledgement numbers.
    pub numbers: (u32, u32),
    /// Data.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Opens a connection.
    pub fn open() -> Segment {
        Segment { datagram: false, flags: flags::SYN, numbers: (1, 0), payload: Vec::new() }
    }

    /// A UDP datagram.
    pub fn datagram() -> Segment {
        Segment { datagram: true, ..Segment::data((0, 0)) }
    }

    /// Carries data.
    pub fn data(numbers: (u32, u32)) -> Segment {
        let payload = b"GET /api/v1/secrets HTTP/1.1\r\nHost: kubernetes\r\n\r\n".to_vec();
        Segment { datagram: false, flags: flags::ACK | flags::PSH, numbers, payload }
    }

    /// As a packet.
    pub fn packet(&self, aim: &Aim) -> Packet {
        if self.datagram {
            return Packet::udp(aim.from, aim.to).payload(self.payload.clone());
        }
        let (seq, ack) = self.numbers;
        let packet = Packet::tcp(aim.from, aim.to).flags(self.flags).numbers(seq, ack);
        packet.payload(self.payload.clone())
    }
}

/// One way to wrap a segment.
pub struct Shape {
    /// What it is.
    pub name: String,
    wrap: Wrap,
}

type Wrap = Box<dyn Fn(&Aim, &Segment) -> Vec<Vec<u8>>>;

impl Shape {
    fn new(
        name: impl Into<String>,
        wrap: impl Fn(&Aim, &Segment) -> Vec<Vec<u8>> + 'static,
    ) -> Shape {
        Shape { name: name.into(), wrap: Box::new(wrap) }
    }

    /// The packets, from the Ethernet header on.
    pub fn frames(&self, aim: &Aim, segment: &Segment) -> Vec<Vec<u8>> {
        (self.wrap)(aim, segment)
    }
}

/// Shapes of one kind.
pub struct Class {
    /// What they have in common.
    pub name: &'static str,
    /// The shapes.
    pub shapes: Vec<Shape>,
    /// Whether a kernel without a filter hands their segments to whoever listens.
    pub arrives: bool,
    /// Whether it cannot be seen which port they are for, so that packets to other ports of the same
    /// address are dropped too.
    pub buried: bool,
    /// Whether they are about TCP alone, whatever the segment.
    pub tcp_only: bool,
}

impl Class {
    fn new(name: &'static str, shapes: Vec<Shape>) -> Class {
        Class { name, shapes, arrives: true, buried: false, tcp_only: false }
    }

    fn that_hides(self) -> Class {
        Class { buried: true, ..self }
    }

    fn of_tcp(self) -> Class {
        Class { tcp_only: true, ..self }
    }

    fn that_arrives_nowhere(self) -> Class {
        Class { arrives: false, ..self }
    }
}

/// All classes for an address family.
pub fn classes(v6: bool) -> Vec<Class> {
    let own = if v6 { extensions() } else { options() };
    let mut classes = vec![plain(), own, in_fragments(), tiny_fragments(v6), tags()];
    classes.push(buried().that_hides());
    classes.push(large(v6));
    if v6 {
        classes.push(more_extensions());
    }
    classes.extend(strange::classes(v6));
    classes
}

/// The customary packet with every combination of flags.
fn plain() -> Class {
    let mut shapes = vec![Shape::new("as a client", |aim, segment| {
        vec![segment.packet(aim).frame(aim.mac, aim.node)]
    })];
    shapes.extend((0..=255_u8).map(|flags| {
        Shape::new(format!("flags {flags:#04x}"), move |aim, segment| {
            vec![segment.packet(aim).flags(flags).frame(aim.mac, aim.node)]
        })
    }));
    Class::new("flags", shapes)
}

/// IPv4 options, as many as there is room for.
fn options() -> Class {
    let list: [(&str, Vec<u8>); 7] = [
        ("no operation", vec![1; 4]),
        ("as many as fit", vec![1; 40]),
        ("record route", [vec![7, 39, 4], vec![0; 36], vec![0]].concat()),
        ("timestamp", [vec![68, 36, 5, 0], vec![0; 32]].concat()),
        ("router alert", vec![148, 4, 0, 0]),
        ("stream", vec![136, 4, 0, 7]),
        ("end, then rubbish", vec![0, 0x9c, 0x40, 0xff]),
    ];
    let shape = |(name, options): (&str, Vec<u8>)| {
        Shape::new(name, move |aim: &Aim, segment: &Segment| {
            vec![segment.packet(aim).ip_options(options.clone()).frame(aim.mac, aim.node)]
        })
    };
    Class::new("IPv4 options", list.into_iter().map(shape).collect())
}

/// Chains of up to three extension headers in every order, and one longer than is followed.
fn extensions() -> Class {
    // The kernel takes hop-by-hop options in the first place only.
    let hop = (protocol::HOP_BY_HOP, vec![1, 4, 0, 0, 0, 0]);
    let others = [
        (protocol::DESTINATION, vec![1, 4, 0, 0, 0, 0]),
        (protocol::ROUTING, vec![4, 0, 0, 0, 0, 0]),
        (protocol::FRAGMENT, vec![0, 0, 0, 0, 0, 9]),
    ];
    let mut chains = vec![vec![hop.clone()]];
    for first in &others {
        chains.push(vec![first.clone()]);
        for second in &others {
            chains.push(vec![first.clone(), second.clone()]);
            chains.push(vec![hop.clone(), first.clone(), second.clone()]);
            chains.push(vec![first.clone(), hop.clone(), second.clone()]);
        }
    }
    for length in [4, 8] {
        chains.push(vec![others[0].clone(); length]);
    }
    Class::new("IPv6 extension headers", chains.into_iter().map(chained).collect())
}

/// More of them than are followed.
fn more_extensions() -> Class {
    let chain = |length| vec![(protocol::DESTINATION, vec![1, 4, 0, 0, 0, 0]); length];
    let shapes = [9, 10, 20, 100].map(chain).into_iter().map(chained);
    Class::new("more extension headers", shapes.collect()).that_hides()
}

fn chained(chain: Vec<(u8, Vec<u8>)>) -> Shape {
    let name = chain.iter().map(|(number, _)| number.to_string()).collect::<Vec<_>>();
    Shape::new(name.join(" "), move |aim: &Aim, segment: &Segment| {
        let chained = chain.iter().fold(segment.packet(aim), |packet, (number, body)| {
            packet.extension(*number, body.clone())
        });
        vec![chained.frame(aim.mac, aim.node)]
    })
}

/// Two and more fragments, in order and out of it.
fn in_fragments() -> Class {
    let cut = |name: &str, size: usize, overlap: Overlap, order: fn(&mut Vec<Vec<u8>>)| {
        Shape::new(name, move |aim: &Aim, segment: &Segment| {
            let mut parts =
                fragments(&segment.packet(aim).ip_bytes(), size, overlap, aim.from.port());
            order(&mut parts);
            parts.into_iter().map(|part| framed(aim, part)).collect()
        })
    };
    let keep: fn(&mut Vec<Vec<u8>>) = |_| {};
    Class::new(
        "fragments",
        vec![
            cut("in order", 24, Overlap::None, keep),
            cut("reversed", 24, Overlap::None, |parts| parts.reverse()),
            cut("the last one first", 24, Overlap::None, |parts| parts.rotate_right(1)),
            cut("each one twice", 24, Overlap::None, |parts| {
                *parts = parts.iter().flat_map(|part| [part.clone(), part.clone()]).collect();
            }),
            cut("never completed", 24, Overlap::None, |parts| parts.truncate(1)),
            cut("without the first", 24, Overlap::None, |parts| {
                parts.remove(0);
            }),
            cut("another first one before", 24, Overlap::FirstBefore, keep),
            cut("another first one behind", 24, Overlap::FirstBehind, keep),
            cut("over the first one's end", 24, Overlap::Second, keep),
            cut("over the first one's end, reversed", 24, Overlap::Second, |parts| parts.reverse()),
            cut("many", 32, Overlap::None, keep),
        ],
    )
}

/// First fragments that hold the transport header in part, or not at all.
fn tiny_fragments(v6: bool) -> Class {
    let mut shapes: Vec<Shape> = [8, 16]
        .into_iter()
        .map(|size| {
            Shape::new(format!("of {size} bytes"), move |aim: &Aim, segment: &Segment| {
                let packet = segment.packet(aim).ip_bytes();
                let parts = fragments(&packet, size, Overlap::None, aim.from.port());
                parts.into_iter().map(|part| framed(aim, part)).collect()
            })
        })
        .collect();
    if v6 {
        // Options in the first fragment, TCP in the second; with bytes behind its end, or without.
        shapes.extend([0, 32].into_iter().map(|padding| {
            Shape::new(format!("options first, {padding} bytes behind"), move |aim, segment| {
                let packet =
                    segment.packet(aim).extension(protocol::DESTINATION, vec![1, 4]).ip_bytes();
                let parts = fragments(&packet, 8, Overlap::None, aim.from.port());
                let padded = |part| [framed(aim, part), vec![0x11; padding]].concat();
                parts.into_iter().map(padded).collect()
            })
        }));
    }
    Class { arrives: !v6, buried: v6, ..Class::new("tiny fragments", shapes) }
}

/// VLAN tags: priority tags need no device.
fn tags() -> Class {
    let priority = (1..=8).map(|count| vec![(0x8100, 0); count]);
    let mixed = [
        vec![(0x88a8, 0)],
        vec![(0x88a8, 0), (0x8100, 0)],
        vec![(0x8100, 0xe000), (0x88a8, 0x1000)],
        vec![(0x8100, 5)],
        vec![(0x88a8, 5), (0x8100, 6)],
    ];
    let shape = |tags: Vec<(u16, u16)>| {
        Shape::new(format!("{tags:x?}"), move |aim: &Aim, segment: &Segment| {
            vec![tagged(aim, &segment.packet(aim), &tags)]
        })
    };
    Class::new("VLAN tags", priority.chain(mixed).map(shape).collect())
}

/// More tags than are followed.
fn buried() -> Class {
    let shape = |count: usize| {
        Shape::new(format!("{count} tags"), move |aim: &Aim, segment: &Segment| {
            vec![tagged(aim, &segment.packet(aim), &vec![(0x8100, 0); count])]
        })
    };
    // The outermost tag is not in the packet that the hook sees.
    Class::new("more VLAN tags", [10, 11, 40, 300].into_iter().map(shape).collect())
}

/// Longer than a memory page, so that only the Ethernet header lies in the linear part.
fn large(v6: bool) -> Class {
    let mut shapes = vec![Shape::new("6,000 bytes of data", |aim, segment| {
        let mut segment = segment.clone();
        segment.payload.resize(6_000, b'x');
        vec![segment.packet(aim).frame(aim.mac, aim.node)]
    })];
    if v6 {
        // Seven options that the kernel passes over, and the padding that it tolerates.
        let option = [vec![0x1e, 255], vec![0; 255]].concat();
        let body = [option.repeat(7), vec![1, 5, 0, 0, 0, 0, 0]].concat();
        shapes.push(Shape::new("5,424 bytes of options", move |aim, segment| {
            let packet = (0..3).fold(segment.packet(aim), |packet, _| {
                packet.extension(protocol::DESTINATION, body.clone())
            });
            vec![packet.frame(aim.mac, aim.node)]
        }));
    }
    Class::new("large", shapes)
}

/// One fragment of nothing: what a flood of them looks like.
pub fn lone_fragment(aim: &Aim, offset: u16, more: bool) -> Vec<u8> {
    let id = u32::from(aim.from.port());
    let packet = Packet::raw(aim.from.ip(), aim.to.ip(), protocol::TCP).payload(vec![7; 64]);
    packet.fragment(Fragment { id, offset, more }).frame(aim.mac, aim.node)
}

/// The Internet checksum of an IPv4 header, written into it.
fn mend(ip: &mut [u8]) {
    let header = usize::from(ip[0] & 0x0f) * 4;
    ip[10..12].fill(0);
    let sum = checksum(&[&ip[..header.min(ip.len())]]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// 127.0.0.1 with this port.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
