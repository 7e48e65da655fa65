//! Others who take our programs' places, and how often we take them back.
//!
//! Input: interfaces at which a look found no program of ours in the first place, and a clock. Output:
//! whose places are taken back now, and what is said of the others. Invariant: the first times at once,
//! then ever more rarely, so that two agents with the same wish do not fight for ever.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use enforcer_policy::plan::Interface;

/// So often a place is taken back at once.
const AT_ONCE: u32 = 3;

/// The longest wait between two times.
const LONGEST: Duration = Duration::from_secs(60);

/// After so long without trouble the past is forgotten.
const CALM: Duration = Duration::from_secs(300);

/// What is known of the others.
#[derive(Debug, Default)]
pub(super) struct Company {
    places: BTreeMap<u32, Trouble>,
    /// Places taken back, ever.
    retaken: u64,
}

#[derive(Debug)]
struct Trouble {
    times: u32,
    last: Instant,
    /// Not before.
    next: Instant,
    /// What is said while it is left to the others.
    left: Option<(String, String)>,
}

impl Company {
    /// Takes note of an interface at which another program, `first`, or none comes first.
    pub(super) fn disturbs(&mut self, interface: &Interface, first: Option<u32>, now: Instant) {
        let Interface { index, name, .. } = interface;
        let fresh = || Trouble { times: 0, last: now, next: now, left: None };
        let trouble = self.places.entry(*index).or_insert_with(fresh);
        if now.duration_since(trouble.last) > CALM {
            *trouble = fresh();
        }
        let who = match first {
            Some(program) => format!("program {program} (bpftool prog show id {program})"),
            None => "somebody".to_owned(),
        };
        if now < trouble.next {
            trouble.left = Some((
                name.clone(),
                format!(
                    "{who} took our program's place {} times, we take it back every {} s: have it \
                     attach behind ours, or remove it",
                    trouble.times + 1,
                    wait(trouble.times).as_secs(),
                ),
            ));
            return;
        }
        trouble.times += 1;
        trouble.last = now;
        trouble.next = now + wait(trouble.times);
        trouble.left = None;
        self.retaken += 1;
        tracing::warn!(
            interface = name,
            "{who} took our program's place; it is taken back ({} times so far)",
            trouble.times
        );
    }

    /// Nobody but these is in our way any more.
    pub(super) fn only(&mut self, disturbed: impl Fn(u32) -> bool) {
        for (index, trouble) in &mut self.places {
            if !disturbed(*index) {
                trouble.left = None;
            }
        }
        // The number of an interface that is gone may come again; it begins anew after a while.
        self.places.retain(|_, trouble| trouble.last.elapsed() <= CALM || trouble.left.is_some());
    }

    /// Whether a place is left to others for now.
    pub(super) fn leaves(&self, index: u32) -> bool {
        self.places.get(&index).is_some_and(|trouble| trouble.left.is_some())
    }

    /// Interfaces left to others for now, and why.
    pub(super) fn left(&self) -> impl Iterator<Item = &(String, String)> {
        self.places.values().filter_map(|trouble| trouble.left.as_ref())
    }

    /// How often a place was taken back.
    pub(super) fn retaken(&self) -> u64 {
        self.retaken
    }
}

fn wait(times: u32) -> Duration {
    match times.checked_sub(AT_ONCE) {
        None => Duration::ZERO,
        Some(more) => LONGEST.min(Duration::from_secs(1 << more.min(6))),
    }
}

#[cfg(test)]
mod tests {
    use enforcer_policy::{model::Side, plan::LinkLayer};

    use super::*;

    #[test]
    fn a_place_is_taken_back_at_once_three_times_and_then_ever_more_rarely() {
        let interface = Interface {
            index: 2,
            name: "eth0".to_owned(),
            link: LinkLayer::Ethernet,
            side: Side::Uplink,
        };
        let (mut company, begin) = (Company::default(), Instant::now());
        let mut taken_at = Vec::new();
        for half in 0..120_u32 {
            let before = company.retaken();
            company.disturbs(&interface, Some(7), begin + Duration::from_millis(500) * half);
            if company.retaken() > before {
                taken_at.push(half / 2);
                assert!(!company.leaves(2));
            } else {
                let (name, why) = company.left().next().unwrap();
                assert!(name == "eth0" && why.contains("program 7"), "{why}");
            }
        }
        assert_eq!(taken_at, [0, 0, 1, 2, 4, 8, 16, 32]);
        company.only(|_| false);
        assert!(!company.leaves(2));
        company.disturbs(&interface, None, begin + CALM * 2);
        assert_eq!(company.retaken(), 9);
    }
}
