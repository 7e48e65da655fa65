//! The executor: observes, and makes one step at a time. It decides nothing.

use std::{collections::BTreeMap, path::Path};

use aya::programs::SchedClassifier;
use enforcer_policy::{
    image::Image,
    plan::{Bank, LinkLayer, Observed, Step},
};

use super::{
    CounterTable, KernelError, Pins,
    banks::Banks,
    links,
    load::{Loaded, Programs, load},
};

/// The maps, programs and links of this node.
pub struct Kernel {
    pins: Pins,
    banks: Banks,
    counters: CounterTable,
    programs: Programs,
}

impl Kernel {
    /// Opens or creates everything below `bpffs`. Changes no verdict.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let pins = Pins::open(bpffs)?;
        let Loaded { banks, counters, programs } = load(&pins)?;
        Ok(Self { pins, banks, counters, programs })
    }

    /// Reads what the kernel holds.
    pub fn observe(&mut self) -> Result<Observed<'_>, KernelError> {
        let mut current = Vec::new();
        for link in [LinkLayer::Ethernet, LinkLayer::Raw] {
            let info = self.programs.of(link)?.info();
            let info = info.map_err(|source| KernelError::Program {
                action: "read",
                name: format!("{link:?}"),
                source: Box::new(source),
            })?;
            current.push(info.id());
        }
        let mut links = BTreeMap::new();
        for index in self.pins.linked_interfaces()? {
            links.insert(index, links::observe(&self.pins, index, &current)?);
        }
        Ok(Observed {
            active: self.banks.active(),
            banks: Bank::ALL.map(|bank| self.banks.words(bank)),
            links,
        })
    }

    /// Makes one step; `image` is the one that the plan was made for.
    pub fn apply(&mut self, step: &Step, image: &Image) -> Result<(), KernelError> {
        let Self { pins, banks, counters, programs } = self;
        match step {
            Step::ResetCounters { slot } => counters.reset(*slot),
            Step::Write { bank, words } => {
                banks.words_mut(*bank)[words.clone()]
                    .copy_from_slice(&image.words()[words.clone()]);
                Ok(())
            }
            Step::Activate { bank } => banks.activate(*bank),
            Step::Attach { interface } => {
                links::attach(pins, programs.of(interface.link)?, interface)
            }
            Step::Replace { interface } => {
                links::replace(pins, programs.of(interface.link)?, interface)
            }
            Step::Detach { index } => links::unpin(pins, *index),
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &CounterTable {
        &self.counters
    }

    /// The program for a kind of link, for `test_run`.
    pub fn program(&mut self, link: LinkLayer) -> Result<&SchedClassifier, KernelError> {
        self.programs.of(link).map(|program| &*program)
    }
}
