//! Starts what tells others: the seed's API, and operators who ask.

use std::sync::Arc;

use enforcer_policy::model::Snapshot;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Status, namespace};
use crate::{
    args::Run,
    observe::{
        self, company,
        drops::Drops,
        events, lease,
        socket::{self, Answers},
    },
    source::Kubernetes,
    state::State,
};

/// Starts what writes to the seed's API: this node's Lease and Events.
pub(super) fn kubernetes(
    run: &Run,
    source: &Kubernetes,
    statuses: &watch::Receiver<Arc<Status>>,
    tasks: &TaskTracker,
    cancelled: &CancellationToken,
) {
    let node = run.node.clone();
    let Some(namespace) = namespace(run) else {
        tracing::warn!(
            "the agent's own Namespace is not known: no Lease, no Events; see --namespace"
        );
        return;
    };
    let (clients, objects) = (source.clients(), source.reader());
    tasks.spawn(lease::keep(
        namespace.clone(),
        node.clone(),
        clients.clone(),
        statuses.clone(),
        cancelled.clone(),
    ));
    tasks.spawn(company::report(
        node.clone(),
        clients.clone(),
        statuses.clone(),
        cancelled.clone(),
    ));
    let me = events::Identity { namespace, node };
    tasks.spawn(events::report(me, clients, objects, statuses.clone(), cancelled.clone()));
}

/// Starts what `enforcer debug` reads.
pub(super) fn operators(
    run: &Run,
    state: &State,
    drops: Drops,
    statuses: &watch::Receiver<Arc<Status>>,
    snapshots: &watch::Receiver<Option<Arc<Snapshot>>>,
    tasks: &TaskTracker,
    cancelled: &CancellationToken,
) {
    let agent = Arc::new(observe::Agent::of(run));
    let (statuses, snapshots) = (statuses.clone(), snapshots.clone());
    let path = state.socket();
    match socket::bind(&path) {
        Ok(listener) => {
            let (agent, statuses) = (Arc::clone(&agent), statuses.clone());
            let answers = Answers { agent, statuses, snapshots, drops };
            tasks.spawn(socket::serve(listener, answers, cancelled.clone()));
        }
        Err(error) => tracing::warn!(
            path = %path.display(), %error,
            "no socket for `enforcer debug`: it will say what was kept"
        ),
    }
    tasks.spawn(observe::keep_account(agent, state.clone(), statuses, cancelled.clone()));
}
