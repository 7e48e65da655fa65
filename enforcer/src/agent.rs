//! Wiring: source and node in, reconciler and observers on, ordered shutdown.
//!
//! One task owns the kernel's side and works off what the others publish. The agent's end changes
//! nothing: what is pinned stays.

mod due;
mod log;
mod restore;
mod status;
mod tell;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use enforcer_policy::model::{Snapshot, ThisNode};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{due::Due, log::log, restore::restored};
pub use self::{restore::restore, status::Status};
use crate::{
    args::{self, EgressDnsOption, Places, Run},
    kernel::{self, EventRing, Kernel, KernelError, RecentSources},
    memory,
    names::Names,
    node::{self, NodeState},
    observe::{
        self, Metrics,
        drops::{self, Drops},
        sources,
    },
    privilege,
    reconcile::{Reconciler, Report},
    source::{
        Choice, Objects, OpenError, Settings, Source,
        kubernetes::{self, Access},
    },
    state::{self, State, StateError},
};

/// Why the agent ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The source cannot be read at start.
    #[error("the source cannot be read")]
    Source(#[from] OpenError),
    /// The kernel refuses.
    #[error("the kernel's side cannot be set up")]
    Kernel(#[from] KernelError),
    /// The node's interfaces cannot be watched.
    #[error("the node's interfaces cannot be watched")]
    Node(#[from] node::NodeError),
    /// The state folder cannot be used.
    #[error("the state folder cannot be used")]
    State(#[from] StateError),
    /// The address of `--listen` cannot be served.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `enforcer restore` could not do it; why is in the log.
    #[error("what was enforced last is not in force")]
    NotRestored,
    /// Capabilities that are not needed cannot be given up.
    #[error("cannot give up capabilities")]
    Privilege(#[source] caps::errors::CapsError),
    /// Signals cannot be received.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
}

/// Time after which a failed attempt is made again.
const RETRY: Duration = Duration::from_millis(200);

/// Without news for this long, memory that a change took is given back.
const REST: Duration = Duration::from_secs(2);

/// Objects that change without end leave one part in so many, and one, of the time for everything else.
const REST_OF_WORK: u32 = 2;

/// Time that a change of the objects waits for a look at the node; mostly a few milliseconds.
const CATCH_UP: Duration = Duration::from_millis(30);

/// How often our programs' places on interfaces are looked after.
const LOOK: Duration = Duration::from_millis(500);

/// `enforcer run`
pub async fn run(run: Run) -> Result<(), AgentError> {
    let begin = Instant::now();
    let mut stop = Stop::new()?;
    let settings = Settings {
        options: run.policy(),
        seed_name: run.seed.clone(),
        kubermatic_namespace: run.kubermatic_namespace.clone(),
        guard_pods: run.guard_pods(),
        egress: run.egress(),
        limits: run.limits(),
    };
    let state = State::open(&run.places.state)?;
    let former = state.load();
    // Before the first thread: the source has one.
    kernel::mount(&run.places.bpffs)?;
    privilege::give_up().map_err(AgentError::Privilege)?;
    // Where nothing is to be restored, a source that cannot be read leaves no trace.
    let early = match &former {
        None => Some(Source::open(choice(&run)?, None).await?),
        Some(_) => None,
    };
    let kernel = Kernel::open_attaching(&run.places.bpffs, run.attach)?;
    let listener = observe::bind(run.listen)
        .await
        .map_err(|source| AgentError::Listen { address: run.listen, source })?;
    let metrics = Metrics::open(&run.places.bpffs)?;
    let change_took = metrics.change_durations();
    let mut names = Names::start(state.clone());
    let mut reconciler = Reconciler::new(kernel, settings, former);
    reconciler.learn_names(names.current().as_ref().clone());
    reconciler.tolerate(run.tolerate.iter().copied().collect());
    let former_addresses = former_addresses(&run.node, reconciler.former().map(AsRef::as_ref));
    let (node_addresses, wanted_addresses) = watch::channel(former_addresses);
    let node = node::watch(run.interfaces.clone(), wanted_addresses).await?;
    let mut node_states = node.states();
    let mut open_for = reconciler.has_image().then_some(Duration::ZERO);
    if open_for.is_none() {
        let seen = node_states.borrow().clone();
        open_for = restored(&mut reconciler, &seen).then(|| begin.elapsed());
    }
    let mut source = match early {
        Some(source) => source,
        None => Source::open(choice(&run)?, reconciler.former().map(AsRef::as_ref)).await?,
    };
    tracing::info!("the source is open");

    let (status, statuses) = watch::channel(Arc::new(Status::default()));
    let (saved, to_save) = watch::channel(reconciler.former().cloned());
    let tasks = TaskTracker::new();
    let cancelled = CancellationToken::new();
    if let Source::Kubernetes(kubernetes) = &source {
        tell::kubernetes(&run, kubernetes, &statuses, &tasks, &cancelled);
    }
    let events = EventRing::open(&run.places.bpffs)?;
    let drops = Drops::default();
    tasks.spawn(drops::read(events, drops.clone(), statuses.clone(), cancelled.clone()));
    let (found, mut observations) = watch::channel(Arc::default());
    tasks.spawn(sources::look(
        Arc::new(RecentSources::open(&run.places.bpffs)?),
        drops.clone(),
        to_save.clone(),
        statuses.clone(),
        found,
        cancelled.clone(),
    ));
    tell::operators(&run, &state, drops, &statuses, &to_save, &tasks, &cancelled);
    tasks.spawn(observe::serve(listener, statuses, metrics, cancelled.clone()));
    let saver = state::keep_saved(state, to_save);
    tasks.close();

    let mut objects = source.current();
    let mut due = Due::Image;
    let mut known = Arc::default();
    let mut again = None;
    let mut give_back = None;
    // Objects are not asked for again before this.
    let mut rested = Instant::now();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    'agent: loop {
        publish_node_addresses(&node_addresses, &objects, &run.node, reconciler.former());
        let seen = node_states.borrow_and_update().clone();
        due = due.max(Due::of(&known, &seen, reconciler.former().map(AsRef::as_ref)));
        let mut report = match due {
            // Nothing is known, so nothing is changed, an image that is in force included.
            _ if objects.unread && reconciler.former().is_none() => unread(&objects),
            Due::Image => {
                let before = reconciler.former().cloned();
                let this_node = this_node(&run.node, &seen);
                let report = reconciler.reconcile(&objects, &this_node, &seen);
                rested = Instant::now() + report.took / REST_OF_WORK;
                save(&saved, before.as_ref(), reconciler.former());
                report
            }
            Due::Interfaces => reconciler.guard(&seen),
            Due::Rest => reconciler.proceed(),
        };
        if report.enforced.is_some() && report.attaching.is_empty() {
            open_for.get_or_insert_with(|| begin.elapsed());
        }
        report.open_for = open_for;
        known = seen;
        names.want(reconciler.names());
        log(&status.borrow().report, &report);
        if report.steps > 0 {
            change_took.observe(report.took.as_secs_f64());
        }
        // News does not put off what is already due.
        let now = Instant::now();
        let later = || again.filter(|at| *at > now).unwrap_or(now + RETRY);
        again = report.retry.then(later);
        give_back = if due == Due::Image { Some(now + REST) } else { give_back };
        let after_failure = if report.failure.is_some() { Due::Image } else { Due::Interfaces };
        let observed = Arc::clone(&observations.borrow_and_update());
        let source_stale_since = objects.stale_since;
        status.send_replace(Arc::new(Status { report, source_stale_since, observed }));
        // In this order: what is left over of the last plan waits for all news.
        due = loop {
            break tokio::select! {
                biased;
                () = stop.asked() => break 'agent,
                changed = changed_after(&mut source, rested) => {
                    objects = changed;
                    // Objects may speak of an address that the node has had for a moment.
                    node.catch_up(CATCH_UP).await;
                    Due::Image
                }
                watched = node_states.changed() => {
                    watched.map_err(|_| node::NodeError::Ended)?;
                    Due::Rest
                }
                found = names.changed() => {
                    reconciler.learn_names(found.as_ref().clone());
                    Due::Image
                }
                Ok(()) = observations.changed() => Due::Rest,
                _ = look.tick() => {
                    if !reconciler.look(&known) {
                        continue;
                    }
                    Due::Rest
                }
                () = yield_now(), if reconciler.is_open() => Due::Rest,
                () = wait_until(again) => after_failure,
                () = wait_until(give_back) => {
                    give_back = None;
                    memory::give_back();
                    Due::Rest
                }
            };
        };
    }
    tracing::info!("stops; what is enforced stays in force");
    drop(saved);
    cancelled.cancel();
    // A scraper that keeps its connection open must not hold up the end.
    let _ = tokio::time::timeout(Duration::from_millis(300), tasks.wait()).await;
    let _ = tokio::time::timeout(Duration::from_millis(300), saver).await;
    Ok(())
}

/// What `--source` names.
fn choice(run: &Run) -> Result<Choice, OpenError> {
    Ok(match &run.source {
        args::Source::Manifests(folder) => Choice::Manifests(folder.clone()),
        args::Source::Kubernetes(file) => Choice::Kubernetes(kubernetes::Options {
            access: Access::find(file.clone())?,
            node: run.node.clone(),
            kubermatic_namespace: run.kubermatic_namespace.clone(),
            dns: run.egress_dns == EgressDnsOption::Derived,
            namespace: namespace(run),
            hold: run.kubernetes.hold_below,
        }),
    })
}

/// The Namespace that the agent runs in.
fn namespace(run: &Run) -> Option<String> {
    run.kubernetes.namespace.clone().or_else(kubernetes::own_namespace)
}

/// `enforcer clean`
pub fn clean(places: &Places) -> Result<(), AgentError> {
    let removed = kernel::clean(&places.bpffs)?;
    State::clean(&places.state)?;
    tracing::info!(pins_and_filters = removed, "removed");
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
pub async fn stopped() -> Result<(), AgentError> {
    Stop::new()?.asked().await;
    Ok(())
}

/// What there is to report before the source has said anything.
fn unread(objects: &Objects) -> Report {
    Report { problems: objects.problems.iter().cloned().collect(), ..Report::default() }
}

fn this_node(name: &str, seen: &NodeState) -> ThisNode {
    ThisNode {
        name: name.to_owned(),
        addresses: seen.addresses.clone(),
        tunnel_peers: seen.tunnel_peers.clone(),
        connected: seen.connected.clone(),
        pod_interfaces: seen.pod_interfaces.clone(),
    }
}

/// What the source says next, once that time has come. Cancel-safe.
async fn changed_after(source: &mut Source, at: Instant) -> Arc<Objects> {
    sleep_until(at).await;
    source.changed().await
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The watcher of interfaces knows uplinks by the addresses of this machine's Node object.
fn publish_node_addresses(
    addresses: &watch::Sender<BTreeSet<IpAddr>>,
    objects: &Objects,
    node: &str,
    former: Option<&Arc<Snapshot>>,
) {
    let mut current = objects.node_addresses(node);
    if objects.unread {
        current.extend(former_addresses(node, former.map(AsRef::as_ref)));
    }
    addresses.send_if_modified(|known| {
        let changed = *known != current;
        *known = current;
        changed
    });
}

/// The addresses of this machine's Node object when it was read last.
fn former_addresses(node: &str, former: Option<&Snapshot>) -> BTreeSet<IpAddr> {
    let node = former.and_then(|former| former.nodes.get(node));
    node.into_iter().flat_map(|node| &node.addresses).copied().collect()
}

fn save(
    saved: &watch::Sender<Option<Arc<Snapshot>>>,
    before: Option<&Arc<Snapshot>>,
    after: Option<&Arc<Snapshot>>,
) {
    if before.map(AsRef::as_ref) != after.map(AsRef::as_ref) {
        saved.send_replace(after.cloned());
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self, AgentError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(AgentError::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(AgentError::Signals)?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
