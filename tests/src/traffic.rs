//! Connections one after the other, in the background, and how each ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use crate::netns::Netns;
use crate::talk::{Outcome, attempt};

/// How hard [`Traffic`] tries.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Connections under way at a time.
    pub threads: usize,
    /// Bound of one handshake, and of the exchange after it.
    pub timeout: Duration,
    /// Rest of each thread between two attempts.
    pub pause: Duration,
}

impl Default for Effort {
    /// Two threads without rest, 200 ms: quicker than TCP's first retransmission.
    fn default() -> Effort {
        let timeout = Duration::from_millis(200);
        Effort { threads: 2, timeout, pause: Duration::ZERO }
    }
}

/// How attempts ended; `attempted` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub attempted: u64,
    /// Payload came back.
    pub answered: u64,
    /// Refused by RST.
    pub refused: u64,
    /// No answer to the first packet.
    pub timed_out: u64,
    /// Everything else: unreachable, silent, broken, failed.
    pub other: u64,
}

/// A client that connects, talks and aborts, again and again, until stopped or dropped.
#[derive(Debug)]
pub struct Traffic {
    tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Tally {
    stopping: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    other: AtomicU64,
}

impl Traffic {
    /// Starts it.
    pub fn start(ns: &Netns, to: SocketAddr, effort: Effort) -> Result<Traffic> {
        let tally = Arc::new(Tally::default());
        let mut traffic = Traffic { tally: Arc::clone(&tally), threads: Vec::new() };
        for _ in 0..effort.threads {
            let tally = Arc::clone(&tally);
            traffic.threads.push(ns.spawn(move || keep_trying(&tally, to, effort))?);
        }
        Ok(traffic)
    }

    /// What has come of it so far.
    pub fn counts(&self) -> Counts {
        let Tally { stopping: _, answered, refused, timed_out, other } = &*self.tally;
        let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (answered, refused) = (load(answered), load(refused));
        let (timed_out, other) = (load(timed_out), load(other));
        let attempted = answered + refused + timed_out + other;
        Counts { attempted, answered, refused, timed_out, other }
    }

    /// Lets the attempts under way end and gives the final counts.
    pub fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.tally.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep_trying(tally: &Tally, to: SocketAddr, effort: Effort) {
    while !tally.stopping.load(Ordering::Acquire) {
        let counter = match attempt(None, to, effort.timeout, true) {
            Ok(_) | Err(Outcome::Answered) => &tally.answered,
            Err(Outcome::Refused) => &tally.refused,
            Err(Outcome::TimedOut) => &tally.timed_out,
            Err(Outcome::Unreachable | Outcome::Silent | Outcome::Broken | Outcome::Failed(_)) => {
                &tally.other
            }
        };
        counter.fetch_add(1, Ordering::AcqRel);
        std::thread::sleep(effort.pause);
    }
}
