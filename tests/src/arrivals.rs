//! The far end of a stream of pairs: which numbered SYNs arrived, each counted once.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::packets::{flags, protocol};
use crate::pairs::{Mark, Shared, WARM_UP};
use crate::raw::{Batch, RawPort, wait_readable};
use crate::topology::Host;

/// What the sniffers counted.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) duplicates: u64,
    pub(crate) longest_pause: Duration,
    /// Frames lost by the sniffers' own buffers.
    pub(crate) drops: u64,
}

/// Raw sockets on pods' interfaces.
pub(crate) struct Sniffers {
    ports: Vec<RawPort>,
    mark: Mark,
}

/// Room for a second of frames at full rate, should the receiver not be scheduled.
const BUFFER: i32 = 64 << 20;

impl Sniffers {
    pub(crate) fn open(pods: &[&Host], mark: Mark) -> Result<Sniffers> {
        let mut ports = Vec::new();
        for pod in pods {
            let port = RawPort::open(&pod.ns, "eth0")?;
            port.receive_buffer(BUFFER)?;
            ports.push(port);
        }
        Ok(Sniffers { ports, mark })
    }

    /// Counts until told to stop and nothing more waits.
    pub(crate) fn run(self, shared: &Shared) -> Result<Arrivals> {
        let mut arrivals = Arrivals::default();
        let mut seen = [Bits::default(), Bits::default()];
        let mut batch = Batch::new();
        let mut last = None;
        let ports: Vec<&RawPort> = self.ports.iter().collect();
        loop {
            // Read before the sockets: what was sent before the stop is in them already.
            let stop = shared.stop_receiving.load(Ordering::Acquire);
            let mut any = false;
            for port in &ports {
                while batch.fill(port) {
                    any = true;
                    self.count(&batch, &mut seen, &mut arrivals, shared);
                }
            }
            if arrivals.allowed > shared.arrived.load(Ordering::Relaxed) {
                let now = Instant::now();
                let pause = last.map_or(Duration::ZERO, |last| now - last);
                last = Some(now);
                arrivals.longest_pause = arrivals.longest_pause.max(pause);
            }
            shared.arrived.store(arrivals.allowed, Ordering::Release);
            shared.let_through.store(arrivals.denied, Ordering::Release);
            if stop && !any {
                break;
            }
            if !any {
                wait_readable(&ports, Duration::from_millis(20))?;
            }
        }
        for port in &ports {
            arrivals.drops += port.drops()?;
        }
        Ok(arrivals)
    }

    fn count(&self, batch: &Batch, seen: &mut [Bits; 2], arrivals: &mut Arrivals, shared: &Shared) {
        for seq in batch.frames().filter_map(|frame| self.number(frame)) {
            let (pair, lane) = (u64::from(seq >> 1), seq & 1);
            let Some(pair) = pair.checked_sub(WARM_UP) else {
                shared.warm.fetch_add(1, Ordering::AcqRel);
                continue;
            };
            if !seen[lane as usize].insert(pair) {
                arrivals.duplicates += 1;
            } else if lane == 0 {
                arrivals.allowed += 1;
            } else {
                arrivals.denied += 1;
            }
        }
    }

    /// The sequence number, if the frame is a SYN of this stream.
    fn number(&self, frame: &[u8]) -> Option<u32> {
        let tcp = match frame.get(12..14)? {
            [0x08, 0x00] if *frame.get(23)? == protocol::TCP => 14 + 20,
            [0x86, 0xdd] if *frame.get(20)? == protocol::TCP => 14 + 40,
            _ => return None,
        };
        let tcp: &[u8; 20] = frame.get(tcp..)?.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let ours =
            tcp[13] == flags::SYN && word(14) == self.mark.window && word(18) == self.mark.urgent;
        ours.then(|| u32::from(word(4)) << 16 | u32::from(word(6)))
    }
}

/// A growing set of small numbers.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// False if it was there already.
    fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}
