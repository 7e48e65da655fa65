//! Kubernetes Events on this machine's Node for what keeps our programs from judging every packet there:
//! interfaces that are not guarded, or not by us first.
//!
//! Input: the last report. Output: Events, by every agent for its own Node. Invariant: what passes within
//! [`TOGETHER`] makes none, except that a place was taken back from others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{agent::Status, source::kubernetes::Connected};

/// What comes this close together is looked at together.
const TOGETHER: Duration = Duration::from_secs(1);

/// An Event that takes longer is given up, and sent again with the next change.
const PATIENCE: Duration = Duration::from_secs(20);

/// Interfaces that one look tells of.
const AT_A_TIME: usize = 20;

/// Reports until it is cancelled.
pub async fn report(
    node: String,
    clients: watch::Receiver<Option<Connected>>,
    mut statuses: watch::Receiver<Arc<Status>>,
    cancelled: CancellationToken,
) {
    let mut told = Told::default();
    loop {
        let look = async {
            let changed = statuses.changed().await;
            sleep(TOGETHER).await;
            changed.is_ok()
        };
        tokio::select! {
            () = cancelled.cancelled() => return,
            goes_on = look => if !goes_on { return },
        }
        let status = Arc::clone(&statuses.borrow_and_update());
        let client = clients.borrow().clone();
        let Some(Connected(client)) = client else { continue };
        for (event, sent) in told.news(&status) {
            let published = timeout(PATIENCE, publish(&client, &node, &event)).await;
            match published {
                Ok(Ok(())) => told.note(sent),
                Ok(Err(error)) => tracing::debug!(%error, "cannot report to the Node"),
                Err(_) => {}
            }
        }
    }
}

/// What has been reported.
#[derive(Debug, Default)]
struct Told {
    /// By name alone: why may change while somebody fights with us.
    unguarded: BTreeSet<String>,
    retaken: u64,
}

/// What is reported when an Event has been sent.
enum Sent {
    Unguarded(String),
    Guarded(String),
    Retaken(u64),
}

impl Told {
    fn news(&self, status: &Status) -> Vec<(Event, Sent)> {
        let report = &status.report;
        let unguarded: BTreeMap<_, _> = report.unguarded.iter().cloned().collect();
        let mut news = Vec::new();
        if report.retaken > self.retaken {
            let note = format!(
                "others took the place of the enforcer's program on an interface; it was taken back, {} \
                 times since the agent's start",
                report.retaken
            );
            let event = event(EventType::Warning, "PlaceRetaken", note);
            news.push((event, Sent::Retaken(report.retaken)));
        }
        let new = unguarded.iter().filter(|(name, _)| !self.unguarded.contains(*name));
        for (name, why) in new.take(AT_A_TIME) {
            let note = format!("interface {name}: {why}");
            let event = event(EventType::Warning, "NotEnforceable", note);
            news.push((event, Sent::Unguarded(name.clone())));
        }
        let over = self.unguarded.iter().filter(|name| !unguarded.contains_key(*name));
        for name in over.take(AT_A_TIME) {
            let note = format!("interface {name}: what was reported is over");
            let event = event(EventType::Normal, "Enforceable", note);
            news.push((event, Sent::Guarded(name.clone())));
        }
        news
    }

    fn note(&mut self, sent: Sent) {
        match sent {
            Sent::Unguarded(one) => drop(self.unguarded.insert(one)),
            Sent::Guarded(one) => drop(self.unguarded.remove(&one)),
            Sent::Retaken(times) => self.retaken = times,
        }
    }
}

fn event(kind: EventType, reason: &str, note: String) -> Event {
    let (reason, note) = (reason.to_owned(), Some(note));
    Event { type_: kind, reason, note, action: "Guard".to_owned(), secondary: None }
}

async fn publish(client: &Client, node: &str, event: &Event) -> Result<(), kube::Error> {
    let (controller, instance) = ("enforcer".to_owned(), Some(node.to_owned()));
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        // As the kubelet does: `kubectl describe node` looks for it.
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    // A recorder that lives on would take two Events of one reason for the same one.
    let recorder = Recorder::new(client.clone(), Reporter { controller, instance });
    recorder.publish(event, &reference).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Report;

    fn status(unguarded: &[&str], retaken: u64) -> Status {
        let unguarded = unguarded.iter().map(|name| ((*name).to_owned(), "XDP".to_owned()));
        let report = Report { unguarded: unguarded.collect(), retaken, ..Report::default() };
        Status { report, ..Status::default() }
    }

    #[test]
    fn each_thing_is_told_once_when_it_begins_and_once_when_it_is_over() {
        let mut told = Told::default();
        let mut reasons = |status: &Status| -> Vec<String> {
            let news = told.news(status);
            news.into_iter()
                .map(|(event, sent)| {
                    told.note(sent);
                    event.reason
                })
                .collect()
        };
        assert_eq!(reasons(&status(&[], 0)), [""; 0]);
        assert_eq!(reasons(&status(&["eth0"], 1)), ["PlaceRetaken", "NotEnforceable"]);
        assert_eq!(reasons(&status(&["eth0"], 1)), [""; 0]);
        assert_eq!(reasons(&status(&["eth1"], 1)), ["NotEnforceable", "Enforceable"]);
        assert_eq!(reasons(&status(&[], 2)), ["PlaceRetaken", "Enforceable"]);
    }
}
