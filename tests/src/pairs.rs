//! Numbered pairs of SYNs, one that must arrive and one that must not, counted exactly.
//!
//! Two raw senders in clients' namespaces, sniffers on pods' `eth0`: behind the node's TC ingress,
//! its NAT and its routing. What identifies a SYN survives all of that: the sequence number (pair
//! and lane), the window and the urgent pointer (stream). Pods drop these SYNs behind the sniffer,
//! so nobody answers and the node's conntrack keeps a few dozen entries, however many pairs.
//!
//! Invariant: at most `WINDOW` allowed SYNs are under way, less than any queue between the ends
//! holds; hence a lost one was lost to a verdict, not to the harness.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::arrivals::{Arrivals, Sniffers};
use crate::nat;
use crate::netns::Netns;
use crate::packets::{Packet, flags};
use crate::raw::RawPort;
use crate::topology::Host;

/// One side of every pair: who sends where.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// The sending client.
    pub from: &'a Host,
    /// The claimed source; the client's own address unless the test spoofs.
    pub source: IpAddr,
    /// The frontend.
    pub to: SocketAddr,
}

impl<'a> Lane<'a> {
    /// From the client's own address of the right family.
    pub fn new(from: &'a Host, to: SocketAddr) -> Lane<'a> {
        Lane { from, source: from.addresses.like(to.ip()), to }
    }
}

/// What became of all pairs of a finished stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// Pairs sent: as many allowed SYNs, as many denied ones.
    pub sent: u64,
    /// Allowed SYNs that did not arrive.
    pub lost: u64,
    /// Denied SYNs that arrived.
    pub let_through: u64,
    /// SYNs that arrived more than once.
    pub duplicates: u64,
    /// The longest time without an allowed arrival while sending, the scheduler's part included.
    pub longest_pause: Duration,
    /// How long the stream was sending.
    pub took: Duration,
    /// Frames that the sniffers' own buffers dropped: not zero makes the counts worthless.
    pub sniffer_drops: u64,
    /// Packets that full queues of this machine's CPUs dropped meanwhile, other programs' packets
    /// included: not zero may explain `lost`.
    pub backlog_drops: u64,
}

impl Pairs {
    /// Nothing lost, nothing let through, and the sniffers missed nothing.
    pub fn clean(&self) -> bool {
        self.lost == 0 && self.let_through == 0 && self.sniffer_drops == 0
    }

    /// Pairs a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pairs { sent, lost, let_through, .. } = self;
        write!(f, "{sent} pairs, {lost} lost, {let_through} let through")?;
        write!(f, ", longest pause {:.1} ms", self.longest_pause.as_secs_f64() * 1e3)?;
        if self.sniffer_drops + self.backlog_drops > 0 {
            let Pairs { sniffer_drops, backlog_drops, .. } = self;
            write!(f, "; harness dropped {sniffer_drops} in sniffers, {backlog_drops} in queues")?;
        }
        Ok(())
    }
}

/// A running stream of pairs.
#[derive(Debug)]
pub struct PairStream {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<Result<Sent>>>,
    receiver: Option<JoinHandle<Result<Arrivals>>>,
    quiet: Vec<QuietPod>,
    backlog_before: u64,
}

/// What sender, receiver and owner tell each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) stop_sending: AtomicBool,
    pub(crate) stop_receiving: AtomicBool,
    pub(crate) sent: AtomicU64,
    pub(crate) arrived: AtomicU64,
    pub(crate) let_through: AtomicU64,
    pub(crate) warm: AtomicU64,
}

/// Allowed SYNs under way at most; the kernel's backlog of a CPU holds 1,000 packets.
pub(crate) const WINDOW: u64 = 256;
/// Pairs sent by one system call per lane.
const STEP: u64 = 32;
/// Source ports in turn, so that hashing by flow spreads the pairs.
const PORTS: u16 = 64;
/// Pair numbers below this warm up neighbours and conntrack, and are not counted.
pub(crate) const WARM_UP: u64 = 1024;
/// Without an arrival for this long, what is under way is taken for lost.
const PATIENCE: Duration = Duration::from_millis(20);
const CATCH_UP: Duration = Duration::from_millis(20);
const DRAIN: Duration = Duration::from_millis(300);

struct Sent {
    pairs: u64,
    took: Duration,
}

impl PairStream {
    /// Checks that an allowed SYN arrives at one of `pods`, then sends `rate` pairs a second.
    pub fn start(
        allowed: Lane<'_>,
        denied: Lane<'_>,
        pods: &[&Host],
        rate: u32,
    ) -> Result<PairStream> {
        let mark = Mark::next();
        let quiet = pods.iter().map(|pod| QuietPod::new(&pod.ns, mark)).collect::<Result<_>>()?;
        let sniffers = Sniffers::open(pods, mark)?;
        let shared = Arc::new(Shared::default());
        let mut lanes = [Sender::open(allowed, mark, 0)?, Sender::open(denied, mark, 1)?];
        let backlog_before = backlog_drops()?;
        let for_receiver = Arc::clone(&shared);
        let receiver = thread::spawn(move || sniffers.run(&for_receiver));
        // From here on Drop ends the receiver.
        let mut stream = PairStream {
            shared: Arc::clone(&shared),
            sender: None,
            receiver: Some(receiver),
            quiet,
            backlog_before,
        };
        lanes[0]
            .warm_up(&shared)
            .with_context(|| format!("from {} to {}", allowed.source, allowed.to))?;
        stream.sender = Some(thread::spawn(move || send_all(&mut lanes, &shared, rate)));
        Ok(stream)
    }

    /// Pairs sent and denied SYNs arrived, so far.
    pub fn progress(&self) -> (u64, u64) {
        let Shared { sent, let_through, .. } = &*self.shared;
        (sent.load(Ordering::Acquire), let_through.load(Ordering::Acquire))
    }

    /// Waits until `pairs` have been sent in all; fails after `timeout`.
    pub fn wait_for(&self, pairs: u64, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        while self.progress().0 < pairs {
            if Instant::now() > end || self.sender.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("only {} of {pairs} pairs sent within {timeout:?}", self.progress().0);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops sending, waits for what is under way, and counts.
    pub fn stop(mut self) -> Result<Pairs> {
        let sender = self.sender.take().context("the stream never started")?;
        self.shared.stop_sending.store(true, Ordering::Release);
        let Sent { pairs: sent, took } = join(sender)?;
        let end = Instant::now() + DRAIN;
        while self.shared.arrived.load(Ordering::Acquire) < sent && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        // A denied SYN that is let through has the same way as the allowed one before it.
        thread::sleep(Duration::from_millis(20));
        self.shared.stop_receiving.store(true, Ordering::Release);
        let arrivals = join(self.receiver.take().context("the stream never started")?)?;
        self.quiet.clear();
        Ok(Pairs {
            sent,
            lost: sent - arrivals.allowed,
            let_through: arrivals.denied,
            duplicates: arrivals.duplicates,
            longest_pause: arrivals.longest_pause,
            took,
            sniffer_drops: arrivals.drops,
            backlog_drops: backlog_drops()?.saturating_sub(self.backlog_before),
        })
    }
}

impl Drop for PairStream {
    fn drop(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Release);
        self.shared.stop_receiving.store(true, Ordering::Release);
        self.sender.take().map(JoinHandle::join);
        self.receiver.take().map(JoinHandle::join);
    }
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the pair stream panicked"))?
}

/// What tells a stream's SYNs from all other packets, and from other streams'.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    first_port: u16,
}

impl Mark {
    fn next() -> Mark {
        static NUMBER: AtomicU16 = AtomicU16::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) % 300;
        // Ports below the ephemeral ones, and new for every stream: an older stream's conntrack
        // entries would find our sequence numbers out of their window.
        Mark { window: 0x7a00 + number, urgent: 0x5a5a, first_port: 10_000 + number * PORTS }
    }
}

/// A pod that drops the stream's SYNs before its TCP sees them, until this is dropped.
#[derive(Debug)]
struct QuietPod {
    delete: std::process::Command,
}

impl QuietPod {
    fn new(pod: &Netns, mark: Mark) -> Result<QuietPod> {
        let Mark { window, urgent, .. } = mark;
        let table = format!("pairs-{window}");
        let rule = format!("tcp flags syn tcp window {window} tcp urgptr {urgent} drop");
        pod.nft(&nat::filter(&table, "prerouting", -310, &[&rule]))?;
        let mut delete = pod.command("nft");
        delete.arg(format!("delete table inet {table}"));
        Ok(QuietPod { delete })
    }
}

impl Drop for QuietPod {
    fn drop(&mut self) {
        // The namespace goes anyway; this only frees the pod for other uses before.
        self.delete.status().ok();
    }
}

/// Sends one lane's SYNs.
struct Sender {
    port: RawPort,
    lane: u32,
    /// One per source port, with sequence number 0.
    templates: Vec<Vec<u8>>,
    /// Where the TCP header starts in every template.
    tcp: usize,
    batch: Vec<Vec<u8>>,
}

impl Sender {
    fn open(lane: Lane<'_>, mark: Mark, number: u32) -> Result<Sender> {
        let Lane { from, source, to } = lane;
        let template = |port| {
            Packet::tcp(SocketAddr::new(source, mark.first_port + port), to)
                .flags(flags::SYN)
                .numbers(0, 0)
                .window(mark.window, mark.urgent)
                .frame(from.mac, from.gateway_mac)
        };
        Ok(Sender {
            port: RawPort::open(&from.ns, "eth0")?,
            lane: number,
            templates: (0..PORTS).map(template).collect(),
            tcp: if to.is_ipv4() { 14 + 20 } else { 14 + 40 },
            batch: Vec::new(),
        })
    }

    /// Sends uncounted SYNs until one arrives, then until every source port has had one.
    fn warm_up(&mut self, shared: &Shared) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(3);
        let mut pair = 0;
        while shared.warm.load(Ordering::Acquire) == 0 {
            if Instant::now() > end || pair + 1 >= WARM_UP - u64::from(PORTS) {
                bail!("no allowed SYN arrived at the sniffers within 3 s");
            }
            self.send(pair, 1)?;
            pair += 1;
            thread::sleep(Duration::from_millis(5));
        }
        self.send(WARM_UP - u64::from(PORTS), u64::from(PORTS))
    }

    /// Sends the SYNs of `count` pairs from number `first` on.
    fn send(&mut self, first: u64, count: u64) -> Result<()> {
        self.batch.resize(count as usize, Vec::new());
        for (pair, frame) in (first..).zip(&mut self.batch) {
            frame.clone_from(&self.templates[pair as usize % self.templates.len()]);
            let seq = (pair as u32) << 1 | self.lane;
            number(&mut frame[self.tcp..], seq);
        }
        self.port.send_many(&self.batch)
    }
}

/// Writes the sequence number into a TCP header that has 0 there, and mends the checksum.
fn number(tcp: &mut [u8], seq: u32) {
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    let before = u16::from_be_bytes([tcp[16], tcp[17]]);
    let sum = u32::from(!before) + (seq >> 16) + (seq & 0xffff);
    tcp[16..18].copy_from_slice(&(!crate::packets::fold(sum)).to_be_bytes());
}

/// Sends until told to stop, never faster than `rate`, never more than the window under way.
fn send_all(lanes: &mut [Sender; 2], shared: &Shared, rate: u32) -> Result<Sent> {
    let start = Instant::now();
    let step_time = Duration::from_secs(STEP) / rate.max(1);
    let mut pairs = 0;
    let mut given_up = 0;
    let mut due = start;
    while !shared.stop_sending.load(Ordering::Acquire) {
        for lane in lanes.iter_mut() {
            lane.send(WARM_UP + pairs, STEP)?;
        }
        pairs += STEP;
        shared.sent.store(pairs, Ordering::Release);
        given_up = wait_for_room(shared, pairs, given_up);
        due += step_time;
        let now = Instant::now();
        thread::sleep(due.saturating_duration_since(now));
        // Short delays are made up for, long pauses are not.
        due = due.max(now.checked_sub(CATCH_UP).unwrap_or(now));
    }
    Ok(Sent { pairs, took: start.elapsed() })
}

/// Waits until less than the window is under way; returns how many are taken for lost by now.
fn wait_for_room(shared: &Shared, sent: u64, mut given_up: u64) -> u64 {
    let mut last = shared.arrived.load(Ordering::Acquire);
    let mut since = Instant::now();
    loop {
        let arrived = shared.arrived.load(Ordering::Acquire);
        if sent.saturating_sub(arrived + given_up) + STEP <= WINDOW {
            return given_up;
        }
        if arrived != last {
            (last, since) = (arrived, Instant::now());
        } else if since.elapsed() > PATIENCE {
            given_up = sent.saturating_sub(arrived);
            return given_up;
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// Packets that this machine's CPUs dropped from full backlogs: the second column, hexadecimal.
fn backlog_drops() -> Result<u64> {
    let path = "/proc/net/softnet_stat";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let column = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    Ok(text.lines().filter_map(column).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::{Seen, checksum};

    #[test]
    fn a_numbered_template_is_a_valid_segment() {
        for (from, to) in
            [("198.51.100.10:1", "192.0.2.11:31443"), ("[2001:db8::1]:1", "[2001:db8::2]:31443")]
        {
            let packet = Packet::tcp(from.parse().unwrap(), to.parse().unwrap()).window(3, 4);
            for seq in [0, 1, 0xffff, 0x1_0000, 0xdead_beef, u32::MAX] {
                let expected = packet.clone().numbers(seq, 0).frame([2; 6], [4; 6]);
                let mut frame = packet.clone().numbers(0, 0).frame([2; 6], [4; 6]);
                let tcp = frame.len() - 20;
                number(&mut frame[tcp..], seq);
                assert_eq!(frame, expected, "{seq:#x}");
                assert_eq!(Seen::frame(&frame).unwrap().seq, seq);
            }
        }
        assert_eq!(checksum(&[&[0xff, 0xff]]), 0);
    }
}
