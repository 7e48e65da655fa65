//! Snapshots and packets for property tests: a small world in which everything collides.
//!
//! Addresses come from few bases and their neighbours, so that ranges nest, touch and overlap,
//! clusters claim the same frontends, and packets fall on both sides of every boundary. Pods are few
//! and lie in, beside and outside the nodes' pod ranges, so that clusters claim the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    model::{
        Cluster, ClusterId, Egress, ExemptSeed, ExposeStrategy, Frontend, FrontendAddress,
        FrontendKind, GatedPod, ListedRange, LoadBalancerRanges, Mode, ObjectRef, Options, Origin,
        Peer, PeerPort, PodInterface, ProbeRanges, Protocol, RangeList, Reject, Seed, SeedDefaults,
        SeedNode, Side, Snapshot, ThisNode,
    },
    oracle::{Carries, Does, Leaving, Owner, Packet, Segment},
};

const BASES4: [[u8; 4]; 6] =
    [[10, 0, 0, 0], [10, 244, 1, 7], [192, 0, 2, 1], [198, 51, 100, 77], [0, 0, 0, 0], [255; 4]];

fn bases6() -> Vec<u128> {
    [
        "2001:db8::1",
        "2001:db8:0:1::",
        "2001:db8:0:1:8000::5",
        "fd00:10:244:1::7",
        "::",
        "::ffff:10.0.0.1",
    ]
    .iter()
    .filter_map(|text| text.parse::<Ipv6Addr>().ok())
    .map(u128::from)
    .chain([u128::MAX])
    .collect()
}

/// An address at or next to a base, or at an end of some network around it.
pub fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (select(&BASES4[..]), 0..=32_u8, 0..4_u8).prop_map(|(base, length, end)| {
        let base = u32::from(Ipv4Addr::from(base));
        let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        IpAddr::V4(Ipv4Addr::from(match end {
            0 => base & !host,
            1 => base | host,
            2 => (base & !host).wrapping_sub(1),
            _ => (base | host).wrapping_add(1),
        }))
    });
    let v6 = (select(bases6()), 0..=128_u8, 0..4_u8).prop_map(|(base, length, end)| {
        let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        IpAddr::V6(Ipv6Addr::from(match end {
            0 => base & !host,
            1 => base | host,
            2 => (base & !host).wrapping_sub(1),
            _ => (base | host).wrapping_add(1),
        }))
    });
    prop_oneof![v4, v6]
}

/// A range around such an address.
pub fn range() -> impl Strategy<Value = IpNet> {
    let length = prop_oneof![1 => 0..=8_u8, 4 => 8..=32_u8, 4 => 33..=128_u8];
    (address(), length).prop_filter_map("prefix fits the family", |(address, length)| {
        IpNet::new(address, length).ok().map(|net| net.trunc())
    })
}

fn list(kind: &'static str, longest: usize) -> impl Strategy<Value = RangeList> {
    let field = select(&["spec.ranges", "metadata.annotations[ranges]"][..]);
    (vec(range(), 0..longest), 0..2_usize, field).prop_map(move |(nets, invalid, field)| {
        RangeList {
            origin: Origin {
                object: ObjectRef {
                    kind: kind.to_owned(),
                    namespace: String::new(),
                    name: "generated".to_owned(),
                },
                field: field.to_owned(),
            },
            written: nets.len() + invalid,
            ranges: (0..).zip(nets).map(|(position, net)| ListedRange { net, position }).collect(),
        }
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)]
}

fn port() -> impl Strategy<Value = u16> {
    select(&[443, 6443, 30_000, 30_001, 32_767, 0, 65_535][..])
}

/// Addresses of frontends and nodes; some nodes' addresses are external IPs too.
fn place() -> impl Strategy<Value = IpAddr> {
    select(
        [
            "192.0.2.10",
            "192.0.2.11",
            "203.0.113.5",
            "2001:db8:f::10",
            "2001:db8:f::11",
            "2001:db8:f:1::5",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
        ]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect::<Vec<IpAddr>>(),
    )
}

/// An address that pods have: two nodes' pod ranges, and outside of them.
fn pod() -> impl Strategy<Value = IpAddr> {
    select(
        [
            "10.244.1.7",
            "10.244.1.8",
            "10.244.2.7",
            "172.20.0.7",
            "fd00:10:244:1::7",
            "fd00:10:244:2::7",
            "2001:db8:aa::7",
        ]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect::<Vec<IpAddr>>(),
    )
}

fn pods() -> impl Strategy<Value = BTreeSet<IpAddr>> {
    vec(prop_oneof![4 => pod(), 1 => address()], 0..3).prop_map(BTreeSet::from_iter)
}

fn pod_range() -> impl Strategy<Value = IpNet> {
    let usual = select(
        ["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64", "fd00:10:244:2::/64"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect::<Vec<IpNet>>(),
    );
    prop_oneof![3 => usual, 1 => range()]
}

fn frontend(
    kind: impl Strategy<Value = FrontendKind>,
    service: &'static str,
) -> impl Strategy<Value = Frontend> {
    (protocol(), kind, prop_oneof![4 => place(), 1 => pod()], port()).prop_map(
        move |(protocol, kind, address, port)| Frontend {
            protocol,
            at: match kind {
                FrontendKind::ApiServerNodePort
                | FrontendKind::KonnectivityNodePort
                | FrontendKind::OpenVpnNodePort
                | FrontendKind::FrontLoadBalancerNodePort
                | FrontendKind::SharedProxyNodePort => FrontendAddress::Node { port },
                FrontendKind::FrontLoadBalancer
                | FrontendKind::ServiceAddress
                | FrontendKind::PodEndpoint
                | FrontendKind::SharedProxy
                | FrontendKind::SharedProxyPod => FrontendAddress::Address { address, port },
            },
            kind,
            service: ObjectRef {
                kind: "Service".to_owned(),
                namespace: "generated".to_owned(),
                name: service.to_owned(),
            },
            port_name: String::new(),
        },
    )
}

/// A destination of API servers: pods, services' addresses and ranges around them, so that peers
/// of one cluster are pods of another.
fn peer() -> impl Strategy<Value = Peer> {
    let net = prop_oneof![
        3 => pod().prop_map(IpNet::from),
        3 => place().prop_map(IpNet::from),
        2 => range(),
        1 => pod_range(),
    ];
    let port = prop_oneof![
        1 => Just(PeerPort::Any),
        2 => (protocol(), port()).prop_map(|(protocol, port)| PeerPort::Only(protocol, port)),
    ];
    (net, port).prop_map(|(net, port)| Peer {
        net,
        port,
        origin: Origin {
            object: ObjectRef {
                kind: "Service".to_owned(),
                namespace: "generated".to_owned(),
                name: "peer".to_owned(),
            },
            field: "spec.clusterIPs".to_owned(),
        },
    })
}

fn egress() -> impl Strategy<Value = Egress> {
    let pod = pods().prop_map(|addresses| GatedPod {
        object: ObjectRef {
            kind: "Pod".to_owned(),
            namespace: "generated".to_owned(),
            name: "apiserver".to_owned(),
        },
        addresses,
    });
    (vec(peer(), 0..6), vec(pod, 0..3)).prop_map(|(peers, pods)| Egress { peers, pods })
}

/// Pods' interfaces: several may hold one address, one may hold several pods'.
fn pod_interfaces() -> impl Strategy<Value = Vec<PodInterface>> {
    vec((0..3_u32, pods()), 0..5).prop_map(|interfaces| {
        (10..)
            .zip(interfaces)
            .map(|(index, (netns, addresses))| PodInterface {
                index,
                name: format!("veth{index}"),
                netns,
                addresses,
            })
            .collect()
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let strategy = select(
        &[ExposeStrategy::NodePort, ExposeStrategy::LoadBalancer, ExposeStrategy::Tunneling][..],
    );
    let frontends = vec(frontend(select(&FrontendKind::ALL[..]), "service"), 0..6);
    let lists = option::weighted(0.8, list("Cluster", 6));
    let egress = option::weighted(0.6, egress());
    (strategy, lists, frontends, pods(), pods(), egress).prop_map(
        |(strategy, allowed, frontends, own_pods, api_server_pods, egress)| Cluster {
            id: ClusterId(String::new()),
            namespace: String::new(),
            strategy,
            allowed,
            frontends,
            own_pods: own_pods.union(&api_server_pods).copied().collect(),
            api_server_pods,
            mode: Mode::Enforce,
            egress,
        },
    )
}

fn shared_proxy() -> impl Strategy<Value = Vec<Frontend>> {
    let kinds = select(
        &[
            FrontendKind::SharedProxy,
            FrontendKind::SharedProxyNodePort,
            FrontendKind::SharedProxyPod,
        ][..],
    );
    vec(frontend(kinds, "nodeport-proxy"), 0..3)
}

fn options() -> impl Strategy<Value = Options> {
    let defaults = select(&[SeedDefaults::Appended, SeedDefaults::Always][..]);
    let lb_ranges = select(&[LoadBalancerRanges::Proxies, LoadBalancerRanges::Everywhere][..]);
    let exempt_seed = any::<(bool, bool)>().prop_map(|(nodes, pods)| ExemptSeed { nodes, pods });
    let probes = prop_oneof![
        3 => (vec(range(), 0..3), any::<bool>())
            .prop_map(|(ranges, connected)| ProbeRanges { ranges, connected }),
        1 => Just(ProbeRanges::default()),
    ];
    (defaults, vec(range(), 0..2), exempt_seed, lb_ranges, vec(range(), 0..2), probes).prop_map(
        |(seed_defaults, exempt, exempt_seed, lb_ranges, trusted_proxies, probes)| Options {
            mode: Mode::Enforce,
            seed_defaults,
            exempt,
            exempt_seed,
            lb_ranges,
            trusted_proxies,
            probes,
            reject: Reject::Drop,
        },
    )
}

fn seed_node() -> impl Strategy<Value = SeedNode> {
    (vec(prop_oneof![address(), place()], 0..3), vec(pod_range(), 0..3)).prop_map(
        |(addresses, pod_ranges)| SeedNode {
            addresses: addresses.into_iter().collect(),
            pod_ranges,
        },
    )
}

fn this_node() -> impl Strategy<Value = ThisNode> {
    (vec(place(), 0..4), vec(address(), 0..2), vec(range(), 0..2), pod_interfaces()).prop_map(
        |(addresses, tunnel_peers, connected, pod_interfaces)| ThisNode {
            name: "node-0".to_owned(),
            addresses: addresses.into_iter().collect(),
            tunnel_peers: tunnel_peers.into_iter().collect(),
            connected: connected.into_iter().collect(),
            pod_interfaces,
        },
    )
}

/// A snapshot of up to five clusters.
pub fn snapshot() -> impl Strategy<Value = Snapshot> {
    let seed = (option::of(list("Seed", 4)), option::weighted(0.5, list("Seed", 3))).prop_map(
        |(default_ranges, load_balancer_ranges)| Seed {
            name: "seed".to_owned(),
            default_ranges,
            load_balancer_ranges,
            new_clusters_gate: None,
        },
    );
    let nodes = vec(seed_node(), 0..3);
    (
        options(),
        option::weighted(0.8, seed),
        vec(cluster(), 0..5),
        (shared_proxy(), pods()),
        nodes,
        this_node(),
    )
        .prop_map(|(options, seed, clusters, shared, nodes, this_node)| Snapshot {
            options,
            seed,
            clusters: (0..)
                .zip(clusters)
                .map(|(number, cluster)| {
                    let id = ClusterId(format!("c{number}"));
                    let namespace = format!("cluster-{id}");
                    (id.clone(), Arc::new(Cluster { namespace, id, ..cluster }))
                })
                .collect::<BTreeMap<_, _>>(),
            shared_proxy: shared.0,
            shared_proxy_pods: shared.1,
            nodes: (0..)
                .zip(nodes)
                .map(|(number, node)| (format!("node-{number}"), node))
                .collect(),
            this_node,
        })
}

/// Sources that a snapshot says something about, the ends of its ranges included.
fn known_sources(snapshot: &Snapshot) -> Vec<IpAddr> {
    let Snapshot { options, seed: _, clusters, nodes, this_node, .. } = snapshot;
    let ranges = (options.exempt.iter())
        .chain(&options.trusted_proxies)
        .chain(&options.probes.ranges)
        .chain(&this_node.connected)
        .chain(nodes.values().flat_map(|node| &node.pod_ranges));
    ranges
        .flat_map(|range| [range.network(), range.broadcast()])
        .chain(nodes.values().flat_map(|node| node.addresses.iter().copied()))
        .chain(this_node.tunnel_peers.iter().copied())
        .chain(clusters.values().flat_map(|cluster| cluster.own_pods.iter().copied()))
        .chain(snapshot.shared_proxy_pods.iter().copied())
        .chain([IpAddr::V4(Ipv4Addr::LOCALHOST)])
        .collect()
}

/// Sources of pods.
fn pod_sources(snapshot: &Snapshot) -> Vec<IpAddr> {
    let pods = snapshot.clusters.values().flat_map(|cluster| cluster.own_pods.iter().copied());
    pods.chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]).collect()
}

/// A packet, more often than not to a frontend of the snapshot.
pub fn packet(snapshot: &Snapshot) -> impl Strategy<Value = Packet> + use<> {
    let mut targets: Vec<(Protocol, IpAddr, u16)> = Vec::new();
    let of_clusters = snapshot.clusters.values().flat_map(|cluster| &cluster.frontends);
    for frontend in of_clusters.chain(&snapshot.shared_proxy) {
        match frontend.at {
            FrontendAddress::Address { address, port } => {
                targets.push((frontend.protocol, address, port));
            }
            FrontendAddress::Node { port } => {
                let others = snapshot.nodes.values().flat_map(|node| &node.addresses);
                let others = others.chain(&snapshot.this_node.tunnel_peers);
                let all = snapshot.this_node.addresses.iter().chain(others);
                targets.extend(all.map(|node| (frontend.protocol, *node, port)));
            }
        }
    }
    let anywhere = (protocol(), prop_oneof![place(), address()], port()).boxed();
    let target = if targets.is_empty() {
        anywhere
    } else {
        prop_oneof![6 => select(targets), 1 => anywhere].boxed()
    };
    let source = prop_oneof![
        2 => address(),
        2 => select(known_sources(snapshot)),
        1 => select(pod_sources(snapshot)),
    ];
    let side = select(&[Side::Uplink, Side::Pod][..]);
    let segment = select(&[Segment::Open, Segment::OpenData, Segment::Bare, Segment::Data][..]);
    (source, target, side, segment, any::<bool>()).prop_filter_map(
        "one family",
        |(source, (protocol, destination, port), side, segment, answers_node)| {
            (source.is_ipv4() == destination.is_ipv4()).then_some(Packet {
                source,
                destination,
                protocol,
                port,
                side,
                segment: match protocol {
                    Protocol::Tcp => segment,
                    Protocol::Udp => Segment::Data,
                },
                answers_node,
            })
        },
    )
}

/// A snapshot and packets to it.
pub fn questions(packets: usize) -> impl Strategy<Value = (Snapshot, Vec<Packet>)> {
    snapshot().prop_flat_map(move |snapshot| {
        let packets = vec(packet(&snapshot), packets);
        (Just(snapshot), packets)
    })
}

/// Number of the interface that all packets of [`departures`] come in on, where it is a gated pod's.
pub const DEPARTURE_INTERFACE: u32 = 1;

/// A snapshot in which the first interface is a gated pod's if any pod is gated, and packets that
/// pods send there. Who owns connections and what the pod listens on is made up.
pub fn departures(packets: usize) -> impl Strategy<Value = (Snapshot, Vec<Leaving>)> {
    snapshot().prop_flat_map(move |mut snapshot| {
        let gated = snapshot
            .clusters
            .values()
            .flat_map(|cluster| &cluster.egress)
            .flat_map(|egress| &egress.pods)
            .find_map(|pod| pod.addresses.first().copied());
        let interfaces = &mut snapshot.this_node.pod_interfaces;
        if interfaces.is_empty() {
            let (name, netns, addresses) = ("veth".to_owned(), 0, BTreeSet::new());
            interfaces.push(PodInterface { index: DEPARTURE_INTERFACE, name, netns, addresses });
        }
        interfaces[0].index = DEPARTURE_INTERFACE;
        interfaces[0].addresses.extend(gated);
        let packets = vec(departure(&snapshot), packets);
        (Just(snapshot), packets)
    })
}

fn departure(snapshot: &Snapshot) -> impl Strategy<Value = Leaving> + use<> {
    let own: Vec<IpAddr> =
        snapshot.this_node.pod_interfaces[0].addresses.iter().copied().chain([ANYBODY]).collect();
    let edges: Vec<IpAddr> = snapshot
        .clusters
        .values()
        .flat_map(|cluster| &cluster.egress)
        .flat_map(|egress| &egress.peers)
        .flat_map(|peer| [peer.net.network(), peer.net.broadcast()])
        .chain([ANYBODY])
        .collect();
    let source = prop_oneof![8 => select(own), 1 => pod(), 1 => address()];
    let destination = prop_oneof![6 => select(edges), 1 => pod(), 1 => place(), 1 => address()];
    let does = select(&[Does::Asks, Does::Accepts, Does::Resets, Does::GoesOn, Does::GoesOn][..]);
    let carries = prop_oneof![
        2 => Just(Carries::Udp),
        1 => Just(Carries::Echo),
        6 => (does, any::<bool>()).prop_map(|(does, data)| Carries::Tcp { does, data }),
    ];
    let owner = select(&[Owner::Nobody, Owner::Sender, Owner::Connection, Owner::Remnant][..]);
    (source, destination, port(), carries, any::<bool>(), owner).prop_filter_map(
        "one family",
        |(source, destination, port, carries, listens, owner)| {
            (source.is_ipv4() == destination.is_ipv4()).then_some(Leaving {
                interface: DEPARTURE_INTERFACE,
                source,
                destination,
                port,
                carries,
                listens,
                owner,
            })
        },
    )
}

const ANYBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 78));
