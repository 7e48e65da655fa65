//! A seed on one machine: clients, a router, seed nodes with pods behind them, real veths between.
//!
//! ```text
//!  listed ──┐                 ┌── eth0  node seed-1 ──┬── pod envoy
//!           ├── router ═══════╡         NAT, routes   └── pod apiserver
//!  unlisted ┘   (bridge)      └── eth0  node seed-2 ───── pod …
//! ```
//!
//! Input: a [`Plan`]. Output: a [`Network`], to which more can be added later. Every host has IPv4
//! and IPv6; see [`crate::addresses`] for who has which. Dropping it removes all namespaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::addresses::{self, Dual, FIRST_NODE, LISTED, ROUTER, UNLISTED, all_pods};
use crate::link::{self, Cable};
use crate::nat::{self, NodeRanges, Service};
use crate::netns::Netns;
use crate::packets::Mac;

/// What to build; infallible to write down.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    clients: Vec<(String, Dual)>,
    neighbours: Vec<(String, Dual)>,
    nodes: Vec<(String, Cni)>,
    pods: Vec<(String, String)>,
    services: Vec<Service>,
}

/// How a node's pods are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cni {
    /// A routed veth each: /32 and /128 routes, link-local gateway (Calico, Cilium, GKE).
    #[default]
    Routed,
    /// Veths in a bridge `cni0` that is their gateway (flannel, kubenet).
    Bridge,
}

impl Plan {
    /// The customary seed: clients `listed` and `unlisted`, node `seed-1`, pods `envoy` and
    /// `apiserver`.
    pub fn customary() -> Plan {
        Plan::default()
            .client("listed", LISTED)
            .client("unlisted", UNLISTED)
            .node("seed-1", Cni::Routed)
            .pod("seed-1", "envoy")
            .pod("seed-1", "apiserver")
    }

    /// A client beyond the router.
    #[must_use]
    pub fn client(mut self, name: &str, addresses: Dual) -> Plan {
        self.clients.push((name.into(), addresses));
        self
    }

    /// A host on the nodes' own network, such as a load balancer that probes health.
    #[must_use]
    pub fn neighbour(mut self, name: &str, addresses: Dual) -> Plan {
        self.neighbours.push((name.into(), addresses));
        self
    }

    /// A seed node; the first gets the addresses `.11`, the next `.12`.
    #[must_use]
    pub fn node(mut self, name: &str, cni: Cni) -> Plan {
        self.nodes.push((name.into(), cni));
        self
    }

    /// A pod on a node of this plan; names are unique in the seed.
    #[must_use]
    pub fn pod(mut self, node: &str, name: &str) -> Plan {
        self.pods.push((node.into(), name.into()));
        self
    }

    /// A service for every node's kube-proxy.
    #[must_use]
    pub fn service(mut self, service: Service) -> Plan {
        self.services.push(service);
        self
    }

    /// Builds it; takes root and a fraction of a second.
    pub fn build(self) -> Result<Network> {
        let Plan { clients, neighbours, nodes, pods, services } = self;
        let mut network = Network::new()?;
        for (name, addresses) in clients {
            network.add_client(&name, addresses)?;
        }
        for (name, addresses) in neighbours {
            network.add_neighbour(&name, addresses)?;
        }
        for (name, cni) in nodes {
            network.add_node(&name, cni)?;
        }
        for (node, name) in pods {
            network.add_pod(&node, &name)?;
        }
        network.serve(&services)?;
        Ok(network)
    }
}

/// A client, a neighbour or a pod: one namespace with one interface `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Its network namespace.
    pub ns: Netns,
    /// Its addresses.
    pub addresses: Dual,
    /// The Ethernet address of its `eth0`.
    pub mac: Mac,
    /// The Ethernet address of its default gateway.
    pub gateway_mac: Mac,
    /// The other end of its veth, in the router's namespace or the node's.
    pub peer: String,
}

/// A seed node.
#[derive(Debug)]
pub struct Node {
    /// Its network namespace.
    pub ns: Netns,
    /// Its addresses on `eth0`, the uplink.
    pub addresses: Dual,
    /// The Ethernet address of its `eth0`.
    pub mac: Mac,
    /// Counted from zero; decides its addresses and pod range.
    pub index: u8,
    /// How its pods are connected.
    pub cni: Cni,
    /// What the router calls its end of the node's cable.
    pub peer: String,
    pods: u16,
}

impl Node {
    /// The node's pod ranges as text, IPv4 /24 first, then IPv6 /64.
    pub fn pod_ranges(&self) -> [String; 2] {
        addresses::pod_range(self.index).ranges(24, 64)
    }
}

/// The running network.
#[derive(Debug)]
pub struct Network {
    router: Netns,
    hosts: BTreeMap<String, Host>,
    nodes: BTreeMap<String, Node>,
    pods: BTreeMap<String, Host>,
    services: Vec<Service>,
    cables: u32,
}

impl Network {
    fn new() -> Result<Network> {
        let router = Netns::new("router")?;
        router.sysctl(link::FORWARDING)?;
        router.ip(&format!(
            "link add nodes address {} type bridge mcast_snooping 0\n\
             addr add {}/24 dev nodes\n\
             addr add {}/64 dev nodes nodad\n\
             link set nodes up\n",
            addresses::mac_text(link::ROUTER_MAC),
            ROUTER.v4,
            ROUTER.v6,
        ))?;
        let (hosts, nodes, pods) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Network { router, hosts, nodes, pods, services: Vec::new(), cables: 0 })
    }

    /// The namespace of the router between clients and nodes; its bridge is `nodes`.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// The client or neighbour of that name; panics if there is none.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host {name} in this network"))
    }

    /// The node of that name; panics if there is none.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("no node {name} in this network"))
    }

    /// The pod of that name; panics if there is none.
    pub fn pod(&self, name: &str) -> &Host {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name} in this network"))
    }

    /// All nodes with their names.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Adds a client beyond the router.
    pub fn add_client(&mut self, name: &str, addresses: Dual) -> Result<&Host> {
        let cable = self.cable(name);
        let ns = Netns::new(name)?;
        link::routed(&self.router, ROUTER, &ns, &cable, addresses)
            .with_context(|| format!("cannot connect client {name}"))?;
        Ok(self.hosts.entry(name.into()).insert_entry(cable.host(ns, addresses)).into_mut())
    }

    /// Adds a host on the nodes' network.
    pub fn add_neighbour(&mut self, name: &str, addresses: Dual) -> Result<&Host> {
        let cable = self.cable(name);
        let ns = Netns::new(name)?;
        link::bridged(&self.router, "nodes", ROUTER, &ns, &cable, addresses)
            .with_context(|| format!("cannot connect neighbour {name}"))?;
        let mut host = cable.host(ns, addresses);
        host.gateway_mac = link::ROUTER_MAC;
        Ok(self.hosts.entry(name.into()).insert_entry(host).into_mut())
    }

    /// Adds further addresses to a client: the sources of a test with many.
    pub fn add_addresses(&mut self, client: &str, more: &[IpAddr]) -> Result<()> {
        let host = self.host(client);
        let (mut inside, mut outside) = (String::new(), String::new());
        for address in more {
            let length = if address.is_ipv4() { 32 } else { 128 };
            inside += &format!("addr add {address}/{length} dev eth0\n");
            outside += &format!("route add {address}/{length} dev {}\n", host.peer);
        }
        host.ns.ip(&inside)?;
        self.router.ip(&outside)
    }

    /// Adds a node with routes to and from the other nodes' pods, and the services.
    pub fn add_node(&mut self, name: &str, cni: Cni) -> Result<&Node> {
        let index = u8::try_from(self.nodes.len()).context("too many nodes")?;
        let addresses = FIRST_NODE.plus(index.into());
        let cable = self.cable(name);
        let ns = Netns::new(name)?;
        ns.sysctl(link::FORWARDING)?;
        link::bridged(&self.router, "nodes", ROUTER, &ns, &cable, addresses)
            .with_context(|| format!("cannot connect node {name}"))?;
        let (mac, peer) = (cable.inner_mac, cable.peer.clone());
        let node = Node { ns, addresses, mac, index, cni, peer, pods: 0 };
        if cni == Cni::Bridge {
            link::pod_bridge(&node.ns, addresses::pod_range(index))?;
        }
        node.ns.nft(&nat::pod_masquerade(&all_pods(), "eth0"))?;
        for other in self.nodes.values() {
            node.ns.ip(&link::route_to_pods(other))?;
            other.ns.ip(&link::route_to_pods(&node))?;
        }
        self.router.ip(&link::route_to_pods(&node))?;
        self.nodes.insert(name.into(), node);
        self.serve_on(name)?;
        Ok(self.node(name))
    }

    /// Adds a pod on a node; its addresses are the next of the node's ranges, from `.10`.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<&Host> {
        let cable = self.cable(name);
        let ns = Netns::new(name)?;
        let node = self.nodes.get_mut(node).with_context(|| format!("no node {node}"))?;
        let range = addresses::pod_range(node.index);
        let addresses = range.plus(10 + node.pods);
        node.pods += 1;
        match node.cni {
            Cni::Routed => link::routed(&node.ns, node.addresses, &ns, &cable, addresses),
            Cni::Bridge => link::bridged(&node.ns, "cni0", range.plus(1), &ns, &cable, addresses),
        }
        .with_context(|| format!("cannot connect pod {name}"))?;
        let mut pod = cable.host(ns, addresses);
        if node.cni == Cni::Bridge {
            pod.gateway_mac = link::POD_BRIDGE_MAC;
        }
        Ok(self.pods.entry(name.into()).insert_entry(pod).into_mut())
    }

    /// Removes a pod: its namespace, its veth, its routes.
    pub fn remove_pod(&mut self, node: &str, name: &str) -> Result<()> {
        let pod = self.pods.remove(name).with_context(|| format!("no pod {name}"))?;
        self.node(node).ns.ip(&format!("link del {}\n", pod.peer))
    }

    /// Adds services to those of every node's kube-proxy.
    pub fn serve_also(&mut self, more: &[Service]) -> Result<()> {
        let all = [&self.services, more].concat();
        self.serve(&all)
    }

    /// Replaces the services of every node's kube-proxy; external addresses go to the first node.
    pub fn serve(&mut self, services: &[Service]) -> Result<()> {
        self.services = services.to_vec();
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            self.serve_on(name)?;
        }
        let first = self.nodes().find(|(_, node)| node.index == 0).map(|(name, _)| name.to_owned());
        if let Some(first) = first {
            let external = services.iter().flat_map(|s| s.external.iter().copied());
            self.route(&external.collect::<Vec<_>>(), &first)?;
        }
        Ok(())
    }

    /// Makes every wire take packets of so many bytes, 1500 by custom.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let set = |ns: &Netns, link: &str| ns.ip(&format!("link set {link} mtu {mtu}\n"));
        let of_router = self.hosts.values().map(|host| (&host.ns, &host.peer));
        for (ns, peer) in of_router.chain(self.nodes.values().map(|node| (&node.ns, &node.peer))) {
            set(&self.router, peer)?;
            set(ns, "eth0")?;
        }
        for pod in self.pods.values() {
            let range = |node: &&Node| addresses::pod_range(node.index).v4.octets()[..3].to_vec();
            let is_here = |node: &&Node| range(node) == pod.addresses.v4.octets()[..3];
            let node = self.nodes.values().find(is_here).context("a pod without a node")?;
            set(&node.ns, &pod.peer)?;
            set(&pod.ns, "eth0")?;
        }
        Ok(())
    }

    /// Makes the router send packets for `addresses` (VIPs, external IPs) to a node.
    pub fn route(&self, addresses: &[IpAddr], node: &str) -> Result<()> {
        let gateway = self.node(node).addresses;
        let lines = addresses.iter().map(|address| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("route replace {address}/{length} via {}\n", gateway.like(*address))
        });
        self.router.ip(&lines.collect::<String>())
    }

    fn serve_on(&self, name: &str) -> Result<()> {
        let node = self.node(name);
        let ranges = NodeRanges { all_pods: all_pods(), own_pods: node.pod_ranges() };
        node.ns
            .nft(&nat::ruleset(&self.services, &ranges))
            .with_context(|| format!("cannot set up the services of node {name}"))
    }

    fn cable(&mut self, name: &str) -> Cable {
        self.cables += 1;
        Cable::new(self.cables, name)
    }
}
