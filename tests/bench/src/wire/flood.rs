//! What a denied SYN costs the node, in CPU time.
//!
//! On a veth, the receiving side's work is done by the CPU that sends, before the system call returns:
//! its CPU time is the sum of sending and receiving. What sending alone costs is measured with the same
//! frames into a device that discards them, and is subtracted.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use enforcer_tests::{
    packets::{Packet, flags},
    raw::RawPort,
};

use super::{bed::Bed, cpu::Clock, ranges::Ranges};

/// Different sources, so that neither a list nor a cache sees one of them twice soon.
const SOURCES: usize = 8192;
/// Frames of one system call.
const BATCH: usize = 64;

/// A flood of one bed.
pub(crate) struct Flood {
    frames: Vec<Vec<u8>>,
    node: RawPort,
    discard: RawPort,
    next: usize,
}

impl Flood {
    /// Makes the frames.
    pub(crate) fn new(bed: &Bed, ranges: &Ranges) -> Result<Self> {
        let (cable, to) = bed.cable();
        let frames = ranges.denied(SOURCES).into_iter().zip(0_u16..);
        let frames = frames.map(|(source, number)| {
            let source = SocketAddr::from((source, 1024 + number));
            let packet = Packet::tcp(source, Bed::frontend()).flags(flags::SYN);
            packet.frame([2, 0, 0, 0, 0, 9], to)
        });
        Ok(Self {
            frames: frames.collect(),
            node: RawPort::open(bed.client(), cable)?,
            discard: RawPort::open(bed.client(), "discard")?,
            next: 0,
        })
    }

    /// Nanoseconds of CPU per SYN, beyond sending it; this thread must be pinned.
    pub(crate) fn nanoseconds(&mut self, clock: &Clock, span: Duration) -> Result<f64> {
        let sending = self.cost(clock, &self.discard, span / 3)?;
        Ok(self.cost(clock, &self.node, span)? - sending)
    }

    /// Sends some of them; how many.
    pub(crate) fn some(&mut self) -> Result<usize> {
        let batch = self.frames.chunks(BATCH).nth(self.next).unwrap_or_default();
        self.next = (self.next + 1) % (SOURCES / BATCH);
        self.node.send_many(batch)?;
        Ok(batch.len())
    }

    fn cost(&self, clock: &Clock, port: &RawPort, span: Duration) -> Result<f64> {
        let before = clock.now()?;
        let (mut sent, begin) = (0, Instant::now());
        for batch in self.frames.chunks(BATCH).cycle() {
            port.send_many(batch)?;
            sent += batch.len();
            if begin.elapsed() > span {
                break;
            }
        }
        Ok((clock.now()? - before).as_nanos() as f64 / sent as f64)
    }
}
