//! Packets made by hand: Ethernet, IPv4, IPv6, TCP, UDP, ICMP, with every shape a client may choose.
//!
//! [`Packet`] describes one and writes its bytes with lengths and checksums right; [`Seen`] reads
//! one back. Sending and catching them is the business of [`crate::raw`].

use std::net::{IpAddr, SocketAddr};

pub use crate::seen::Seen;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// TCP flags, to be combined with `|`.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Data for the application now.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
}

/// IP protocol numbers and IPv6 extension headers that the harness knows.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
}

/// Where a fragment lies in its datagram.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Names the datagram.
    pub id: u32,
    /// In units of 8 bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp { ports: (u16, u16), flags: u8, seq: u32, ack: u32, window: u16, urgent: u16 },
    Udp { ports: (u16, u16) },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Raw { protocol: u8 },
}

/// One packet to be; both addresses are of one family.
#[derive(Clone, Debug)]
pub struct Packet {
    source: IpAddr,
    destination: IpAddr,
    transport: Transport,
    payload: Vec<u8>,
    ttl: u8,
    vlans: Vec<u16>,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<Fragment>,
}

impl Packet {
    /// A TCP SYN; change it with [`Packet::flags`] and friends.
    pub fn tcp(from: SocketAddr, to: SocketAddr) -> Packet {
        let ports = (from.port(), to.port());
        let tcp =
            Transport::Tcp { ports, flags: flags::SYN, seq: 1, ack: 0, window: 64240, urgent: 0 };
        Packet::new(from.ip(), to.ip(), tcp)
    }

    /// A UDP datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr) -> Packet {
        Packet::new(from.ip(), to.ip(), Transport::Udp { ports: (from.port(), to.port()) })
    }

    /// An ICMP or ICMPv6 message, by the addresses' family; `rest` is the second header word.
    pub fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: [u8; 4]) -> Packet {
        Packet::new(from, to, Transport::Icmp { kind, code, rest })
    }

    /// A packet whose bytes after the IP headers are the payload as it is.
    pub fn raw(from: IpAddr, to: IpAddr, protocol: u8) -> Packet {
        Packet::new(from, to, Transport::Raw { protocol })
    }

    fn new(source: IpAddr, destination: IpAddr, transport: Transport) -> Packet {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "addresses of two families");
        Packet {
            source,
            destination,
            transport,
            payload: Vec::new(),
            ttl: 64,
            vlans: Vec::new(),
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
        }
    }

    /// Sets the TCP flags; nothing on other packets.
    #[must_use]
    pub fn flags(mut self, new: u8) -> Packet {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = new;
        }
        self
    }

    /// Sets the TCP sequence and acknowledgement numbers; nothing on other packets.
    #[must_use]
    pub fn numbers(mut self, new_seq: u32, new_ack: u32) -> Packet {
        if let Transport::Tcp { seq, ack, .. } = &mut self.transport {
            (*seq, *ack) = (new_seq, new_ack);
        }
        self
    }

    /// Sets the TCP window and urgent pointer; nothing on other packets.
    #[must_use]
    pub fn window(mut self, new_window: u16, new_urgent: u16) -> Packet {
        if let Transport::Tcp { window, urgent, .. } = &mut self.transport {
            (*window, *urgent) = (new_window, new_urgent);
        }
        self
    }

    /// Sets what follows the transport header.
    #[must_use]
    pub fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Packet {
        self.payload = bytes.into();
        self
    }

    /// Sets the TTL or hop limit (64 else).
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    /// Adds an 802.1Q tag, outermost first.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Packet {
        self.vlans.push(id);
        self
    }

    /// Sets the IPv4 options; padded to whole words with end-of-options. Nothing on IPv6.
    #[must_use]
    pub fn ip_options(mut self, bytes: impl Into<Vec<u8>>) -> Packet {
        self.ip_options = bytes.into();
        self.ip_options.resize(self.ip_options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header; `body` follows its first two bytes (next header, length) and
    /// is padded to whole 8-byte units. Nothing on IPv4.
    #[must_use]
    pub fn extension(mut self, header: u8, body: impl Into<Vec<u8>>) -> Packet {
        let mut body = body.into();
        body.resize((body.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((header, body));
        self
    }

    /// Makes it a fragment; on IPv6 the fragment header comes after the other extensions.
    #[must_use]
    pub fn fragment(mut self, fragment: Fragment) -> Packet {
        self.fragment = Some(fragment);
        self
    }

    /// The bytes from the Ethernet header on.
    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        let mut bytes = [to, from].concat();
        for id in &self.vlans {
            bytes.extend(0x8100u16.to_be_bytes());
            bytes.extend(id.to_be_bytes());
        }
        let ether_type: u16 = if self.source.is_ipv4() { 0x0800 } else { 0x86dd };
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(self.ip_bytes());
        bytes
    }

    /// The bytes from the IP header on.
    pub fn ip_bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = self.ipv4_header(segment.len());
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.ip_options);
                let sum = checksum(&[&bytes]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(segment);
                bytes
            }
            (source, destination) => {
                let (first, extensions) = self.extension_chain();
                let length = (extensions.len() + segment.len()) as u16;
                let mut bytes = vec![0x60, 0, 0, 0];
                bytes.extend(length.to_be_bytes());
                bytes.extend([first, self.ttl]);
                bytes.extend(octets(source));
                bytes.extend(octets(destination));
                bytes.extend(extensions);
                bytes.extend(segment);
                bytes
            }
        }
    }

    /// The first 12 bytes, checksum left zero.
    fn ipv4_header(&self, segment: usize) -> Vec<u8> {
        let header = 20 + self.ip_options.len();
        let fragment = self.fragment.unwrap_or(Fragment { id: 0, offset: 0, more: false });
        let dont_fragment = if self.fragment.is_none() { 0x4000 } else { 0 };
        let place = fragment.offset | if fragment.more { 0x2000 } else { 0 } | dont_fragment;
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + segment) as u16).to_be_bytes());
        bytes.extend((fragment.id as u16).to_be_bytes());
        bytes.extend(place.to_be_bytes());
        bytes.extend([self.ttl, self.protocol(), 0, 0]);
        bytes
    }

    /// The number of the first header after the IPv6 header, and the bytes of all extensions.
    fn extension_chain(&self) -> (u8, Vec<u8>) {
        let mut headers = self.extensions.clone();
        if let Some(Fragment { id, offset, more }) = self.fragment {
            let place = offset << 3 | u16::from(more);
            let body = [&place.to_be_bytes()[..], &id.to_be_bytes()].concat();
            headers.push((protocol::FRAGMENT, body));
        }
        let mut bytes = Vec::new();
        for (index, (header, body)) in headers.iter().enumerate() {
            let next = headers.get(index + 1).map_or(self.protocol(), |(number, _)| *number);
            // The fragment header has a reserved byte where the others have their length.
            let units = if *header == protocol::FRAGMENT { 0 } else { (body.len() + 2) / 8 - 1 };
            bytes.extend([next, units as u8]);
            bytes.extend(body);
        }
        (headers.first().map_or(self.protocol(), |(number, _)| *number), bytes)
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => protocol::TCP,
            Transport::Udp { .. } => protocol::UDP,
            Transport::Icmp { .. } if self.source.is_ipv4() => protocol::ICMP,
            Transport::Icmp { .. } => protocol::ICMPV6,
            Transport::Raw { protocol } => protocol,
        }
    }

    /// Transport header and payload.
    fn segment(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20 + self.payload.len());
        let checksum_at = match self.transport {
            Transport::Tcp { ports, flags, seq, ack, window, urgent } => {
                bytes.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
                bytes.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
                bytes.extend([5 << 4, flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(urgent.to_be_bytes());
                Some(16)
            }
            Transport::Udp { ports } => {
                bytes.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat());
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                Some(6)
            }
            Transport::Icmp { kind, code, rest } => {
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest);
                Some(2)
            }
            Transport::Raw { .. } => None,
        };
        bytes.extend(&self.payload);
        if let Some(at) = checksum_at {
            let sum = self.transport_checksum(&bytes);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }

    fn transport_checksum(&self, segment: &[u8]) -> u16 {
        let protocol = self.protocol();
        if protocol == protocol::ICMP {
            return checksum(&[segment]);
        }
        let length = (segment.len() as u32).to_be_bytes();
        let addresses = [octets(self.source), octets(self.destination)].concat();
        let sum = checksum(&[&addresses, &length, &[0, 0, 0, protocol], segment]);
        // Zero would mean "no checksum" in UDP.
        if sum == 0 && protocol == protocol::UDP { 0xffff } else { sum }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) over parts of even length; the last may be odd.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 =
        words.map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |low| u32::from(*low))).sum();
    !fold(sum)
}

/// Adds the carries of a sum of 16-bit words back in.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
