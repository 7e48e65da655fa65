//! From what the kernel holds to what it shall hold: ordered [`Step`]s, as data.
//!
//! Input: an [`Observed`] state, read from maps and links as they are, and the [`Desired`] one.
//! Output: steps for an executor that decides nothing. Order is the invariant: an image is complete
//! before it is in force, and in force before the first packet can meet it; what is taken away goes
//! last. After any prefix of the steps, verdicts are those of the old or of the new image.

use std::{collections::BTreeMap, ops::Range};

use crate::image::{Assignment, IMAGE_WORDS, Image};

/// The two maps that hold images: one in force, one to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bank {
    /// The first.
    A,
    /// The second.
    B,
}

impl Bank {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The one that is not this one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// An interface of the node, by the number that stays when it is renamed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Interface number.
    pub index: u32,
    /// Its name at the moment, for people.
    pub name: String,
    /// Where its packets begin.
    pub link: LinkLayer,
}

/// Where packets of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkLayer {
    /// At an Ethernet header.
    Ethernet,
    /// At the network header.
    Raw,
}

/// How the program hangs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The program of this agent, first in its chain.
    Current,
    /// A program of an earlier agent: it enforces, and is to be replaced in place.
    Former,
    /// The link is there but its interface is gone.
    Dangling,
}

/// What the kernel holds.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// Bank in force; `None` before the first image.
    pub active: Option<Bank>,
    /// Words of both banks.
    pub banks: [&'a [u64]; 2],
    /// Pinned links by interface number.
    pub links: BTreeMap<u32, Attachment>,
}

impl Observed<'_> {
    /// Words of a bank.
    #[must_use]
    pub fn bank(&self, bank: Bank) -> &[u64] {
        match bank {
            Bank::A => self.banks[0],
            Bank::B => self.banks[1],
        }
    }
}

/// What it shall hold.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// The image.
    pub image: &'a Image,
    /// Counter slots of the image.
    pub counters: &'a Assignment,
    /// Interfaces to guard.
    pub interfaces: &'a [Interface],
}

/// One change that the executor makes or reports as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Zero a counter slot that gets another cluster.
    ResetCounters {
        /// The slot.
        slot: u32,
    },
    /// Copy these words of the desired image into the bank that is not in force.
    Write {
        /// The bank.
        bank: Bank,
        /// Words from the image's begin.
        words: Range<usize>,
    },
    /// Put the bank in force, and wait until no packet is judged by the former one.
    Activate {
        /// The bank.
        bank: Bank,
    },
    /// Attach the program, first in its chain, and pin the link.
    Attach {
        /// The interface.
        interface: Interface,
    },
    /// Replace the program of a pinned link in place.
    Replace {
        /// The interface.
        interface: Interface,
    },
    /// Unpin a link: detaches where the interface still is.
    Detach {
        /// Interface number.
        index: u32,
    },
}

/// Words that are compared and written as one: a memory page.
const PAGE_WORDS: usize = 512;

/// Plans the way from the observed to the desired state.
#[must_use]
pub fn plan(observed: &Observed<'_>, desired: &Desired<'_>) -> Vec<Step> {
    let Desired { image, counters, interfaces } = *desired;
    let mut steps = Vec::new();
    let in_force = observed.active.map(|bank| observed.bank(bank));
    if in_force != Some(image.words()) {
        let spare = observed.active.map_or(Bank::A, Bank::other);
        steps.extend(counters.fresh.iter().map(|slot| Step::ResetCounters { slot: *slot }));
        steps.extend(
            differing(observed.bank(spare), image.words())
                .into_iter()
                .map(|words| Step::Write { bank: spare, words }),
        );
        steps.push(Step::Activate { bank: spare });
    }
    let (mut attach, mut replace, mut detach) = (Vec::new(), Vec::new(), Vec::new());
    for interface in interfaces {
        let interface = interface.clone();
        match observed.links.get(&interface.index) {
            None => attach.push(Step::Attach { interface }),
            Some(Attachment::Former) => replace.push(Step::Replace { interface }),
            Some(Attachment::Current) => {}
            Some(Attachment::Dangling) => {
                // The number was given to a new interface: the old pin stands in its way.
                attach.push(Step::Detach { index: interface.index });
                attach.push(Step::Attach { interface });
            }
        }
    }
    for index in observed.links.keys() {
        if !interfaces.iter().any(|interface| interface.index == *index) {
            detach.push(Step::Detach { index: *index });
        }
    }
    // Replacing first: a former program may know less than the image now in force.
    steps.extend(replace.into_iter().chain(attach).chain(detach));
    steps
}

/// Pages in which the words differ, neighbours joined.
fn differing(observed: &[u64], desired: &[u64]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for begin in (0..IMAGE_WORDS).step_by(PAGE_WORDS) {
        let page = begin..begin + PAGE_WORDS;
        if observed.get(page.clone()) == desired.get(page.clone()) {
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => ranges.push(page),
        }
    }
    ranges
}
