//! Packets that leave the node: which of them open a connection from a guarded port number.
//!
//! Input: a packet at an egress hook. Output: the connection to remember, if there is one. Every packet
//! passes.

use crate::{
    abi::Opened,
    address::Address,
    parse::{Depth, Flow, Link, Packet, Parsed, Protocol, Reach, Segment, parse, segment},
    tables::{self, Tables},
};

/// Looks at a packet that leaves the node, to the network or to a pod: if it opens a connection from a
/// guarded port of a node, that is handed to `remember`, since replies are addressed like a client's
/// packets to that port. The node may be another one that sends to a pod here.
#[inline(always)]
pub fn watch<P: Packet, T: Tables>(
    packet: &P,
    link: Link,
    depth: Depth,
    tables: &T,
    remember: impl FnOnce(&Opened),
) -> Watched {
    match parse(packet, link, depth, Reach::Frontends) {
        Parsed::Unjudged | Parsed::Buried => {}
        Parsed::Unclear => return Watched::Unclear,
        Parsed::V4(flow) => watch_flow(packet, &flow, tables, remember),
        Parsed::V6(flow) => watch_flow(packet, &flow, tables, remember),
    }
    Watched::Done
}

/// Whether a depth could tell what an outgoing packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It could.
    Done,
    /// It could not, see [`Parsed::Unclear`].
    Unclear,
}

#[inline(always)]
fn watch_flow<P: Packet, A: Address, T: Tables>(
    packet: &P,
    flow: &Flow<A>,
    tables: &T,
    remember: impl FnOnce(&Opened),
) {
    if !flow.is_tcp() {
        return;
    }
    let port = flow.source_port;
    let image = tables.image();
    if !tables::port_is_guarded(image, Protocol::Tcp as u32, u32::from(port)) {
        return;
    }
    match segment(packet, flow) {
        Segment::Open | Segment::OpenData => {}
        Segment::Bare | Segment::Data => return,
    }
    if flow.source.is_node(image) {
        remember(&Opened {
            remote: flow.destination.mapped(),
            local: flow.source.mapped(),
            ports: u32::from(flow.destination_port) << 16 | u32::from(port),
            reserved: 0,
        });
    }
}
