//! This agent's own Lease: what it enforces, for who asks about all nodes at once.
//!
//! Input: [`Status`]. Output: the Lease `enforcer-NODE` in the agent's Namespace, with annotations;
//! it is the only object of a node that an agent writes. It is renewed every [`RENEWAL`], and sooner
//! when an annotation has changed, but not more often than every [`LEAST`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{agent::Status, source::kubernetes::Connected};

/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(10);

/// It is not written more often than this.
const LEAST: Duration = Duration::from_secs(1);

/// A write that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds after which an agent that has not renewed its Lease counts as gone.
pub const DURATION: i32 = 40;

/// Prefix of the annotations.
const PREFIX: &str = "enforcer.k8c.io";

/// Who is writing, as managed fields show it.
const WRITER: &str = "enforcer";

/// Label by which the Leases of all agents are found.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/name", "enforcer");

/// Keeps the Lease until it is cancelled.
pub async fn keep(
    namespace: String,
    node: String,
    mut clients: watch::Receiver<Option<Connected>>,
    mut statuses: watch::Receiver<Arc<Status>>,
    cancelled: CancellationToken,
) {
    let mut written = BTreeMap::new();
    let mut complained = false;
    loop {
        let status = Arc::clone(&statuses.borrow_and_update());
        let client = clients.borrow_and_update().clone();
        if let Some(Connected(client)) = client {
            let annotations = annotations(&status);
            let lease = lease(&namespace, &node, annotations.clone(), Timestamp::now());
            let leases: Api<Lease> = Api::namespaced(client, &namespace);
            let name = lease.metadata.name.clone().unwrap_or_default();
            let parameters = PatchParams::apply(WRITER).force();
            match timeout(PATIENCE, leases.patch(&name, &parameters, &Patch::Apply(&lease))).await {
                Ok(Ok(_)) => (written, complained) = (annotations, false),
                Ok(Err(error)) if !complained => {
                    complained = true;
                    tracing::warn!(%error, lease = name, "cannot write this node's Lease");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let wait = async {
            tokio::time::sleep(LEAST).await;
            let changed = async {
                while annotations_of(&statuses) == written {
                    if statuses.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let _ = timeout(RENEWAL - LEAST, changed).await;
        };
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = wait => {}
        }
    }
}

fn annotations_of(statuses: &watch::Receiver<Arc<Status>>) -> BTreeMap<String, String> {
    annotations(&statuses.borrow())
}

fn lease(
    namespace: &str,
    node: &str,
    annotations: BTreeMap<String, String>,
    now: Timestamp,
) -> Lease {
    let (label, value) = LABEL;
    Lease {
        metadata: ObjectMeta {
            name: Some(format!("enforcer-{node}")),
            namespace: Some(namespace.to_owned()),
            labels: Some([(label.to_owned(), value.to_owned())].into()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(DURATION),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// What a Lease says of its agent, by the name that [`annotations`] gives it.
#[must_use]
pub fn annotation(lease: &Lease, name: &str) -> Option<String> {
    lease.metadata.annotations.as_ref()?.get(&format!("{PREFIX}/{name}")).cloned()
}

/// What the Lease says of an agent. What is not so is not there.
fn annotations(status: &Status) -> BTreeMap<String, String> {
    let Status { report, source_stale_since, observed: _ } = status;
    let stale = source_stale_since.and_then(|since| Timestamp::try_from(since).ok());
    let guarded: Vec<&str> = report.guarded.iter().map(|at| at.name.as_str()).collect();
    let unguarded: Vec<&str> = report.unguarded.iter().map(|(name, _)| name.as_str()).collect();
    let facts = [
        ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("enforced", report.enforced.map(|revision| revision.to_string())),
        ("wanted", report.enforced.map(|_| report.wanted.to_string())),
        ("mode", report.audits.then(|| "audit".to_owned())),
        ("stale-since", stale.map(|since| format!("{since:.0}"))),
        ("interfaces", Some(guarded.join(","))),
        ("unguarded-interfaces", Some(unguarded.join(",")).filter(|names| !names.is_empty())),
        ("ready", Some(status.not_ready().is_empty().to_string())),
        ("problems", Some(report.problems.len().to_string())),
        ("failure", report.failure.clone()),
    ];
    let present = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    present.map(|(name, value)| (format!("{PREFIX}/{name}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use enforcer_policy::{
        model::Side,
        plan::{Interface, LinkLayer},
    };

    use super::*;
    use crate::reconcile::Report;

    #[test]
    fn a_lease_says_what_is_enforced_and_since_when_it_is_stale() {
        let mut status = Status::default();
        let get = |status: &Status, name: &str| annotations(status).get(name).cloned();
        assert_eq!(get(&status, "enforcer.k8c.io/enforced"), None);
        assert_eq!(get(&status, "enforcer.k8c.io/stale-since"), None);
        assert_eq!(get(&status, "enforcer.k8c.io/ready").as_deref(), Some("false"));
        status.source_stale_since = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
        let wanted = status.report.wanted;
        status.report = Report { enforced: Some(wanted), ..Report::default() };
        status.report.guarded = vec![Interface {
            index: 2,
            name: "eth0".to_owned(),
            link: LinkLayer::Ethernet,
            side: Side::Uplink,
        }];
        assert_eq!(
            get(&status, "enforcer.k8c.io/stale-since").as_deref(),
            Some("1970-01-01T00:00:01Z")
        );
        assert_eq!(get(&status, "enforcer.k8c.io/interfaces").as_deref(), Some("eth0"));
        assert_eq!(get(&status, "enforcer.k8c.io/enforced"), Some(wanted.to_string()));
        assert_eq!(get(&status, "enforcer.k8c.io/ready").as_deref(), Some("true"));
    }
}
