//! The pods of a control plane.
//!
//! Input: the Pods and EndpointSlices of its namespace. Output: their addresses, and which of them
//! are API servers'. Invariant: an address of a node is none of them, so that a pod in the host's
//! network does not make its node one of the control plane's own.

use std::{collections::BTreeSet, net::IpAddr};

use super::ranges;
use crate::source::{
    objects::{EndpointSlice, Kind, Pod},
    store::{Key, Objects, in_namespace},
};

const API_SERVER: &str = "apiserver";
const API_SERVER_SERVICE: &str = "apiserver-external";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Addresses of a control plane's pods.
pub(super) struct Pods {
    /// All of them.
    pub(super) own: BTreeSet<IpAddr>,
    /// Those of API servers.
    pub(super) api_servers: BTreeSet<IpAddr>,
}

/// The pods in a control-plane namespace.
pub(super) fn of(objects: &Objects, namespace: &str, node_addresses: &BTreeSet<IpAddr>) -> Pods {
    let mut pods = Pods { own: BTreeSet::new(), api_servers: BTreeSet::new() };
    let mut add = |address: &str, is_api_server| {
        let address = ranges::address(address).filter(|address| !node_addresses.contains(address));
        pods.own.extend(address);
        pods.api_servers.extend(address.filter(|_| is_api_server));
    };
    for (_, stored) in in_namespace(&objects.pods, namespace) {
        let Pod { metadata, spec, status } = &*stored.object;
        let ended = matches!(status.phase.as_str(), "Succeeded" | "Failed");
        if spec.host_network || ended {
            continue;
        }
        let is_api_server = metadata.label("app") == API_SERVER;
        for address in status.pod_ips.iter().map(|ip| &ip.ip).chain([&status.pod_ip]) {
            add(address, is_api_server);
        }
    }
    for (_, stored) in in_namespace(&objects.endpoint_slices, namespace) {
        let EndpointSlice { metadata, address_type, endpoints } = &*stored.object;
        if !matches!(address_type.as_str(), "IPv4" | "IPv6") {
            continue;
        }
        let is_api_server = metadata.label(SERVICE_LABEL) == API_SERVER_SERVICE;
        for address in endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            add(address, is_api_server);
        }
    }
    pods
}

/// Whether pods of a namespace may be there that no table holds.
pub(super) fn may_lack_some(objects: &Objects, namespace: &str) -> bool {
    let (pod, slice) = (Kind::Pod.to_string(), Kind::EndpointSlice.to_string());
    objects.incomplete
        || objects.failed.iter().filter(|object| object.namespace == namespace).any(|object| {
            let key = Key::new(namespace, &object.name);
            (object.kind == pod && !objects.pods.contains_key(&key))
                || (object.kind == slice && !objects.endpoint_slices.contains_key(&key))
        })
}
