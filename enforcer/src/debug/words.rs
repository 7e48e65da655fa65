//! The words for frontends, clusters and lists, the same in every command.

use enforcer_policy::model::{
    Cluster, ExposeStrategy, Frontend, FrontendAddress, FrontendKind, Mode, PeerPort, Protocol,
    Snapshot,
};
use serde::Serialize;

/// A frontend, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct FrontendWords {
    pub(super) kind: &'static str,
    pub(super) protocol: &'static str,
    /// `null` for a nodePort: any address of a node.
    pub(super) address: Option<String>,
    pub(super) port: u16,
    pub(super) service: String,
    pub(super) port_name: String,
}

impl FrontendWords {
    pub(super) fn of(frontend: &Frontend) -> Self {
        let Frontend { protocol, at, kind, service, port_name } = frontend;
        let (address, port) = self::address(*at);
        Self {
            kind: self::kind(*kind),
            protocol: self::protocol(*protocol),
            address,
            port,
            service: service.to_string(),
            port_name: port_name.clone(),
        }
    }
}

/// Where a frontend is; without an address it is a nodePort.
pub(super) fn address(at: FrontendAddress) -> (Option<String>, u16) {
    match at {
        FrontendAddress::Node { port } => (None, port),
        FrontendAddress::Address { address, port } => (Some(address.to_string()), port),
    }
}

/// In place of the address of a nodePort.
pub(super) const ANY_OF_A_NODE: &str = "any of a node";

pub(super) fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::FrontLoadBalancer => "front-load-balancer",
        FrontendKind::FrontLoadBalancerNodePort => "front-load-balancer-node-port",
        FrontendKind::ApiServerNodePort => "api-server-node-port",
        FrontendKind::KonnectivityNodePort => "konnectivity-node-port",
        FrontendKind::OpenVpnNodePort => "openvpn-node-port",
        FrontendKind::ServiceAddress => "service-address",
        FrontendKind::PodEndpoint => "pod",
        FrontendKind::SharedProxy => "shared-proxy",
        FrontendKind::SharedProxyNodePort => "shared-proxy-node-port",
        FrontendKind::SharedProxyPod => "shared-proxy-pod",
    }
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

pub(super) fn strategy(strategy: ExposeStrategy) -> &'static str {
    match strategy {
        ExposeStrategy::NodePort => "NodePort",
        ExposeStrategy::LoadBalancer => "LoadBalancer",
        ExposeStrategy::Tunneling => "Tunneling",
    }
}

pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

/// Whether a cluster is enforced, the agent's own mode counted in.
pub(super) fn mode_of(snapshot: &Snapshot, cluster: &Cluster) -> Mode {
    match (snapshot.options.mode, cluster.mode) {
        (Mode::Enforce, Mode::Enforce) => Mode::Enforce,
        (Mode::Audit, _) | (Mode::Enforce, Mode::Audit) => Mode::Audit,
    }
}

/// Ports of a peer.
pub(super) fn peer_port(port: PeerPort) -> String {
    match port {
        PeerPort::Any => "any".to_owned(),
        PeerPort::Only(protocol, port) => format!("{port}/{}", self::protocol(protocol)),
    }
}

/// `5 ranges`, `1 range`.
pub(super) fn count(number: usize, one: &str, more: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {more}") }
}
