//! What is known of hosts, and when each is to be asked for again.
//!
//! Input: which hosts, answers and failures, and the time. Output: addresses. Pure. Invariants: an
//! address counts for [`COUNTS`] after it was last in an answer, since names that rotate show one part
//! of their addresses at a time; only an answer ends an address's time, never a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::Found;

/// Time that an address counts after it was last seen.
const COUNTS: Duration = Duration::from_secs(3600);

/// Time between two answers.
const AGAIN: Duration = Duration::from_secs(60);

/// Time after a first failure; it doubles with every other one, up to [`LONGEST`].
const RETRY: Duration = Duration::from_secs(5);

/// Longest time after a failure.
const LONGEST: Duration = Duration::from_secs(300);

/// Addresses of one host: whoever has a name may let it rotate without end.
const MOST: usize = 64;

/// When each address of each host was last in an answer, in seconds since 1970.
pub type Seen = BTreeMap<String, BTreeMap<IpAddr, u64>>;

/// The book.
#[derive(Debug, Default)]
pub(super) struct Book {
    seen: Seen,
    asked: BTreeMap<String, Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// `None` while it is being asked for.
    due: Option<Instant>,
    failures: u32,
}

impl Book {
    /// With what was known before.
    pub(super) fn new(seen: Seen) -> Self {
        Self { seen, asked: BTreeMap::new() }
    }

    /// Sets which hosts are asked for. Others are forgotten once none of their addresses counts.
    pub(super) fn want(&mut self, hosts: &BTreeSet<String>, now: Instant, clock: SystemTime) {
        self.asked.retain(|host, _| hosts.contains(host));
        for host in hosts {
            let asked = Asked { due: Some(now), failures: 0 };
            self.asked.entry(host.clone()).or_insert(asked);
        }
        let asked = &self.asked;
        self.seen.retain(|host, seen| {
            asked.contains_key(host) || seen.values().any(|seen| counts(*seen, clock))
        });
    }

    /// A host that is to be asked for now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<String> {
        let is_due = |asked: &Asked| asked.due.is_some_and(|due| due <= now);
        let (host, asked) = self.asked.iter_mut().find(|(_, asked)| is_due(asked))?;
        asked.due = None;
        Some(host.clone())
    }

    /// When the next one is.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asked.values().filter_map(|asked| asked.due).min()
    }

    /// A host has these addresses. Whether that changes what is known.
    pub(super) fn answered(
        &mut self,
        host: &str,
        addresses: &BTreeSet<IpAddr>,
        now: Instant,
        clock: SystemTime,
    ) -> bool {
        let Some(asked) = self.asked.get_mut(host) else { return false };
        *asked = Asked { due: Some(now + AGAIN), failures: 0 };
        let seen = self.seen.entry(host.to_owned()).or_default();
        let before: BTreeSet<IpAddr> = seen.keys().copied().collect();
        seen.retain(|_, seen| counts(*seen, clock));
        seen.extend(addresses.iter().take(MOST).map(|address| (*address, seconds(clock))));
        while seen.len() > MOST {
            let oldest = seen.iter().min_by_key(|(_, seen)| **seen).map(|(address, _)| *address);
            let Some(oldest) = oldest else { break };
            seen.remove(&oldest);
        }
        !before.iter().eq(seen.keys())
    }

    /// Asking for a host has failed. Whether that is new.
    pub(super) fn failed(&mut self, host: &str, now: Instant) -> bool {
        let Some(asked) = self.asked.get_mut(host) else { return false };
        let pause = RETRY.saturating_mul(1 << asked.failures.min(16)).min(LONGEST);
        asked.due = Some(now + pause);
        asked.failures += 1;
        asked.failures == 1
    }

    /// Addresses by host.
    pub(super) fn found(&self) -> Found {
        let addresses = |seen: &BTreeMap<IpAddr, u64>| seen.keys().copied().collect();
        self.seen.iter().map(|(host, seen)| (host.clone(), addresses(seen))).collect()
    }

    /// What is to be kept for the next start.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }
}

/// Whether an address that was seen then counts now. A clock that went back lets it count.
fn counts(seen: u64, clock: SystemTime) -> bool {
    seconds(clock).saturating_sub(seen) < COUNTS.as_secs()
}

fn seconds(clock: SystemTime) -> u64 {
    clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "issuer.example.com";

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    struct Day {
        book: Book,
        start: Instant,
        clock: SystemTime,
        passed: Duration,
    }

    impl Day {
        fn new() -> Self {
            let clock = UNIX_EPOCH + Duration::from_secs(1_000_000);
            let mut day = Self {
                book: Book::default(),
                start: Instant::now(),
                clock,
                passed: Duration::ZERO,
            };
            day.want(&[HOST]);
            day
        }

        fn now(&self) -> (Instant, SystemTime) {
            (self.start + self.passed, self.clock + self.passed)
        }

        fn want(&mut self, hosts: &[&str]) {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let (now, clock) = self.now();
            self.book.want(&hosts, now, clock);
        }

        fn passes(&mut self, seconds: u64) {
            self.passed += Duration::from_secs(seconds);
        }

        fn answer(&mut self, texts: &[&str]) -> bool {
            let (now, clock) = self.now();
            self.book.answered(HOST, &addresses(texts), now, clock)
        }

        fn fail(&mut self) -> Duration {
            let (now, _) = self.now();
            self.book.failed(HOST, now);
            self.book.next_due().unwrap() - now
        }

        fn known(&self) -> BTreeSet<IpAddr> {
            self.book.found().remove(HOST).unwrap_or_default()
        }
    }

    #[test]
    fn an_address_counts_for_an_hour_after_it_was_last_in_an_answer() {
        let mut day = Day::new();
        assert!(day.answer(&["192.0.2.1", "192.0.2.2"]));
        day.passes(1800);
        assert!(day.answer(&["192.0.2.2", "192.0.2.3"]));
        assert_eq!(day.known(), addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
        day.passes(1801);
        assert!(day.answer(&["192.0.2.3"]));
        assert_eq!(day.known(), addresses(&["192.0.2.2", "192.0.2.3"]));
        assert!(!day.answer(&["192.0.2.3"]));
    }

    #[test]
    fn failures_take_nothing_away_however_long_they_last_and_are_asked_ever_less_often() {
        let mut day = Day::new();
        day.answer(&["192.0.2.1"]);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            day.passes(10_000);
            pauses.push(day.fail().as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(day.known(), addresses(&["192.0.2.1"]));
        day.answer(&["192.0.2.9"]);
        assert_eq!(day.known(), addresses(&["192.0.2.9"]));
        assert_eq!(day.fail().as_secs(), 5);
    }

    #[test]
    fn a_host_is_asked_for_at_once_then_every_minute_and_by_one_lookup_at_a_time() {
        let mut day = Day::new();
        assert_eq!(day.book.take_due(day.now().0).as_deref(), Some(HOST));
        assert_eq!((day.book.take_due(day.now().0), day.book.next_due()), (None, None));
        day.answer(&["192.0.2.1"]);
        assert_eq!(day.book.next_due(), Some(day.now().0 + AGAIN));
        day.passes(60);
        assert_eq!(day.book.take_due(day.now().0).as_deref(), Some(HOST));
    }

    #[test]
    fn a_host_that_is_not_wanted_for_a_moment_keeps_its_addresses_and_loses_them_after_an_hour() {
        let mut day = Day::new();
        day.answer(&["192.0.2.1"]);
        day.want(&[]);
        assert_eq!(day.known(), addresses(&["192.0.2.1"]));
        assert!(!day.answer(&["192.0.2.2"]), "of a lookup that was under way");
        day.passes(3600);
        day.want(&["other.example.com"]);
        assert_eq!(day.known(), addresses(&[]));
    }

    #[test]
    fn what_was_known_before_a_restart_counts_as_if_there_had_been_none() {
        let mut day = Day::new();
        day.answer(&["192.0.2.1"]);
        day.book = Book::new(day.book.seen());
        day.want(&[HOST]);
        assert_eq!(day.known(), addresses(&["192.0.2.1"]));
        day.passes(3601);
        day.fail();
        assert_eq!(day.known(), addresses(&["192.0.2.1"]));
        day.answer(&["192.0.2.2"]);
        assert_eq!(day.known(), addresses(&["192.0.2.2"]));
    }

    #[test]
    fn a_name_that_rotates_without_end_is_not_remembered_without_end() {
        let mut day = Day::new();
        for number in 0..200 {
            day.passes(1);
            day.answer(&[&format!("198.51.100.{number}")]);
        }
        assert_eq!(day.known().len(), MOST);
        assert!(day.known().contains(&"198.51.100.199".parse().unwrap()));
    }
}
