//! What all gated clusters share: the seed's API server, the way to the OIDC issuer inside the seed,
//! names, and what the operator allows everywhere.
//!
//! Input: objects of the seed, options. Output: peers, and the addresses that are the seed's own.
//! Invariant: a node is granted only at the ports that a service's endpoints name there.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use enforcer_policy::{
    model::{ObjectRef, Origin, Peer, PeerPort, Protocol, SeedNode, ThisNode},
    problem::ProblemKind,
    ranges::RangeSet,
};
use ipnet::IpNet;

use super::{
    EgressDns, Learned, Peers, Subject,
    peers::{self, cluster_addresses, ports},
};
use crate::source::{
    objects::{EndpointSlice, Kind, Service},
    store::{Key, Objects, Stored, in_namespace},
    translate::{
        Settings, frontends, pods, ranges,
        report::{Place, Report},
    },
};

/// Where ingress controllers run that may stand before an OIDC issuer in the seed, as KKP installs them.
pub(in crate::source) const INGRESS_NAMESPACES: [&str; 2] =
    ["nginx-ingress-controller", "envoy-gateway-controller"];

/// The seed's API server, as its own service.
pub(in crate::source) const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// The seed's own DNS.
pub(in crate::source) const DNS_NAMESPACE: &str = "kube-system";
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const DNS_SERVICE: &str = "kube-dns";
/// Where NodeLocal DNSCache answers on every node.
const DNS_ON_NODES: Ipv4Addr = Ipv4Addr::new(169, 254, 20, 10);
const DNS_PORT: u16 = 53;
/// Resolvers that a problem names.
const SHOWN: usize = 4;

/// What is the same for all clusters.
pub(in crate::source::translate) struct Shared<'a> {
    /// Name of this node.
    pub(super) this_node: &'a str,
    /// Addresses of nodes.
    pub(super) hosts: &'a BTreeSet<IpAddr>,
    /// Peers of every gated cluster, but for names.
    pub(super) peers: Vec<Peer>,
    pub(super) learned: &'a Learned,
    /// Hosts whose addresses are asked for.
    pub(super) names: RefCell<BTreeSet<String>>,
    dns: EgressDns,
    objects: &'a Objects,
    nodes: &'a BTreeMap<String, SeedNode>,
    node: &'a ThisNode,
    own: OnceCell<RangeSet>,
}

impl<'a> Shared<'a> {
    /// Of a seed.
    pub(in crate::source::translate) fn new(
        objects: &'a Objects,
        settings: &Settings,
        nodes: &'a BTreeMap<String, SeedNode>,
        hosts: &'a BTreeSet<IpAddr>,
        node: &'a ThisNode,
        learned: &'a Learned,
    ) -> Self {
        let mut peers = Peers::default();
        add_api_server(objects, &mut peers);
        for namespace in INGRESS_NAMESPACES {
            add_ingress(objects, namespace, hosts, &mut peers);
        }
        let origin = option("--egress-allow");
        let allowed = settings.egress.allow.iter();
        peers.extend(allowed.flat_map(|destination| destination.peers(&origin)));
        Self {
            this_node: &node.name,
            hosts,
            peers: peers.finish(),
            learned,
            names: RefCell::default(),
            dns: settings.egress.dns,
            objects,
            nodes,
            node,
            own: OnceCell::new(),
        }
    }

    /// Hosts in URLs whose addresses are to be found out.
    pub(in crate::source::translate) fn names(self) -> BTreeSet<String> {
        self.names.into_inner()
    }

    /// Addresses that are the seed's own: nodes, pods, services.
    pub(super) fn own(&self) -> &RangeSet {
        self.own.get_or_init(|| {
            let Self { objects, nodes, node, .. } = self;
            let hosts = nodes.values().flat_map(|node| &node.addresses);
            let hosts = hosts.chain(&node.addresses).chain(&node.tunnel_peers).copied();
            let ranges = nodes.values().flat_map(|node| &node.pod_ranges).chain(&node.connected);
            let services = objects.services.values();
            let services = services.flat_map(|stored| cluster_addresses(&stored.object));
            let (namespace, name) = API_SERVER;
            let api_server = pods::slices(objects, namespace, name);
            let api_server = api_server.flat_map(|stored| pods::addresses(&stored.object));
            let known: RangeSet = hosts
                .chain(api_server)
                .map(IpNet::from)
                .chain(ranges.copied())
                .chain(services.map(service_range))
                .collect();
            let pods = objects.pods.values().flat_map(|stored| pods::of_pod(&stored.object));
            // The seed's API server may be anywhere.
            let slices = objects.endpoint_slices.iter();
            let slices = slices.filter(|(key, _)| *key.namespace != *API_SERVER.0);
            let pods = pods.chain(slices.flat_map(|(_, stored)| pods::addresses(&stored.object)));
            let here = node.pod_interfaces.iter().flat_map(|interface| &interface.addresses);
            let outside = pods.chain(here.copied()).filter(|address| !known.contains(*address));
            known.union(&outside.map(pod_range).collect())
        })
    }

    /// Adds whom the cluster may ask for names.
    pub(super) fn add_dns(&self, subject: Subject<'_>, peers: &mut Peers, report: &mut Report) {
        let anybody = |peers: &mut Peers| {
            let origin = option("--egress-dns");
            for net in [IpNet::from(IpAddr::from([0; 4])), IpNet::from(IpAddr::from([0; 16]))] {
                let net = IpNet::new(net.addr(), 0).unwrap_or(net);
                add_at_dns_port(net, &origin, peers);
            }
        };
        match self.dns {
            EgressDns::Any => anybody(peers),
            EgressDns::Derived => {
                add_derived_dns(self.objects, self.hosts, peers);
                let cut = cut(peers, self.learned.dns.get(subject.id));
                if !cut.is_empty() {
                    let some: Vec<String> = cut.iter().take(SHOWN).map(IpAddr::to_string).collect();
                    let more = if cut.len() > SHOWN { " and others" } else { "" };
                    let reason = format!(
                        "--egress-dns=derived would cut the cluster off from {}{more}, which its API \
                         servers ask for names: they may ask anybody, until --egress-allow names these",
                        some.join(", ")
                    );
                    let object = Kind::Cluster.reference("", &subject.id.0);
                    let place = Place { object: &object, file: "", field: "" };
                    report.add(place, "", ProblemKind::Egress { reason });
                    anybody(peers);
                }
            }
        }
    }
}

/// Which of the resolvers that are in use no peer grants.
fn cut(peers: &Peers, asked: Option<&BTreeSet<IpAddr>>) -> Vec<IpAddr> {
    let grants = |address: &IpAddr| {
        peers.all.keys().any(|(net, port)| {
            let is_dns = match port {
                PeerPort::Any => true,
                PeerPort::Only(_, port) => *port == DNS_PORT,
            };
            is_dns && net.contains(address)
        })
    };
    asked.into_iter().flatten().copied().filter(|address| !grants(address)).collect()
}

fn option(name: &str) -> Origin {
    let object =
        ObjectRef { kind: "Option".to_owned(), namespace: String::new(), name: name.to_owned() };
    Origin { object, field: String::new() }
}

/// The largest range of services that Kubernetes permits (20 bits) around one of their addresses: the
/// range itself is an option of the seed's API server.
fn service_range(address: IpAddr) -> IpNet {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, bits - 20).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

/// What is taken for pods' around one that lies in no known range: a network plugin's pool, as large as
/// a cloud's private network.
fn pod_range(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 16 } else { 64 };
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

fn add_api_server(objects: &Objects, peers: &mut Peers) {
    let (namespace, name) = API_SERVER;
    if let Some(stored) = objects.services.get(&Key::new(namespace, name)) {
        peers::add_service(name, stored, peers);
    }
    for stored in pods::slices(objects, namespace, name) {
        add_endpoints(stored, |_| true, peers);
    }
}

/// Everything behind an ingress controller's services, and their addresses.
fn add_ingress(objects: &Objects, namespace: &str, hosts: &BTreeSet<IpAddr>, peers: &mut Peers) {
    for (key, stored) in in_namespace(&objects.services, namespace) {
        peers::add_service(&key.name, stored, peers);
        let service = &*stored.object;
        let object = Kind::Service.reference(namespace, &key.name);
        let balancers = frontends::balancer_addresses(service).map(|(_, text)| text);
        let outer = balancers.map(|text| ("status.loadBalancer", text));
        let outer =
            outer.chain(service.spec.external_ips.iter().map(|it| ("spec.externalIPs", it)));
        for (field, text) in outer {
            let Some(address) = ranges::address(text) else { continue };
            let origin = Origin { object: object.clone(), field: field.to_owned() };
            for port in ports(service) {
                peers.add(IpNet::from(address), port, &origin);
            }
        }
    }
    for (key, stored) in in_namespace(&objects.endpoint_slices, namespace) {
        let object = Kind::EndpointSlice.reference(namespace, &key.name);
        let origin = Origin { object, field: "endpoints".to_owned() };
        for address in pods::addresses(&stored.object).filter(|address| !hosts.contains(address)) {
            peers.add(IpNet::from(address), PeerPort::Any, &origin);
        }
        // In the host's network the other ports are the node's.
        add_endpoints(stored, |address| hosts.contains(&address), peers);
    }
    for (key, stored) in in_namespace(&objects.pods, namespace) {
        let object = Kind::Pod.reference(namespace, &key.name);
        let origin = Origin { object, field: "status.podIPs".to_owned() };
        for address in pods::of_pod(&stored.object) {
            peers.add(IpNet::from(address), PeerPort::Any, &origin);
        }
    }
}

/// Endpoints at their ports.
fn add_endpoints(
    stored: &Stored<EndpointSlice>,
    is_meant: impl Fn(IpAddr) -> bool,
    peers: &mut Peers,
) {
    let slice = &*stored.object;
    let object = Kind::EndpointSlice.reference(&slice.metadata.namespace, &slice.metadata.name);
    let origin = Origin { object, field: "endpoints".to_owned() };
    for address in pods::addresses(slice).filter(|address| is_meant(*address)) {
        for port in &slice.ports {
            let port = port.port.and_then(|number| peers::at(&port.protocol, number));
            if let Some(port) = port {
                peers.add(IpNet::from(address), port, &origin);
            }
        }
    }
}

/// The seed's own resolvers.
fn add_derived_dns(objects: &Objects, hosts: &BTreeSet<IpAddr>, peers: &mut Peers) {
    add_at_dns_port(IpNet::from(IpAddr::from(DNS_ON_NODES)), &option("--egress-dns"), peers);
    let (label, value) = DNS_LABEL;
    let is_dns = |service: &Service| {
        *service.metadata.name == *DNS_SERVICE || service.metadata.label(label) == value
    };
    for (key, stored) in in_namespace(&objects.services, DNS_NAMESPACE) {
        if is_dns(&stored.object) {
            let object = Kind::Service.reference(DNS_NAMESPACE, &key.name);
            let origin = Origin { object, field: "spec.clusterIPs".to_owned() };
            for address in cluster_addresses(&stored.object) {
                add_at_dns_port(IpNet::from(address), &origin, peers);
            }
        }
    }
    for (key, stored) in in_namespace(&objects.endpoint_slices, DNS_NAMESPACE) {
        let slice = &*stored.object;
        if slice.metadata.label(label) == value || pods::service(slice) == DNS_SERVICE {
            let object = Kind::EndpointSlice.reference(DNS_NAMESPACE, &key.name);
            let origin = Origin { object, field: "endpoints".to_owned() };
            for address in pods::addresses(slice) {
                add_at_dns_port(IpNet::from(address), &origin, peers);
                // They may listen at another port than the service; not so a node.
                let names = slice.ports.iter().filter(|port| port.name.starts_with("dns"));
                let ports = names.filter_map(|port| peers::at(&port.protocol, port.port?));
                for port in ports.filter(|_| !hosts.contains(&address)) {
                    peers.add(IpNet::from(address), port, &origin);
                }
            }
        }
    }
    for (key, stored) in in_namespace(&objects.pods, DNS_NAMESPACE) {
        if stored.object.metadata.label(label) == value {
            let object = Kind::Pod.reference(DNS_NAMESPACE, &key.name);
            let origin = Origin { object, field: "status.podIPs".to_owned() };
            for address in pods::of_pod(&stored.object) {
                add_at_dns_port(IpNet::from(address), &origin, peers);
            }
        }
    }
}

fn add_at_dns_port(net: IpNet, origin: &Origin, peers: &mut Peers) {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        peers.add(net, PeerPort::Only(protocol, DNS_PORT), origin);
    }
}
