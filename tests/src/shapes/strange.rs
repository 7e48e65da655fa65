//! What no client sends: lying lengths, broken checksums, other protocols, wraps that nobody takes off,
//! answers that nobody waits for, sources that do not exist.

use std::net::{IpAddr, SocketAddr};

use super::{Aim, Class, Segment, Shape, bytes::framed, lone_fragment, mend};
use crate::packets::{Packet, flags, protocol};

/// All of them for an address family.
pub(super) fn classes(v6: bool) -> Vec<Class> {
    vec![
        lengths(v6),
        Class::new("bytes behind the end", vec![behind_the_end()]),
        headers().of_tcp(),
        tricks().of_tcp(),
        quoted(v6).that_arrives_nowhere(),
        other_protocols().that_arrives_nowhere(),
        wrapped(v6).that_arrives_nowhere(),
        sources(v6).that_arrives_nowhere(),
        Class::new("fragments of nothing", vec![fragments_of_nothing()])
            .that_arrives_nowhere()
            .of_tcp(),
    ]
}

/// A shape that changes the bytes of the customary packet, from the IP header on.
fn edited(name: impl Into<String>, edit: impl Fn(&mut Vec<u8>) + 'static) -> Shape {
    Shape::new(name, move |aim: &Aim, segment: &Segment| {
        let mut ip = segment.packet(aim).ip_bytes();
        edit(&mut ip);
        vec![framed(aim, ip)]
    })
}

/// Lengths that say more or less than there is, and packets cut short.
fn lengths(v6: bool) -> Class {
    let at = if v6 { 4 } else { 2 };
    let mut shapes: Vec<Shape> = [-9_i32, -8, -1, 1, 8, 1400]
        .into_iter()
        .map(|more| {
            edited(format!("{more:+} bytes"), move |ip| {
                let length = i32::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
                let lie = length.saturating_add(more).max(0) as u16;
                ip[at..at + 2].copy_from_slice(&lie.to_be_bytes());
                if !v6 {
                    mend(ip);
                }
            })
        })
        .collect();
    shapes.extend([0_u16, 19, 20, 24, u16::MAX].into_iter().map(|length| {
        edited(format!("length {length}"), move |ip| {
            ip[at..at + 2].copy_from_slice(&length.to_be_bytes());
            if !v6 {
                mend(ip);
            }
        })
    }));
    shapes.extend(
        [1, 8, 19, 21, 24, 39, 41, 44].into_iter().map(|length| {
            edited(format!("cut after {length} bytes"), move |ip| ip.truncate(length))
        }),
    );
    if v6 {
        // Without its jumbo option, a length of zero leaves the packet as long as it is.
        shapes.push(Shape::new("length 0 behind hop-by-hop options", |aim, segment| {
            let packet = segment.packet(aim).extension(protocol::HOP_BY_HOP, vec![1, 4]);
            let mut ip = packet.ip_bytes();
            ip[4..6].fill(0);
            vec![framed(aim, ip)]
        }));
    } else {
        shapes.extend([0_u8, 1, 4, 6, 15].into_iter().map(|words| {
            edited(format!("header of {words} words"), move |ip| {
                ip[0] = 0x40 | words;
                mend(ip);
            })
        }));
    }
    shapes.extend([0_u8, 5, 7, 15].into_iter().map(|version| {
        edited(format!("version {version}"), move |ip| ip[0] = version << 4 | ip[0] & 0x0f)
    }));
    // Where the IPv6 packet ends before its ports, nobody sees them.
    Class { buried: v6, ..Class::new("lying lengths", shapes) }
}

fn behind_the_end() -> Shape {
    Shape::new("64 bytes", |aim, segment| {
        vec![[segment.packet(aim).frame(aim.mac, aim.node), vec![0x9c; 64]].concat()]
    })
}

/// TCP headers of every length, with options, and without a checksum.
fn headers() -> Class {
    let tcp = |ip: &[u8]| if ip[0] >> 4 == 4 { 20 } else { 40 };
    let mut shapes: Vec<Shape> = (0..16_u8)
        .map(|words| {
            edited(format!("TCP header of {words} words"), move |ip| {
                let at = tcp(ip) + 12;
                ip[at] = words << 4;
            })
        })
        .collect();
    shapes.extend([0_u16, 0xffff, 0x1234].into_iter().map(|sum| {
        edited(format!("checksum {sum:#06x}"), move |ip| {
            let at = tcp(ip) + 16;
            ip[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        })
    }));
    shapes.push(Shape::new("from port 0", |aim, segment| {
        let from = SocketAddr::new(aim.from.ip(), 0);
        vec![segment.packet(&Aim { from, ..*aim }).frame(aim.mac, aim.node)]
    }));
    for port in [20, 53, 80, 443] {
        shapes.push(Shape::new(format!("from port {port}"), move |aim, segment| {
            let from = SocketAddr::new(aim.from.ip(), port);
            vec![segment.packet(&Aim { from, ..*aim }).frame(aim.mac, aim.node)]
        }));
    }
    Class::new("TCP headers", shapes)
}

/// What fragroute does to a stream: data with the SYN, decoys, overlaps, nothing in order.
fn tricks() -> Class {
    let data = |aim: &Aim, flags: u8, seq: u32, payload: &[u8], ttl: u8| {
        let packet = Packet::tcp(aim.from, aim.to).flags(flags).numbers(seq, 1).ttl(ttl);
        packet.payload(payload).frame(aim.mac, aim.node)
    };
    Class::new(
        "stream tricks",
        vec![
            Shape::new("data with the SYN", move |aim, _| {
                vec![data(aim, flags::SYN, 1, b"GET / HTTP/1.1\r\n\r\n", 64)]
            }),
            Shape::new("urgent data", move |aim, segment| {
                let packet = segment.packet(aim).window(1, 7);
                vec![packet.flags(segment.flags | flags::URG).frame(aim.mac, aim.node)]
            }),
            Shape::new("decoys with a short life", move |aim, segment| {
                let decoy = data(aim, flags::RST, 1, b"", 1);
                let bare = segment.packet(aim).frame(aim.mac, aim.node);
                vec![decoy.clone(), bare, decoy]
            }),
            Shape::new("overlaps in no order", move |aim, _| {
                let flags = flags::ACK | flags::PSH;
                vec![
                    data(aim, flags, 9, b"second half", 64),
                    data(aim, flags::SYN, 1, b"", 64),
                    data(aim, flags, 2, b"first and some", 64),
                    data(aim, flags, 2, b"FIRST AND SOME", 64),
                ]
            }),
            Shape::new("every byte by itself", move |aim, segment| {
                let mut frames = vec![segment.packet(aim).frame(aim.mac, aim.node)];
                frames.extend(
                    (2_u32..)
                        .zip(b"GET /")
                        .map(|(seq, byte)| data(aim, flags::ACK | flags::PSH, seq, &[*byte], 64)),
                );
                frames
            }),
        ],
    )
}

/// ICMP errors that quote the segment, as if the frontend had sent it.
fn quoted(v6: bool) -> Class {
    let kinds: &[(u8, u8)] = if v6 {
        &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0), (128, 0), (137, 0)]
    } else {
        &[(3, 1), (3, 3), (3, 4), (4, 0), (5, 1), (11, 0), (12, 0), (8, 0)]
    };
    let shapes = kinds.iter().map(|&(kind, code)| {
        Shape::new(format!("type {kind}, code {code}"), move |aim: &Aim, segment: &Segment| {
            let back = Aim { from: aim.to, to: aim.from, ..*aim };
            let quote = segment.packet(&back).ip_bytes();
            let (from, to) = (aim.from.ip(), aim.to.ip());
            let packet = Packet::icmp(from, to, kind, code, [0, 0, 5, 0]).payload(quote);
            vec![packet.frame(aim.mac, aim.node)]
        })
    });
    Class::new("ICMP errors that quote", shapes.collect())
}

/// The segment's bytes under the number of another protocol.
fn other_protocols() -> Class {
    // UDP, DCCP, SCTP, UDP-Lite, none, experimental, reserved.
    let shapes = [17_u8, 33, 132, 136, 59, 253, 255].into_iter().map(|number| {
        edited(format!("protocol {number}"), move |ip| {
            if ip[0] >> 4 == 4 {
                ip[9] = number;
                mend(ip);
            } else {
                ip[6] = number;
            }
        })
    });
    Class::new("other protocols", shapes.collect())
}

/// The whole packet in another one to the node: no device here takes it off.
fn wrapped(v6: bool) -> Class {
    let inner = if v6 { 41 } else { 4 };
    let ethertype: [u8; 2] = if v6 { [0x86, 0xdd] } else { [8, 0] };
    let gre = [vec![0, 0], ethertype.to_vec()].concat();
    let authenticated = [vec![inner, 4, 0, 0], vec![0; 20]].concat();
    let list: [(&str, u8, Vec<u8>); 4] = [
        ("IP in IP", inner, Vec::new()),
        ("GRE", 47, gre),
        ("ESP", 50, vec![0, 0, 1, 0, 0, 0, 0, 1]),
        ("AH", 51, authenticated),
    ];
    let shapes = list.into_iter().map(|(name, number, before)| {
        Shape::new(name, move |aim: &Aim, segment: &Segment| {
            let payload = [before.clone(), segment.packet(aim).ip_bytes()].concat();
            let packet = Packet::raw(aim.from.ip(), aim.to.ip(), number).payload(payload);
            vec![packet.frame(aim.mac, aim.node)]
        })
    });
    Class::new("wraps", shapes.collect())
}

/// Sources that no packet from outside has.
fn sources(v6: bool) -> Class {
    let list: &[&str] = if v6 {
        &["::1", "::", "::ffff:203.0.113.66", "ff02::1", "fe80::bad", "64:ff9b::cb00:7142"]
    } else {
        &["127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.1.1", "240.0.0.1"]
    };
    let shapes = list.iter().filter_map(|text| text.parse().ok()).map(|source: IpAddr| {
        Shape::new(format!("from {source}"), move |aim: &Aim, segment: &Segment| {
            let from = SocketAddr::new(source, aim.from.port());
            vec![segment.packet(&Aim { from, ..*aim }).frame(aim.mac, aim.node)]
        })
    });
    Class::new("sources that do not exist", shapes.collect())
}

fn fragments_of_nothing() -> Shape {
    Shape::new("at every place", |aim, _| {
        (0..64).map(|offset| lone_fragment(aim, offset * 100, offset % 3 != 0)).collect()
    })
}
