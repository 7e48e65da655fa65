//! Where clients reach a control plane.
//!
//! Input: the Services of its namespace. Output: every frontend that they open, for every expose
//! strategy: what is open is guarded, whether or not the strategy asks for it. Invariant: health
//! checks stay open (`healthz`, 8002; `healthCheckNodePort` is no port of the service), and what
//! names no packet destination (a `hostname`, `ipMode: Proxy`) is no frontend.

use std::{collections::BTreeSet, net::IpAddr};

use enforcer_policy::{
    model::{Frontend, FrontendAddress, FrontendKind, ObjectRef, Protocol},
    problem::ProblemKind,
};

use super::{
    ranges,
    report::{Place, Report},
};
use crate::source::{
    objects::{Kind, LoadBalancerIngress, Service, ServicePort},
    store::{Key, Objects, Stored},
};

/// A Service through which KKP exposes control planes.
struct Role {
    service: &'static str,
    /// What its nodePorts are.
    node_port: FrontendKind,
    /// What its load balancer addresses and external IPs are.
    address: FrontendKind,
}

const ROLES: [Role; 4] = [
    Role {
        service: "front-loadbalancer",
        node_port: FrontendKind::FrontLoadBalancerNodePort,
        address: FrontendKind::FrontLoadBalancer,
    },
    Role {
        service: "apiserver-external",
        node_port: FrontendKind::ApiServerNodePort,
        address: FrontendKind::ServiceAddress,
    },
    Role {
        service: "konnectivity-server",
        node_port: FrontendKind::KonnectivityNodePort,
        address: FrontendKind::ServiceAddress,
    },
    Role {
        service: "openvpn-server",
        node_port: FrontendKind::OpenVpnNodePort,
        address: FrontendKind::ServiceAddress,
    },
];

/// The port of `front-loadbalancer` at which its load balancer asks for Envoy's health.
const HEALTH_PORT: u16 = 8002;
const HEALTH_PORT_NAME: &str = "healthz";

/// The frontends that the Services of a control-plane namespace open.
pub(super) fn of(objects: &Objects, namespace: &str, report: &mut Report) -> BTreeSet<Frontend> {
    let mut frontends = BTreeSet::new();
    for role in &ROLES {
        if let Some(stored) = objects.services.get(&Key::new(namespace, role.service)) {
            let object = Kind::Service.reference(namespace, role.service);
            add(role, &object, stored, &mut frontends, report);
        }
    }
    frontends
}

fn add(
    role: &Role,
    object: &ObjectRef,
    stored: &Stored<Service>,
    frontends: &mut BTreeSet<Frontend>,
    report: &mut Report,
) {
    let Service { metadata: _, spec, status: _ } = &*stored.object;
    let ports: Vec<&ServicePort> =
        spec.ports.iter().filter(|port| !is_health_check(role, port)).collect();
    if ports.is_empty() && matches!(spec.service_type.as_str(), "NodePort" | "LoadBalancer") {
        let place = Place { object, file: &stored.file, field: "spec.ports" };
        report.add(place, "", ProblemKind::NoPorts);
    }
    let addresses = addresses(object, stored, report);
    for port in ports {
        let Some(protocol) = protocol(port, object, stored, report) else { continue };
        let mut open = |at, kind| {
            let (service, port_name) = (object.clone(), port.name.clone());
            frontends.insert(Frontend { protocol, at, kind, service, port_name });
        };
        for &address in &addresses {
            open(FrontendAddress::Address { address, port: port.port }, role.address);
        }
        if port.node_port != 0 {
            open(FrontendAddress::Node { port: port.node_port }, role.node_port);
        }
    }
}

fn is_health_check(role: &Role, port: &ServicePort) -> bool {
    role.address == FrontendKind::FrontLoadBalancer
        && (port.name == HEALTH_PORT_NAME || port.port == HEALTH_PORT)
}

/// Load balancer addresses and external IPs.
fn addresses(
    object: &ObjectRef,
    stored: &Stored<Service>,
    report: &mut Report,
) -> BTreeSet<IpAddr> {
    let Service { metadata: _, spec, status } = &*stored.object;
    let is_destination = |ingress: &&LoadBalancerIngress| ingress.ip_mode != "Proxy";
    let ingress = (0..).zip(&status.load_balancer.ingress).filter(|(_, at)| is_destination(at));
    let ingress = ingress.map(|(position, ingress)| {
        (format!("status.loadBalancer.ingress[{position}].ip"), &ingress.ip)
    });
    let external = (0..).zip(&spec.external_ips);
    let external = external.map(|(position, ip)| (format!("spec.externalIPs[{position}]"), ip));
    let mut addresses = BTreeSet::new();
    for (field, text) in ingress.chain(external).filter(|(_, text)| !text.is_empty()) {
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
fn protocol(
    port: &ServicePort,
    object: &ObjectRef,
    stored: &Stored<Service>,
    report: &mut Report,
) -> Option<Protocol> {
    match port.protocol.as_str() {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => None,
        unknown => {
            let field = format!("spec.ports[{}].protocol", port.name);
            let place = Place { object, file: &stored.file, field: &field };
            let reason = "expected TCP, UDP or SCTP".to_owned();
            report.add(place, unknown, ProblemKind::WrongShape { reason });
            None
        }
    }
}
