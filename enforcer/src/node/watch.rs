//! Keeps a [`NodeState`] current.
//!
//! Input: events, a clock, the addresses of the Node object. Output: the state, on a watch channel,
//! published only when it differs. Invariants: subscribed before the first look; a look during
//! which something changed is repeated; while looks fail, the last state stays and sockets are
//! opened again.
//!
//! Runs on a thread of its own: listing blocks while the kernel holds its RTNL lock, and a thread
//! stays in the network namespace that it was started in.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    ops::Range,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use enforcer_policy::plan::Interface;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::chain::chain;

use super::{
    NodeError, NodeState, Selection, classify,
    events::Events,
    facts::Facts,
    listing::Lister,
    pods::{Occasion, Pods},
};

/// Least time between the end of a look and the next one, which bursts share.
const PAUSE: Duration = Duration::from_millis(5);

/// A look without an event, should one have been lost.
const SAFETY: Duration = Duration::from_secs(30);

/// A look at network devices alone, since the kernel does not tell of XDP programs that links hold.
const GLANCE: Duration = Duration::from_millis(500);

/// Looks that are repeated at once because something changed meanwhile; then what was seen is
/// published, for a node may never stand still.
const REPEATS: usize = 1;

/// Waiting before sockets are opened again. Those that worked for as long as its end were good.
const BACKOFF: Range<Duration> = Duration::from_millis(50)..Duration::from_secs(5);

/// A node being watched, until this is dropped.
#[derive(Debug)]
pub struct NodeWatch {
    states: watch::Receiver<Arc<NodeState>>,
    asked: mpsc::UnboundedSender<oneshot::Sender<()>>,
    _stop: DropGuard,
}

impl NodeWatch {
    /// The state, now and whenever it changes. Closed when the watching thread has ended.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<Arc<NodeState>> {
        self.states.clone()
    }

    /// Waits until the state is published of a look that began after this call: what the node has
    /// now is in it. Gives up after `limit`, and where the node cannot be observed.
    pub async fn catch_up(&self, limit: Duration) {
        let (done, looked) = oneshot::channel();
        if self.asked.send(done).is_ok() {
            let _ = timeout(limit, looked).await;
        }
    }
}

/// Looks at the node once, in the network namespace of the calling thread. Blocks for some
/// milliseconds.
///
/// # Errors
/// Where the kernel cannot be asked or its answer not be read.
pub fn observe(
    selection: &Selection,
    node_addresses: &BTreeSet<IpAddr>,
) -> Result<NodeState, NodeError> {
    let mut lister = Lister::open()?;
    let mut facts = lister.facts()?;
    let occasion = Occasion::Look;
    facts.pods = Pods::default().ask(&facts.links, &mut lister, occasion, Instant::now())?;
    Ok(classify(&facts, selection, node_addresses))
}

/// Watches the network namespace of the calling thread, and returns when the first state is there.
///
/// `node_addresses`: the addresses in the status of this node's Node object, empty where there is
/// none; when its sender is gone, the last ones stay.
///
/// # Errors
/// Where the first look fails. Later ones are logged and tried again.
pub async fn watch(
    selection: Selection,
    node_addresses: watch::Receiver<BTreeSet<IpAddr>>,
) -> Result<NodeWatch, NodeError> {
    let stop = CancellationToken::new();
    let (started, first) = oneshot::channel();
    let (asked, questions) = mpsc::unbounded_channel();
    let inputs = Inputs { selection, node_addresses, asked: questions, stop: stop.clone() };
    let guard = stop.drop_guard();
    thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || run(inputs, started))
        .map_err(NodeError::Thread)?;
    let states = first.await.map_err(|_| NodeError::Ended)??;
    Ok(NodeWatch { states, asked, _stop: guard })
}

struct Inputs {
    selection: Selection,
    node_addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// Who waits for the end of the next look.
    asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    stop: CancellationToken,
}

type Started = oneshot::Sender<Result<watch::Receiver<Arc<NodeState>>, NodeError>>;

fn run(inputs: Inputs, started: Started) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(NodeError::Thread) {
        Ok(runtime) => runtime.block_on(start(inputs, started)),
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn start(mut inputs: Inputs, started: Started) {
    let (mut session, mut settled) = match Session::open() {
        Ok(opened) => opened,
        Err(error) => return drop(started.send(Err(error))),
    };
    let state = inputs.judge(&session.facts);
    let (publisher, states) = watch::channel(Arc::new(state));
    if started.send(Ok(states)).is_err() {
        return;
    }
    let mut wait = BACKOFF.start;
    loop {
        let begin = Instant::now();
        let Some(error) = session.follow(&mut inputs, &publisher, settled).await else { return };
        if begin.elapsed() > BACKOFF.end {
            wait = BACKOFF.start;
        }
        (session, settled) = match reopen(error, &mut wait, &mut inputs, &publisher).await {
            Some(reopened) => reopened,
            None => return,
        };
    }
}

/// Opens sockets until they work; `None` when told to stop. Each new trouble is logged once.
async fn reopen(
    mut error: NodeError,
    wait: &mut Duration,
    inputs: &mut Inputs,
    publisher: &watch::Sender<Arc<NodeState>>,
) -> Option<(Session, bool)> {
    let mut logged = None;
    loop {
        let trouble = chain(&error);
        if logged.as_ref() != Some(&trouble) {
            tracing::warn!(error = %trouble, "cannot observe the node, its last state stays");
            logged = Some(trouble);
        }
        tokio::select! {
            () = inputs.stop.cancelled() => return None,
            () = sleep(*wait) => *wait = (*wait * 2).min(BACKOFF.end),
        }
        match Session::open() {
            Ok((session, settled)) => {
                tracing::info!("the node is observed again");
                inputs.publish(&session.facts, publisher);
                return Some((session, settled));
            }
            Err(again) => error = again,
        }
    }
}

impl Inputs {
    fn judge(&mut self, facts: &Facts) -> NodeState {
        classify(facts, &self.selection, &self.node_addresses.borrow_and_update())
    }

    fn publish(&mut self, facts: &Facts, publisher: &watch::Sender<Arc<NodeState>>) {
        let state = self.judge(facts);
        publisher.send_if_modified(|published| {
            if **published == state {
                return false;
            }
            let NodeState {
                addresses,
                local_ranges,
                tunnel_peers,
                connected,
                pod_interfaces,
                interfaces,
                missing,
                unguardable,
            } = &state;
            let names = |of: &NodeState, without: &NodeState| -> Vec<String> {
                let known = |i: &&Interface| !without.interfaces.contains(i);
                of.interfaces.iter().filter(known).map(|i| i.name.clone()).collect()
            };
            tracing::info!(
                addresses = addresses.len(),
                ?local_ranges,
                tunnel_peers = tunnel_peers.len(),
                ?connected,
                interfaces = interfaces.len(),
                pods = pod_interfaces.iter().filter(|pod| !pod.addresses.is_empty()).count(),
                appeared = ?names(&state, published),
                vanished = ?names(published, &state),
                ?missing,
                unguardable = ?unguardable.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "the node changed"
            );
            *published = Arc::new(state);
            true
        });
    }
}

/// Sockets that work together.
struct Session {
    events: Events,
    lister: Lister,
    pods: Pods,
    /// What was seen last.
    facts: Facts,
}

impl Session {
    fn open() -> Result<(Self, bool), NodeError> {
        // In this order: what changes after the first listing must be told.
        let events = Events::subscribe()?;
        let lister = Lister::open()?;
        let mut session = Self { events, lister, pods: Pods::default(), facts: Facts::default() };
        let settled = session.look()?;
        Ok((session, settled))
    }

    /// Lists everything. Whether nothing changed meanwhile.
    fn look(&mut self) -> Result<bool, NodeError> {
        let mut repeats = 0;
        let settled = loop {
            self.events.drain()?;
            self.facts = self.lister.facts()?;
            self.events.ignore_addresses_of(self.facts.service_device());
            self.events.heed_neighbours_of(self.facts.tunnels());
            let settled = !self.events.drain()?;
            if settled || repeats == REPEATS {
                break settled;
            }
            repeats += 1;
        };
        self.ask_pods(Occasion::Look)?;
        Ok(settled)
    }

    fn ask_pods(&mut self, occasion: Occasion) -> Result<(), NodeError> {
        let Self { pods, facts, lister, events: _ } = self;
        facts.pods = pods.ask(&facts.links, lister, occasion, Instant::now())?;
        Ok(())
    }

    /// Publishes changes until the sockets fail; `None` when told to stop.
    async fn follow(
        &mut self,
        inputs: &mut Inputs,
        publisher: &watch::Sender<Arc<NodeState>>,
        settled: bool,
    ) -> Option<NodeError> {
        let (mut looked, mut pause, mut due) = (Instant::now(), PAUSE, !settled);
        let (mut told, mut glanced) = (true, looked);
        let mut askers = Vec::new();
        loop {
            let look_at = looked + if due { pause } else { SAFETY };
            let wake_at = look_at.min(glanced + GLANCE);
            let wake_at = self.pods.due().map_or(wake_at, |ask_at| ask_at.min(wake_at));
            let wait = wake_at.saturating_duration_since(Instant::now());
            if wait > Duration::ZERO {
                tokio::select! {
                    biased;
                    () = inputs.stop.cancelled() => return None,
                    Some(asker) = inputs.asked.recv() => askers.push(asker),
                    changed = self.events.changed(), if !due => match changed {
                        Ok(()) => { due = true; continue }
                        Err(error) => return Some(error),
                    },
                    changed = inputs.node_addresses.changed(), if told && !due => {
                        (told, due) = (changed.is_ok(), changed.is_ok());
                        continue
                    }
                    () = sleep(wait) => {}
                }
            }
            let begin = Instant::now();
            if askers.is_empty() && !due && begin < look_at && begin >= glanced + GLANCE {
                glanced = begin;
                match self.lister.links() {
                    Ok(links) => due = links != self.facts.links,
                    Err(NodeError::Torn { .. }) => due = true,
                    Err(error) => return Some(error),
                }
                continue;
            }
            if askers.is_empty() && begin < look_at {
                if let Err(error) = self.ask_pods(Occasion::Due) {
                    return Some(error);
                }
                inputs.publish(&self.facts, publisher);
                continue;
            }
            match self.look() {
                Ok(settled) => {
                    inputs.publish(&self.facts, publisher);
                    due = !settled;
                    for asker in askers.drain(..) {
                        // One that has given up does not listen any more.
                        let _: Result<(), ()> = asker.send(());
                    }
                }
                Err(NodeError::Torn { listing }) => {
                    tracing::debug!(%listing, "changing faster than it can be listed");
                    due = true;
                }
                Err(error) => return Some(error),
            }
            looked = Instant::now();
            glanced = looked;
            // Half of a processor at most, where devices are many and restless.
            pause = PAUSE.max(looked - begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_that_fail_are_opened_again_and_meanwhile_the_last_state_stays() {
        let (addresses, node_addresses) = watch::channel(BTreeSet::new());
        let stop = CancellationToken::new();
        let (_asked, asked) = mpsc::unbounded_channel();
        let selection = Selection::Auto;
        let mut inputs = Inputs { selection, node_addresses, asked, stop: stop.clone() };
        let (mut session, settled) = Session::open().unwrap();
        let (publisher, states) = watch::channel(Arc::new(inputs.judge(&session.facts)));
        session.lister = Lister::deaf();
        addresses.send(BTreeSet::from([[192, 0, 2, 1].into()])).unwrap();

        let error = session.follow(&mut inputs, &publisher, settled).await.unwrap();
        assert!(matches!(error, NodeError::List { .. }), "{error:?}");
        assert!(chain(&error).contains("Connection refused"), "{}", chain(&error));
        assert!(!states.has_changed().unwrap());

        let mut wait = BACKOFF.start;
        let (mut session, _) = reopen(error, &mut wait, &mut inputs, &publisher).await.unwrap();
        assert_eq!(wait, BACKOFF.start * 2);
        session.look().unwrap();

        stop.cancel();
        assert!(session.follow(&mut inputs, &publisher, true).await.is_none());
        let error = NodeError::Ended;
        assert!(reopen(error, &mut wait, &mut inputs, &publisher).await.is_none());
    }
}
