//! `parse`: both depths say the same, and the same as another parser where that understands a packet.

use std::net::IpAddr;

use enforcer_ebpf::parse::{Depth, Flow, Link, Parsed, Reach, Transport, V4, V6, parse};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::bytes::Bytes;

/// Addresses and ports of a packet that is TCP or UDP and no fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Ports of sender and receiver.
    pub ports: (u16, u16),
    /// SYN and ACK.
    pub flags: (bool, bool),
    /// RST.
    pub resets: bool,
    /// Whether data follows the header.
    pub data: bool,
    /// Whether bytes follow the packet.
    pub trailed: bool,
}

/// The first byte says where the packet begins, the others are the packet.
pub fn run(data: &[u8]) {
    let Some((link, packet)) = split(data) else { return };
    let full = parse(&Bytes(packet), link, Depth::Full, Reach::Frontends);
    let common = parse(&Bytes(packet), link, Depth::Common, Reach::Frontends);
    if common != Parsed::Unclear {
        assert_eq!(common, full, "the common depth says something else");
    }
    let everything = parse(&Bytes(packet), link, Depth::Full, Reach::Everything);
    if matches!(full, Parsed::V4(_) | Parsed::V6(_)) {
        assert_eq!(everything, full, "what is for a frontend does not depend on the reach");
    }
    let Some(plain) = plain(link, packet) else { return };
    let seen = match full {
        Parsed::V4(flow) => ports(&flow, |V4(address)| IpAddr::V4(address.into())),
        Parsed::V6(flow) => ports(&flow, |address| IpAddr::V6(wide(address).into())),
        // What nothing can be said of is dropped.
        Parsed::Buried => return,
        Parsed::Unjudged | Parsed::Unclear => panic!("not judged: {plain:?}"),
    };
    if let Some(seen) = seen {
        let Plain { source, destination, protocol, ports, .. } = plain;
        assert_eq!(seen, (source, destination, protocol, ports));
    }
}

/// Link layer and packet of an input.
pub(crate) fn split(data: &[u8]) -> Option<(Link, &[u8])> {
    let (first, packet) = data.split_first()?;
    Some((if first & 1 == 0 { Link::Ethernet } else { Link::Raw }, packet))
}

/// What etherparse makes of a packet, unless it is a fragment, or something is wrong with it.
pub fn plain(link: Link, packet: &[u8]) -> Option<Plain> {
    if !is_understood(link, packet) {
        return None;
    }
    let sliced = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(packet),
        Link::Raw => SlicedPacket::from_ip(packet),
    };
    let SlicedPacket { net, transport, .. } = sliced.ok()?;
    let (source, destination) = match net? {
        NetSlice::Ipv4(ip) if !ip.is_payload_fragmented() && ip.extensions().auth.is_none() => {
            let header = ip.header();
            (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()))
        }
        NetSlice::Ipv6(ip) if !ip.is_payload_fragmented() => {
            let header = ip.header();
            // Jumbograms end elsewhere for some.
            if header.payload_length() == 0 {
                return None;
            }
            (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()))
        }
        NetSlice::Ipv4(_) | NetSlice::Ipv6(_) | NetSlice::Arp(_) => return None,
    };
    Some(match transport? {
        TransportSlice::Tcp(tcp) => Plain {
            source,
            destination,
            protocol: 6,
            ports: (tcp.source_port(), tcp.destination_port()),
            flags: (tcp.syn(), tcp.ack()),
            resets: tcp.rst(),
            data: !tcp.payload().is_empty(),
            trailed: tcp.payload().as_ptr_range().end != packet.as_ptr_range().end,
        },
        TransportSlice::Udp(udp) => Plain {
            source,
            destination,
            protocol: 17,
            ports: (udp.source_port(), udp.destination_port()),
            flags: (false, false),
            resets: false,
            data: true,
            trailed: udp.payload().as_ptr_range().end != packet.as_ptr_range().end,
        },
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) => return None,
    })
}

/// Whether the kernel takes a packet for what etherparse does, without a device or a key for it: that
/// one also knows other tags, MACsec, and extension headers of mobile hosts.
fn is_understood(link: Link, packet: &[u8]) -> bool {
    let word = |at: usize| packet.get(at..at + 2).map(|it| u16::from_be_bytes([it[0], it[1]]));
    let mut at = match link {
        Link::Ethernet => 12,
        Link::Raw => 0,
    };
    if link == Link::Ethernet {
        while matches!(word(at), Some(0x8100 | 0x88a8)) {
            at += 4;
        }
        if !matches!(word(at), Some(0x0800 | 0x86dd)) {
            return false;
        }
        at += 2;
    }
    let byte = |at: usize| packet.get(at).copied().unwrap_or(59);
    if byte(at) >> 4 != 6 {
        return true;
    }
    let (mut next, mut header) = (byte(at + 6), at + 40);
    while header < packet.len() {
        let (after, length) = (byte(header), usize::from(byte(header + 1)));
        header += match next {
            0 | 43 | 60 => (length + 1) * 8,
            44 => 8,
            51 => (length + 2) * 4,
            _ => return matches!(next, 6 | 17),
        };
        next = after;
    }
    false
}

/// The same of a flow; nothing where its transport header is hidden.
fn ports<A: Copy>(
    flow: &Flow<A>,
    address: impl Fn(A) -> IpAddr,
) -> Option<(IpAddr, IpAddr, u8, (u16, u16))> {
    let Flow { source, destination, source_port, destination_port, .. } = *flow;
    let protocol = match flow.transport {
        Transport::Ports => flow.kind.number(),
        Transport::Hidden => return None,
        Transport::Short | Transport::Fragment | Transport::Other => {
            panic!("it is whole: {:?}", flow.transport)
        }
    };
    Some((address(source), address(destination), protocol, (source_port, destination_port)))
}

fn wide(V6 { high, low }: V6) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}
