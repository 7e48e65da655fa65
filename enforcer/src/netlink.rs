//! Requests to the kernel over netlink that wait for the answer.
//!
//! Input: a request. Output: what it lists, or that it was done. Invariant: a listing is whole, or
//! an error. The socket belongs to the network namespace of the thread that opened it.
//!
//! Calls block while the kernel holds its RTNL lock.

use std::{io, ops::ControlFlow};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};
use rtnetlink::{
    packet_core::{
        DecodeError, ErrorContext, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
        NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, parse_i32,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// The kernel sends no larger pieces of a listing than 32 KiB.
const PIECE: usize = 64 * 1024;

/// It answers at once, or it never will.
const PATIENCE_SECONDS: i64 = 10;

/// A socket to ask with.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    piece: Vec<u8>,
}

/// Whether the kernel changed nothing while it listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    Yes,
    No,
}

/// The kernel gave no list.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// It refused, or was not reached.
    #[error(transparent)]
    Refused(#[from] io::Error),
    /// Its answer cannot be read.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
}

impl Requests {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Connected to the kernel: no process can send to this socket.
        socket.connect(&SocketAddr::new(0, 0))?;
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket, sequence: 0, piece: Vec::with_capacity(PIECE) })
    }

    /// One on which the kernel heeds every attribute of a request, or refuses it (Linux 4.20).
    pub(crate) fn open_strict() -> io::Result<Self> {
        let requests = Self::open()?;
        requests.socket.set_netlink_get_strict_chk(true)?;
        Ok(requests)
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub(crate) fn deaf() -> Self {
        let socket = Socket::new(rtnetlink::sys::protocols::NETLINK_USERSOCK).unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        Self { socket, sequence: 0, piece: Vec::new() }
    }

    /// Asks for a list, and visits what is in it.
    pub(crate) fn list(
        &mut self,
        request: RouteNetlinkMessage,
        mut visit: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<Whole, RequestError> {
        self.ask(request, NLM_F_DUMP)?;
        let mut whole = Whole::Yes;
        self.answer(|message| {
            if message.flags() & NLM_F_DUMP_INTR != 0 {
                whole = Whole::No;
            }
            match message.message_type() {
                NLMSG_DONE | NLMSG_ERROR => Ok(()),
                _ => visit(message.payload()),
            }
        })?;
        Ok(whole)
    }

    /// Asks for a change; `flags` are those of the request besides that it is one.
    pub(crate) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(request, NLM_F_ACK | flags)?;
        self.answer(|_| Ok(())).map_err(|error| match error {
            RequestError::Refused(source) => source,
            RequestError::Malformed(source) => io::Error::other(source),
        })
    }

    /// Takes messages until the one that ends the answer.
    fn answer(
        &mut self,
        mut visit: impl FnMut(&NetlinkBuffer<&[u8]>) -> Result<(), DecodeError>,
    ) -> Result<(), RequestError> {
        loop {
            self.piece.clear();
            self.socket.recv(&mut self.piece, 0)?;
            let taken = each(&self.piece, |message| {
                if message.sequence_number() != self.sequence {
                    return Ok(ControlFlow::Continue(()));
                }
                visit(&message)?;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = message.payload().get(..4).unwrap_or_default();
                        Ok(ControlFlow::Break(parse_i32(code)?))
                    }
                    _ => Ok(ControlFlow::Continue(())),
                }
            });
            match taken? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(0) => return Ok(()),
                ControlFlow::Break(code) => {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()).into());
                }
            }
        }
    }

    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// Calls `visit` with every netlink message of a datagram until it breaks.
pub(crate) fn each<B>(
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
