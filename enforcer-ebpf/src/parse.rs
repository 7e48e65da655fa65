//! Packet bytes to a [`Flow`]: addresses, and what can be said of the transport header.
//!
//! Input: a [`Packet`] as a TC hook sees it. Output: the one thing `decide` needs. Nothing is
//! dropped here: a packet that the kernel's own input would discard is [`Parsed::Unjudged`].
//!
//! Sources: RFC 791, RFC 8200 (IPv6 and its extension headers), RFC 4302 (AH), IEEE 802.1Q.

mod quoted;
mod tcp;

use zerocopy::{FromBytes, Immutable, KnownLayout};

pub use self::{
    quoted::{quoted4, quoted6},
    tcp::{Segment, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp, segment, tcp},
};
use crate::bpf::forgotten;

/// Extension headers of an IPv6 packet that are followed.
pub const MAX_EXTENSIONS: u32 = 8;
/// VLAN tags inside the packet that are skipped (the outermost one is not in the packet at TC). The
/// kernel needs a device for each tag that names a network, and none for those that name none
/// (priority tags): it takes off as many of these as there are.
pub const MAX_TAGS: u32 = 8;

/// Read access to a packet.
pub trait Packet {
    /// The `T` at this offset from where the hook sees the packet begin; `None` if the packet, or
    /// the part of it that can be read, ends before.
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T>;
}

/// How deep headers are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Where most packets have them: no VLAN tag inside, no fragment, neither IPv4 options nor IPv6
    /// extension headers. Short code, so that the common packet is fast.
    Common,
    /// Wherever the kernel finds them.
    Full,
}

/// Where a hook sees a packet begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// At an Ethernet header.
    Ethernet,
    /// At the network header: tunnels and other devices without a link header.
    Raw,
}

/// Transport protocols that frontends are reached with; the number is the one of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Protocol {
    /// TCP (6).
    Tcp = 0,
    /// UDP (17).
    Udp = 1,
}

impl Protocol {
    /// From an IP protocol number.
    #[inline(always)]
    pub(crate) const fn of(number: u8) -> Option<Self> {
        match number {
            TCP => Some(Self::Tcp),
            UDP => Some(Self::Udp),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// An IPv4 address as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4(pub u32);

/// An IPv6 address as two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6 {
    /// The upper 64 bits.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
}

/// What can be said of a packet's transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The ports are known.
    Ports,
    /// The ports are known, but the fixed part of the header is not whole: only in a fragment.
    Short,
    /// It lies behind more extension headers, or another route, than the program follows, or where
    /// the packet ends before.
    Hidden,
    /// It is in another fragment; only with [`Reach::Everything`].
    Fragment,
    /// Neither TCP nor UDP; only with [`Reach::Everything`].
    Other,
}

/// Which packets are of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those that can be addressed to a frontend: TCP and UDP, without later fragments.
    Frontends,
    /// Every IP packet.
    Everything,
}

/// A packet that has to be decided. What is not known is 0: the verifier refuses registers that only
/// some variants of an enum would have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// What is known of the transport header.
    pub transport: Transport,
    /// Whose ports they are, TCP where there are none. No field of [`Transport`]: what that would not have
    /// written, LLVM reads all the same, and older verifiers refuse it.
    pub kind: Protocol,
    /// IP protocol number.
    pub protocol: u8,
    /// The source port.
    pub source_port: u16,
    /// The destination port.
    pub destination_port: u16,
    /// Where the transport header begins.
    pub at: u32,
    /// Where the packet ends by its own word, 0 if more of it comes in other fragments.
    pub end: u32,
}

impl<A> Flow<A> {
    /// Of which nothing but addresses and the protocol is known.
    #[inline(always)]
    const fn of(source: A, destination: A, protocol: u8) -> Self {
        let (transport, kind) = (Transport::Hidden, Protocol::Tcp);
        let (source_port, destination_port, at, end) = (0, 0, 0, 0);
        Self {
            source,
            destination,
            transport,
            kind,
            protocol,
            source_port,
            destination_port,
            at,
            end,
        }
    }

    /// The same with ports.
    #[inline(always)]
    fn with_ports(self, kind: Protocol, ports: &Ports, at: u32, end: u32) -> Self {
        Self {
            transport: Transport::Ports,
            kind,
            source_port: u16::from_be(ports.source),
            destination_port: u16::from_be(ports.destination),
            at,
            end,
            ..self
        }
    }

    /// The same, of whose transport header not all is in this fragment.
    #[inline(always)]
    fn cut(self, whole: bool) -> Self {
        if whole { self } else { Self { transport: Transport::Short, ..self } }
    }

    /// Whether it is known to be TCP.
    #[inline(always)]
    pub(crate) const fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Ports | Transport::Short)
            && matches!(self.kind, Protocol::Tcp)
    }
}

/// Outcome of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not for us: no IP, out of [`Reach`], or malformed for the kernel too.
    Unjudged,
    /// This depth cannot tell: the headers lie deeper, or where the packet cannot be read.
    Unclear,
    /// Behind more VLAN tags than are skipped: nothing can be said of it, not even whom it is for.
    Buried,
    /// An IPv4 packet.
    V4(Flow<V4>),
    /// An IPv6 packet.
    V6(Flow<V6>),
}

/// Where the type stands in an Ethernet header.
const ETHERTYPE_AT: u32 = 12;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Version 4, five words: no options.
const PLAIN_IPV4: u8 = 0x45;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const FRAGMENTED: u16 = MORE_FRAGMENTS | FRAGMENT_OFFSET;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Bytes of both ports.
const PORTS: u32 = 4;
const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Ipv6Header {
    version_class_label: u32,
    payload_length: u16,
    next: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// The first bytes of every IPv6 extension header.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Extension {
    next: u8,
    length: u8,
    /// Fragment offset and flags, or routing type and segments left.
    detail: [u8; 2],
}

#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Ports {
    source: u16,
    destination: u16,
}

/// Parses a packet.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, link: Link, depth: Depth, reach: Reach) -> Parsed {
    match link {
        Link::Ethernet => ethernet(packet, depth, reach),
        // What looks like no client's packet may begin with the header that a tunnel took off.
        Link::Raw => match (raw(packet, depth, reach), depth) {
            (Parsed::Unjudged, Depth::Common) => Parsed::Unclear,
            (parsed, Depth::Common | Depth::Full) => parsed,
        },
    }
}

#[inline(always)]
fn raw<P: Packet>(packet: &P, depth: Depth, reach: Reach) -> Parsed {
    // Four bytes: the verifier learns nothing from a check for one.
    match packet.load::<[u8; 4]>(0) {
        Some(first) if first[0] >> 4 == 4 => ipv4(packet, 0, depth, reach),
        Some(first) if first[0] >> 4 == 6 => ipv6(packet, 0, depth, reach),
        Some(_) => Parsed::Unjudged,
        None => Parsed::Unclear,
    }
}

#[inline(always)]
fn ethernet<P: Packet>(packet: &P, depth: Depth, reach: Reach) -> Parsed {
    let Some(ethertype) = packet.load::<u16>(ETHERTYPE_AT) else {
        return Parsed::Unclear;
    };
    match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => ipv4(packet, ETHERTYPE_AT + 2, depth, reach),
        ETHERTYPE_IPV6 => ipv6(packet, ETHERTYPE_AT + 2, depth, reach),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => match depth {
            Depth::Common => Parsed::Unclear,
            Depth::Full => tagged(packet, reach),
        },
        _ => Parsed::Unjudged,
    }
}

/// Behind VLAN tags.
#[inline(always)]
fn tagged<P: Packet>(packet: &P, reach: Reach) -> Parsed {
    let (mut offset, mut ethertype) = (ETHERTYPE_AT, ETHERTYPE_VLAN);
    for _ in 0..MAX_TAGS {
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
            break;
        }
        offset += 4;
        let Some(inner) = packet.load::<u16>(offset) else {
            return Parsed::Unclear;
        };
        offset = forgotten(offset, inner);
        ethertype = u16::from_be(inner);
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, offset + 2, Depth::Full, reach),
        ETHERTYPE_IPV6 => ipv6(packet, offset + 2, Depth::Full, reach),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Parsed::Buried,
        _ => Parsed::Unjudged,
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, at: u32, depth: Depth, reach: Reach) -> Parsed {
    let Some(header) = packet.load::<Ipv4Header>(at) else {
        return Parsed::Unclear;
    };
    let protocol = Protocol::of(header.protocol);
    if protocol.is_none() && reach == Reach::Frontends {
        return Parsed::Unjudged;
    }
    let flow = Flow::of(
        V4(u32::from_be(header.source)),
        V4(u32::from_be(header.destination)),
        header.protocol,
    );
    if depth == Depth::Common {
        let plain = header.version_ihl == PLAIN_IPV4 && header.fragment & FRAGMENTED.to_be() == 0;
        let end = at + u32::from(u16::from_be(header.total_length));
        return match (packet.load::<Ports>(at + 20), protocol) {
            (Some(ports), Some(protocol)) if plain => {
                Parsed::V4(flow.with_ports(protocol, &ports, at + 20, end))
            }
            _ => Parsed::Unclear,
        };
    }
    let length = u32::from(header.version_ihl & 0x0f) * 4;
    let fragment = u16::from_be(header.fragment);
    if header.version_ihl >> 4 != 4 || length < 20 {
        return Parsed::Unjudged;
    }
    if fragment & FRAGMENT_OFFSET != 0 {
        return match reach {
            Reach::Frontends => Parsed::Unjudged,
            Reach::Everything => Parsed::V4(Flow { transport: Transport::Fragment, ..flow }),
        };
    }
    let Some(protocol) = protocol else {
        return Parsed::V4(Flow { transport: Transport::Other, at: at + length, ..flow });
    };
    let Some(ports) = packet.load::<Ports>(at + length) else {
        return Parsed::Unclear;
    };
    let total = u32::from(u16::from_be(header.total_length));
    let in_fragment = fragment & MORE_FRAGMENTS != 0;
    let whole = !in_fragment || holds_header(protocol, total.saturating_sub(length));
    let end = if in_fragment { 0 } else { at + total };
    Parsed::V4(flow.with_ports(protocol, &ports, at + length, end).cut(whole))
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, at: u32, depth: Depth, reach: Reach) -> Parsed {
    let Some(header) = packet.load::<Ipv6Header>(at) else {
        return Parsed::Unclear;
    };
    if u32::from_be(header.version_class_label) >> 28 != 6 {
        return Parsed::Unjudged;
    }
    let flow = Flow::of(address6(header.source), address6(header.destination), header.next);
    let end = at + 40 + u32::from(u16::from_be(header.payload_length));
    let (mut offset, mut next, mut in_fragment) = (at + 40, header.next, false);
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS) {
            break;
        }
        if depth == Depth::Common {
            return Parsed::Unclear;
        }
        // The rest may come in another fragment: only since Linux 5.11 such a first one is dropped.
        let Some(extension) = packet.load::<Extension>(offset) else {
            return Parsed::V6(flow);
        };
        match next {
            FRAGMENT => {
                let fragment = u16::from_be_bytes(extension.detail);
                if fragment & 0xfff8 != 0 {
                    return match reach {
                        Reach::Frontends => Parsed::Unjudged,
                        Reach::Everything => {
                            Parsed::V6(Flow { transport: Transport::Fragment, ..flow })
                        }
                    };
                }
                in_fragment |= fragment & 1 != 0;
                offset += 8;
            }
            AUTHENTICATION => offset += (u32::from(extension.length) + 2) * 4,
            // Segments left: the kernel takes another destination from the header.
            ROUTING if extension.detail[1] != 0 => return Parsed::V6(flow),
            _ => offset += (u32::from(extension.length) + 1) * 8,
        }
        next = extension.next;
        offset = forgotten(offset, u16::from(extension.length));
    }
    let protocol = match next {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS => {
            return Parsed::V6(flow);
        }
        protocol => {
            return match reach {
                Reach::Frontends => Parsed::Unjudged,
                Reach::Everything => {
                    Parsed::V6(Flow { transport: Transport::Other, protocol, at: offset, ..flow })
                }
            };
        }
    };
    let ports = match (packet.load::<Ports>(offset), depth) {
        (Some(ports), Depth::Common | Depth::Full) => ports,
        (None, Depth::Common) => return Parsed::Unclear,
        (None, Depth::Full) => return Parsed::V6(flow),
    };
    // What lies behind the end of a fragment is no part of the datagram.
    if in_fragment && offset + PORTS > end {
        return Parsed::V6(flow);
    }
    let whole = !in_fragment || holds_header(protocol, end.saturating_sub(offset));
    let end = if in_fragment { 0 } else { end };
    let flow = Flow { protocol: next, ..flow };
    Parsed::V6(flow.with_ports(protocol, &ports, offset, end).cut(whole))
}

/// Whether it is ARP (RFC 826), without a VLAN tag.
#[inline(always)]
pub fn is_arp<P: Packet>(packet: &P, link: Link) -> bool {
    match link {
        Link::Ethernet => packet.load::<u16>(ETHERTYPE_AT) == Some(ETHERTYPE_ARP.to_be()),
        Link::Raw => false,
    }
}

/// Whether this many bytes hold the fixed part of the transport header.
#[inline(always)]
fn holds_header(protocol: Protocol, bytes: u32) -> bool {
    match protocol {
        Protocol::Tcp => bytes >= TCP_HEADER,
        Protocol::Udp => bytes >= UDP_HEADER,
    }
}

#[inline(always)]
fn address6(words: [u32; 4]) -> V6 {
    let [a, b, c, d] = words.map(|word| u64::from(u32::from_be(word)));
    V6 { high: a << 32 | b, low: c << 32 | d }
}
