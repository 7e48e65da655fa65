//! What a TCP segment does in its connection (RFC 9293, 3.1).

use super::{Flow, Packet, TCP_HEADER};
use crate::bpf::forgotten;

/// Where a TCP header holds its length and its flags.
const TCP_LENGTH_AND_FLAGS: u32 = 12;
/// Flags of a TCP header (RFC 9293, 3.1).
pub const TCP_SYN: u8 = 0x02;
/// See [`TCP_SYN`].
pub const TCP_FIN: u8 = 0x01;
/// See [`TCP_SYN`].
pub const TCP_RST: u8 = 0x04;
/// See [`TCP_SYN`].
pub const TCP_ACK: u8 = 0x10;

/// What a packet does in a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Opens one: SYN without ACK. Carries no data.
    Open,
    /// Opens one and carries data already (RFC 7413).
    OpenData,
    /// Anything else that carries no data.
    Bare,
    /// Carries data, or may: UDP, fragments, headers that cannot be read.
    Data,
}

/// What a TCP header says of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Flags, FIN lowest.
    pub flags: u8,
    /// Whether it is known to carry no data.
    pub bare: bool,
}

/// The TCP header of a packet; `None` for another protocol and where it cannot be read.
#[inline(always)]
pub fn tcp<P: Packet, A>(packet: &P, flow: &Flow<A>) -> Option<Tcp> {
    if !flow.is_tcp() {
        return None;
    }
    let at = forgotten(flow.at, flow.source_port);
    let [length, flags] = packet.load::<[u8; 2]>(at + TCP_LENGTH_AND_FLAGS)?;
    let length = u32::from(length >> 4) * 4;
    Some(Tcp { flags, bare: length >= TCP_HEADER && at + length == flow.end })
}

/// What the packet does in its connection; what cannot be told counts as data.
#[inline(always)]
pub fn segment<P: Packet, A>(packet: &P, flow: &Flow<A>) -> Segment {
    let Some(Tcp { flags, bare }) = tcp(packet, flow) else {
        return Segment::Data;
    };
    let opens = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    match (opens, bare) {
        (true, true) => Segment::Open,
        (true, false) => Segment::OpenData,
        (false, true) => Segment::Bare,
        (false, false) => Segment::Data,
    }
}
