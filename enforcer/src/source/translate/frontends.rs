//! Where clients reach a control plane.
//!
//! Input: the Services that expose one, and their EndpointSlices. Output: every frontend that they
//! open, for every expose strategy: what is open is guarded, whether or not the strategy asks for it.
//! Invariant: health checks stay open (`healthz`, 8002; `healthCheckNodePort` is no port of the
//! service), and what names no packet destination (a `hostname`, `ipMode: Proxy`) is no frontend.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{Frontend, FrontendAddress, FrontendKind, ObjectRef, Protocol},
    problem::ProblemKind,
};

use super::{
    guard_pods::Guard,
    pods, ranges,
    report::{Place, Report},
};
use crate::source::{
    objects::{EndpointSlice, Kind, LoadBalancerIngress, Service, ServicePort, TargetPort},
    store::{Key, Objects, Stored},
};

/// A Service through which KKP exposes control planes.
pub(super) struct Role {
    /// Its name.
    pub(super) service: &'static str,
    /// What its nodePorts are.
    node_port: FrontendKind,
    /// What its load balancer addresses, external IPs and addresses inside the seed are.
    address: FrontendKind,
    /// What its pods are.
    pod: FrontendKind,
    /// Whether Envoy is behind it, and with it a port for health checks.
    envoy: bool,
}

/// The Services of a control-plane namespace.
pub(super) const ROLES: [Role; 4] = [
    Role {
        service: "front-loadbalancer",
        node_port: FrontendKind::FrontLoadBalancerNodePort,
        address: FrontendKind::FrontLoadBalancer,
        pod: FrontendKind::PodEndpoint,
        envoy: true,
    },
    Role {
        service: "apiserver-external",
        node_port: FrontendKind::ApiServerNodePort,
        address: FrontendKind::ServiceAddress,
        pod: FrontendKind::PodEndpoint,
        envoy: false,
    },
    Role {
        service: "konnectivity-server",
        node_port: FrontendKind::KonnectivityNodePort,
        address: FrontendKind::ServiceAddress,
        pod: FrontendKind::PodEndpoint,
        envoy: false,
    },
    Role {
        service: "openvpn-server",
        node_port: FrontendKind::OpenVpnNodePort,
        address: FrontendKind::ServiceAddress,
        pod: FrontendKind::PodEndpoint,
        envoy: false,
    },
];

/// The Service in KKP's own namespace that all clusters share.
pub(super) const SHARED_PROXY: Role = Role {
    service: "nodeport-proxy",
    node_port: FrontendKind::SharedProxyNodePort,
    address: FrontendKind::SharedProxy,
    pod: FrontendKind::SharedProxyPod,
    envoy: true,
};

/// A way in, and where it leads.
pub(super) struct Opened {
    /// The way in.
    pub(super) frontend: Frontend,
    /// The port at which the pods behind it listen, as far as it has a number; else the service's.
    pub(super) listener: u16,
}

/// The port at which load balancers ask for Envoy's health.
const HEALTH_PORT: u16 = 8002;
const HEALTH_PORT_NAME: &str = "healthz";

/// Stands for the address of a Service that has none inside the seed.
pub(super) const HEADLESS: &str = "None";

/// What a Service of a role opens, in this namespace.
pub(super) fn of(
    objects: &Objects,
    namespace: &str,
    role: &Role,
    guard: &Guard,
    report: &mut Report,
) -> Vec<Opened> {
    let Some(stored) = objects.services.get(&Key::new(namespace, role.service)) else {
        return Vec::new();
    };
    let object = Kind::Service.reference(namespace, role.service);
    let mut opened = by_service(role, &object, stored, guard, report);
    if guard.holds_pods(&stored.object) {
        for slice in pods::slices(objects, namespace, role.service) {
            opened.extend(by_pods(role, &object, slice, guard, report));
        }
    }
    opened
}

/// Through its addresses and nodePorts.
fn by_service(
    role: &Role,
    object: &ObjectRef,
    stored: &Stored<Service>,
    guard: &Guard,
    report: &mut Report,
) -> Vec<Opened> {
    let spec = &stored.object.spec;
    let ports: Vec<(&ServicePort, u16)> = spec
        .ports
        .iter()
        .map(|port| (port, listener(port)))
        .filter(|(port, listener)| !is_health_check(role, &port.name, &[port.port, *listener]))
        .collect();
    let opens = matches!(spec.service_type.as_str(), "NodePort" | "LoadBalancer");
    // The shared proxy of a seed without clusters has its health check only.
    if ports.is_empty() && opens && !role.address.is_shared_proxy() {
        let place = Place { object, file: &stored.file, field: "spec.ports" };
        report.add(place, "", ProblemKind::NoPorts);
    }
    let addresses = addresses(object, stored, guard, report);
    let mut opened = Vec::new();
    for (port, listener) in ports {
        let field = format!("spec.ports[{}].protocol", port.name);
        let place = Place { object, file: &stored.file, field: &field };
        let Some(protocol) = protocol(&port.protocol, place, report) else { continue };
        let mut open = |at, kind| {
            let (service, port_name) = (object.clone(), port.name.clone());
            let frontend = Frontend { protocol, at, kind, service, port_name };
            opened.push(Opened { frontend, listener });
        };
        for &address in &addresses {
            open(FrontendAddress::Address { address, port: port.port }, role.address);
        }
        if port.node_port != 0 {
            open(FrontendAddress::Node { port: port.node_port }, role.node_port);
        }
    }
    opened
}

/// Through its pods' own addresses.
fn by_pods(
    role: &Role,
    object: &ObjectRef,
    stored: &Stored<EndpointSlice>,
    guard: &Guard,
    report: &mut Report,
) -> Vec<Opened> {
    let slice = &*stored.object;
    let reference = Kind::EndpointSlice.reference(&slice.metadata.namespace, &slice.metadata.name);
    let mut listeners = BTreeMap::new();
    for port in &slice.ports {
        let Some(number) = port.port else { continue };
        let field = format!("ports[{}].protocol", port.name);
        let place = Place { object: &reference, file: &stored.file, field: &field };
        let Some(protocol) = protocol(&port.protocol, place, report) else { continue };
        if !is_health_check(role, &port.name, &[number]) {
            listeners.insert((protocol, number), &port.name);
        }
    }
    let mut opened = Vec::new();
    for (address, node) in pods::placed_addresses(slice) {
        if guard.hosts.contains(&address) || !guard.is_here(node) {
            continue;
        }
        for (&(protocol, port), &name) in &listeners {
            let frontend = Frontend {
                protocol,
                at: FrontendAddress::Address { address, port },
                kind: role.pod,
                service: object.clone(),
                port_name: name.clone(),
            };
            opened.push(Opened { frontend, listener: port });
        }
    }
    opened
}

fn listener(port: &ServicePort) -> u16 {
    match port.target_port {
        Some(TargetPort::Number(number)) if number != 0 => number,
        Some(TargetPort::Number(_) | TargetPort::Name(_)) | None => port.port,
    }
}

fn is_health_check(role: &Role, name: &str, ports: &[u16]) -> bool {
    role.envoy && (name == HEALTH_PORT_NAME || ports.contains(&HEALTH_PORT))
}

/// What the load balancer's addresses are that packets carry up to the node, with their positions.
pub(super) fn balancer_addresses(service: &Service) -> impl Iterator<Item = (usize, &String)> {
    let is_destination = |at: &&LoadBalancerIngress| at.ip_mode != "Proxy" && !at.ip.is_empty();
    let ingress = service.status.load_balancer.ingress.iter().enumerate();
    ingress.filter(move |(_, at)| is_destination(at)).map(|(position, at)| (position, &at.ip))
}

/// Load balancer addresses, external IPs and addresses inside the seed.
fn addresses(
    object: &ObjectRef,
    stored: &Stored<Service>,
    guard: &Guard,
    report: &mut Report,
) -> BTreeSet<IpAddr> {
    let service = &*stored.object;
    let ingress = balancer_addresses(service)
        .map(|(position, ip)| (format!("status.loadBalancer.ingress[{position}].ip"), ip));
    let external = service.spec.external_ips.iter().enumerate();
    let external = external.map(|(position, ip)| (format!("spec.externalIPs[{position}]"), ip));
    let inner = service.spec.cluster_ips.iter().enumerate();
    let inner = inner.map(|(position, ip)| (format!("spec.clusterIPs[{position}]"), ip));
    let inner = inner.chain([("spec.clusterIP".to_owned(), &service.spec.cluster_ip)]);
    let inner = inner.filter(|(_, ip)| guard.holds_cluster_addresses() && *ip != HEADLESS);
    let mut addresses = BTreeSet::new();
    let all = ingress.chain(external).chain(inner);
    for (field, text) in all.filter(|(_, text)| !text.is_empty()) {
        match ranges::address(text) {
            Some(address) => {
                addresses.insert(address);
            }
            None => {
                let place = Place { object, file: &stored.file, field: &field };
                report.add(place, text, ProblemKind::InvalidRange);
            }
        }
    }
    addresses
}

/// `None` for protocols that are not guarded: nothing of a control plane speaks SCTP.
fn protocol(text: &str, place: Place<'_>, report: &mut Report) -> Option<Protocol> {
    let known = known_protocol(text);
    if known.is_none() && text != "SCTP" {
        let reason = "expected TCP, UDP or SCTP".to_owned();
        report.add(place, text, ProblemKind::WrongShape { reason });
    }
    known
}

/// The protocols that are judged.
pub(super) fn known_protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _other => None,
    }
}
