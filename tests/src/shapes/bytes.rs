//! Packets cut into fragments and put behind tags, byte by byte.

use super::{Aim, mend};
use crate::packets::{Packet, protocol};

/// What lies over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    /// Nothing.
    None,
    /// Before the first fragment another one to port 9.
    FirstBefore,
    /// The same behind it.
    FirstBehind,
    /// The second fragment begins 8 bytes into the first.
    Second,
}

/// An Ethernet frame around an IP packet.
pub(super) fn framed(aim: &Aim, ip: Vec<u8>) -> Vec<u8> {
    let kind: [u8; 2] =
        if ip.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0] };
    [&aim.node[..], &aim.mac, &kind, &ip].concat()
}

/// A frame with tags: their kinds and contents, outermost first.
pub(super) fn tagged(aim: &Aim, packet: &Packet, tags: &[(u16, u16)]) -> Vec<u8> {
    let frame = packet.frame(aim.mac, aim.node);
    let mut bytes = frame[..12].to_vec();
    for (kind, content) in tags {
        bytes.extend([kind.to_be_bytes(), content.to_be_bytes()].concat());
    }
    bytes.extend(&frame[12..]);
    bytes
}

/// Cuts the part behind the IP header, the first fragment `first` bytes long and the others 24.
pub(super) fn fragments(ip: &[u8], first: usize, overlap: Overlap, id: u16) -> Vec<Vec<u8>> {
    let header = if ip[0] >> 4 == 4 { usize::from(ip[0] & 0x0f) * 4 } else { 40 };
    let (head, body) = ip.split_at(header);
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let end = (at + if at == 0 { first } else { 24 }).min(body.len());
        cuts.push((at, end));
        at = end;
    }
    if overlap == Overlap::Second
        && let Some((at, _)) = cuts.get_mut(1)
    {
        *at = at.saturating_sub(8);
    }
    let part = |&(at, end): &(usize, usize), bytes: &[u8]| {
        one(head, &bytes[at..end], at, end < bytes.len(), id)
    };
    let mut parts: Vec<Vec<u8>> = cuts.iter().map(|cut| part(cut, body)).collect();
    let mut other = body.to_vec();
    other[2..4].copy_from_slice(&9_u16.to_be_bytes());
    match overlap {
        Overlap::None | Overlap::Second => {}
        Overlap::FirstBefore => parts.insert(0, part(&cuts[0], &other)),
        Overlap::FirstBehind => parts.insert(1, part(&cuts[0], &other)),
    }
    parts
}

/// One fragment. All of an IPv6 packet behind its header counts as what is cut.
fn one(head: &[u8], body: &[u8], at: usize, more: bool, id: u16) -> Vec<u8> {
    let mut packet = head.to_vec();
    if head[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&((head.len() + body.len()) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        let place = (at / 8) as u16 | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        mend(&mut packet);
    } else {
        packet[4..6].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
        packet[6] = protocol::FRAGMENT;
        let place = at as u16 | u16::from(more);
        packet.extend([head[6], 0]);
        packet.extend(place.to_be_bytes());
        packet.extend(u32::from(id).to_be_bytes());
    }
    packet.extend(body);
    packet
}
