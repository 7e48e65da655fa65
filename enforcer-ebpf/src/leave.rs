//! A packet that a gated API server pod sends, to one [`Verdict`]: the only place where its fate is
//! decided.
//!
//! Input: the packet, what is known of its interface, and what the kernel knows of the pod's sockets.
//! A connection that the pod opens must match its policy with every packet; what it answers passes
//! because a socket owns it, so that nothing has to be remembered of who asked. What is not understood
//! does not leave.

use crate::{
    abi::{DNS_PORT, EgressEntry},
    address::Address,
    bpf::forgotten,
    parse::{
        Depth, Flow, Link, Packet, Parsed, Protocol, Reach, TCP_ACK, TCP_RST, TCP_SYN, Tcp,
        Transport, is_arp, parse, tcp,
    },
    tables::{self, Tables},
    verdict::{Reason, Verdict},
};

/// What the kernel knows of the sockets of a pod.
pub trait Sockets {
    /// The TCP socket that sent this packet; its state is 0 if none did.
    fn sender(&self) -> Sender;

    /// State of the socket of the pod that owns a connection, listening ones included; 0 if none does.
    fn owner<A: Address>(&self, connection: &Connection<A>) -> u32;

    /// Whether the pod listens at this address and port now; if so, that is remembered.
    fn listens<A: Address>(&self, local: A, port: u16) -> bool;

    /// Whether the pod is remembered to have listened on this port.
    fn listened(&self, port: u16) -> bool;

    /// Whether one more reset without a connection may leave.
    fn may_reset(&self) -> bool;

    /// Notes that pods of the cluster with this counter slot ask somebody for names.
    fn asks<A: Address>(&self, resolver: A, cluster: u32);
}

/// A TCP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// State (include/net/tcp_states.h), 0 for no TCP socket.
    pub state: u32,
    /// Its own port.
    pub local: u16,
    /// The other end's port.
    pub remote: u16,
}

/// A TCP connection as the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection<A> {
    /// The pod's address.
    pub local: A,
    /// The other end's address.
    pub remote: A,
    /// The pod's port.
    pub local_port: u16,
    /// The other end's port.
    pub remote_port: u16,
}

/// States of TCP sockets (include/net/tcp_states.h).
pub mod state {
    /// A connection.
    pub const ESTABLISHED: u32 = 1;
    /// Asked for by the pod and not answered yet.
    pub const SYN_SENT: u32 = 2;
    /// Closed, waiting for what is still under way.
    pub const TIME_WAIT: u32 = 6;
    /// Closed.
    pub const CLOSE: u32 = 7;
    /// Waits for connections.
    pub const LISTEN: u32 = 10;
    /// Asked for by the other end and not finished yet.
    pub const NEW_SYN_RECV: u32 = 12;
}

/// ICMP for IPv4 (RFC 792): protocol number and the errors that hosts send.
const ICMP: u8 = 1;
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
/// ICMPv6 (RFC 4443): errors are the types below 128.
const ICMP6: u8 = 58;
const ICMP6_INFORMATIONAL: u8 = 128;

/// Parses a packet that a gated pod sends and decides it. `length` is that of the whole packet, link
/// header included.
#[inline(always)]
pub fn judge_leaving<P: Packet, T: Tables, S: Sockets>(
    packet: &P,
    link: Link,
    length: u32,
    entry: &EgressEntry,
    tables: &T,
    sockets: &S,
) -> Verdict {
    let leaving = Leaving { packet, length, entry, tables, sockets };
    let reason = match parse(packet, link, Depth::Full, Reach::Everything) {
        Parsed::Unjudged if is_arp(packet, link) => Reason::Neighbour,
        Parsed::Unjudged | Parsed::Unclear | Parsed::Buried => Reason::HiddenTransport,
        Parsed::V4(flow) => leaving.flow(&flow),
        Parsed::V6(flow) => leaving.flow(&flow),
    };
    let policy = tables::policy(tables.image(), entry.policy);
    Verdict::of_policy(reason, entry.policy, policy)
}

struct Leaving<'a, P, T, S> {
    packet: &'a P,
    length: u32,
    entry: &'a EgressEntry,
    tables: &'a T,
    sockets: &'a S,
}

impl<P: Packet, T: Tables, S: Sockets> Leaving<'_, P, T, S> {
    #[inline(always)]
    fn flow<A: Address>(&self, flow: &Flow<A>) -> Reason {
        // Before the source: duplicate address detection has none yet.
        let is_other = matches!(flow.transport, Transport::Other);
        if is_other && flow.protocol == ICMP6 {
            let reason = self.neighbour(flow.at);
            if !matches!(reason, Reason::Unguarded) {
                return reason;
            }
        }
        if !flow.source.is_own(self.entry) {
            return Reason::SpoofedSource;
        }
        match flow.transport {
            Transport::Short => Reason::ShortFragment,
            Transport::Ports => match flow.kind {
                Protocol::Udp => self.peer(flow.destination, Protocol::Udp, flow.destination_port),
                Protocol::Tcp => match tcp(self.packet, flow) {
                    Some(tcp) => self.segment(flow, tcp),
                    None => Reason::HiddenTransport,
                },
            },
            Transport::Hidden => Reason::HiddenTransport,
            Transport::Fragment => {
                let sender = self.sockets.sender();
                if is_live(sender.state) && self.sockets.listened(sender.local) {
                    Reason::Served
                } else {
                    self.peer_at_every_port(flow.destination)
                }
            }
            Transport::Other => self.other(flow),
        }
    }

    /// Neighbour discovery (RFC 4861) and multicast listeners (RFC 2710, RFC 3810). `Unguarded` stands
    /// for anything else: what an `Option` does not hold is a register that was never written.
    #[inline(always)]
    fn neighbour(&self, at: u32) -> Reason {
        let Some([kind, _code]) = self.packet.load::<[u8; 2]>(forgotten(at, ICMP6.into())) else {
            return Reason::Unguarded;
        };
        match kind {
            130..=133 | 135 | 136 | 143 => Reason::Neighbour,
            134 | 137 => Reason::RouterMessage,
            _ => Reason::Unguarded,
        }
    }

    #[inline(always)]
    fn segment<A: Address>(&self, flow: &Flow<A>, tcp: Tcp) -> Reason {
        let (local, local_port) = (flow.source, flow.source_port);
        let (remote, remote_port) = (flow.destination, flow.destination_port);
        let sockets = self.sockets;
        // Bytes behind the packet's own end are data for whoever sees the frame.
        let bare = tcp.bare && self.length <= flow.end;
        let sender = sockets.sender();
        let is_senders = sender.local == local_port && sender.remote == remote_port;
        let lives = is_senders && is_live(sender.state);
        if tcp.flags & TCP_RST != 0 {
            return if !bare {
                Reason::Forged
            } else if sender.state != 0 && is_senders && sockets.listened(local_port)
                || sockets.may_reset()
            {
                Reason::Served
            } else {
                Reason::ResetLimit
            };
        }
        match tcp.flags & (TCP_SYN | TCP_ACK) {
            TCP_SYN => return self.peer(remote, Protocol::Tcp, remote_port),
            BOTH if bare && sockets.listens(local, local_port) => return Reason::Served,
            BOTH => return Reason::Forged,
            _ => {}
        }
        let listened = sockets.listened(local_port);
        if lives && listened {
            return Reason::Served;
        }
        if self.grants(remote, Protocol::Tcp, remote_port) {
            return Reason::Peer;
        }
        if lives {
            let served = sockets.listens(local, local_port);
            return if served { Reason::Served } else { Reason::NotPeer };
        }
        // What the kernel sends for a socket that is closed or not there yet, or forged.
        let connection = Connection { local, remote, local_port, remote_port };
        let owned = match sockets.owner(&connection) {
            0 | state::SYN_SENT | state::CLOSE | state::LISTEN => false,
            state::TIME_WAIT | state::NEW_SYN_RECV => bare,
            _ => true,
        };
        if !owned {
            Reason::Forged
        } else if listened || sockets.listens(local, local_port) {
            Reason::Served
        } else {
            Reason::NotPeer
        }
    }

    #[inline(always)]
    fn other<A: Address>(&self, flow: &Flow<A>) -> Reason {
        if flow.protocol != if A::IS_V4 { ICMP } else { ICMP6 } {
            return Reason::NotPeer;
        }
        if flow.destination.is_held(self.entry.policy, self.tables) {
            return Reason::Peer;
        }
        let at = forgotten(flow.at, flow.protocol.into());
        if self.is_error(A::IS_V4, at) && self.answers(flow, at + 8) {
            return Reason::IcmpError;
        }
        Reason::NotPeer
    }

    #[inline(always)]
    fn is_error(&self, is_v4: bool, at: u32) -> bool {
        self.packet.load::<[u8; 2]>(at).is_some_and(|[kind, _code]| {
            if is_v4 { ICMP_ERRORS.contains(&kind) } else { kind < ICMP6_INFORMATIONAL }
        })
    }

    /// Whether the packet that is quoted there came from where the error goes, and the pod may answer
    /// it.
    #[inline(always)]
    fn answers<A: Address>(&self, flow: &Flow<A>, at: u32) -> bool {
        let Some(quoted) = A::quoted(self.packet, at) else { return false };
        if quoted.source != flow.destination || quoted.destination != flow.source {
            return false;
        }
        if !quoted.is_tcp() {
            return self.grants(quoted.source, Protocol::Udp, quoted.source_port);
        }
        let connection = Connection {
            local: quoted.destination,
            remote: quoted.source,
            local_port: quoted.destination_port,
            remote_port: quoted.source_port,
        };
        // A listener alone has no connection of which there is something to tell, and what is quoted is
        // whatever the sender wrote.
        !matches!(self.sockets.owner(&connection), 0 | state::LISTEN)
    }

    #[inline(always)]
    fn peer<A: Address>(&self, remote: A, protocol: Protocol, port: u16) -> Reason {
        if !self.grants(remote, protocol, port) {
            return Reason::NotPeer;
        }
        if port == DNS_PORT {
            let policy = tables::policy(self.tables.image(), self.entry.policy);
            self.sockets.asks(remote, policy.counter);
        }
        Reason::Peer
    }

    #[inline(always)]
    fn peer_at_every_port<A: Address>(&self, remote: A) -> Reason {
        let granted = remote.is_held(self.entry.policy, self.tables);
        if granted { Reason::Peer } else { Reason::NotPeer }
    }

    #[inline(always)]
    fn grants<A: Address>(&self, remote: A, protocol: Protocol, port: u16) -> bool {
        let policy = self.entry.policy;
        let list =
            tables::port_peers(self.tables.image(), policy, protocol as u32, u32::from(port));
        list != 0 && remote.is_held(list, self.tables) || remote.is_held(policy, self.tables)
    }
}

const BOTH: u8 = TCP_SYN | TCP_ACK;

/// Whether a socket in this state may send segments of a connection.
#[inline(always)]
const fn is_live(state: u32) -> bool {
    !matches!(
        state,
        0 | state::SYN_SENT | state::TIME_WAIT | state::CLOSE | state::LISTEN | state::NEW_SYN_RECV
    )
}
