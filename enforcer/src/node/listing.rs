//! Lists what the kernel has.
//!
//! Input: a netlink socket in the network namespace of the thread that opened it. Output:
//! [`Facts`]. Invariant: a listing is whole, or an error.
//!
//! Calls block while the kernel holds its RTNL lock: this belongs on a thread of its own.

use std::{io, ops::ControlFlow};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};
use rtnetlink::{
    packet_core::{
        DecodeError, ErrorContext, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
        NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, parse_i32,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{Listing, NodeError, facts::Facts, wire};

/// The kernel sends no larger pieces of a listing than 32 KiB.
const PIECE: usize = 64 * 1024;

/// It answers at once, or it never will.
const PATIENCE_SECONDS: i64 = 10;

/// How often a listing that changed underneath is asked for again. One that outlasts this many is
/// asked for by the next look.
const ATTEMPTS: usize = 8;

/// A socket to list with.
pub(super) struct Lister {
    socket: Socket,
    sequence: u32,
    piece: Vec<u8>,
}

impl Lister {
    pub(super) fn open() -> Result<Self, NodeError> {
        let socket = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let patience = TimeVal::seconds(PATIENCE_SECONDS);
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
            Ok(socket)
        };
        let socket = socket().map_err(NodeError::Open)?;
        Ok(Self { socket, sequence: 0, piece: Vec::with_capacity(PIECE) })
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub(super) fn deaf() -> Self {
        let socket = Socket::new(rtnetlink::sys::protocols::NETLINK_USERSOCK).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self { socket, sequence: 0, piece: Vec::new() }
    }

    /// Lists everything. Each listing is consistent in itself; whether something changed between
    /// them, the events tell.
    pub(super) fn facts(&mut self) -> Result<Facts, NodeError> {
        Ok(Facts {
            links: self
                .all(Listing::Links, |payload| wire::link(payload).map(Some))?
                .into_iter()
                .map(|link| (link.index, link))
                .collect(),
            addresses: self.all(Listing::Addresses, wire::address)?,
            routes: {
                let mut routes = self.all(Listing::RoutesV4, wire::route)?;
                routes.append(&mut self.all(Listing::RoutesV6, wire::route)?);
                routes
            },
        })
    }

    fn all<T>(
        &mut self,
        listing: Listing,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NodeError> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            if self.list(listing, &read, &mut found)? == Whole::Yes {
                return Ok(found);
            }
        }
        Err(NodeError::Torn { listing })
    }

    fn list<T>(
        &mut self,
        listing: Listing,
        read: &impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
        found: &mut Vec<T>,
    ) -> Result<Whole, NodeError> {
        let failed = |source| NodeError::List { listing, source };
        self.ask(listing).map_err(failed)?;
        let mut whole = Whole::Yes;
        loop {
            self.piece.clear();
            // Connected to the kernel: no process can send to this socket.
            self.socket.recv(&mut self.piece, 0).map_err(failed)?;
            let taken = each(&self.piece, |message| {
                if message.sequence_number() != self.sequence {
                    return Ok(ControlFlow::Continue(()));
                }
                if message.flags() & NLM_F_DUMP_INTR != 0 {
                    whole = Whole::No;
                }
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = message.payload().get(..4).unwrap_or_default();
                        Ok(ControlFlow::Break(parse_i32(code)?))
                    }
                    _ => {
                        found.extend(read(message.payload())?);
                        Ok(ControlFlow::Continue(()))
                    }
                }
            });
            match taken.map_err(|source| NodeError::Malformed { listing, source })? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(0) => return Ok(whole),
                ControlFlow::Break(code) => {
                    return Err(failed(io::Error::from_raw_os_error(code.saturating_neg())));
                }
            }
        }
    }

    fn ask(&mut self, listing: Listing) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(wire::request(listing));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// Whether the kernel changed nothing while it listed.
#[derive(PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

/// Calls `visit` with every netlink message of a datagram until it breaks.
pub(super) fn each<B>(
    mut datagram: &[u8],
    mut visit: impl FnMut(NetlinkBuffer<&[u8]>) -> Result<ControlFlow<B>, DecodeError>,
) -> Result<ControlFlow<B>, DecodeError> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram)?;
        let (kind, length) = (message.message_type(), message.length());
        let flow = visit(message).with_context(|| format!("message of type {kind}"))?;
        if flow.is_break() {
            return Ok(flow);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(ControlFlow::Continue(()))
}
