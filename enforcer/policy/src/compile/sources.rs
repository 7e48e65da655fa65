//! Nodes and pods: at which addresses nodePorts are reached, and which sources are admitted, or not,
//! whatever the lists say.
//!
//! Input: nodes, pods and options of a snapshot. Output: addresses, [`Exempt`] and the pods that need
//! a record of their own. Invariant: what `pod_facing` holds and `uplink` does not is in this node's own pod
//! ranges, so that a pod without a record is decided by ranges alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Exempt, Pod};
use crate::{model::Snapshot, ranges::RangeSet};

/// Addresses at which nodePorts are reached.
pub(super) fn node_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let Snapshot { nodes, this_node, .. } = snapshot;
    let of_others = nodes.values().flat_map(|node| &node.addresses).chain(&this_node.tunnel_peers);
    this_node.addresses.iter().chain(of_others).copied().collect()
}

/// Whether nodePorts are reached at an address. The data path takes all of 127.0.0.0/8 for this
/// node's without being told.
pub(super) fn is_of_a_node(node_addresses: &BTreeSet<IpAddr>, address: IpAddr) -> bool {
    let is_loopback = match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(_) => false,
    };
    is_loopback || node_addresses.contains(&address)
}

/// Sources outside any cluster's list.
pub(super) fn exempt(snapshot: &Snapshot) -> Exempt {
    let Snapshot { options, nodes, this_node, shared_proxy_pods, .. } = snapshot;
    let own = own_pod_ranges(snapshot);
    let named: RangeSet = options.exempt.iter().copied().collect();
    let hosts: RangeSet = nodes
        .values()
        .flat_map(|node| &node.addresses)
        .chain(&this_node.tunnel_peers)
        .filter(|_| options.exempt_seed.nodes)
        .collect();
    let pods: RangeSet = nodes
        .values()
        .flat_map(|node| node.pod_ranges.iter().copied())
        .filter(|_| options.exempt_seed.pods)
        .collect();
    let pods = pods.union(&shared_proxy_pods.iter().collect());
    let everywhere = named.union(&hosts);
    let connected = this_node.connected.iter().filter(|_| options.probes.connected);
    Exempt {
        uplink: everywhere.union(&pods.difference(&own)),
        pod_facing: everywhere.union(&pods),
        trusted: options.trusted_proxies.iter().copied().collect(),
        probes: options.probes.ranges.iter().chain(connected).copied().collect(),
    }
}

/// Pods of control planes that ranges do not decide.
pub(super) fn pods(snapshot: &Snapshot, exempt: &Exempt) -> BTreeMap<IpAddr, Pod> {
    let own = own_pod_ranges(snapshot);
    let api_servers: BTreeSet<IpAddr> =
        snapshot.clusters.values().flat_map(|cluster| &cluster.api_server_pods).copied().collect();
    let mut pods: BTreeMap<IpAddr, Pod> = BTreeMap::new();
    for cluster in snapshot.clusters.values() {
        for address in cluster.own_pods.union(&cluster.api_server_pods) {
            let api_server = api_servers.contains(address);
            if !api_server && exempt.pod_facing.contains(*address) {
                continue;
            }
            pods.entry(*address).and_modify(|pod| pod.cluster = None).or_insert_with(|| Pod {
                cluster: Some(cluster.id.clone()),
                api_server,
                local: own.contains(*address),
            });
        }
    }
    pods
}

/// Pod ranges of this node: a packet that comes in on an uplink from there is spoofed.
fn own_pod_ranges(snapshot: &Snapshot) -> RangeSet {
    let node = snapshot.nodes.get(&snapshot.this_node.name);
    let ranges: Option<&Vec<IpNet>> = node.map(|node| &node.pod_ranges);
    ranges.into_iter().flatten().copied().collect()
}
