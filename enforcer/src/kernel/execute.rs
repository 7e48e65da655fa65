//! The executor: observes, and makes one step at a time. It decides nothing.

use std::path::Path;

use aya::programs::SchedClassifier;
use enforcer_policy::{
    image::Image,
    plan::{Attachments, Bank, LinkStep, Observed, Program, Step},
};

use super::{
    Attach, CounterTable, KernelError, Pins,
    attach::Attacher,
    banks::Banks,
    load::{Loaded, Programs, load},
};

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
        let pins = Pins::open(bpffs)?;
        let Loaded { banks, counters, programs } = load(&pins)?;
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
        let current = self.programs.ids()?;
        self.attacher.observe(&self.pins, &current)
    }

    /// Makes one step; `image` is the one that the plan was made for.
    pub fn apply(&mut self, step: &Step, image: &Image) -> Result<(), KernelError> {
        match step {
            Step::ResetCounters { slot } => self.counters.reset(*slot),
            Step::Write { bank, words } => {
                self.banks.words_mut(*bank)[words.clone()]
                    .copy_from_slice(&image.words()[words.clone()]);
                Ok(())
            }
            Step::Activate { bank } => self.banks.activate(*bank),
            Step::Link(step) => self.apply_link(step),
        }
    }

    /// Makes one step at an interface.
    pub fn apply_link(&mut self, step: &LinkStep) -> Result<(), KernelError> {
        let Self { pins, banks: _, counters: _, programs, attacher } = self;
        match step {
            LinkStep::Attach { interface, hook } => {
                attacher.attach(pins, programs.of(interface.program(*hook))?, interface, *hook)
            }
            LinkStep::Replace { interface, hook } => {
                attacher.replace(pins, programs.of(interface.program(*hook))?, interface, *hook)
            }
            LinkStep::Detach { index, hook } => attacher.detach(pins, *index, *hook),
        }
    }

    /// Takes away what an agent with another [`Attach`] left; to be called when everything is
    /// attached in this one's manner.
    pub fn retire_other_manner(&mut self) -> Result<(), KernelError> {
        self.attacher.retire_other(&self.pins)
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
