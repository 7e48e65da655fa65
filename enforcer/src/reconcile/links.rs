//! The way from the interfaces there are to programs on all of them, a little at a time.
//!
//! Attaching one program takes the kernel some milliseconds (it waits until no packet is under way),
//! and pods come in crowds: a changed image must not wait for all of them. So the steps are made in
//! slices, and dropped for a new plan whenever the node has changed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use enforcer_policy::plan::{Interface, LinkStep, plan_links};

use super::{Report, company::Company};
use crate::{
    chain::chain,
    kernel::{Kernel, KernelError},
    node::{NodeState, Preemption, Unguardable, UnguardableReason},
};

/// After this time no further step is begun.
const SLICE: Duration = Duration::from_millis(10);

/// What is to do, and what was tried in vain.
#[derive(Default)]
pub(super) struct Links {
    wanted: Vec<Interface>,
    /// Selected, but not to be had.
    absent: Vec<(String, String)>,
    open: VecDeque<LinkStep>,
    failed: BTreeMap<u32, (String, String)>,
    /// Went away or changed before their turn: the node will say what became of them.
    gone: BTreeSet<u32>,
    retry: bool,
    /// What an agent with another `--attach` or ABI left is gone.
    alone: bool,
    company: Company,
    tolerated: BTreeSet<Preemption>,
}

impl Links {
    /// Looks at the interfaces and plans anew.
    pub(super) fn plan(
        &mut self,
        kernel: &mut Kernel,
        node: &NodeState,
    ) -> Result<(), KernelError> {
        let steps = plan_links(&kernel.observe_links()?, &node.interfaces);
        self.begin(steps, node);
        Ok(())
    }

    /// Takes note of what the operator puts up with.
    pub(super) fn tolerate(&mut self, tolerated: BTreeSet<Preemption>) {
        self.tolerated = tolerated;
    }

    /// Looks whether others have taken our programs' places; whether there is something to tell or do.
    pub(super) fn look(
        &mut self,
        kernel: &mut Kernel,
        node: &NodeState,
    ) -> Result<bool, KernelError> {
        if !self.open.is_empty() || self.wanted != node.interfaces {
            return Ok(false);
        }
        let mut settled = self.wanted.clone();
        settled.retain(|it| !self.failed.contains_key(&it.index) && !self.gone.contains(&it.index));
        let found = kernel.out_of_place(&settled)?;
        let was_left = self.company.left().count();
        self.company.only(|index| found.iter().any(|(disturbed, ..)| *disturbed == index));
        if found.is_empty() {
            return Ok(was_left > 0);
        }
        let now = Instant::now();
        for interface in &settled {
            let first = found.iter().find(|(index, ..)| *index == interface.index);
            if let Some((_, _, first)) = first {
                self.company.disturbs(interface, *first, now);
            }
        }
        self.plan(kernel, node)?;
        Ok(true)
    }

    /// Takes a plan that was made for the interfaces of `node`.
    pub(super) fn begin(&mut self, steps: Vec<LinkStep>, node: &NodeState) {
        let missing = node.missing.iter();
        let missing = missing.map(|name| (name.clone(), "there is no such interface".to_owned()));
        let unguardable = node.unguardable.iter();
        let tolerated = |one: &&Unguardable| match one.reason {
            UnguardableReason::Preempted(by) => self.tolerated.contains(&by),
            UnguardableReason::LinkLayer { .. } => false,
        };
        let unguardable = unguardable.filter(|one| !tolerated(one));
        let unguardable = unguardable.map(|one| (one.name.clone(), one.to_string()));
        let mut company = std::mem::take(&mut self.company);
        // Its number may be given to another one.
        company.only(|index| node.interfaces.iter().any(|interface| interface.index == index));
        let left = |step: &LinkStep| match step {
            LinkStep::Attach { interface, .. }
            | LinkStep::Replace { interface, .. }
            | LinkStep::Retake { interface, .. } => company.leaves(interface.index),
            LinkStep::Detach { .. } => false,
        };
        let steps: VecDeque<_> = steps.into_iter().filter(|step| !left(step)).collect();
        *self = Self {
            wanted: node.interfaces.clone(),
            absent: missing.chain(unguardable).collect(),
            open: steps,
            failed: BTreeMap::new(),
            gone: BTreeSet::new(),
            retry: false,
            alone: self.alone,
            company,
            tolerated: std::mem::take(&mut self.tolerated),
        };
    }

    /// Makes the next steps, for about [`SLICE`]. One that fails does not keep the others.
    pub(super) fn proceed(&mut self, kernel: &mut Kernel) {
        let begin = Instant::now();
        while begin.elapsed() < SLICE
            && let Some(step) = self.open.pop_front()
        {
            match (kernel.apply_link(&step), step) {
                (Ok(()), _) => {}
                (
                    Err(error),
                    LinkStep::Attach { interface, .. }
                    | LinkStep::Replace { interface, .. }
                    | LinkStep::Retake { interface, .. },
                ) => {
                    self.retry |= error.is_transient();
                    if let KernelError::InterfaceGone { .. } = error {
                        self.gone.insert(interface.index);
                    } else {
                        self.failed.insert(interface.index, (interface.name, chain(&error)));
                    }
                }
                (Err(error), LinkStep::Detach { .. }) => {
                    tracing::warn!(error = chain(&error), "link is left behind");
                }
            }
        }
        // Not before: what the other one left may be all that guards an interface.
        if !self.alone && self.open.is_empty() && self.failed.is_empty() && self.gone.is_empty() {
            match kernel.retire_others() {
                Ok(()) => self.alone = true,
                Err(error) => {
                    self.retry = true;
                    tracing::warn!(error = chain(&error), "link is left behind");
                }
            }
        }
    }

    /// Whether steps are left.
    pub(super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Says in a report how far it is.
    pub(super) fn tell(&self, report: &mut Report) {
        let Self { wanted, absent, open, failed, gone, retry, alone: _, company, tolerated: _ } =
            self;
        let awaited: BTreeSet<u32> = open
            .iter()
            .filter_map(|step| match step {
                LinkStep::Attach { interface, .. }
                | LinkStep::Replace { interface, .. }
                | LinkStep::Retake { interface, .. } => Some(interface.index),
                LinkStep::Detach { .. } => None,
            })
            .chain(gone.iter().copied())
            .collect();
        let (attaching, settled): (Vec<_>, Vec<_>) =
            wanted.iter().cloned().partition(|interface| awaited.contains(&interface.index));
        report.attaching = attaching;
        report.guarded = settled;
        let unguarded = absent.iter().chain(failed.values()).chain(company.left());
        report.unguarded = unguarded.cloned().collect();
        report.guarded.retain(|it| !report.unguarded.iter().any(|(name, _)| *name == it.name));
        report.retaken = company.retaken();
        report.contested = company.left().count();
        report.retry = *retry || report.failure.is_some();
    }
}
