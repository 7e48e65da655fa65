//! AF_PACKET sockets on one interface: frames out as they are, frames in as they come.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::packets::Seen;

/// A raw socket on one Ethernet interface of one namespace.
///
/// It catches frames that come *in* (after the driver, before TC and netfilter), not its own.
#[derive(Debug)]
pub struct RawPort {
    socket: OwnedFd,
}

/// Bytes kept of a frame received in a [`Batch`].
const SNAP: usize = 256;
const BATCH: usize = 64;
/// Missing in the libc crate; from linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_VNET_HDR: libc::c_int = 15;

/// What a sender leaves to the next device: to cut one packet into many, and to sum them
/// (`struct virtio_net_hdr`, linux/virtio_net.h).
#[derive(Clone, Copy, Debug)]
pub struct Offload {
    /// What the packet is cut into.
    pub kind: Large,
    /// Bytes of data in each part.
    pub part: u16,
    /// Bytes up to the end of the transport header.
    pub headers: u16,
    /// Where the transport header begins, and its checksum within that.
    pub checksum: (u16, u16),
}

/// Kinds of large packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Large {
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 4,
    /// UDP, a datagram from each part.
    Udp = 5,
}

/// A raw socket that sends packets larger than the wire takes, for the next device to cut.
#[derive(Debug)]
pub struct LargePort(RawPort);

impl LargePort {
    /// Opens a socket on `interface` of `ns`.
    pub fn open(ns: &Netns, interface: &str) -> Result<LargePort> {
        let port = RawPort::open(ns, interface)?;
        port.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        Ok(LargePort(port))
    }

    /// Sends one frame of up to 64 KiB, from the Ethernet header on.
    pub fn send(&self, frame: &[u8], offload: Offload) -> Result<()> {
        const NEEDS_CHECKSUM: u8 = 1;
        let Offload { kind, part, headers, checksum: (start, offset) } = offload;
        let mut bytes = vec![NEEDS_CHECKSUM, kind as u8];
        for word in [headers, part, start, offset] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame);
        self.0.send(&bytes)
    }
}

impl RawPort {
    /// Opens a socket on `interface` of `ns` with a receive buffer of 4 MiB.
    pub fn open(ns: &Netns, interface: &str) -> Result<RawPort> {
        ns.enter(|| RawPort::open_here(interface))
            .with_context(|| format!("cannot open a raw socket on {interface} in {}", ns.name()))
    }

    fn open_here(interface: &str) -> Result<RawPort> {
        let index = nix::net::if_::if_nametoindex(interface).context("no such interface")?;
        // Protocol 0: nothing is caught before the socket is bound to its interface.
        // SAFETY: plain system call.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            bail!(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let port = RawPort { socket: unsafe { OwnedFd::from_raw_fd(fd) } };
        port.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
        port.receive_buffer(4 << 20)?;
        // SAFETY: an all-zero sockaddr_ll is a valid value of that C struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index.cast_signed();
        let length = size_of_val(&address) as u32;
        // SAFETY: the address lives until the call returns and its length is right.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        if bound != 0 {
            bail!(io::Error::last_os_error());
        }
        Ok(port)
    }

    /// Sets the receive buffer in bytes, beyond the system's limit.
    pub fn receive_buffer(&self, bytes: i32) -> Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
    }

    /// Sends one frame, from the Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let fd = self.socket.as_raw_fd();
        // SAFETY: pointer and length are of one live slice.
        let sent = unsafe { libc::send(fd, frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error()).context("cannot send a frame");
        }
        Ok(())
    }

    /// Sends all frames with few system calls.
    pub fn send_many(&self, frames: &[Vec<u8>]) -> Result<()> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|f| libc::iovec { iov_base: f.as_ptr().cast_mut().cast(), iov_len: f.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
        let mut rest = &mut messages[..];
        while !rest.is_empty() {
            let fd = self.socket.as_raw_fd();
            // SAFETY: every message points to an iovec, and that to a frame, which outlive the call.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), rest.len() as u32, 0) };
            if sent < 0 {
                let error = io::Error::last_os_error();
                // ENOBUFS: the frame was not taken, so sending it again does not double it.
                if error.raw_os_error() != Some(libc::ENOBUFS) {
                    return Err(error).context("cannot send frames");
                }
                std::thread::sleep(Duration::from_micros(50));
                continue;
            }
            rest = &mut rest[sent.unsigned_abs() as usize..];
        }
        Ok(())
    }

    /// The next packet that `wanted` likes, or None when `timeout` has passed.
    pub fn next(&self, timeout: Duration, wanted: impl Fn(&Seen) -> bool) -> Result<Option<Seen>> {
        Ok(self.next_frame(timeout, wanted)?.map(|(seen, _)| seen))
    }

    /// The same, with its bytes from the Ethernet header on.
    pub fn next_frame(
        &self,
        timeout: Duration,
        wanted: impl Fn(&Seen) -> bool,
    ) -> Result<Option<(Seen, Vec<u8>)>> {
        let end = Instant::now() + timeout;
        let mut buffer = vec![0u8; 1 << 16];
        while wait_readable(&[self], end.saturating_duration_since(Instant::now()))? {
            let fd = self.socket.as_raw_fd();
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: pointer and length are of one live, writable buffer.
            let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
            let frame = usize::try_from(got).map(|length| &buffer[..length]).unwrap_or_default();
            if let Some(seen) = Seen::frame(frame).filter(&wanted) {
                return Ok(Some((seen, frame.to_vec())));
            }
        }
        Ok(None)
    }

    /// All packets that `wanted` likes, until none has come for `quiet`.
    pub fn collect(&self, quiet: Duration, wanted: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
        let mut found = Vec::new();
        while let Some(seen) = self.next(quiet, &wanted)? {
            found.push(seen);
        }
        Ok(found)
    }

    /// Frames that this socket's full buffer lost since the last call.
    pub fn drops(&self) -> Result<u64> {
        // SAFETY: an all-zero tpacket_stats is a valid value of that C struct.
        let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&stats) as u32;
        // SAFETY: both pointers are to live values, and the length is that of the first.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("cannot read socket statistics");
        }
        Ok(u64::from(stats.tp_drops))
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
        let length = size_of_val(&value) as u32;
        let fd = self.socket.as_raw_fd();
        // SAFETY: the value lives until the call returns and its length is right.
        let result =
            unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("cannot set socket option {option}"));
        }
        Ok(())
    }
}

fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: an all-zero mmsghdr is a valid value of that C struct.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// Waits until one of `ports` has a frame; false when `timeout` has passed.
pub(crate) fn wait_readable(ports: &[&RawPort], timeout: Duration) -> Result<bool> {
    let mut list: Vec<libc::pollfd> = ports
        .iter()
        .map(|p| libc::pollfd { fd: p.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let milliseconds = timeout.as_millis().min(60_000) as i32;
    // SAFETY: pointer and length are of one live, writable list.
    let ready = unsafe { libc::poll(list.as_mut_ptr(), list.len() as u64, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for frames");
        }
    }
    Ok(ready > 0)
}

/// Room for many received frames, each cut after 256 bytes.
pub(crate) struct Batch {
    bytes: Vec<[u8; SNAP]>,
    lengths: Vec<usize>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        Batch { bytes: vec![[0; SNAP]; BATCH], lengths: Vec::with_capacity(BATCH) }
    }

    /// Takes what waits in `port` now, without waiting; false if that was nothing.
    pub(crate) fn fill(&mut self, port: &RawPort) -> bool {
        let mut parts: Vec<libc::iovec> = self
            .bytes
            .iter_mut()
            .map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: SNAP })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
        // SAFETY: every message points to an iovec, and that to a buffer, which outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                port.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).unwrap_or(0);
        self.lengths.clear();
        self.lengths.extend(messages[..got].iter().map(|m| (m.msg_len as usize).min(SNAP)));
        got > 0
    }

    pub(crate) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.iter().zip(&self.lengths).map(|(bytes, length)| &bytes[..*length])
    }
}
