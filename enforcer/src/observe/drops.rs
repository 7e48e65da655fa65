//! Denied packets, as the data path tells them, for whoever asks.
//!
//! Input: the ring of events, and which counter slot is which cluster's. Output: [`Dropped`] packets, the
//! last [`KEPT`] of them and every new one. Invariant: every denied packet is either an event here or
//! counted as suppressed by one, or not told yet ([`crate::kernel::Suppressed`]).

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use enforcer_ebpf::{abi::DropEvent, verdict::Reason};
use enforcer_policy::image::Counted;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{broadcast, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Status,
    kernel::{EventRing, address},
};

/// Events that are kept.
pub const KEPT: usize = 4096;

/// A denied packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// When.
    pub at: String,
    /// Name of the interface that it came in on, or its number where that is gone.
    pub interface: String,
    /// Where it came from; `None` where its headers cannot be read.
    pub source: Option<IpAddr>,
    /// Its port, 0 where it has none.
    pub source_port: u16,
    /// Where it was going.
    pub destination: Option<IpAddr>,
    /// Its port, 0 where it has none.
    pub port: u16,
    /// `tcp`, `udp` or the number of the protocol.
    pub protocol: String,
    /// The cluster whose frontend it named, or whose pod sent it.
    pub cluster: Option<String>,
    /// `ingress`: to a frontend; `egress`: from a pod.
    pub direction: String,
    /// Why.
    pub reason: String,
    /// Whether it passed, since the cluster or the node only audits.
    pub audited: bool,
    /// Denied packets before it, on the same CPU, that have no event.
    pub suppressed: u64,
}

/// The events, kept and to come.
#[derive(Clone, Debug)]
pub struct Drops {
    kept: Arc<Mutex<VecDeque<Arc<Dropped>>>>,
    new: broadcast::Sender<Arc<Dropped>>,
}

impl Default for Drops {
    fn default() -> Self {
        Self { kept: Arc::default(), new: broadcast::Sender::new(KEPT) }
    }
}

impl Drops {
    /// The kept ones, oldest first, and a receiver of all that come after them.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Arc<Dropped>>, broadcast::Receiver<Arc<Dropped>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.new.subscribe())
    }

    /// The kept ones, oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<Arc<Dropped>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }

    fn add(&self, dropped: Dropped) {
        let dropped = Arc::new(dropped);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&dropped));
        // Under the lock, so that who subscribes has each of them once; nobody may be there.
        let _ = self.new.send(dropped);
    }
}

/// Reads events until it is cancelled.
pub async fn read(
    ring: EventRing,
    drops: Drops,
    statuses: watch::Receiver<Arc<Status>>,
    cancelled: CancellationToken,
) -> std::io::Result<()> {
    // SAFETY: the ring owns its descriptor for as long as it lives, and it is the same one throughout.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return Ok(()),
            ready = ring.readable_mut() => {
                let mut ready = ready?;
                let report = Arc::clone(&statuses.borrow());
                let clock = Clock::now();
                // Bounded, so that a flood leaves room for the reconciler on the same thread.
                for _ in 0..AT_A_TIME {
                    match ready.get_inner_mut().take() {
                        Some(event) => drops.add(dropped(&event, &clock, |slot| {
                            cluster(&report.report.counters, slot)
                        })),
                        None => {
                            ready.clear_ready();
                            break;
                        }
                    }
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Events that are read before others have their turn.
const AT_A_TIME: usize = 256;

fn cluster(counters: &[(Counted, u32)], slot: u32) -> Option<String> {
    let owner = counters.iter().find(|(_, owned)| *owned == slot)?;
    Some(owner.0.cluster.to_string())
}

/// An event in words. `cluster` knows the counter slots.
#[must_use]
pub fn dropped(
    event: &DropEvent,
    clock: &Clock,
    cluster: impl FnOnce(u32) -> Option<String>,
) -> Dropped {
    let DropEvent {
        time,
        source,
        destination,
        interface,
        cluster: slot,
        ports,
        protocol,
        reason,
        direction,
        audited,
        reserved: _,
        suppressed,
    } = *event;
    let known = |words: [u64; 2]| (words != [0; 2]).then(|| address(words));
    let named = nix::net::if_::if_indextoname(interface).ok();
    let named = named.and_then(|name| name.into_string().ok()).filter(|name| !name.is_empty());
    let reason = Reason::ALL.into_iter().find(|known| *known as u32 == reason);
    Dropped {
        at: clock.wall(time),
        interface: named.unwrap_or_else(|| interface.to_string()),
        source: known(source),
        source_port: (ports >> 16) as u16,
        destination: known(destination),
        port: ports as u16,
        protocol: match protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            number => number.to_string(),
        },
        cluster: if slot == u32::MAX { None } else { cluster(slot) },
        direction: if direction == 0 { "ingress" } else { "egress" }.to_owned(),
        reason: reason.map_or("unknown", Reason::name).to_owned(),
        audited: audited != 0,
        suppressed,
    }
}

impl Dropped {
    /// Source, as people write it.
    #[must_use]
    pub fn from(&self) -> String {
        place(self.source, self.source_port)
    }

    /// Destination, as people write it.
    #[must_use]
    pub fn to(&self) -> String {
        place(self.destination, self.port)
    }
}

fn place(address: Option<IpAddr>, port: u16) -> String {
    match (address, port) {
        (None, _) => "?".to_owned(),
        (Some(address), 0) => address.to_string(),
        (Some(address), port) => SocketAddr::new(address, port).to_string(),
    }
}

/// Two clocks read at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    monotonic: Duration,
}

impl Clock {
    /// Reads both.
    #[must_use]
    pub fn now() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        Self { wall: SystemTime::now(), monotonic: monotonic.unwrap_or_default() }
    }

    /// How long ago a moment of `CLOCK_MONOTONIC` is, in nanoseconds.
    #[must_use]
    pub fn age(&self, monotonic: u64) -> Duration {
        self.monotonic.saturating_sub(Duration::from_nanos(monotonic))
    }

    /// A moment of `CLOCK_MONOTONIC` in nanoseconds, as RFC 3339 with milliseconds.
    #[must_use]
    pub fn wall(&self, monotonic: u64) -> String {
        let at = self.wall - self.age(monotonic);
        Timestamp::try_from(at).map(|at| format!("{at:.3}")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u16) -> DropEvent {
        DropEvent {
            time: 1,
            source: [0, 0xffff_c633_6407],
            destination: [0x2001_0db8_0000_0000, 1],
            interface: u32::MAX,
            cluster: 3,
            ports: u32::from(number) << 16 | 6443,
            protocol: 6,
            reason: Reason::NotListed as u32,
            direction: 0,
            audited: 1,
            reserved: 0,
            suppressed: 7,
        }
    }

    #[test]
    fn an_event_is_told_in_words() {
        let told = dropped(&event(1000), &Clock::now(), |slot| {
            assert_eq!(slot, 3);
            Some("c1".to_owned())
        });
        assert_eq!(
            (told.from(), told.to()),
            ("198.51.100.7:1000".into(), "[2001:db8::1]:6443".into())
        );
        assert_eq!((told.reason.as_str(), told.protocol.as_str()), ("not_listed", "tcp"));
        assert_eq!(
            (told.interface.as_str(), told.audited, told.suppressed),
            ("4294967295", true, 7)
        );
        assert_eq!(told.cluster.as_deref(), Some("c1"));
    }

    #[test]
    fn who_subscribes_has_every_event_once_and_the_oldest_are_forgotten() {
        let drops = Drops::default();
        let clock = Clock::now();
        let add = |number| drops.add(dropped(&event(number), &clock, |_| None));
        (0..KEPT as u16 + 2).for_each(add);
        let (kept, mut new) = drops.subscribe();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].source_port, 2);
        add(9999);
        assert_eq!(new.try_recv().unwrap().source_port, 9999);
        assert!(new.try_recv().is_err());
    }
}
