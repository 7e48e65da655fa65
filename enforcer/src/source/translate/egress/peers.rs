//! The peers in a control plane's own namespace.
//!
//! Input: Pods, Services and EndpointSlices of the namespace. Output: what KKP's NetworkPolicies grant
//! the API servers there: pods by their label at every port, and the services that select them at their
//! own ports, since on the pod's interface a packet still names the service.

use std::{collections::BTreeSet, net::IpAddr};

use enforcer_policy::model::{Origin, PeerPort, Protocol};
use ipnet::IpNet;

use super::{Peers, Subject};
use crate::source::{
    objects::{Kind, Service},
    store::{Key, Objects, Stored, in_namespace},
    translate::{
        frontends::{self, HEADLESS},
        pods, ranges,
    },
};

/// Pods of one sort.
struct Role {
    /// The label that KKP selects them by.
    label: (&'static str, &'static str),
    /// The service that is known to select them, where its object is not seen: EndpointSlices come
    /// for more services than their objects do.
    service: Option<&'static str>,
}

const fn app(name: &'static str, service: &'static str) -> Role {
    Role { label: ("app", name), service: Some(service) }
}

/// KKP's policies for API servers, but for those that lead out of the namespace.
const ROLES: [Role; 9] = [
    app("apiserver", "apiserver-external"),
    app("dns-resolver", "dns-resolver"),
    app("etcd", "etcd"),
    app("machine-controller-webhook", "machine-controller-webhook"),
    app("metrics-server", "metrics-server"),
    app("openvpn-server", "openvpn-server"),
    app("operating-system-manager-webhook", "operating-system-manager-webhook"),
    app("usercluster-webhook", "usercluster-webhook"),
    // Kyverno.
    Role { label: ("app.kubernetes.io/component", "admission-controller"), service: None },
];

/// The label that says whose a pod is.
const CLUSTER: &str = "cluster";

/// Adds them.
pub(super) fn add(
    subject: Subject<'_>,
    objects: &Objects,
    hosts: &BTreeSet<IpAddr>,
    peers: &mut Peers,
) {
    let Subject { id, namespace, quota: _ } = subject;
    let is_own = |labels: &std::collections::BTreeMap<String, String>, role: &Role| {
        let (name, value) = role.label;
        labels.get(name).is_some_and(|label| label == value)
            && labels.get(CLUSTER).is_none_or(|cluster| *cluster == id.0)
    };
    let role_of = |labels| ROLES.iter().find(|role| is_own(labels, role));
    let pod = |address: &IpAddr| !hosts.contains(address);
    for (key, stored) in in_namespace(&objects.pods, namespace) {
        if role_of(&stored.object.metadata.labels).is_some() {
            let object = Kind::Pod.reference(&key.namespace, &key.name);
            let origin = Origin { object, field: "status.podIPs".to_owned() };
            for address in pods::of_pod(&stored.object).filter(pod) {
                peers.add(IpNet::from(address), PeerPort::Any, &origin);
            }
        }
    }
    for (key, stored) in in_namespace(&objects.services, namespace) {
        if role_of(&stored.object.spec.selector).is_some() {
            add_service(&key.name, stored, peers);
        }
    }
    for (key, stored) in in_namespace(&objects.endpoint_slices, namespace) {
        let service = pods::service(&stored.object);
        let is_peer = match objects.services.get(&Key::new(namespace, service)) {
            Some(stored) => role_of(&stored.object.spec.selector).is_some(),
            None => ROLES.iter().any(|role| role.service == Some(service)),
        };
        if is_peer {
            let object = Kind::EndpointSlice.reference(&key.namespace, &key.name);
            let origin = Origin { object, field: "endpoints".to_owned() };
            for address in pods::addresses(&stored.object).filter(pod) {
                peers.add(IpNet::from(address), PeerPort::Any, &origin);
            }
        }
    }
}

/// A service's addresses inside the seed, at its ports.
pub(super) fn add_service(name: &str, stored: &Stored<Service>, peers: &mut Peers) {
    let service = &*stored.object;
    let object = Kind::Service.reference(&service.metadata.namespace, name);
    let origin = Origin { object, field: "spec.clusterIPs".to_owned() };
    for address in cluster_addresses(service) {
        for port in ports(service) {
            peers.add(IpNet::from(address), port, &origin);
        }
    }
}

/// Addresses of a service inside the seed; a headless one has none.
pub(super) fn cluster_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let all = service.spec.cluster_ips.iter().chain([&service.spec.cluster_ip]);
    all.filter(|text| *text != HEADLESS).filter_map(|text| ranges::address(text))
}

/// The ports of a service.
pub(super) fn ports(service: &Service) -> impl Iterator<Item = PeerPort> {
    service.spec.ports.iter().filter_map(|port| at(&port.protocol, port.port))
}

/// A port as it is written; `None` where its protocol is none that is granted.
pub(super) fn at(protocol: &str, port: u16) -> Option<PeerPort> {
    let protocol: Protocol = frontends::known_protocol(protocol)?;
    Some(PeerPort::Only(protocol, port))
}
