//! The `nodeport-proxy` that all clusters share.
//!
//! Input: its Service and EndpointSlices in KKP's namespace, and the clusters with their own
//! frontends. Output: what leads to one cluster is added to that cluster, the rest is the proxy's own.
//! Invariant: a listener belongs to the cluster whose nodePort has its number, since KKP gives the
//! proxy one listener per exposed nodePort; the numbers of the proxy's own nodePorts mean nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use enforcer_policy::model::{
    Cluster, ClusterId, Frontend, FrontendAddress, FrontendKind, Snapshot,
};

use super::{
    frontends::{self, Opened, SHARED_PROXY},
    guard_pods::Guard,
    pods,
    report::Report,
    unread,
};
use crate::source::store::Objects;

/// What of the proxy leads to no single cluster.
pub(super) struct SharedProxy {
    /// Its frontends.
    pub(super) frontends: Vec<Frontend>,
    /// Addresses of its pods.
    pub(super) pods: BTreeSet<IpAddr>,
}

/// Adds the proxy's frontends to the clusters that they lead to, and returns the others.
pub(super) fn distribute(
    objects: &Objects,
    namespace: &str,
    clusters: &mut BTreeMap<ClusterId, Arc<Cluster>>,
    guard: &Guard,
    former: Option<&Snapshot>,
    report: &mut Report,
) -> SharedProxy {
    let mut shared = BTreeSet::new();
    let mut additions: BTreeMap<ClusterId, BTreeSet<Frontend>> = BTreeMap::new();
    let all_opened = frontends::of(objects, namespace, &SHARED_PROXY, guard, report);
    let owners = owners(clusters, all_opened.iter().map(|opened| opened.listener).collect());
    for opened in all_opened {
        let Opened { frontend, listener } = opened;
        match owners.get(&listener) {
            Some(owners) => {
                for owner in owners {
                    additions.entry(owner.clone()).or_default().insert(frontend.clone());
                }
            }
            None => {
                shared.insert(frontend);
            }
        }
    }
    for (id, frontends) in additions {
        let Some(cluster) = clusters.get_mut(&id) else { continue };
        let cluster = Arc::make_mut(cluster);
        let all: BTreeSet<Frontend> = cluster.frontends.drain(..).chain(frontends).collect();
        cluster.frontends = all.into_iter().collect();
    }
    let mut pods: BTreeSet<IpAddr> = pods::slices(objects, namespace, SHARED_PROXY.service)
        .flat_map(|stored| pods::addresses(&stored.object))
        .filter(|address| !guard.hosts.contains(address))
        .collect();
    if let Some(former) = former {
        // Of a cluster that is gone, the way in may be there still.
        let gone = former.clusters.values().filter(|it| !clusters.contains_key(&it.id));
        let gone = gone.flat_map(|cluster| &cluster.frontends);
        let gone = gone.filter(|frontend| frontend.kind.is_shared_proxy());
        let all = former.shared_proxy.iter().chain(gone);
        shared.extend(all.filter(|it| unread::is_kept(it, objects, guard)).cloned());
        if unread::pods(objects, namespace) {
            pods.extend(&former.shared_proxy_pods);
        }
    }
    SharedProxy { frontends: shared.into_iter().collect(), pods }
}

/// Whose the nodePorts with these numbers are, of those that KKP exposes through the proxy.
fn owners(
    clusters: &BTreeMap<ClusterId, Arc<Cluster>>,
    listeners: BTreeSet<u16>,
) -> BTreeMap<u16, BTreeSet<ClusterId>> {
    let mut owners: BTreeMap<u16, BTreeSet<ClusterId>> = BTreeMap::new();
    if listeners.is_empty() {
        return owners;
    }
    for (id, cluster) in clusters {
        for Frontend { at, kind, .. } in &cluster.frontends {
            match (kind, at) {
                (
                    FrontendKind::ApiServerNodePort
                    | FrontendKind::KonnectivityNodePort
                    | FrontendKind::OpenVpnNodePort,
                    FrontendAddress::Node { port },
                ) if listeners.contains(port) => {
                    owners.entry(*port).or_default().insert(id.clone());
                }
                (
                    FrontendKind::FrontLoadBalancer
                    | FrontendKind::FrontLoadBalancerNodePort
                    | FrontendKind::ApiServerNodePort
                    | FrontendKind::KonnectivityNodePort
                    | FrontendKind::OpenVpnNodePort
                    | FrontendKind::ServiceAddress
                    | FrontendKind::PodEndpoint
                    | FrontendKind::SharedProxy
                    | FrontendKind::SharedProxyNodePort
                    | FrontendKind::SharedProxyPod,
                    FrontendAddress::Node { .. } | FrontendAddress::Address { .. },
                ) => {}
            }
        }
    }
    owners
}
