//! `enforcer debug status --all-nodes`: every node of the seed, as the agents' Leases tell it.
//!
//! Input: Nodes, and the Leases `enforcer-NODE`. Output: who enforces the revision that most agents want,
//! who is behind, stale, gone, or was never there. Invariant: a node without a Lease is listed.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Node,
};
use kube::{Api, Client, api::ListParams};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    DebugError, Kubeconfig, Outcome, View, runtime,
    screen::{Screen, Tone, plain, toned},
};
use crate::{
    observe::lease::{DURATION, LABEL, annotation},
    source::kubernetes::{self, Access, AccessError},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Why nodes cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// There is no way to the API.
    #[error("the seed's API is needed for --all-nodes; name a kubeconfig with --kubeconfig")]
    Access(#[from] AccessError),
    /// It is not known where the agents are.
    #[error("name the Namespace of the agents with --namespace")]
    NoNamespace,
    /// The API does not answer.
    #[error("the seed's API does not let this be read: {0}")]
    Read(#[source] Box<kube::Error>),
    /// The API does not answer in time.
    #[error("the seed's API does not answer within {} s", PATIENCE.as_secs())]
    Slow,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Nodes {
    /// The revision that most agents want.
    wanted: Option<String>,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    node: String,
    /// `enforcing`, `behind`, `stale`, `not-ready`, `gone` or `absent`.
    state: &'static str,
    enforced: Option<String>,
    wanted: Option<String>,
    mode: Option<&'static str>,
    stale_since: Option<String>,
    /// When the agent was last heard of.
    renewed: Option<String>,
    interfaces: Vec<String>,
    unguarded_interfaces: Vec<String>,
    problems: Option<u64>,
    failure: Option<String>,
    version: Option<String>,
}

/// Asks the API and answers.
pub(super) fn view(kubeconfig: Kubeconfig, namespace: Option<String>) -> Result<Nodes, DebugError> {
    let namespace = namespace.or_else(kubernetes::own_namespace).ok_or(NodesError::NoNamespace)?;
    let read = async {
        let client = Access::find(kubeconfig)?.client().await?;
        read(client, &namespace).await.map_err(|error| NodesError::Read(Box::new(error)))
    };
    let (nodes, leases) = runtime()?
        .block_on(async { timeout(PATIENCE, read).await.map_err(|_| NodesError::Slow)? })?;
    Ok(compare(nodes, leases, Timestamp::now()))
}

async fn read(client: Client, namespace: &str) -> Result<(Vec<Node>, Vec<Lease>), kube::Error> {
    let (label, value) = LABEL;
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, namespace);
    let selected = ListParams::default().labels(&format!("{label}={value}"));
    let nodes = nodes.list(&ListParams::default()).await?.items;
    Ok((nodes, leases.list(&selected).await?.items))
}

fn compare(nodes: Vec<Node>, leases: Vec<Lease>, now: Timestamp) -> Nodes {
    let names = nodes.into_iter().filter_map(|node| node.metadata.name);
    let mut found: BTreeMap<String, Option<NodeStatus>> = names.map(|name| (name, None)).collect();
    for lease in &leases {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        // The Lease of who reports Events has the label too.
        let Some(holder) = holder else { continue };
        if lease.metadata.name != Some(format!("enforcer-{holder}")) {
            continue;
        }
        found.insert(holder.clone(), Some(NodeStatus::of(holder, lease, now)));
    }
    let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
    let live =
        found.values().flatten().filter(|node| node.state != "gone" && node.state != "stale");
    for wanted in live.filter_map(|node| node.wanted.as_ref()) {
        *votes.entry(wanted).or_default() += 1;
    }
    let wanted = votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(it, _)| it.clone());
    let mut all: Vec<NodeStatus> = found
        .into_iter()
        .map(|(name, status)| status.unwrap_or_else(|| NodeStatus::absent(name)))
        .collect();
    for node in &mut all {
        let is_behind = node.enforced.is_none() || node.enforced != wanted;
        if is_behind && matches!(node.state, "enforcing" | "not-ready") {
            node.state = "behind";
        }
    }
    Nodes { wanted, nodes: all }
}

impl NodeStatus {
    fn of(node: String, lease: &Lease, now: Timestamp) -> Self {
        let get = |name| annotation(lease, name);
        let names = |name| -> Vec<String> {
            let names = get(name).unwrap_or_default();
            names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let spec: Option<&LeaseSpec> = lease.spec.as_ref();
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let lasts = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(DURATION);
        let age = renewed.map(|renewed| now.duration_since(renewed).as_secs());
        let state = match age {
            None => "gone",
            Some(age) if age > i64::from(lasts) => "gone",
            Some(_) if get("stale-since").is_some() => "stale",
            Some(_) if get("ready").as_deref() != Some("true") => "not-ready",
            Some(_) => "enforcing",
        };
        Self {
            node,
            state,
            enforced: get("enforced"),
            wanted: get("wanted"),
            mode: Some(if get("mode").as_deref() == Some("audit") { "audit" } else { "enforce" }),
            stale_since: get("stale-since"),
            renewed: renewed.map(|at| format!("{at:.0}")),
            interfaces: names("interfaces"),
            unguarded_interfaces: names("unguarded-interfaces"),
            problems: get("problems").and_then(|number| number.parse().ok()),
            failure: get("failure"),
            version: get("version"),
        }
    }

    fn absent(node: String) -> Self {
        Self {
            node,
            state: "absent",
            enforced: None,
            wanted: None,
            mode: None,
            stale_since: None,
            renewed: None,
            interfaces: Vec::new(),
            unguarded_interfaces: Vec::new(),
            problems: None,
            failure: None,
            version: None,
        }
    }
}

impl View for Nodes {
    const COMMAND: &'static str = "status --all-nodes";

    fn text(&self, screen: &Screen) -> String {
        let Self { wanted, nodes } = self;
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let enforcing = nodes.iter().filter(|node| node.state == "enforcing").count();
        let all = nodes.len();
        let mut text = screen
            .title(&format!("{enforcing} of {all} nodes enforce revision {}", or_none(wanted)));
        text.push('\n');
        let header = ["NODE", "STATE", "ENFORCED", "MODE", "RENEWED", "UNGUARDED", "PROBLEMS"];
        let rows = nodes.iter().map(|it| {
            let tone = if it.state == "enforcing" { Tone::Good } else { Tone::Bad };
            [
                plain(it.node.clone()),
                toned(it.state, tone),
                plain(or_none(&it.enforced)),
                plain(it.mode.unwrap_or("-")),
                plain(or_none(&it.renewed)),
                plain(if it.unguarded_interfaces.is_empty() {
                    "-".to_owned()
                } else {
                    it.unguarded_interfaces.join(",")
                }),
                plain(it.problems.map_or_else(|| "-".to_owned(), |number| number.to_string())),
            ]
        });
        text + &screen.table(header, rows)
    }

    fn outcome(&self) -> Outcome {
        Outcome::enforced_if(self.nodes.iter().all(|node| node.state == "enforcing"))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

    use super::*;

    fn node(name: &str) -> Node {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Node { metadata, ..Node::default() }
    }

    fn lease(node: &str, renewed: i64, facts: &[(&str, &str)]) -> Lease {
        let fact =
            |(name, value): &(&str, &str)| (format!("enforcer.k8c.io/{name}"), (*value).to_owned());
        Lease {
            metadata: ObjectMeta {
                name: Some(format!("enforcer-{node}")),
                annotations: Some(facts.iter().map(fact).collect()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(node.to_owned()),
                lease_duration_seconds: Some(40),
                renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn nodes_that_are_behind_stale_gone_or_absent_are_told_apart() {
        let good = [("enforced", "b"), ("wanted", "b"), ("ready", "true")];
        let old = [("enforced", "a"), ("wanted", "b"), ("ready", "false")];
        let stale = [("enforced", "a"), ("wanted", "a"), ("ready", "true"), ("stale-since", "x")];
        let leases = vec![
            lease("n1", 990, &good),
            lease("n2", 990, &old),
            lease("n3", 990, &stale),
            lease("n4", 900, &good),
        ];
        let nodes = ["n1", "n2", "n3", "n4", "n5"].map(node).to_vec();
        let compared = compare(nodes, leases, Timestamp::from_second(1000).unwrap());
        assert_eq!(compared.wanted.as_deref(), Some("b"));
        let states: Vec<_> = compared.nodes.iter().map(|node| node.state).collect();
        assert_eq!(states, ["enforcing", "behind", "stale", "gone", "absent"]);
        assert_eq!(compared.outcome(), Outcome::NotEnforced);
    }
}
