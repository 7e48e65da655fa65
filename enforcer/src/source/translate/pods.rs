//! The pods of a control plane, and of the seed.
//!
//! Input: Pods and EndpointSlices. Output: their addresses, and which of them are API servers'. Invariant: an address of a node is none of them, so that a pod in the host's
//! network does not make its node one of the control plane's own.

use std::{collections::BTreeSet, net::IpAddr};

use super::{frontends, ranges};
use crate::source::{
    objects::{EndpointSlice, Pod},
    store::{Objects, Stored, in_namespace},
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

/// The pods in a control-plane namespace; `hosts` are the addresses of nodes.
pub(super) fn of(objects: &Objects, namespace: &str, hosts: &BTreeSet<IpAddr>) -> Pods {
    let mut pods = Pods { own: BTreeSet::new(), api_servers: BTreeSet::new() };
    let mut add = |address: IpAddr, is_api_server| {
        if hosts.contains(&address) {
            return;
        }
        pods.own.insert(address);
        if is_api_server {
            pods.api_servers.insert(address);
        }
    };
    for (_, stored) in in_namespace(&objects.pods, namespace) {
        let is_api_server = is_api_server(&stored.object);
        of_pod(&stored.object).for_each(|address| add(address, is_api_server));
    }
    for (_, stored) in in_namespace(&objects.endpoint_slices, namespace) {
        let is_api_server = service(&stored.object) == API_SERVER_SERVICE;
        addresses(&stored.object).for_each(|address| add(address, is_api_server));
    }
    pods
}

/// Addresses of all pods that are seen, and of those behind the Services that expose control planes, with
/// their namespaces.
pub(super) fn all(objects: &Objects) -> impl Iterator<Item = (&str, IpAddr)> {
    let slices = objects.endpoint_slices.iter();
    let slices = slices.map(|(key, stored)| (&*key.namespace, exposed(&stored.object)));
    let slices = slices.flat_map(|(at, addresses)| addresses.map(move |address| (at, address)));
    let pods = objects.pods.iter();
    let pods = pods.map(|(key, stored)| (&*key.namespace, of_pod(&stored.object)));
    pods.flat_map(|(at, addresses)| addresses.map(move |address| (at, address))).chain(slices)
}

/// The same of one namespace.
pub(super) fn all_in<'a>(
    objects: &'a Objects,
    namespace: &'a str,
) -> impl Iterator<Item = IpAddr> + 'a {
    let slices = in_namespace(&objects.endpoint_slices, namespace);
    let pods = in_namespace(&objects.pods, namespace);
    pods.flat_map(|(_, stored)| of_pod(&stored.object))
        .chain(slices.flat_map(|(_, stored)| exposed(&stored.object)))
}

/// Addresses of endpoints of a Service that exposes control planes; none of another's.
fn exposed(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let name = service(slice);
    let exposes = name == frontends::SHARED_PROXY.service
        || frontends::ROLES.iter().any(|role| role.service == name);
    addresses(slice).filter(move |_| exposes)
}

/// The EndpointSlices of a Service.
pub(super) fn slices<'a>(
    objects: &'a Objects,
    namespace: &'a str,
    service: &'a str,
) -> impl Iterator<Item = &'a Stored<EndpointSlice>> {
    in_namespace(&objects.endpoint_slices, namespace)
        .map(|(_, stored)| stored)
        .filter(move |stored| self::service(&stored.object) == service)
}

/// The Service whose endpoints these are, empty where none is named.
pub(super) fn service(slice: &EndpointSlice) -> &str {
    slice.metadata.label(SERVICE_LABEL)
}

/// Addresses of endpoints, the ones that are not ready included.
pub(super) fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    placed_addresses(slice).map(|(address, _)| address)
}

/// The same, with the name of the node that each runs on, as far as it is written.
pub(super) fn placed_addresses(slice: &EndpointSlice) -> impl Iterator<Item = (IpAddr, &str)> {
    let is_address = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
    slice.endpoints.iter().filter(move |_| is_address).flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter().filter_map(|text| ranges::address(text));
        addresses.map(|address| (address, endpoint.node_name.as_str()))
    })
}

/// Whether the pod is an API server of its namespace's cluster.
pub(super) fn is_api_server(pod: &Pod) -> bool {
    pod.metadata.label("app") == API_SERVER
}

/// Whether its containers will not run any more.
pub(super) fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

/// A pod's own addresses: none in the host's network, nor after its end.
pub(super) fn of_pod(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let has_own = !pod.spec.host_network && !has_ended(pod);
    written_addresses(pod).filter(move |_| has_own)
}

/// Addresses in a pod's status.
pub(super) fn written_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let all = pod.status.pod_ips.iter().map(|ip| &ip.ip).chain([&pod.status.pod_ip]);
    all.filter_map(|text| ranges::address(text))
}
