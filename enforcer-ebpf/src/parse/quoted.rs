//! The packets that ICMP errors quote (RFC 792, RFC 4443), as far as they are plain.

use super::{
    FRAGMENT_OFFSET, Flow, Ipv4Header, Ipv6Header, PLAIN_IPV4, Packet, Ports, Protocol, V4, V6,
    address6,
};

/// The IPv4 packet that an ICMP error quotes at this place, as far as it is whole and without options.
#[inline(always)]
pub fn quoted4<P: Packet>(packet: &P, at: u32) -> Option<Flow<V4>> {
    let header = packet.load::<Ipv4Header>(at)?;
    if header.version_ihl != PLAIN_IPV4 || header.fragment & FRAGMENT_OFFSET.to_be() != 0 {
        return None;
    }
    let ports = packet.load::<Ports>(at + 20)?;
    let protocol = Protocol::of(header.protocol)?;
    let flow = Flow::of(
        V4(u32::from_be(header.source)),
        V4(u32::from_be(header.destination)),
        protocol.number(),
    );
    Some(flow.with_ports(protocol, &ports, at + 20, 0))
}

/// The IPv6 packet that an ICMPv6 error quotes at this place, as far as it has no extension headers.
#[inline(always)]
pub fn quoted6<P: Packet>(packet: &P, at: u32) -> Option<Flow<V6>> {
    let header = packet.load::<Ipv6Header>(at)?;
    let ports = packet.load::<Ports>(at + 40)?;
    let protocol = Protocol::of(header.next)?;
    let flow = Flow::of(address6(header.source), address6(header.destination), protocol.number());
    Some(flow.with_ports(protocol, &ports, at + 40, 0))
}
