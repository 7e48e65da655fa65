//! Kubernetes Events for what is wrong with a Cluster: one for each problem in the whole fleet, and
//! one when it is mended.
//!
//! Input: the problems of the last report. Output: Events, on the Cluster, or on the agent's own
//! Namespace where the image as a whole is meant. Invariants: only the agent that holds the Lease
//! `enforcer-events` reports; what is reported is written in that Lease, so that the next holder goes on
//! where the former one ended; nothing counts as mended while the source is stale. Agents that have
//! nothing to report do not ask for the Lease.

mod problems;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::ObjectReference};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{
    problems::{Id, Subject, note, reason, worth_an_event},
    turn::{Observed, Turn, reported, turn},
};
use crate::{
    agent::Status,
    source::{Objects, kubernetes::Connected, store::Key},
};

/// Name of the Lease whose holder reports.
const LEASE: &str = "enforcer-events";

/// How often the Lease is renewed, and its holder's life looked after.
const RENEWAL: Duration = Duration::from_secs(10);

/// Problems that come this close together are looked at together.
const TOGETHER: Duration = Duration::from_secs(1);

/// Events that are sent at a time: a seed with a thousand problems is told of them bit by bit.
const AT_A_TIME: usize = 20;

/// A turn that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who reports.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Namespace of the agents.
    pub namespace: String,
    /// Name of this agent's Node.
    pub node: String,
}

/// Reports until it is cancelled.
pub async fn report(
    me: Identity,
    mut clients: watch::Receiver<Option<Connected>>,
    objects: watch::Receiver<Arc<Objects>>,
    mut statuses: watch::Receiver<Arc<Status>>,
    cancelled: CancellationToken,
) {
    let observed = Observed::default();
    let mut desk = Desk { me, objects, observed, unsettled: false, complained: false };
    loop {
        let status = Arc::clone(&statuses.borrow_and_update());
        let client = clients.borrow_and_update().clone();
        if let Some(Connected(client)) = client {
            match timeout(PATIENCE, desk.take_turn(&client, &status)).await {
                Ok(Ok(())) => desk.complained = false,
                Ok(Err(error)) => desk.complain(&error),
                Err(_) => {}
            }
        }
        let wait = async {
            tokio::time::sleep(TOGETHER).await;
            let changed = async {
                while is_same(&statuses.borrow(), &status) {
                    if statuses.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let _ = timeout(RENEWAL - TOGETHER, changed).await;
        };
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = wait => {}
        }
    }
}

fn is_same(now: &Status, before: &Status) -> bool {
    now.report.problems == before.report.problems && now.observed == before.observed
}

struct Desk {
    me: Identity,
    objects: watch::Receiver<Arc<Objects>>,
    observed: Observed,
    /// Whether there may be something reported that is mended.
    unsettled: bool,
    complained: bool,
}

impl Desk {
    async fn take_turn(&mut self, client: &Client, status: &Status) -> Result<(), kube::Error> {
        let Status { report, source_stale_since, observed } = status;
        let current = worth_an_event(report.problems.iter().chain(&**observed));
        self.unsettled |= !current.is_empty();
        if source_stale_since.is_some() || report.enforced.is_none() || !self.unsettled {
            return Ok(());
        }
        let leases: Api<Lease> = Api::namespaced(client.clone(), &self.me.namespace);
        let found = leases.get_opt(LEASE).await?;
        let now = Instant::now();
        let turn = turn(found, &self.me, &mut self.observed, now, Timestamp::now());
        let lease = match turn {
            Turn::Make(lease) => leases.create(&PostParams::default(), &lease).await,
            Turn::Hold(lease) => leases.replace(LEASE, &PostParams::default(), &lease).await,
            Turn::Follow(lease) => {
                self.unsettled = !current.is_empty() || !reported(&lease).is_empty();
                return Ok(());
            }
        };
        let lease = match lease {
            // Another agent was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            other => other?,
        };
        self.send(client, &leases, lease, &current).await
    }

    /// Sends what is new and what is mended, and writes down what was sent.
    async fn send(
        &mut self,
        client: &Client,
        leases: &Api<Lease>,
        mut lease: Lease,
        current: &BTreeMap<Id, &enforcer_policy::problem::Problem>,
    ) -> Result<(), kube::Error> {
        let mut told: BTreeSet<Id> = reported(&lease);
        let new: Vec<&Id> = current.keys().filter(|id| !told.contains(id)).collect();
        let mended: Vec<Id> = told.iter().filter(|id| !current.contains_key(id)).cloned().collect();
        self.unsettled = !current.is_empty() || !mended.is_empty();
        if new.is_empty() && mended.is_empty() {
            return Ok(());
        }
        let mut failure = None;
        for id in new.into_iter().take(AT_A_TIME) {
            let Some(problem) = current.get(id) else { continue };
            let event = event(EventType::Warning, reason(&problem.kind), note(problem));
            if let Err(error) = self.publish(client, &event, id).await {
                failure = Some(error);
                break;
            }
            told.insert(id.clone());
        }
        for id in mended.into_iter().take(AT_A_TIME) {
            let note = format!("a problem that was reported before is mended ({})", id.digest);
            let event = event(EventType::Normal, "Mended", note);
            if let Err(error) = self.publish(client, &event, &id).await {
                failure = Some(error);
                break;
            }
            told.remove(&id);
        }
        turn::write_down(&mut lease, &told);
        leases.replace(LEASE, &PostParams::default(), &lease).await?;
        failure.map_or(Ok(()), Err)
    }

    async fn publish(&self, client: &Client, event: &Event, id: &Id) -> Result<(), kube::Error> {
        let Some(reference) = self.reference(&id.subject) else { return Ok(()) };
        let (controller, instance) = ("enforcer".to_owned(), Some(self.me.node.clone()));
        // A recorder that lives on would take two problems of one object for the same one.
        let recorder = Recorder::new(client.clone(), Reporter { controller, instance });
        recorder.publish(event, &reference).await
    }

    /// The object that an Event is about, unless it has gone.
    fn reference(&self, subject: &Subject) -> Option<ObjectReference> {
        match subject {
            Subject::Cluster(name) => {
                let objects = Arc::clone(&self.objects.borrow());
                let stored = objects.clusters.get(&Key::new("", name))?;
                Some(ObjectReference {
                    api_version: Some("kubermatic.k8c.io/v1".to_owned()),
                    kind: Some("Cluster".to_owned()),
                    name: Some(name.clone()),
                    uid: stored.object.metadata.uid.clone(),
                    ..ObjectReference::default()
                })
            }
            Subject::Fleet => Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Namespace".to_owned()),
                name: Some(self.me.namespace.clone()),
                ..ObjectReference::default()
            }),
        }
    }

    fn complain(&mut self, error: &kube::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(%error, "cannot report problems as Events");
        }
    }
}

fn event(kind: EventType, reason: &str, note: String) -> Event {
    let (reason, note) = (reason.to_owned(), Some(note));
    Event { type_: kind, reason, note, action: "Enforce".to_owned(), secondary: None }
}
