//! The manner in which programs hang on interfaces: links of TCX, or filters of clsact.
//!
//! Input: steps at one hook of one interface. Output: what hangs there, read from the kernel.
//! Invariant: whatever was attached stays when the agent ends, is first in line, and is replaced
//! without a packet going unseen.

use std::collections::BTreeMap;

use aya::programs::SchedClassifier;
use enforcer_policy::plan::{Attachments, Hook, Interface, Program};

use super::{
    KernelError, Pins,
    clsact::{self, Filters},
    features,
    load::Programs,
    tcx,
};

/// `--attach`: in which manner programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Attach {
    /// TCX where the kernel has it, clsact elsewhere.
    #[default]
    Auto,
    /// Links of TCX (Linux 6.6).
    Tcx,
    /// Filters of a clsact queueing discipline.
    Clsact,
}

/// The manner in use.
pub(super) enum Attacher {
    Tcx,
    Clsact(Filters),
}

/// Numbers of this agent's programs, as the kernel shows them on interfaces.
pub(super) type ProgramIds = BTreeMap<u32, Program>;

impl Attacher {
    pub(super) fn new(attach: Attach) -> Result<Self, KernelError> {
        let tcx = match attach {
            Attach::Auto => tcx::is_supported(),
            Attach::Tcx if !tcx::is_supported() => return Err(features::no_tcx()),
            Attach::Tcx => true,
            Attach::Clsact => false,
        };
        Ok(if tcx { Self::Tcx } else { Self::Clsact(Filters::open()?) })
    }

    /// What hangs on the interfaces in this manner.
    pub(super) fn observe(
        &mut self,
        pins: &Pins,
        current: &ProgramIds,
    ) -> Result<Attachments, KernelError> {
        match self {
            Self::Tcx => tcx::observe(pins, current),
            Self::Clsact(filters) => filters.observe(current),
        }
    }

    pub(super) fn attach(
        &mut self,
        pins: &Pins,
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        match self {
            Self::Tcx => tcx::attach(pins, program, interface, hook),
            Self::Clsact(filters) => filters.attach(program, interface, hook),
        }
    }

    pub(super) fn replace(
        &mut self,
        pins: &Pins,
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        match self {
            Self::Tcx => tcx::replace(pins, program, interface, hook),
            Self::Clsact(filters) => filters.replace(program, interface, hook),
        }
    }

    /// Hangs a program first, before the one of ours that hangs there; then that one goes.
    pub(super) fn retake(
        &mut self,
        pins: &Pins,
        programs: &mut Programs,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let program = interface.program(hook);
        match self {
            Self::Tcx => {
                let hangs = |id| tcx::hangs(id, interface, hook);
                let spare = programs.spare(pins, program, hangs)?;
                tcx::attach(pins, spare, interface, hook)
            }
            Self::Clsact(filters) => filters.retake(programs.of(program)?, interface, hook),
        }
    }

    /// Where a program of ours is not the first that packets meet; with the number of the one that is.
    pub(super) fn out_of_place(
        &mut self,
        interfaces: &[Interface],
        current: &ProgramIds,
    ) -> Result<Vec<(u32, Hook, Option<u32>)>, KernelError> {
        let mut found = Vec::new();
        for interface in interfaces {
            for hook in Hook::ALL {
                let first = match self {
                    Self::Tcx => tcx::is_first(interface, hook, current),
                    Self::Clsact(filters) => filters.is_first(interface, hook, current)?,
                };
                found.extend(first.err().map(|other| (interface.index, hook, other)));
            }
        }
        Ok(found)
    }

    pub(super) fn detach(
        &mut self,
        pins: &Pins,
        index: u32,
        hook: Hook,
    ) -> Result<(), KernelError> {
        match self {
            Self::Tcx => tcx::detach(pins, index, hook),
            Self::Clsact(filters) => filters.detach(index, hook),
        }
    }

    /// Takes away what an agent with another `--attach` left, which would judge packets twice.
    pub(super) fn retire_other(&mut self, pins: &Pins) -> Result<(), KernelError> {
        match self {
            Self::Tcx => clsact::clean().map(drop),
            Self::Clsact(_) => pins
                .links()?
                .into_iter()
                .try_for_each(|(index, hook)| tcx::detach(pins, index, hook)),
        }
    }
}
