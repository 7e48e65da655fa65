//! Every kind of way into an API server, on one seed.
//!
//! Input: a [`Stage`]. Output: [`Entrances`], the list of all ways with their servers. Cluster `c1`
//! gets what strategy LoadBalancer may have besides the customary; `c2` of strategy NodePort and `c3`
//! of strategy Tunneling stand behind the shared `nodeport-proxy`. Invariant: every way answers as
//! long as nobody filters.

use std::net::SocketAddr;

use anyhow::Result;

use crate::addresses::{Dual, FIRST_VIP, cluster_ip};
use crate::kube::{KubePort, KubeService, Pod, ServiceType};
use crate::listen::{Server, UdpServer};
use crate::nat::Protocol;
use crate::seed::{Frontend, HEALTHZ, KONNECTIVITY, Strategy, UserCluster};
use crate::stage::{NODE, Stage};

/// One way into an API server.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// The cluster that it leads to.
    pub cluster: &'static str,
    /// The way; the labels of those through the shared proxy begin with `proxy`.
    pub frontend: Frontend,
}

/// What listens behind the ways that a stage has not by custom.
#[derive(Debug)]
pub struct Entrances {
    /// All ways, both families of each.
    pub list: Vec<Entrance>,
    /// TCP servers that count what reached them, without those of the stage.
    pub servers: Vec<Server>,
    /// UDP servers: OpenVPN's.
    pub datagrams: Vec<UdpServer>,
}

/// The port of `openvpn-server`, in its pod too.
const OPEN_VPN: u16 = 1194;
/// Where API servers of strategy Tunneling listen, and the shared proxy for all of them.
const SNI: u16 = 6443;
/// Where the shared proxy takes tunnels (HTTP/2 CONNECT).
const TUNNEL: u16 = 8088;
/// The shared proxy's own nodePorts: for healthz, the API server and konnectivity of `c2`, SNI, tunnels.
const PROXY_NODE_PORTS: [u16; 5] = [32301, 32302, 32303, 32304, 32305];

/// External addresses number `index` of a cluster or, with number 1, of the shared proxy.
fn external(index: u16, number: u8) -> Dual {
    FIRST_VIP.plus(20 * index + u16::from(number) - 1)
}

fn open_vpn_node_port(cluster: &UserCluster) -> u16 {
    31200 + u16::from(cluster.number)
}

/// Gives a cluster's services external IPs, and those that come with `apiServerServiceType:
/// LoadBalancer` and with OpenVPN.
pub(crate) fn widen(cluster: &UserCluster, services: &mut Vec<KubeService>) {
    for service in services.iter_mut() {
        match service.name.as_str() {
            "front-loadbalancer" => {
                service.external_ips = external(1, cluster.number).both().to_vec();
            }
            "apiserver-external" => {
                service.kind = ServiceType::LoadBalancer;
                service.vip = Some(external(2, cluster.number));
                service.external_ips = external(3, cluster.number).both().to_vec();
            }
            _ => {}
        }
    }
    let port = KubePort {
        protocol: Protocol::Udp,
        ..KubePort::tcp("secure", OPEN_VPN, OPEN_VPN, open_vpn_node_port(cluster))
    };
    services.push(cluster.service("openvpn-server", ServiceType::NodePort, 3, vec![port]));
}

impl Entrances {
    /// Opens all ways on a customary stage whose plan has pod `proxy` besides, and publishes nothing.
    pub fn open(stage: &mut Stage) -> Result<Entrances> {
        stage.cluster.wide = true;
        let second = UserCluster { strategy: Strategy::NodePort, ..UserCluster::new("c2", 2) };
        let third = UserCluster { strategy: Strategy::Tunneling, ..UserCluster::new("c3", 3) };
        stage.settle(second)?;
        stage.settle(third)?;
        stage.services = vec![shared_proxy(stage)];
        let mut rules = stage.cluster.rules();
        rules.extend(stage.tenants.iter().flat_map(|tenant| tenant.cluster.rules()));
        rules.extend(stage.services.iter().map(KubeService::rules));
        stage.network.serve(&rules)?;
        let (servers, datagrams) = listen(stage)?;
        Ok(Entrances { list: list(stage), servers, datagrams })
    }
}

fn shared_proxy(stage: &Stage) -> KubeService {
    let ports = stage.tenants[0].cluster.ports();
    let [healthz, api_server, konnectivity, sni, tunnel] = PROXY_NODE_PORTS;
    let listener = |name, port, node_port| KubePort::tcp(name, port, port, node_port);
    let addresses = stage.network.pod("proxy").addresses;
    KubeService {
        namespace: "kubermatic".into(),
        name: "nodeport-proxy".into(),
        kind: ServiceType::LoadBalancer,
        cluster_ip: cluster_ip(9),
        vip: Some(external(4, 1)),
        external_ips: external(5, 1).both().to_vec(),
        local: false,
        annotations: Vec::new(),
        selector: vec![("app".into(), "nodeport-proxy-envoy".into())],
        ports: vec![
            listener("healthz", HEALTHZ, healthz),
            listener("cluster-c2-apiserver-external", ports.api_server, api_server),
            listener("cluster-c2-konnectivity-server", ports.konnectivity, konnectivity),
            listener("sni", SNI, sni),
            listener("http2-connect", TUNNEL, tunnel),
        ],
        pods: vec![Pod { name: "proxy".into(), node: NODE.into(), addresses }],
    }
}

/// OpenVPN beside the API server of `c1`, the API server of `c3`, and the shared proxy's listeners.
fn listen(stage: &Stage) -> Result<(Vec<Server>, Vec<UdpServer>)> {
    let pod = |name: &str| stage.network.pod(name);
    let any = |port| SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
    let proxy = &pod("proxy").ns;
    let forward = |port, to: &str, target| {
        Server::forward(proxy, any(port), SocketAddr::new(pod(to).addresses.v4.into(), target))
    };
    let ports = stage.tenants[0].cluster.ports();
    let servers = vec![
        Server::echo(&pod("apiserver-c3").ns, any(SNI), "apiserver")?,
        Server::echo(proxy, any(HEALTHZ), "healthz")?,
        forward(ports.api_server, "apiserver-c2", ports.api_server)?,
        forward(ports.konnectivity, "apiserver-c2", KONNECTIVITY)?,
        forward(SNI, "apiserver-c3", SNI)?,
        forward(TUNNEL, "apiserver-c3", SNI)?,
    ];
    let vpn = pod("apiserver");
    let at = vpn.addresses.at(OPEN_VPN).into_iter();
    let datagrams = at.map(|at| UdpServer::echo(&vpn.ns, at, "openvpn")).collect::<Result<_>>()?;
    Ok((servers, datagrams))
}

fn list(stage: &Stage) -> Vec<Entrance> {
    let node = stage.network.node(NODE).addresses;
    let pod = |name: &str| stage.network.pod(name).addresses;
    let (first, second) = (&stage.cluster, &stage.tenants[0].cluster);
    let (c1, c2) = (first.ports(), second.ports());
    let number = first.number;
    let [_, api_server, konnectivity, sni, tunnel] = PROXY_NODE_PORTS;
    let (vip, outer, proxy) = (external(4, 1), external(5, 1), pod("proxy"));
    let tcp: &[(&str, &str, Dual, u16)] = &[
        ("c1", "external IP", external(1, number), c1.api_server),
        ("c1", "external IP, konnectivity", external(1, number), c1.konnectivity),
        ("c1", "bypass VIP", external(2, number), 443),
        ("c1", "bypass external IP", external(3, number), 443),
        ("c1", "Envoy pod", pod("envoy"), c1.api_server),
        ("c1", "Envoy pod, konnectivity", pod("envoy"), c1.konnectivity),
        ("c1", "API server pod", pod("apiserver"), c1.api_server),
        ("c1", "API server pod, konnectivity", pod("apiserver"), KONNECTIVITY),
        ("c2", "proxy VIP", vip, c2.api_server),
        ("c2", "proxy VIP, konnectivity", vip, c2.konnectivity),
        ("c2", "proxy nodePort", node, api_server),
        ("c2", "proxy nodePort, konnectivity", node, konnectivity),
        ("c2", "proxy external IP", outer, c2.api_server),
        ("c2", "proxy external IP, konnectivity", outer, c2.konnectivity),
        ("c2", "proxy pod", proxy, c2.api_server),
        ("c2", "proxy pod, konnectivity", proxy, c2.konnectivity),
        ("c2", "API server pod", pod("apiserver-c2"), c2.api_server),
        ("c2", "API server pod, konnectivity", pod("apiserver-c2"), KONNECTIVITY),
        ("c3", "proxy VIP", vip, SNI),
        ("c3", "proxy VIP, tunnel", vip, TUNNEL),
        ("c3", "proxy nodePort", node, sni),
        ("c3", "proxy nodePort, tunnel", node, tunnel),
        ("c3", "proxy external IP", outer, SNI),
        ("c3", "proxy external IP, tunnel", outer, TUNNEL),
        ("c3", "proxy pod", proxy, SNI),
        ("c3", "proxy pod, tunnel", proxy, TUNNEL),
        ("c3", "API server pod", pod("apiserver-c3"), SNI),
    ];
    let udp: &[(&str, &str, Dual, u16)] = &[
        ("c1", "openvpn nodePort", node, open_vpn_node_port(first)),
        ("c1", "openvpn pod", pod("apiserver"), OPEN_VPN),
    ];
    let open: &[(&str, &str, Dual, u16)] = &[
        ("c1", "external IP, healthz", external(1, number), HEALTHZ),
        ("c2", "proxy VIP, healthz", vip, HEALTHZ),
        ("c2", "proxy nodePort, healthz", node, PROXY_NODE_PORTS[0]),
        ("c2", "proxy pod, healthz", proxy, HEALTHZ),
    ];
    let customary = [("c1", first), ("c2", second)].into_iter().flat_map(|(cluster, described)| {
        stage
            .frontends_of(described)
            .into_iter()
            .map(move |frontend| Entrance { cluster, frontend })
    });
    let more =
        [(tcp, Protocol::Tcp, true), (udp, Protocol::Udp, true), (open, Protocol::Tcp, false)];
    let more = more.into_iter().flat_map(|(ways, protocol, guarded)| {
        ways.iter().flat_map(move |&(cluster, label, dual, port)| {
            let at = move |address| Frontend { label, address, guarded, protocol };
            dual.at(port).map(|address| Entrance { cluster, frontend: at(address) })
        })
    });
    customary.chain(more).collect()
}
