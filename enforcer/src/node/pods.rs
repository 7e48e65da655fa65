//! Which addresses pods have, asked from the host's side.
//!
//! Input: the host's ends of pods' interfaces, and the time. Output: the addresses of their other ends.
//! Invariant: what is known of an interface that is gone, or now leads elsewhere, is forgotten.
//!
//! Nothing tells the host that an address was added inside a pod's network namespace. So a new
//! interface is asked again and again at first, any interface without an address at every look, and the
//! others at every look that comes [`SELDOM`] after they were asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    NodeError,
    facts::{Far, Link},
    listing::Lister,
};

/// A new interface is asked again on its own account for this long.
const SETTLING: Duration = Duration::from_secs(5);

/// Time until it is first asked again.
const SOON: Duration = Duration::from_millis(50);

/// Age at which an answer is asked for again when the node is looked at.
const SELDOM: Duration = Duration::from_secs(25);

/// What was answered last, by number of the host's end.
#[derive(Debug, Default)]
pub(super) struct Pods {
    known: BTreeMap<u32, Known>,
}

#[derive(Debug)]
struct Known {
    far: Far,
    addresses: BTreeSet<IpAddr>,
    since: Instant,
    asked: Instant,
}

/// Why interfaces are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The node is looked at.
    Look,
    /// An interface is due.
    Due,
}

impl Pods {
    /// Asks the interfaces that are to be asked now, and returns what all of them have.
    pub(super) fn ask(
        &mut self,
        links: &BTreeMap<u32, Link>,
        lister: &mut Lister,
        occasion: Occasion,
        now: Instant,
    ) -> Result<BTreeMap<u32, BTreeSet<IpAddr>>, NodeError> {
        self.known.retain(|index, known| {
            links.get(index).is_some_and(|link| link.far == Some(known.far))
        });
        for link in links.values() {
            let Some(far) = link.far else { continue };
            match self.known.get_mut(&link.index) {
                None => {
                    let addresses = lister.pod_addresses(far)?;
                    self.known.insert(link.index, Known { far, addresses, since: now, asked: now });
                }
                Some(known) if known.is_due(occasion, now) => {
                    known.addresses = lister.pod_addresses(far)?;
                    known.asked = now;
                }
                Some(_) => {}
            }
        }
        let known = self.known.iter();
        Ok(known.map(|(index, known)| (*index, known.addresses.clone())).collect())
    }

    /// When an interface is to be asked again on its own account.
    pub(super) fn due(&self) -> Option<Instant> {
        self.known.values().filter_map(Known::again).min()
    }
}

impl Known {
    fn again(&self) -> Option<Instant> {
        let age = self.asked.saturating_duration_since(self.since);
        // An address may be the first of two.
        let pause = if self.addresses.is_empty() { SOON } else { age.max(SOON) };
        (age < SETTLING).then(|| self.asked + pause)
    }

    fn is_due(&self, occasion: Occasion, now: Instant) -> bool {
        let at_look =
            || self.addresses.is_empty() || now.saturating_duration_since(self.asked) >= SELDOM;
        self.again().is_some_and(|again| again <= now) || (occasion == Occasion::Look && at_look())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(addresses: &[&str], age: Duration) -> Known {
        let since = Instant::now();
        Known {
            far: Far { index: 2, netns: 0 },
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            since,
            asked: since + age,
        }
    }

    fn pause(known: &Known) -> Option<Duration> {
        known.again().map(|again| again - known.asked)
    }

    #[test]
    fn a_new_interface_without_an_address_is_asked_often_for_some_seconds_and_then_at_looks() {
        for age in [0, 1000, 4900] {
            assert_eq!(pause(&asked(&[], Duration::from_millis(age))), Some(SOON));
        }
        let old = asked(&[], SETTLING);
        assert_eq!(pause(&old), None);
        assert!(old.is_due(Occasion::Look, old.asked));
        assert!(!old.is_due(Occasion::Due, old.asked + SELDOM));
    }

    #[test]
    fn one_with_an_address_is_asked_ever_less_often_and_in_the_end_costs_no_timer() {
        let pauses = [0, 400, 3000, 5000].map(|age| {
            let pause = pause(&asked(&["10.1.0.1"], Duration::from_millis(age)));
            pause.map(|pause| pause.as_millis())
        });
        assert_eq!(pauses, [Some(50), Some(400), Some(3000), None]);
        let old = asked(&["10.1.0.1"], SETTLING);
        assert!(!old.is_due(Occasion::Look, old.asked));
        assert!(old.is_due(Occasion::Look, old.asked + SELDOM));
    }
}
