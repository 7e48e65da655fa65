//! What was there before this process started, as far as the former snapshot tells.
//!
//! Input: the snapshot that was enforced last and a watch. Output: the keys that its first list is
//! compared with. Pods are not among them: the snapshot knows their addresses only, and those of
//! API servers are in EndpointSlices too. Nor are the objects that tell whom API servers connect to: of
//! most of them the snapshot knows nothing.

use std::collections::BTreeSet;

use enforcer_policy::model::Snapshot;

use super::watches::Watch;
use crate::source::{objects::Kind, store::Key};

/// The objects of a watch that the snapshot was made from.
pub(super) fn of(former: &Snapshot, watch: &Watch) -> BTreeSet<Key> {
    let Snapshot {
        options: _,
        seed,
        clusters,
        shared_proxy,
        shared_proxy_pods,
        nodes,
        this_node: _,
    } = former;
    let clusters = clusters.values();
    if !watch.exposes {
        return BTreeSet::new();
    }
    match watch.kind {
        Kind::Cluster => clusters.map(|cluster| Key::new("", &cluster.id.0)).collect(),
        Kind::Seed => {
            let namespace = watch.namespace.as_deref().unwrap_or_default();
            seed.iter().map(|seed| Key::new(namespace, &seed.name)).collect()
        }
        Kind::Namespace => clusters.map(|cluster| Key::new("", &cluster.namespace)).collect(),
        Kind::Service => {
            let services = clusters.flat_map(|cluster| &cluster.frontends).chain(shared_proxy);
            let services = services.map(|frontend| &frontend.service).filter(|service| {
                let of_namespace = |namespace: &String| *namespace == service.namespace;
                watch.object.is_none_or(|name| name == service.name)
                    && watch.namespace.as_ref().is_none_or(of_namespace)
            });
            services.map(|service| Key::new(&service.namespace, &service.name)).collect()
        }
        Kind::EndpointSlice => {
            let reached = clusters.filter(|cluster| !cluster.api_server_pods.is_empty());
            let reached = reached.map(|cluster| &cluster.namespace);
            let shared = shared_proxy.iter().filter(|_| !shared_proxy_pods.is_empty());
            let shared = shared.map(|frontend| &frontend.service.namespace);
            reached.chain(shared).map(|namespace| Key::new(namespace, "")).collect()
        }
        Kind::Node => nodes.keys().map(|name| Key::new("", name)).collect(),
        Kind::ClusterTemplate | Kind::Pod => BTreeSet::new(),
    }
}
