//! Reading a packet back: bytes from the wire to the fields that tests ask about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packets::protocol;

/// What a packet said. Fields that its protocol lacks are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Sender as the packet claims.
    pub source: IpAddr,
    /// Receiver as the packet claims.
    pub destination: IpAddr,
    /// Of the header after all IPv6 extensions.
    pub protocol: u8,
    /// Of TCP and UDP.
    pub source_port: u16,
    /// Of TCP and UDP.
    pub destination_port: u16,
    /// TCP flags; for ICMP its type.
    pub flags: u8,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window.
    pub window: u16,
    /// TCP urgent pointer; for ICMP its code.
    pub urgent: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// After the transport header; for ICMP after its first 8 bytes.
    pub payload: Vec<u8>,
}

impl Seen {
    /// Reads an Ethernet frame; None if it is no whole IP packet or a later fragment.
    pub fn frame(bytes: &[u8]) -> Option<Seen> {
        let mut rest = bytes.get(12..)?;
        while word(rest, 0)? == 0x8100 {
            rest = rest.get(4..)?;
        }
        match word(rest, 0)? {
            0x0800 | 0x86dd => Seen::ip(&rest[2..]),
            _ => None,
        }
    }

    /// Reads from the IP header on.
    pub fn ip(bytes: &[u8]) -> Option<Seen> {
        match bytes.first()? >> 4 {
            4 => Seen::ipv4(bytes),
            6 => Seen::ipv6(bytes),
            _ => None,
        }
    }

    /// Sender's address and port.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.source_port)
    }

    /// Receiver's address and port.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.destination_port)
    }

    fn ipv4(bytes: &[u8]) -> Option<Seen> {
        let header = usize::from(bytes[0] & 0x0f) * 4;
        let total = usize::from(word(bytes, 2)?);
        if word(bytes, 6)? & 0x1fff != 0 {
            return None;
        }
        let source = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(12..16)?).ok()?);
        let destination = Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(16..20)?).ok()?);
        let seen = Seen::empty(source.into(), destination.into(), bytes[8]);
        seen.transport(bytes[9], bytes.get(header..total)?)
    }

    fn ipv6(bytes: &[u8]) -> Option<Seen> {
        let length = usize::from(word(bytes, 4)?);
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?);
        let destination = Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(24..40)?).ok()?);
        let mut rest = bytes.get(40..40 + length)?;
        let mut next = bytes[6];
        loop {
            let size = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                    8 + usize::from(*rest.get(1)?) * 8
                }
                protocol::FRAGMENT if word(rest, 2)? >> 3 == 0 => 8,
                protocol::FRAGMENT => return None,
                _ => break,
            };
            next = *rest.first()?;
            rest = rest.get(size..)?;
        }
        Seen::empty(source.into(), destination.into(), bytes[7]).transport(next, rest)
    }

    fn empty(source: IpAddr, destination: IpAddr, ttl: u8) -> Seen {
        Seen {
            source,
            destination,
            protocol: 0,
            source_port: 0,
            destination_port: 0,
            flags: 0,
            seq: 0,
            ack: 0,
            window: 0,
            urgent: 0,
            ttl,
            payload: Vec::new(),
        }
    }

    fn transport(mut self, protocol: u8, segment: &[u8]) -> Option<Seen> {
        self.protocol = protocol;
        let header = match protocol {
            protocol::TCP => {
                self.seq = long(segment, 4)?;
                self.ack = long(segment, 8)?;
                self.flags = *segment.get(13)?;
                self.window = word(segment, 14)?;
                self.urgent = word(segment, 18)?;
                usize::from(segment[12] >> 4) * 4
            }
            protocol::UDP => 8,
            protocol::ICMP | protocol::ICMPV6 => {
                self.flags = *segment.first()?;
                self.urgent = u16::from(*segment.get(1)?);
                8
            }
            _ => 0,
        };
        if matches!(protocol, protocol::TCP | protocol::UDP) {
            self.source_port = word(segment, 0)?;
            self.destination_port = word(segment, 2)?;
        }
        self.payload = segment.get(header..)?.to_vec();
        Some(self)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;
    use crate::packets::{Fragment, Packet, flags};

    fn ends(family: u8) -> (SocketAddr, SocketAddr) {
        let (from, to) = match family {
            4 => ("198.51.100.10:40000", "192.0.2.11:31443"),
            _ => ("[2001:db8:51::10]:40000", "[2001:db8:2::11]:31443"),
        };
        (from.parse().unwrap(), to.parse().unwrap())
    }

    /// etherparse is the independent judge: it must find the same fields and checksums.
    fn assert_checksums(frame: &[u8]) {
        let parsed = SlicedPacket::from_ethernet(frame).unwrap();
        let net = parsed.net.unwrap();
        let transport = parsed.transport.unwrap();
        match (net.ipv4_ref(), net.ipv6_ref(), transport) {
            (Some(ip), _, TransportSlice::Tcp(tcp)) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                let expected = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
                assert_eq!(tcp.checksum(), expected);
            }
            (_, Some(ip), TransportSlice::Tcp(tcp)) => {
                let header = ip.header();
                let expected = tcp.calc_checksum_ipv6(header.source(), header.destination());
                assert_eq!(tcp.checksum(), expected.unwrap());
            }
            (Some(ip), _, TransportSlice::Udp(udp)) => {
                let expected = udp
                    .to_header()
                    .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                    .unwrap();
                assert_eq!(udp.checksum(), expected);
            }
            (_, Some(ip), TransportSlice::Icmpv6(icmp)) => {
                let header = ip.header();
                assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            }
            (_, _, other) => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn a_packet_reads_back_as_it_was_written() {
        for family in [4, 6] {
            let (from, to) = ends(family);
            let packet = Packet::tcp(from, to)
                .flags(flags::SYN | flags::ACK)
                .numbers(7, 9)
                .window(1000, 3)
                .ttl(9)
                .vlan(12)
                .payload(b"odd".to_vec());
            let seen = Seen::frame(&packet.frame([2; 6], [4; 6])).unwrap();
            assert_eq!((seen.from(), seen.to(), seen.ttl), (from, to, 9));
            assert_eq!((seen.seq, seen.ack, seen.window, seen.urgent), (7, 9, 1000, 3));
            assert_eq!((seen.flags, &seen.payload[..]), (flags::SYN | flags::ACK, &b"odd"[..]));
        }
    }

    #[test]
    fn checksums_are_right_in_every_shape() {
        let (from4, to4) = ends(4);
        let (from6, to6) = ends(6);
        let options = Packet::tcp(from4, to4).ip_options([1, 1, 1]).payload(b"abc".to_vec());
        let extended = Packet::tcp(from6, to6)
            .extension(protocol::HOP_BY_HOP, [1, 4, 0, 0, 0, 0])
            .extension(protocol::DESTINATION, [1, 2]);
        for packet in [
            Packet::tcp(from4, to4),
            Packet::tcp(from6, to6).payload(vec![0xff; 33]),
            Packet::udp(from4, to4).payload(b"x".to_vec()),
            Packet::icmp(from6.ip(), to6.ip(), 128, 0, [0, 1, 0, 2]).payload(b"ping!".to_vec()),
            options,
            extended,
        ] {
            let frame = packet.frame([2; 6], [4; 6]);
            assert_checksums(&frame);
            assert!(Seen::frame(&frame).is_some(), "{packet:?}");
        }
    }

    #[test]
    fn only_the_first_fragment_shows_its_ports() {
        for family in [4, 6] {
            let (from, to) = ends(family);
            let first = Packet::tcp(from, to).fragment(Fragment { id: 5, offset: 0, more: true });
            let later = Packet::raw(from.ip(), to.ip(), protocol::TCP)
                .payload(vec![1; 16])
                .fragment(Fragment { id: 5, offset: 3, more: false });
            assert_eq!(Seen::ip(&first.ip_bytes()).unwrap().to(), to);
            assert_eq!(Seen::ip(&later.ip_bytes()), None);
        }
    }

    #[test]
    fn short_packets_are_nothing_rather_than_a_panic() {
        for family in [4, 6] {
            let (from, to) = ends(family);
            let frame = Packet::tcp(from, to).frame([2; 6], [4; 6]);
            for length in 0..frame.len() {
                assert_eq!(Seen::frame(&frame[..length]), None, "{length} bytes");
            }
        }
    }
}
