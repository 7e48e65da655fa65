//! The executor: observes, and makes one step at a time. It decides nothing.

use std::{net::IpAddr, path::Path, time::Duration};

use aya::programs::SchedClassifier;
use enforcer_policy::{
    image::{Image, counter_owners},
    plan::{Attachments, Bank, Hook, Interface, LinkStep, Observed, Program, Step},
};

use super::{
    Attach, CounterTable, KernelError, Layout, Pins,
    attach::Attacher,
    banks::Banks,
    features,
    load::{Loaded, Programs, load},
    told,
};
use crate::fault;

/// The maps, programs and links of this node.
pub struct Kernel {
    pins: Pins,
    banks: Banks,
    counters: CounterTable,
    programs: Programs,
    attacher: Attacher,
}

impl Kernel {
    /// Opens or creates everything below `bpffs`. Changes no verdict.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        Self::open_attaching(bpffs, Attach::Auto)
    }

    /// The same, with programs attached in this manner.
    pub fn open_attaching(bpffs: &Path, attach: Attach) -> Result<Self, KernelError> {
        Self::open_laid_out(bpffs, attach, features::layout())
    }

    /// The same, with images laid out in this manner.
    pub fn open_laid_out(
        bpffs: &Path,
        attach: Attach,
        layout: Layout,
    ) -> Result<Self, KernelError> {
        let pins = Pins::open(bpffs)?;
        let Loaded { banks, counters, programs } = load(&pins, layout)?;
        Ok(Self { pins, banks, counters, programs, attacher: Attacher::new(attach)? })
    }

    /// Reads what the kernel holds.
    pub fn observe(&mut self) -> Result<Observed<'_>, KernelError> {
        Ok(Observed {
            links: self.observe_links()?,
            active: self.banks.active(),
            banks: Bank::ALL.map(|bank| self.banks.words(bank)),
        })
    }

    /// Reads what hangs on the interfaces.
    pub fn observe_links(&mut self) -> Result<Attachments, KernelError> {
        self.attacher.observe(&self.pins, self.programs.ids())
    }

    /// Where a program of ours is not the first that packets meet, with the number of the one that is:
    /// one question to the kernel for each hook.
    pub fn out_of_place(
        &mut self,
        interfaces: &[Interface],
    ) -> Result<Vec<(u32, Hook, Option<u32>)>, KernelError> {
        self.attacher.out_of_place(interfaces, self.programs.ids())
    }

    /// Whether an image is in force.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.banks.active().is_some()
    }

    /// Makes one step; `image` is the one that the plan was made for.
    pub fn apply(&mut self, step: &Step, image: &Image) -> Result<(), KernelError> {
        match step {
            Step::ResetCounters { slot } => {
                fault::point("a counter is about to be reset");
                self.counters.reset(*slot)
            }
            Step::Write { bank, words } => {
                fault::point("words are about to be written");
                let (begin, half) = (words.start, words.start + words.len() / 2);
                for words in [begin..half, half..words.end] {
                    self.banks.words_mut(*bank)[words.clone()]
                        .copy_from_slice(&image.words()[words]);
                    fault::point("half of the words are written");
                }
                Ok(())
            }
            Step::Activate { bank } => {
                fault::point("an image is about to be in force");
                self.banks.activate(*bank)?;
                fault::point("an image is in force");
                Ok(())
            }
            Step::Link(step) => self.apply_link(step),
        }
    }

    /// Makes one step at an interface.
    pub fn apply_link(&mut self, step: &LinkStep) -> Result<(), KernelError> {
        let Self { pins, banks: _, counters: _, programs, attacher } = self;
        fault::point("a program is about to be attached, replaced or taken away");
        match step {
            LinkStep::Attach { interface, hook } => {
                attacher.attach(pins, programs.of(interface.program(*hook))?, interface, *hook)
            }
            LinkStep::Replace { interface, hook } => {
                attacher.replace(pins, programs.of(interface.program(*hook))?, interface, *hook)
            }
            LinkStep::Retake { interface, hook } => {
                attacher.retake(pins, programs, interface, *hook)
            }
            LinkStep::Detach { index, hook } => attacher.detach(pins, *index, *hook),
        }
    }

    /// Takes away what an agent with another [`Attach`] or of another ABI left; to be called when
    /// everything is attached in this one's manner.
    pub fn retire_others(&mut self) -> Result<(), KernelError> {
        fault::point("what others left is about to go");
        self.attacher.retire_other(&self.pins)?;
        self.pins.retire_other_versions()
    }

    /// Whom gated pods asked for names within the last time of this length, each with the word that
    /// names the cluster's egress in the image in force.
    pub fn asked(&self, within: Duration) -> Result<Vec<(u64, IpAddr)>, KernelError> {
        let Some(bank) = self.banks.active() else { return Ok(Vec::new()) };
        let owners = counter_owners(self.banks.words(bank));
        let owner = |slot: u32| owners.get(slot as usize).copied();
        let asked = told::asked(&self.pins, within)?.into_iter();
        Ok(asked.filter_map(|(slot, resolver)| Some((owner(slot)?, resolver))).collect())
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &CounterTable {
        &self.counters
    }

    /// Where a program is pinned.
    #[must_use]
    pub fn pin(&self, program: Program) -> std::path::PathBuf {
        self.pins.program(program)
    }

    /// A program, for `test_run`.
    pub fn program(&mut self, program: Program) -> Result<&SchedClassifier, KernelError> {
        self.programs.of(program).map(|program| &*program)
    }
}
