//! What was enforced last, before any source is read: at the agent's start, and by `enforcer restore`.

use super::{AgentError, former_addresses};
use crate::{
    args::Restore,
    kernel::Kernel,
    node::{self, NodeState},
    reconcile::Reconciler,
    source::{EgressDns, EgressSettings, GuardPods, Limits, Settings},
    state::State,
};

/// Enforces what was enforced last, where that is known; whether it is in force.
pub(super) fn restored(reconciler: &mut Reconciler, node: &NodeState) -> bool {
    let Some(report) = reconciler.restore(node) else { return false };
    match report.failure {
        Some(why) => {
            tracing::error!(why, "what was enforced last cannot be restored");
            false
        }
        None => {
            tracing::info!(
                revision = %report.wanted,
                interfaces = report.guarded.len(),
                "what was enforced last is in force again; it may be stale until the source is read"
            );
            report.attaching.is_empty()
        }
    }
}

/// `enforcer restore`
pub fn restore(restore: &Restore) -> Result<(), AgentError> {
    let Restore { places, interfaces, attach } = restore;
    let Some(former) = State::of(&places.state).load() else {
        tracing::info!("nothing was saved that could be restored");
        return Ok(());
    };
    // Of these, the compiled snapshot knows the options; the rest is for reading sources.
    let settings = Settings {
        options: former.options.clone(),
        seed_name: None,
        kubermatic_namespace: String::new(),
        guard_pods: GuardPods::Auto,
        egress: EgressSettings { dns: EgressDns::Any, allow: Vec::new() },
        limits: Limits::default(),
    };
    let addresses = former_addresses(&former.this_node.name, Some(&former));
    let node = node::observe(interfaces, &addresses)?;
    let kernel = Kernel::open_attaching(&places.bpffs, *attach)?;
    let mut reconciler = Reconciler::new(kernel, settings, Some(former));
    if reconciler.has_image() {
        tracing::info!("an image is in force already");
        reconciler.guard_all(&node);
        return Ok(());
    }
    if restored(&mut reconciler, &node) { Ok(()) } else { Err(AgentError::NotRestored) }
}
