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

use super::Report;
use crate::{
    chain::chain,
    kernel::{Kernel, KernelError},
    node::NodeState,
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
    /// What an agent with another `--attach` left is gone.
    alone: bool,
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

    /// Takes a plan that was made for the interfaces of `node`.
    pub(super) fn begin(&mut self, steps: Vec<LinkStep>, node: &NodeState) {
        let missing = node.missing.iter();
        let missing = missing.map(|name| (name.clone(), "there is no such interface".to_owned()));
        let unguardable = node.unguardable.iter();
        let unguardable = unguardable.map(|one| (one.name.clone(), one.to_string()));
        *self = Self {
            wanted: node.interfaces.clone(),
            absent: missing.chain(unguardable).collect(),
            open: steps.into(),
            failed: BTreeMap::new(),
            gone: BTreeSet::new(),
            retry: false,
            alone: self.alone,
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
                    LinkStep::Attach { interface, .. } | LinkStep::Replace { interface, .. },
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
            match kernel.retire_other_manner() {
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
        let Self { wanted, absent, open, failed, gone, retry, alone: _ } = self;
        let awaited: BTreeSet<u32> = open
            .iter()
            .filter_map(|step| match step {
                LinkStep::Attach { interface, .. } | LinkStep::Replace { interface, .. } => {
                    Some(interface.index)
                }
                LinkStep::Detach { .. } => None,
            })
            .chain(gone.iter().copied())
            .collect();
        let (attaching, settled): (Vec<_>, Vec<_>) =
            wanted.iter().cloned().partition(|interface| awaited.contains(&interface.index));
        report.attaching = attaching;
        report.guarded = settled;
        report.guarded.retain(|interface| !failed.contains_key(&interface.index));
        report.unguarded = absent.iter().chain(failed.values()).cloned().collect();
        report.retry = *retry || report.failure.is_some();
    }
}
