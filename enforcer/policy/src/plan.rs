//! From what the kernel holds to what it shall hold: ordered [`Step`]s, as data.
//!
//! Input: an [`Observed`] state, read from maps and links as they are, and the [`Desired`] one.
//! Output: steps for an executor that decides nothing. Order is the invariant: an image is complete
//! before it is in force, and in force before the first packet can meet it; what is taken away goes
//! last. After any prefix of the steps, verdicts are those of the old or of the new image.

use std::{collections::BTreeMap, ops::Range};

use crate::{image::Assignment, model::Side};

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
    /// Which way it faces.
    pub side: Side,
}

impl Interface {
    /// The program that belongs on a hook of this interface.
    #[must_use]
    pub const fn program(&self, hook: Hook) -> Program {
        match hook {
            Hook::Ingress => Program::Ingress { side: self.side, link: self.link },
            Hook::Egress => Program::Egress { link: self.link },
        }
    }
}

/// Where packets of an interface begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkLayer {
    /// At an Ethernet header.
    Ethernet,
    /// At the network header.
    Raw,
}

/// Where on an interface a program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Where packets come in.
    Ingress,
    /// Where packets go out.
    Egress,
}

impl Hook {
    /// Both, in the order in which they are attached: what judges before what only records.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// A program of the BPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Judges what comes in.
    Ingress {
        /// Which way the interface faces.
        side: Side,
        /// Where its packets begin.
        link: LinkLayer,
    },
    /// Records connections that the node opens; drops nothing.
    Egress {
        /// Where its packets begin.
        link: LinkLayer,
    },
    /// Says what would become of a packet, never attached.
    Explain(Explain),
}

/// What an explaining program explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Explain {
    /// What comes in.
    Ingress(Side),
    /// What a gated pod sends.
    Leaving,
}

impl Program {
    /// Every program.
    pub const ALL: [Self; 9] = [
        Self::Ingress { side: Side::Uplink, link: LinkLayer::Ethernet },
        Self::Ingress { side: Side::Uplink, link: LinkLayer::Raw },
        Self::Ingress { side: Side::Pod, link: LinkLayer::Ethernet },
        Self::Ingress { side: Side::Pod, link: LinkLayer::Raw },
        Self::Egress { link: LinkLayer::Ethernet },
        Self::Egress { link: LinkLayer::Raw },
        Self::Explain(Explain::Ingress(Side::Uplink)),
        Self::Explain(Explain::Ingress(Side::Pod)),
        Self::Explain(Explain::Leaving),
    ];

    /// Its name in the BPF object.
    #[must_use]
    pub const fn name(self) -> &'static str {
        use LinkLayer::{Ethernet, Raw};
        match self {
            Self::Ingress { side: Side::Uplink, link: Ethernet } => "ingress_uplink_ethernet",
            Self::Ingress { side: Side::Uplink, link: Raw } => "ingress_uplink_raw",
            Self::Ingress { side: Side::Pod, link: Ethernet } => "ingress_pod_ethernet",
            Self::Ingress { side: Side::Pod, link: Raw } => "ingress_pod_raw",
            Self::Egress { link: Ethernet } => "egress_ethernet",
            Self::Egress { link: Raw } => "egress_raw",
            Self::Explain(Explain::Ingress(Side::Uplink)) => "explain_uplink",
            Self::Explain(Explain::Ingress(Side::Pod)) => "explain_pod",
            Self::Explain(Explain::Leaving) => "explain_egress",
        }
    }
}

/// How a program hangs on a hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// One of this agent.
    Current {
        /// Which one.
        program: Program,
    },
    /// A program of an earlier agent: it enforces, and is to be replaced in place.
    Former,
    /// One that enforces, behind another's program, which may let packets through before it.
    Displaced,
    /// A pinned link whose interface is gone; its number may belong to another one by now.
    Dangling,
}

/// What hangs where, by interface number and hook.
pub type Attachments = BTreeMap<(u32, Hook), Attachment>;

/// What the kernel holds.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// Bank in force; `None` before the first image.
    pub active: Option<Bank>,
    /// Words of both banks.
    pub banks: [&'a [u64]; 2],
    /// What hangs on the interfaces.
    pub links: Attachments,
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
    /// All words of the image.
    pub words: &'a [u64],
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
    /// A change at an interface.
    Link(LinkStep),
}

/// A change at one hook of one interface. Those of different interfaces do not depend on each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// Attach the program, first in its chain, so that it stays when the agent ends.
    Attach {
        /// The interface.
        interface: Interface,
        /// The hook.
        hook: Hook,
    },
    /// Replace the program that hangs there in place.
    Replace {
        /// The interface.
        interface: Interface,
        /// The hook.
        hook: Hook,
    },
    /// Attach the program once more, first in its chain, then take away the one that hangs there.
    Retake {
        /// The interface.
        interface: Interface,
        /// The hook.
        hook: Hook,
    },
    /// Take away what hangs there, where the interface still is.
    Detach {
        /// Interface number.
        index: u32,
        /// The hook.
        hook: Hook,
    },
}

/// Words that are compared and written as one: a memory page.
const PAGE_WORDS: usize = 512;

/// Plans the way from the observed to the desired state.
#[must_use]
pub fn plan(observed: &Observed<'_>, desired: &Desired<'_>) -> Vec<Step> {
    let Desired { words: image, counters, interfaces } = *desired;
    let mut steps = Vec::new();
    let in_force = observed.active.map(|bank| observed.bank(bank));
    if in_force != Some(image) {
        let spare = observed.active.map_or(Bank::A, Bank::other);
        steps.extend(counters.fresh.iter().map(|slot| Step::ResetCounters { slot: *slot }));
        steps.extend(
            differing(observed.bank(spare), image)
                .into_iter()
                .map(|words| Step::Write { bank: spare, words }),
        );
        steps.push(Step::Activate { bank: spare });
    }
    steps.extend(plan_links(&observed.links, interfaces).into_iter().map(Step::Link));
    steps
}

/// Plans the way from what hangs on the interfaces to what shall hang there, for the image in force.
#[must_use]
pub fn plan_links(observed: &Attachments, interfaces: &[Interface]) -> Vec<LinkStep> {
    let (mut attach, mut replace, mut detach) = (Vec::new(), Vec::new(), Vec::new());
    for (interface, hook) in by_urgency(interfaces) {
        let place = (interface.index, hook);
        let interface = interface.clone();
        match observed.get(&place) {
            None => attach.push(LinkStep::Attach { interface, hook }),
            Some(Attachment::Current { program }) if *program == interface.program(hook) => {}
            Some(Attachment::Current { .. } | Attachment::Former) => {
                replace.push(LinkStep::Replace { interface, hook });
            }
            Some(Attachment::Displaced) => replace.push(LinkStep::Retake { interface, hook }),
            Some(Attachment::Dangling) => {
                // The number was given to a new interface: the old pin stands in its way.
                attach.push(LinkStep::Detach { index: place.0, hook });
                attach.push(LinkStep::Attach { interface, hook });
            }
        }
    }
    for (index, hook) in observed.keys() {
        if !interfaces.iter().any(|interface| interface.index == *index) {
            detach.push(LinkStep::Detach { index: *index, hook: *hook });
        }
    }
    // Replacing first: a former program may know less than the image now in force.
    replace.into_iter().chain(attach).chain(detach).collect()
}

/// Every hook of every interface, those that strangers come through first: attaching takes the
/// kernel milliseconds each, and pods come in crowds.
fn by_urgency(interfaces: &[Interface]) -> Vec<(&Interface, Hook)> {
    let mut places: Vec<_> =
        interfaces.iter().flat_map(|interface| Hook::ALL.map(|hook| (interface, hook))).collect();
    places.sort_by_key(|(interface, hook)| (interface.side, *hook));
    places
}

/// Pages in which the words differ, neighbours joined.
fn differing(observed: &[u64], desired: &[u64]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for begin in (0..desired.len()).step_by(PAGE_WORDS) {
        let page = begin..desired.len().min(begin + PAGE_WORDS);
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

#[cfg(test)]
mod tests;
