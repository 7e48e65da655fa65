//! Clients that really talk: one connection and what came of it, or one that is held open.
//!
//! "Answered" means that the server's greeting and an echo of our own bytes came back.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::Netns;

/// What came of one attempt to talk to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Payload went there and back.
    Answered,
    /// A RST (or for UDP an ICMP port unreachable) answered the first packet.
    Refused,
    /// Nothing came back at all.
    TimedOut,
    /// ICMP: no route, no host, or prohibited. Give TCP more than a second for it: here an answer
    /// comes while the sender still holds the socket, and then only the retransmission's counts.
    Unreachable,
    /// Connected, but then no payload came back in time.
    Silent,
    /// Connected, but then closed or reset before the answer was whole.
    Broken,
    /// The client's own system call failed, with this errno (an address it does not have).
    Failed(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Answered => f.write_str("answered"),
            Outcome::Refused => f.write_str("refused"),
            Outcome::TimedOut => f.write_str("no answer"),
            Outcome::Unreachable => f.write_str("unreachable"),
            Outcome::Silent => f.write_str("connected, then silent"),
            Outcome::Broken => f.write_str("connected, then broken"),
            Outcome::Failed(errno) => {
                write!(f, "failed ({})", io::Error::from_raw_os_error(*errno))
            }
        }
    }
}

/// Connects from `ns` (and from the address `from`, if given) to a server, talks, closes.
///
/// `timeout` bounds the handshake, and the exchange after it once more.
pub fn connect(ns: &Netns, from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> Outcome {
    ns.enter(|| attempt(from, to, timeout, false)).err().unwrap_or(Outcome::Answered)
}

/// Like [`connect`], but gives the name with which the server greeted.
pub fn greeting(ns: &Netns, to: SocketAddr, timeout: Duration) -> Result<String, Outcome> {
    ns.enter(|| attempt(None, to, timeout, false))
}

/// Tries again and again until the outcome is `expected`; how long that took, or the last other
/// outcome after `limit`. Each attempt waits 50 ms for an answer.
pub fn becomes(
    ns: &Netns,
    to: SocketAddr,
    expected: Outcome,
    limit: Duration,
) -> Result<Duration, Outcome> {
    ns.enter(|| {
        let start = Instant::now();
        loop {
            let began = start.elapsed();
            let last = attempt(None, to, Duration::from_millis(50), true);
            match last.err().unwrap_or(Outcome::Answered) {
                outcome if outcome == expected => return Ok(began),
                other if began > limit => return Err(other),
                _ => {}
            }
        }
    })
}

/// Sends one datagram and waits for its echo.
pub fn ask_udp(ns: &Netns, from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> Outcome {
    let exchange = || -> Result<(), Outcome> {
        let fd = open(SockType::Datagram, from, to, timeout).map_err(|e| outcome(&e))?;
        let socket = UdpSocket::from(fd);
        let mut buffer = [0u8; 2048];
        socket.send(TOKEN).map_err(|e| outcome(&e))?;
        let length = socket.recv(&mut buffer).map_err(|e| outcome(&e))?;
        if buffer[..length].ends_with(TOKEN) { Ok(()) } else { Err(Outcome::Broken) }
    };
    ns.enter(exchange).err().unwrap_or(Outcome::Answered)
}

const TOKEN: &[u8] = b"is anybody there?";

/// One whole attempt in the calling thread's namespace: the greeting, or why there was none.
///
/// With `abort` the connection ends by RST, so that many of them leave no TIME_WAIT behind.
pub(crate) fn attempt(
    from: Option<SocketAddr>,
    to: SocketAddr,
    timeout: Duration,
    abort: bool,
) -> Result<String, Outcome> {
    let mut stream = dial(from, to, timeout)?;
    if abort {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&stream, sockopt::Linger, &linger).map_err(|e| Outcome::Failed(e as i32))?;
    }
    let end = Instant::now() + timeout;
    let name = read_greeting(&mut stream, end)?;
    let mut echo = [0u8; TOKEN.len()];
    stream.write_all(TOKEN).map_err(|e| later(&e))?;
    read_until(&mut stream, &mut echo, end)?;
    if echo == TOKEN { Ok(name) } else { Err(Outcome::Broken) }
}

/// A connected stream made in the calling thread's namespace.
fn dial(from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> Result<TcpStream, Outcome> {
    let fd = open(SockType::Stream, from, to, timeout).map_err(|e| outcome(&e))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true).map_err(|e| outcome(&e))?;
    Ok(stream)
}

/// A connected socket whose sends, receives and connect take at most `timeout`.
fn open(
    kind: SockType,
    from: Option<SocketAddr>,
    to: SocketAddr,
    timeout: Duration,
) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::microseconds(timeout.as_micros().max(1) as i64);
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
    if let Some(from) = from {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    connect_socket(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

/// What an error before or during the handshake means.
fn outcome(error: &io::Error) -> Outcome {
    match error.raw_os_error().unwrap_or(0) {
        libc::ECONNREFUSED => Outcome::Refused,
        // A blocking connect that ran into SO_SNDTIMEO says EINPROGRESS.
        libc::ETIMEDOUT | libc::EINPROGRESS | libc::EAGAIN => Outcome::TimedOut,
        libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES => Outcome::Unreachable,
        libc::ECONNRESET | libc::EPIPE => Outcome::Broken,
        errno => Outcome::Failed(errno),
    }
}

/// What an error after the handshake means.
fn later(error: &io::Error) -> Outcome {
    match outcome(error) {
        Outcome::TimedOut => Outcome::Silent,
        Outcome::Refused | Outcome::Unreachable => Outcome::Broken,
        other @ (Outcome::Answered | Outcome::Silent | Outcome::Broken | Outcome::Failed(_)) => {
            other
        }
    }
}

fn read_greeting(stream: &mut TcpStream, end: Instant) -> Result<String, Outcome> {
    let mut line = Vec::new();
    let mut byte = [0u8];
    while line.len() < 256 {
        read_until(stream, &mut byte, end)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
    Err(Outcome::Broken)
}

/// Fills `buffer`, or says why not by `end`.
fn read_until(stream: &mut TcpStream, buffer: &mut [u8], end: Instant) -> Result<(), Outcome> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Outcome::Silent);
        }
        stream.set_read_timeout(Some(left)).map_err(|e| later(&e))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(Outcome::Broken),
            Ok(length) => filled += length,
            Err(e) => return Err(later(&e)),
        }
    }
    Ok(())
}

/// What came of one exchange on an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// All bytes came back.
    Completed,
    /// Not all in time; the connection still stands.
    Stalled,
    /// Closed or reset by the other side.
    Broken,
}

/// A connection held open: the `kubectl get --watch` of these tests.
#[derive(Debug)]
pub struct Conversation {
    stream: TcpStream,
    name: String,
    sent: u64,
    returned: u64,
}

impl Conversation {
    /// Connects and reads the greeting; the error is what came instead.
    pub fn open(
        ns: &Netns,
        from: Option<SocketAddr>,
        to: SocketAddr,
        timeout: Duration,
    ) -> Result<Conversation, Outcome> {
        let mut stream = ns.enter(|| dial(from, to, timeout))?;
        let name = read_greeting(&mut stream, Instant::now() + timeout)?;
        Ok(Conversation { stream, name, sent: 0, returned: 0 })
    }

    /// The name with which the server greeted.
    pub fn server(&self) -> &str {
        &self.name
    }

    /// The client's own address and port.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends `bytes` bytes and waits for them, and for those still owed by stalled exchanges.
    ///
    /// After a stall TCP sends again at growing intervals: one of S seconds needs up to S more.
    pub fn exchange(&mut self, bytes: usize, timeout: Duration) -> Exchange {
        let end = Instant::now() + timeout;
        let mut left = bytes;
        while left > 0 || self.returned < self.sent {
            // Small steps: both directions' buffers never fill at once.
            let step = left.min(8 << 10);
            let result = self.send(step, end).and_then(|()| self.receive(end));
            left -= step;
            match result {
                Ok(()) => {}
                Err(Outcome::Silent) => return Exchange::Stalled,
                Err(_) => return Exchange::Broken,
            }
        }
        Exchange::Completed
    }

    fn send(&mut self, bytes: usize, end: Instant) -> Result<(), Outcome> {
        let mut chunk = pattern(self.sent, bytes);
        while !chunk.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Outcome::Silent);
            }
            self.stream.set_write_timeout(Some(left)).map_err(|e| later(&e))?;
            let length = self.stream.write(&chunk).map_err(|e| later(&e))?;
            self.sent += length as u64;
            chunk.drain(..length);
        }
        Ok(())
    }

    fn receive(&mut self, end: Instant) -> Result<(), Outcome> {
        while self.returned < self.sent {
            let mut buffer = [0u8; 8 << 10];
            let owed = (self.sent - self.returned).min(buffer.len() as u64) as usize;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Outcome::Silent);
            }
            self.stream.set_read_timeout(Some(left)).map_err(|e| later(&e))?;
            let length = self.stream.read(&mut buffer[..owed]).map_err(|e| later(&e))?;
            if length == 0 || buffer[..length] != pattern(self.returned, length) {
                return Err(Outcome::Broken);
            }
            self.returned += length as u64;
        }
        Ok(())
    }
}

/// The bytes of the endless stream that a conversation sends, from position `at`.
fn pattern(at: u64, length: usize) -> Vec<u8> {
    (at..at + length as u64).map(|position| (position % 251) as u8).collect()
}
