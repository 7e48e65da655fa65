//! What the data path tells besides counters: denied packets, and a sample of admitted sources.
//!
//! No verdict depends on any of it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the ring buffer of [`DropEvent`]s and of its pin.
pub const MAP_EVENTS: &str = "EVENTS";
/// Name of the map with one [`Pace`] per CPU for events.
pub const MAP_SUPPRESSED: &str = "SUPPRESSED";
/// Name of the map with one [`Pace`] per CPU for answers to denied packets.
pub const MAP_ANSWERED: &str = "ANSWERED";
/// Name of the map of [`Recent`] sources.
pub const MAP_RECENT: &str = "RECENT";

/// Bytes of the ring buffer.
pub const EVENTS_BYTES: usize = 256 << 10;
/// Sources that are remembered; the least recently seen is forgotten first.
pub const RECENT: u32 = 8 << 10;
/// Of the admitted packets of a cluster, one in this many on each CPU leaves its source in `RECENT`.
pub const SAMPLE: u64 = 256;

/// Length of a window of a [`Pace`], as a power of two of the kernel's ticks (`bpf_jiffies64`): 32
/// to 320 ms.
pub const WINDOW_SHIFT: u32 = 5;
/// Events that one CPU writes in a window.
pub const EVENTS_PER_WINDOW: u64 = 16;
/// Answers that one CPU sends in a window.
pub const ANSWERS_PER_WINDOW: u64 = 256;

/// A packet that was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct DropEvent {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// Source address; IPv4 is mapped (RFC 4291, 2.5.5.2).
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// Number of the interface that it came in on.
    pub interface: u32,
    /// Counter slot of the cluster, `u32::MAX` where none is concerned.
    pub cluster: u32,
    /// Source port, then destination port in the lower half; 0 where they are not known.
    pub ports: u32,
    /// IP protocol number; 0 where it is not known.
    pub protocol: u32,
    /// Why: a `Reason`.
    pub reason: u32,
    /// 0 for packets to a frontend, 1 for packets of a pod that may not leave.
    pub direction: u32,
    /// 1 if it passed, since the cluster or the node only audits.
    pub audited: u32,
    /// Makes the padding explicit.
    pub reserved: u32,
    /// Packets that were denied on this CPU since its last event and have none.
    pub suppressed: u64,
}

/// Key of the map `RECENT`; the value is the time of the packet as in [`DropEvent::time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Recent {
    /// Source address; IPv4 is mapped.
    pub source: [u64; 2],
    /// Counter slot of the cluster.
    pub cluster: u32,
    /// Protocol (0 is TCP, 1 UDP) and destination port: `protocol << 16 | port`.
    pub port: u32,
}

/// How much of something one CPU did in the window that it did it last, and what it left out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Pace {
    /// Number of the window.
    pub window: u64,
    /// Times it was done in this window.
    pub done: u64,
    /// Times it was left out since it was last done.
    pub left_out: u64,
    /// Times it was left out since the map was made.
    pub left_out_ever: u64,
}

impl Pace {
    /// Whether it may be done once more at this tick.
    #[inline(always)]
    pub fn admits(&mut self, ticks: u64, per_window: u64) -> bool {
        let window = ticks >> WINDOW_SHIFT;
        if self.window != window {
            self.window = window;
            self.done = 0;
        }
        if self.done >= per_window {
            self.left_out += 1;
            self.left_out_ever += 1;
            return false;
        }
        self.done += 1;
        true
    }
}

/// Room for one answer, so that it need not be on the stack.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Scratch {
    /// IP header, transport header and what an ICMP error quotes.
    pub words: [u32; 32],
}

/// What a dry run returns: see [`Explained`].
#[inline(always)]
#[must_use]
pub const fn explained(reason: u32, drops: bool, audited: bool, policy: u32) -> u32 {
    reason | (audited as u32) << 8 | (drops as u32) << 9 | policy << 12
}

/// The parts of [`explained`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Number of the reason.
    pub reason: u32,
    /// Whether the reason is one to drop the packet for.
    pub drops: bool,
    /// Whether it would pass all the same, since the cluster or the node only audits.
    pub audited: bool,
    /// Number of the policy record, 0 if none was asked.
    pub policy: u32,
}

impl From<u32> for Explained {
    fn from(word: u32) -> Self {
        Self {
            reason: word & 0xff,
            drops: word & 1 << 9 != 0,
            audited: word & 1 << 8 != 0,
            policy: word >> 12,
        }
    }
}

const _: () = {
    assert!(size_of::<DropEvent>() == 80);
    assert!(size_of::<Recent>() == 24);
    assert!(size_of::<Pace>() == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_starts_anew_with_every_window_and_counts_what_it_leaves_out() {
        let mut pace = Pace::default();
        let now = 1_000 << WINDOW_SHIFT;
        assert_eq!(
            [0, 1, 2, 31].map(|tick| pace.admits(now + tick, 2)),
            [true, true, false, false]
        );
        assert_eq!((pace.left_out, pace.left_out_ever), (2, 2));
        assert!(pace.admits(now + 32, 2));
    }

    #[test]
    fn what_a_dry_run_says_comes_apart_again() {
        let word = explained(17, true, false, 20_479);
        let parts = Explained { reason: 17, drops: true, audited: false, policy: 20_479 };
        assert_eq!(Explained::from(word), parts);
    }
}
