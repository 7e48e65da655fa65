//! Objects and the node to the kernel: translate, compile, lower, plan, apply, report.
//!
//! One call is one attempt. Whatever fails, the kernel keeps the image that it has; what is wrong is
//! in the [`Report`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_policy::{
    compile::{Revision, Rules, compile},
    image::{Assignment, CapacityError, Image, assign, counter_owners},
    model::{ClusterId, ObjectRef, Snapshot, ThisNode},
    plan::{Desired, Interface, Step, plan},
    problem::{Problem, ProblemKind},
};

use ipnet::IpNet;

use crate::{
    kernel::{Kernel, KernelError},
    node::NodeState,
    source::{Objects, Settings, Translated, translate},
};

/// Owns the kernel's side.
pub struct Reconciler {
    kernel: Kernel,
    settings: Settings,
    former: Option<Arc<Snapshot>>,
}

/// What one attempt did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Revision of the image in force; `None` before the first.
    pub enforced: Option<Revision>,
    /// Revision of what the objects say.
    pub wanted: Revision,
    /// Everything that is wrong with the objects.
    pub problems: Vec<Problem>,
    /// Interfaces that are guarded.
    pub guarded: Vec<Interface>,
    /// Interfaces that should be and are not, and why.
    pub unguarded: Vec<(String, String)>,
    /// Counter slot of every guarded cluster.
    pub counters: Vec<(ClusterId, u32)>,
    /// Frontends that are guarded.
    pub frontends: usize,
    /// Policies of the image.
    pub policies: usize,
    /// Steps that changed the kernel.
    pub steps: usize,
    /// From the objects to the kernel.
    pub took: Duration,
    /// Why the image was not applied.
    pub failure: Option<String>,
    /// Whether another attempt may do what this one could not.
    pub retry: bool,
}

impl Report {
    /// Whether what the objects say is enforced on every interface.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.enforced == Some(self.wanted) && self.unguarded.is_empty() && !self.retry
    }
}

impl Reconciler {
    /// Takes over what the kernel holds; `former` is the snapshot that was enforced last.
    #[must_use]
    pub fn new(kernel: Kernel, settings: Settings, former: Option<Snapshot>) -> Self {
        Self { kernel, settings, former: former.map(Arc::new) }
    }

    /// The snapshot of the image in force.
    #[must_use]
    pub fn former(&self) -> Option<&Arc<Snapshot>> {
        self.former.as_ref()
    }

    /// Makes the kernel enforce the objects on the node's interfaces.
    pub fn reconcile(
        &mut self,
        objects: &Objects,
        this_node: &ThisNode,
        node: &NodeState,
    ) -> Report {
        let begin = Instant::now();
        let former = self.former.as_deref();
        let Translated { snapshot, mut problems } =
            translate(objects, &self.settings, this_node, former);
        let (rules, conflicts) = compile(&snapshot);
        problems.extend(conflicts);
        let mut report = Report {
            wanted: rules.revision,
            frontends: rules.frontends.len(),
            policies: rules.policies.len(),
            ..Report::default()
        };
        let NodeState { addresses: _, local_ranges, interfaces, missing, unguardable } = node;
        for name in missing {
            report.unguarded.push((name.clone(), "there is no such interface".to_owned()));
        }
        for interface in unguardable {
            report.unguarded.push((interface.name.clone(), interface.to_string()));
        }
        problems.extend(local_ranges.iter().map(|range| any_ip(this_node, *range)));
        match self.apply(&rules, interfaces, &mut report) {
            Ok(()) => self.former = Some(Arc::new(snapshot)),
            Err(Refusal::Capacity(error)) => problems.push(capacity(&error)),
            Err(Refusal::Kernel(error)) => {
                report.failure = Some(chain(&error));
                report.retry = true;
            }
        }
        problems.sort();
        problems.dedup();
        report.problems = problems;
        report.took = begin.elapsed();
        report
    }

    /// Puts the rules in force. Steps on single interfaces may fail without the rest failing.
    fn apply(
        &mut self,
        rules: &Rules,
        interfaces: &[Interface],
        report: &mut Report,
    ) -> Result<(), Refusal> {
        let observed = self.kernel.observe()?;
        let in_force = observed.active.map(|bank| observed.bank(bank));
        report.enforced =
            in_force.map(|words| Revision(enforcer_policy::image::header(words).revision));
        let owners = in_force.map(counter_owners).unwrap_or_default();
        let (counters, image) = lower(rules, owners)?;
        let steps = plan(&observed, &Desired { image: &image, counters: &counters, interfaces });
        report.steps = steps.len();
        report.guarded = interfaces.to_vec();
        for step in &steps {
            match (self.kernel.apply(step, &image), step) {
                (Ok(()), _) => {}
                (Err(error), Step::Attach { interface } | Step::Replace { interface }) => {
                    report.retry |= error.is_transient();
                    report.guarded.retain(|guarded| guarded.index != interface.index);
                    report.unguarded.push((interface.name.clone(), chain(&error)));
                }
                (Err(error), Step::Detach { .. }) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "link is left behind");
                }
                (
                    Err(error),
                    Step::ResetCounters { .. } | Step::Write { .. } | Step::Activate { .. },
                ) => return Err(error.into()),
            }
        }
        report.enforced = Some(rules.revision);
        report.counters = counters.slots().map(|(cluster, slot)| (cluster.clone(), slot)).collect();
        Ok(())
    }
}

/// Why an image was not put in force.
enum Refusal {
    Capacity(CapacityError),
    Kernel(KernelError),
}

impl From<CapacityError> for Refusal {
    fn from(error: CapacityError) -> Self {
        Self::Capacity(error)
    }
}

impl From<KernelError> for Refusal {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

fn lower(rules: &Rules, owners: &[u64]) -> Result<(Assignment, Image), CapacityError> {
    let counters = assign(rules, owners)?;
    let image = Image::lower(rules, &counters)?;
    Ok((counters, image))
}

fn capacity(error: &CapacityError) -> Problem {
    Problem {
        cluster: None,
        object: ObjectRef {
            kind: "image".to_owned(),
            namespace: String::new(),
            name: "of this node".to_owned(),
        },
        file: String::new(),
        field: String::new(),
        value: String::new(),
        kind: ProblemKind::Capacity { reason: error.to_string() },
    }
}

/// nodePorts at a range that the node answers for as a whole cannot be guarded.
fn any_ip(this_node: &ThisNode, range: IpNet) -> Problem {
    Problem {
        cluster: None,
        object: ObjectRef {
            kind: "Node".to_owned(),
            namespace: String::new(),
            name: this_node.name.clone(),
        },
        file: String::new(),
        field: "local route".to_owned(),
        value: range.to_string(),
        kind: ProblemKind::NotEnforced {
            reason: "nodePorts at a range of addresses that the node answers for as a whole"
                .to_owned(),
        },
    }
}

/// An error with its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
