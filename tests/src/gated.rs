//! A seed whose cluster `c1` has the gate on: its API server, all it may connect to, and much that it
//! may not.
//!
//! Input: a CNI. Output: [`Gated`], whose lists name everything once for each way to it. Invariant: all
//! of it answers as long as nobody filters.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::addresses::{CONTROL_PLANE, Dual, LISTED, ROUTER, UNLISTED, cluster_ip};
use crate::kube::{self, KubePort, KubeService, Pod, ServiceType};
use crate::listen::{Server, UdpServer};
use crate::nat::Protocol;
use crate::netns::Netns;
use crate::seed::Frontend;
use crate::stage::{NODE, Stage};
use crate::survey::{Access, Question};
use crate::topology::{Cni, Host, Plan};

/// The other node.
pub const OTHER_NODE: &str = "seed-2";
/// Where cloud machines ask who they are; in IPv6 as AWS has it.
pub const METADATA: Dual = Dual {
    v4: std::net::Ipv4Addr::new(169, 254, 169, 254),
    v6: std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
};
/// Where nodes' DNS caches answer.
const NODE_CACHE: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(169, 254, 20, 10), DNS));
/// The kubelet's port, for something that listens on a node.
const KUBELET: u16 = 10250;
const DNS: u16 = 53;
const HTTPS: u16 = 443;

/// What a pod is to the API server of `c1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// It may connect.
    Always,
    /// With `--egress-dns=derived` too, which `any` is wider than.
    Names,
    /// It may not.
    Never,
}

/// A pod with a service before it.
struct Part {
    name: &'static str,
    namespace: &'static str,
    label: (&'static str, &'static str),
    port: u16,
    target: u16,
    protocol: Protocol,
    grant: Grant,
}

const fn tcp(name: &'static str, port: u16, target: u16) -> Part {
    let (label, protocol) = (("app", name), Protocol::Tcp);
    Part { name, namespace: OWN, label, port, target, protocol, grant: Grant::Always }
}

const OWN: &str = "cluster-c1";

/// Those that every stage has: the first two are of `c1`, the next is another cluster's.
const FEW: &[Part] = &[
    tcp("etcd", 2379, 2379),
    Part { protocol: Protocol::Udp, ..tcp("dns-resolver", DNS, DNS) },
    Part { namespace: "cluster-c2", grant: Grant::Never, ..tcp("etcd", 2379, 2379) },
];

/// The others of a whole seed.
const MORE: &[Part] = &[
    tcp("machine-controller-webhook", HTTPS, 9876),
    tcp("metrics-server", HTTPS, 9153),
    tcp("openvpn-server", 1194, 1194),
    tcp("operating-system-manager-webhook", HTTPS, 9443),
    tcp("usercluster-webhook", HTTPS, 9443),
    Part {
        label: ("app.kubernetes.io/component", "admission-controller"),
        ..tcp("kyverno-svc", HTTPS, 9443)
    },
    Part { namespace: "nginx-ingress-controller", ..tcp("ingress", HTTPS, 8443) },
    Part {
        namespace: "kube-system",
        label: ("k8s-app", "kube-dns"),
        protocol: Protocol::Udp,
        grant: Grant::Names,
        ..tcp("kube-dns", DNS, DNS)
    },
    Part { grant: Grant::Never, ..tcp("prometheus", 9090, 9090) },
    Part { namespace: "monitoring", grant: Grant::Never, ..tcp("grafana", 3000, 3000) },
];

/// A seed with a gated cluster `c1`; `c2` beside it is not gated.
#[derive(Debug)]
pub struct Gated {
    /// What its API server may connect to, always.
    pub granted: Vec<Frontend>,
    /// Those that it may ask for names with `--egress-dns=derived` too, beyond its own resolver.
    pub names: Vec<Frontend>,
    /// Those that it may ask for names with `--egress-dns=any` only.
    pub foreign_names: Vec<Frontend>,
    /// What it must not reach.
    pub refused: Vec<Frontend>,
    /// Everything else.
    pub stage: Stage,
    /// Services and pods of the parts.
    pub services: Vec<KubeService>,
    /// Their servers.
    pub servers: Vec<Server>,
    /// Servers of datagrams.
    pub datagrams: Vec<UdpServer>,
}

impl Gated {
    /// With all peers, on two nodes of this CNI.
    pub fn whole(cni: Cni) -> Result<Gated> {
        let mut gated = Gated::small(cni)?;
        gated.stage.network.add_neighbour("seed-api", CONTROL_PLANE)?;
        for (part, index) in MORE.iter().zip(10..) {
            gated.add_part(part, index)?;
        }
        gated.add_seed_api()?;
        gated.add_nodes()?;
        gated.serve()?;
        gated.publish()?;
        Ok(gated)
    }

    /// With etcd and a resolver, the etcd of `c2`, and the client `unlisted` as somebody in the internet.
    pub fn small(cni: Cni) -> Result<Gated> {
        let plan = Plan::default()
            .client("listed", LISTED)
            .client("unlisted", UNLISTED)
            .node(NODE, cni)
            .node(OTHER_NODE, cni)
            .pod(NODE, "envoy")
            .pod(NODE, "apiserver");
        let mut stage = Stage::on(plan)?;
        stage.cluster.gate = Some(true);
        stage.add_tenant("c2", 2)?;
        let mut gated = Gated {
            granted: Vec::new(),
            names: Vec::new(),
            foreign_names: Vec::new(),
            refused: Vec::new(),
            stage,
            services: Vec::new(),
            servers: Vec::new(),
            datagrams: Vec::new(),
        };
        for (part, index) in FEW.iter().zip(0..) {
            gated.add_part(part, index)?;
        }
        gated.add_internet()?;
        gated.serve()?;
        gated.publish()?;
        Ok(gated)
    }

    /// The pod of the gated API server.
    pub fn api_server(&self) -> &Host {
        self.stage.network.pod("apiserver")
    }

    /// Where the API server listens, in the address family of `v6`.
    pub fn api_address(&self, v6: bool) -> SocketAddr {
        let port = self.stage.cluster.ports().api_server;
        self.api_server().addresses.at(port)[usize::from(v6)]
    }

    /// The first address in the lists with this label and family, a pod's rather than its service's;
    /// panics if there is none.
    pub fn address(&self, label: &str, v6: bool) -> SocketAddr {
        let all = [&self.granted, &self.names, &self.foreign_names, &self.refused];
        let found =
            all.into_iter().flatten().find(|it| it.label == label && it.address.is_ipv6() == v6);
        found.unwrap_or_else(|| panic!("nothing is called {label}")).address
    }

    /// These ways, asked from a pod.
    pub fn questions<'a>(
        &'a self,
        client: &'a str,
        ways: &[&[Frontend]],
        expected: Access,
    ) -> Vec<Question<'a>> {
        let from = &self.stage.network.pod(client).ns;
        let ways = ways.iter().copied().flatten();
        ways.map(|&frontend| Question { client, from, frontend, expected }).collect()
    }

    /// Writes the manifests: seed and clusters as one file, the parts as another.
    pub fn publish(&self) -> Result<()> {
        self.stage.manifests.put("parts.yaml", &self.parts())?;
        self.stage.publish()
    }

    /// Services of the parts, and their pods.
    fn parts(&self) -> Vec<serde_json::Value> {
        let namespaces = ["nginx-ingress-controller", "kube-system", "monitoring", "default"];
        let mut objects: Vec<_> =
            namespaces.iter().map(|namespace| kube::namespace(namespace, &[])).collect();
        for service in &self.services {
            objects.extend(service.objects());
            let cluster = service.namespace.strip_prefix("cluster-").unwrap_or_default();
            let mut labels: Vec<(&str, &str)> = service
                .selector
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            if !cluster.is_empty() {
                labels.push(("cluster", cluster));
            }
            let pods = service.pods.iter().filter(|pod| !pod.node.is_empty());
            objects.extend(pods.map(|pod| kube::pod(&service.namespace, pod, &labels)));
        }
        objects
    }

    fn add_part(&mut self, part: &Part, index: u16) -> Result<()> {
        let Part { name, namespace, label, port, target, protocol, grant } = *part;
        let node = if index.is_multiple_of(2) { NODE } else { OTHER_NODE };
        let pod = if namespace == "cluster-c2" { format!("{name}-c2") } else { name.to_owned() };
        let host = self.stage.network.add_pod(node, &pod)?;
        let (ns, addresses) = (host.ns.clone(), host.addresses);
        self.listen(&ns, addresses.at(target), protocol, name)?;
        let service = KubeService {
            namespace: namespace.into(),
            name: name.into(),
            kind: ServiceType::ClusterIp,
            cluster_ip: cluster_ip(200 + index),
            vip: None,
            external_ips: Vec::new(),
            local: false,
            annotations: Vec::new(),
            selector: vec![(label.0.into(), label.1.into())],
            ports: vec![KubePort { protocol, ..KubePort::tcp("main", port, target, 0) }],
            pods: vec![Pod { name: pod, node: node.into(), addresses }],
        };
        let label = if namespace == "cluster-c2" { "etcd of c2" } else { name };
        let list = match grant {
            Grant::Always => &mut self.granted,
            Grant::Names => &mut self.names,
            Grant::Never => &mut self.refused,
        };
        list.extend(both(label, addresses, target, protocol));
        list.extend(both(label, service.cluster_ip, port, protocol));
        self.services.push(service);
        Ok(())
    }

    /// `default/kubernetes`: its endpoints are no pods.
    fn add_seed_api(&mut self) -> Result<()> {
        const PORT: u16 = 6443;
        let host = self.stage.network.host("seed-api");
        self.servers.push(Server::echo(&host.ns, any(PORT), "seed-api")?);
        let pod = Pod { name: "seed-api".into(), node: String::new(), addresses: CONTROL_PLANE };
        let service = KubeService {
            namespace: "default".into(),
            name: "kubernetes".into(),
            kind: ServiceType::ClusterIp,
            cluster_ip: cluster_ip(1),
            vip: None,
            external_ips: Vec::new(),
            local: false,
            annotations: Vec::new(),
            selector: Vec::new(),
            ports: vec![KubePort::tcp("https", HTTPS, PORT, 0)],
            pods: vec![pod],
        };
        self.granted.extend(both("seed's API", CONTROL_PLANE, PORT, Protocol::Tcp));
        self.granted.extend(both("seed's API, service", cluster_ip(1), HTTPS, Protocol::Tcp));
        self.services.push(service);
        Ok(())
    }

    fn add_internet(&mut self) -> Result<()> {
        let host = self.stage.network.host("unlisted");
        let (ns, addresses) = (host.ns.clone(), host.addresses);
        self.listen(&ns, addresses.at(HTTPS), Protocol::Tcp, "internet")?;
        self.listen(&ns, addresses.at(DNS), Protocol::Tcp, "DNS")?;
        self.listen(&ns, addresses.at(DNS), Protocol::Udp, "DNS")?;
        self.refused.extend(both("internet", addresses, HTTPS, Protocol::Tcp));
        self.foreign_names.extend(both("DNS elsewhere", addresses, DNS, Protocol::Udp));
        self.foreign_names.extend(both("DNS elsewhere, TCP", addresses, DNS, Protocol::Tcp));
        Ok(())
    }

    /// What listens on nodes, and the metadata service beyond them.
    fn add_nodes(&mut self) -> Result<()> {
        let Dual { v4, v6 } = METADATA;
        let router = self.stage.network.router();
        router.ip(&format!("addr add {v4}/32 dev nodes\naddr add {v6}/128 dev nodes nodad\n"))?;
        self.servers.push(Server::echo(router, any(80), "metadata")?);
        self.refused.extend(both("metadata", METADATA, 80, Protocol::Tcp));
        self.refused.extend(both("router", ROUTER, 80, Protocol::Tcp));
        let c2 = self.stage.tenants.first().context("added before")?.cluster.ports().api_server;
        for name in [NODE, OTHER_NODE] {
            let node = self.stage.network.node(name);
            self.servers.push(Server::echo(&node.ns, any(KUBELET), "kubelet")?);
            let addresses = node.addresses;
            self.refused.extend(both("kubelet", addresses, KUBELET, Protocol::Tcp));
            self.refused.extend(both("nodePort of c2", addresses, c2, Protocol::Tcp));
        }
        let node = self.stage.network.node(NODE);
        let gateway = match node.cni {
            Cni::Routed => Dual { v4: [169, 254, 1, 1].into(), v6: node.addresses.v6 },
            Cni::Bridge => crate::addresses::pod_range(node.index).plus(1),
        };
        self.refused.extend(both("kubelet at the gateway", gateway, KUBELET, Protocol::Tcp));
        node.ns.ip(&format!("addr add {}/32 dev lo\n", NODE_CACHE.ip()))?;
        self.datagrams.push(UdpServer::echo(&node.ns, NODE_CACHE, "node cache")?);
        let (address, protocol) = (NODE_CACHE, Protocol::Udp);
        self.names.push(Frontend { label: "node's cache", address, guarded: true, protocol });
        Ok(())
    }

    fn listen(
        &mut self,
        ns: &Netns,
        at: [SocketAddr; 2],
        protocol: Protocol,
        name: &str,
    ) -> Result<()> {
        for address in at {
            match protocol {
                Protocol::Tcp => self.servers.push(Server::echo(ns, address, name)?),
                Protocol::Udp => self.datagrams.push(UdpServer::echo(ns, address, name)?),
            }
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<()> {
        let clusters = [&self.stage.cluster]
            .into_iter()
            .chain(self.stage.tenants.iter().map(|tenant| &tenant.cluster));
        let rules = clusters.flat_map(|cluster| cluster.rules());
        let rules = rules.chain(self.services.iter().map(KubeService::rules));
        let rules: Vec<_> = rules.collect();
        self.stage.network.serve(&rules)
    }
}

fn both(label: &'static str, addresses: Dual, port: u16, protocol: Protocol) -> [Frontend; 2] {
    addresses.at(port).map(|address| Frontend { label, address, guarded: true, protocol })
}

/// All addresses of both families.
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)
}
