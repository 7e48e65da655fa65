//! What an agent says of itself, for `enforcer debug`: over its socket while it runs, and kept in the
//! folder of `--state`, so that it can be read when it does not.
//!
//! Input: a [`Status`] and who the agent is. Output: an [`Account`], and the file that holds the last one.

use std::time::{Duration, SystemTime};

use enforcer_policy::{model::Side, problem::Problem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Status,
    args::{EgressDnsOption, GuardPodsOption, Run},
    chain::chain,
    source::Learned,
    state::State,
};

/// The file is not written more often than this.
const LEAST: Duration = Duration::from_millis(200);

/// What an agent says of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Who it is.
    pub agent: Agent,
    /// When it said this.
    pub at: String,
    /// Revision of the image in force.
    pub enforced: Option<String>,
    /// Revision of what the objects say.
    pub wanted: Option<String>,
    /// Whether `--mode audit` is on.
    pub audits: bool,
    /// Since when the source cannot be read.
    pub stale_since: Option<String>,
    /// Why `/readyz` says no; empty where it says yes.
    pub not_ready: Vec<String>,
    /// Why the last image was not applied.
    pub failure: Option<String>,
    /// Interfaces that are, or should be, guarded.
    pub interfaces: Vec<AccountedInterface>,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
    /// What recent traffic gives away.
    #[serde(default)]
    pub observed: Vec<Problem>,
    /// What it found out by itself about egress.
    #[serde(default)]
    pub learned: Learned,
}

/// Who an agent is, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Version of the program.
    pub version: String,
    /// Process number.
    pub process: u32,
    /// When it started.
    pub started: String,
    /// `--node`
    pub node: String,
    /// `--source`
    pub source: String,
    /// `--seed`
    pub seed: Option<String>,
    /// `--kubermatic-namespace`
    pub kubermatic_namespace: String,
    /// `--guard-pods`
    pub guard_pods: GuardPodsOption,
    /// `--max-ranges-per-cluster`
    pub max_ranges_per_cluster: usize,
    /// `--max-addresses-per-cluster`
    #[serde(default = "most_addresses")]
    pub max_addresses_per_cluster: usize,
    /// `--egress-dns`
    #[serde(default)]
    pub egress_dns: EgressDnsOption,
    /// `--egress-allow`
    #[serde(default)]
    pub egress_allow: Vec<String>,
}

/// An interface as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountedInterface {
    /// Its number; `None` where there is no such interface.
    pub index: Option<u32>,
    /// Its name.
    pub name: String,
    /// `uplink` or `pod`; `None` where it is not known.
    pub side: Option<String>,
    /// Whether it is guarded.
    pub state: InterfaceState,
    /// Why it is not.
    pub why: Option<String>,
}

/// Whether an interface is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InterfaceState {
    /// It is.
    Guarded,
    /// It will be in a moment.
    Attaching,
    /// It should be, and is not.
    Unguarded,
}

/// What an agent that does not say it has: one before it was an option has none.
const fn most_addresses() -> usize {
    usize::MAX
}

impl Agent {
    /// The agent of this process.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started: now(),
            node: run.node.clone(),
            source: run.source.to_string(),
            seed: run.seed.clone(),
            kubermatic_namespace: run.kubermatic_namespace.clone(),
            guard_pods: run.guard_pods,
            max_ranges_per_cluster: run.max_ranges_per_cluster,
            max_addresses_per_cluster: run.max_addresses_per_cluster,
            egress_dns: run.egress_dns,
            egress_allow: run.egress_allow.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Account {
    /// What the agent says now.
    #[must_use]
    pub fn of(agent: &Agent, status: &Status) -> Self {
        let Status { report, source_stale_since, observed } = status;
        let known = |state| {
            move |interface: &enforcer_policy::plan::Interface| AccountedInterface {
                index: Some(interface.index),
                name: interface.name.clone(),
                side: Some(side(interface.side).to_owned()),
                state,
                why: None,
            }
        };
        let guarded = report.guarded.iter().map(known(InterfaceState::Guarded));
        let attaching = report.attaching.iter().map(known(InterfaceState::Attaching));
        let unguarded = report.unguarded.iter().map(|(name, why)| AccountedInterface {
            index: None,
            name: name.clone(),
            side: None,
            state: InterfaceState::Unguarded,
            why: Some(why.clone()),
        });
        Self {
            agent: agent.clone(),
            at: now(),
            enforced: report.enforced.map(|revision| revision.to_string()),
            wanted: report.enforced.map(|_| report.wanted.to_string()),
            audits: report.audits,
            stale_since: source_stale_since.map(time),
            not_ready: status.not_ready(),
            failure: report.failure.clone(),
            interfaces: guarded.chain(attaching).chain(unguarded).collect(),
            problems: report.problems.clone(),
            observed: observed.to_vec(),
            learned: report.learned.clone(),
        }
    }
}

/// Saves what the agent says whenever that is something else, until it is cancelled.
pub async fn keep(
    agent: Arc<Agent>,
    state: State,
    mut statuses: watch::Receiver<Arc<Status>>,
    cancelled: CancellationToken,
) {
    let mut saved: Option<Account> = None;
    let mut ends = false;
    while !ends {
        ends = tokio::select! {
            () = cancelled.cancelled() => true,
            changed = statuses.changed() => changed.is_err(),
        };
        let status = Arc::clone(&statuses.borrow_and_update());
        // Before the first attempt there is nothing that is better than what was saved.
        if status.report.enforced.is_none() && status.report.problems.is_empty() {
            continue;
        }
        let account = Account::of(&agent, &status);
        let same = saved
            .as_ref()
            .is_some_and(|saved| *saved == Account { at: saved.at.clone(), ..account.clone() });
        if same {
            continue;
        }
        let (state, written) = (state.clone(), account.clone());
        let done = tokio::task::spawn_blocking(move || state.save_account(&written)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(error = chain(&error), "the agent's account is not saved");
        }
        saved = Some(account);
        if !ends {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = tokio::time::sleep(LEAST) => {}
            }
        }
    }
}

/// Name of a side, as in JSON and tables.
#[must_use]
pub fn side(side: Side) -> &'static str {
    match side {
        Side::Uplink => "uplink",
        Side::Pod => "pod",
    }
}

/// A moment in JSON and tables: RFC 3339, to the second.
fn time(at: SystemTime) -> String {
    Timestamp::try_from(at).map(|at| format!("{at:.0}")).unwrap_or_default()
}

fn now() -> String {
    time(SystemTime::now())
}
