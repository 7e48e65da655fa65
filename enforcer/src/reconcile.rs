//! Objects and the node to the kernel: translate, compile, lower, plan, apply, report.
//!
//! One call is one attempt. Whatever fails, the kernel keeps the image that it has; what is wrong is
//! in the [`Report`]. Images first: programs are attached afterwards, in slices ([`links`]).

mod company;
mod links;
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_policy::{
    changes::{Change, changes},
    compile::{Compiler, Revision, Rules},
    image::{Assignment, CapacityError, Counted, Image, assign, counter_owners},
    model::{ClusterId, Mode, ObjectRef, Snapshot, ThisNode},
    plan::{Desired, Interface, LinkStep, Step, plan},
    problem::{self, Problem, ProblemKind},
};

use ipnet::IpNet;

use self::links::Links;
use crate::{
    chain::chain,
    kernel::{Kernel, KernelError},
    node::{NodeState, Preemption},
    source::{EgressDns, Learned, Objects, Settings, Translated, Translator},
};

/// Who was not asked for this long is not asked any more.
const ASKED_LATELY: Duration = Duration::from_secs(3600);

/// Owns the kernel's side.
pub struct Reconciler {
    kernel: Kernel,
    settings: Settings,
    translator: Translator,
    compiler: Compiler,
    former: Option<Arc<Snapshot>>,
    learned: Learned,
    names: BTreeSet<String>,
    links: Links,
    report: Report,
}

/// What one attempt did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Revision of the image in force; `None` before the first.
    pub enforced: Option<Revision>,
    /// Revision of what the objects say.
    pub wanted: Revision,
    /// Whether what nothing admits is counted and let through.
    pub audits: bool,
    /// Everything that is wrong with the objects.
    pub problems: Vec<Problem>,
    /// Interfaces that are guarded.
    pub guarded: Vec<Interface>,
    /// Interfaces whose turn has not come yet.
    pub attaching: Vec<Interface>,
    /// Interfaces that should be and are not, and why.
    pub unguarded: Vec<(String, String)>,
    /// How often a program's place was taken back from others.
    pub retaken: u64,
    /// Interfaces whose places are left to others for now, those among the unguarded ones.
    pub contested: usize,
    /// For how long after its start the agent had no image in force; `None` while it has none.
    pub open_for: Option<Duration>,
    /// Slots of what is counted.
    pub counters: Vec<(Counted, u32)>,
    /// Frontends that are guarded.
    pub frontends: usize,
    /// Policies of the image.
    pub policies: usize,
    /// What the agent found out by itself.
    pub learned: Learned,
    /// What the lists and egress policies of the snapshot hold.
    pub size: Size,
    /// Steps that changed the image.
    pub steps: usize,
    /// What the image in force changed, compared with the one before; nothing for the first one.
    pub changes: Vec<Change>,
    /// From the objects to the kernel.
    pub took: Duration,
    /// Why the image was not applied.
    pub failure: Option<String>,
    /// Whether another attempt may do what this one could not.
    pub retry: bool,
}

/// How much a snapshot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Ranges of the Seed and of all clusters.
    pub ranges: usize,
    /// Peers of all clusters with gated egress.
    pub peers: usize,
    /// Clusters whose Namespace says audit.
    pub audited: usize,
}

impl Size {
    fn of(snapshot: &Snapshot) -> Self {
        let clusters = || snapshot.clusters.values();
        let of_seed = snapshot.seed.iter();
        let of_seed =
            of_seed.flat_map(|seed| seed.default_ranges.iter().chain(&seed.load_balancer_ranges));
        let lists = clusters().filter_map(|cluster| cluster.allowed.as_ref()).chain(of_seed);
        Self {
            ranges: lists.map(|list| list.ranges.len()).sum(),
            peers: clusters().filter_map(|it| it.egress.as_ref()).map(|it| it.peers.len()).sum(),
            audited: clusters().filter(|cluster| cluster.mode == Mode::Audit).count(),
        }
    }
}

impl Report {
    /// Whether what the objects say is enforced on every interface.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.enforced == Some(self.wanted)
            && self.unguarded.is_empty()
            && self.attaching.is_empty()
            && !self.retry
    }
}

impl Reconciler {
    /// Takes over what the kernel holds; `former` is the snapshot that was enforced last.
    #[must_use]
    pub fn new(kernel: Kernel, settings: Settings, former: Option<Snapshot>) -> Self {
        Self {
            kernel,
            settings,
            translator: Translator::default(),
            compiler: Compiler::default(),
            former: former.map(Arc::new),
            learned: Learned::default(),
            names: BTreeSet::new(),
            links: Links::default(),
            report: Report::default(),
        }
    }

    /// Puts up with what pre-empts our programs on interfaces.
    pub fn tolerate(&mut self, tolerated: BTreeSet<Preemption>) {
        self.links.tolerate(tolerated);
    }

    /// Whether the kernel has an image in force.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.kernel.has_image()
    }

    /// Makes the kernel enforce the snapshot that was enforced last, whole, on the interfaces of the
    /// node, before any source is read; nothing where there is none.
    pub fn restore(&mut self, node: &NodeState) -> Option<Report> {
        let mut snapshot = self.former.as_deref()?.clone();
        snapshot.options = self.settings.options.clone();
        // A node that boots may not have all its addresses yet.
        let known = &mut snapshot.this_node;
        known.addresses.extend(&node.addresses);
        known.tunnel_peers.extend(&node.tunnel_peers);
        known.connected.extend(&node.connected);
        known.pod_interfaces.clone_from(&node.pod_interfaces);
        let (rules, _) = self.compiler.compile(&snapshot);
        let mut report = Report {
            wanted: rules.revision,
            audits: rules.mode == Mode::Audit,
            frontends: rules.frontends.len(),
            policies: rules.policies.len(),
            ..Report::default()
        };
        match self.apply(&rules, node, &mut report) {
            Ok(()) => {}
            Err(Refusal::Capacity(error)) => report.failure = Some(error.to_string()),
            Err(Refusal::Kernel(error)) => report.failure = Some(chain(&error)),
        }
        self.report = report;
        Some(self.finish())
    }

    /// Guards the interfaces of the node with the image that is in force, whole.
    pub fn guard_all(&mut self, node: &NodeState) -> Report {
        if let Err(error) = self.links.plan(&mut self.kernel, node) {
            self.report.failure = Some(chain(&error));
        }
        self.finish()
    }

    fn finish(&mut self) -> Report {
        let mut report = self.proceed();
        while self.is_open() {
            report = self.proceed();
        }
        report
    }

    /// Looks whether others have taken our programs' places, and plans to take them back; whether
    /// there is something to tell or do.
    pub fn look(&mut self, node: &NodeState) -> bool {
        if self.report.enforced.is_none() {
            return false;
        }
        self.links.look(&mut self.kernel, node).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cannot look after the programs");
            false
        })
    }

    /// The snapshot of the image in force.
    #[must_use]
    pub fn former(&self) -> Option<&Arc<Snapshot>> {
        self.former.as_ref()
    }

    /// Takes note of the addresses that hosts in URLs have.
    pub fn learn_names(&mut self, names: BTreeMap<String, BTreeSet<IpAddr>>) {
        self.learned.names = names;
    }

    /// Takes note of whom gated pods ask for names. What the kernel does not tell stays as it was.
    fn learn_resolvers(&mut self, objects: &Objects) {
        if self.settings.egress.dns == EgressDns::Any {
            return;
        }
        let asked = match self.kernel.asked(ASKED_LATELY) {
            Ok(asked) => asked,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot see whom API servers ask for names");
                return;
            }
        };
        self.learned.dns.clear();
        if asked.is_empty() {
            return;
        }
        for key in objects.clusters.keys() {
            let id = ClusterId(key.name.to_string());
            let word = Counted::egress(id.clone()).word();
            let of_cluster = asked.iter().filter(|(owner, _)| *owner == word);
            let resolvers: BTreeSet<IpAddr> = of_cluster.map(|(_, resolver)| *resolver).collect();
            if !resolvers.is_empty() {
                self.learned.dns.insert(id, resolvers);
            }
        }
    }

    /// The hosts in URLs whose addresses are to be found out.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Makes the kernel enforce the objects, and begins to guard the node's interfaces.
    pub fn reconcile(
        &mut self,
        objects: &Arc<Objects>,
        this_node: &ThisNode,
        node: &NodeState,
    ) -> Report {
        let begin = Instant::now();
        self.learn_resolvers(objects);
        let former = self.former.as_deref();
        let Translated { mut snapshot, mut problems, names } =
            self.translator.translate(objects, &self.settings, this_node, &self.learned, former);
        self.names = names;
        let (mut rules, conflicts) = self.compiler.compile(&snapshot);
        problems.extend(conflicts);
        let ranges = node.local_ranges.iter();
        problems.extend(ranges.map(|range| any_ip(this_node, *range)));
        let mut report = Report {
            wanted: rules.revision,
            audits: rules.mode == Mode::Audit,
            frontends: rules.frontends.len(),
            policies: rules.policies.len(),
            size: Size::of(&snapshot),
            learned: self.learned.clone(),
            ..Report::default()
        };
        let mut applied = self.apply(&rules, node, &mut report);
        while let Err(Refusal::Capacity(CapacityError::Regions { .. })) = &applied {
            let taken_back = room::make_room(&mut snapshot, self.former.as_deref());
            if taken_back.is_empty() {
                break;
            }
            problems.extend(taken_back);
            (rules, _) = self.compiler.compile(&snapshot);
            report.wanted = rules.revision;
            report.policies = rules.policies.len();
            applied = self.apply(&rules, node, &mut report);
        }
        report.took = begin.elapsed();
        match applied {
            Ok(()) => {
                let former = self.former.as_deref();
                report.changes = former.map(|it| changes(it, &snapshot)).unwrap_or_default();
                self.former = Some(Arc::new(snapshot));
            }
            Err(Refusal::Capacity(error)) => problems.push(capacity(&error)),
            Err(Refusal::Kernel(error)) => report.failure = Some(chain(&error)),
        }
        problems.sort();
        problems.dedup();
        let problems = problem::at_most(problems, self.settings.limits.problems);
        report.problems = problems;
        self.report = report;
        self.proceed()
    }

    /// Makes the interfaces of the node guarded; the image stays as it is.
    pub fn guard(&mut self, node: &NodeState) -> Report {
        self.report.steps = 0;
        // Without an image there is nothing to enforce.
        if self.report.enforced.is_some()
            && let Err(error) = self.links.plan(&mut self.kernel, node)
        {
            self.report.failure = Some(chain(&error));
        }
        self.proceed()
    }

    /// Makes some of the steps that are left over.
    pub fn proceed(&mut self) -> Report {
        self.links.proceed(&mut self.kernel);
        self.links.tell(&mut self.report);
        let report = self.report.clone();
        self.report.steps = 0;
        self.report.changes.clear();
        report
    }

    /// Whether steps are left over.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.links.is_open()
    }

    /// Puts the rules in force, and plans what is to be done at interfaces.
    fn apply(
        &mut self,
        rules: &Rules,
        node: &NodeState,
        report: &mut Report,
    ) -> Result<(), Refusal> {
        let observed = self.kernel.observe()?;
        let in_force = observed.active.map(|bank| observed.bank(bank));
        report.enforced =
            in_force.map(|words| Revision(enforcer_policy::image::header(words).revision));
        let owners = in_force.map(counter_owners).unwrap_or_default();
        let (counters, image) = match lower(rules, owners) {
            Ok(lowered) => lowered,
            Err(refusal) => {
                // The image that is in force must hold on new interfaces too.
                if report.enforced.is_some() {
                    self.links.plan(&mut self.kernel, node)?;
                }
                return Err(refusal.into());
            }
        };
        let interfaces = node.interfaces.as_slice();
        let steps =
            plan(&observed, &Desired { words: image.words(), counters: &counters, interfaces });
        let mut links: Vec<LinkStep> = Vec::new();
        for step in steps {
            match step {
                Step::Link(step) => links.push(step),
                step
                @ (Step::ResetCounters { .. } | Step::Write { .. } | Step::Activate { .. }) => {
                    self.kernel.apply(&step, &image)?;
                    report.steps += 1;
                }
            }
        }
        self.links.begin(links, node);
        report.enforced = Some(rules.revision);
        report.counters = counters.slots().map(|(counted, slot)| (counted.clone(), slot)).collect();
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
