//! The seed that fuzzed packets are sent to: small, and with every reason in it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use enforcer_policy::{
    compile::compile,
    image::{Image, assign},
    model::{
        Cluster, ClusterId, Egress, ExemptSeed, ExposeStrategy, Frontend, FrontendAddress,
        FrontendKind, GatedPod, ListedRange, ObjectRef, Options, Origin, Peer, PeerPort,
        PodInterface, ProbeRanges, Protocol, RangeList, SeedNode, Snapshot, ThisNode,
    },
};

/// A snapshot and what the kernel holds for it.
#[derive(Debug)]
pub struct World {
    /// What the oracle decides from.
    pub snapshot: Snapshot,
    /// What the program decides from.
    pub image: Image,
}

static WORLD: LazyLock<World> = LazyLock::new(|| World::of(snapshot()));
static GATED: LazyLock<World> = LazyLock::new(|| World::of(gated()));

/// Number of the interface of the one gated pod.
pub const GATED_INTERFACE: u32 = 7;

impl World {
    /// The one that clients come to.
    pub fn get() -> &'static World {
        &WORLD
    }

    /// The same with a pod that may connect to few.
    pub fn gated() -> &'static World {
        &GATED
    }

    #[allow(clippy::unwrap_used, reason = "constant input")]
    fn of(snapshot: Snapshot) -> World {
        let (rules, _) = compile(&snapshot);
        let counters = assign(&rules, &[]).unwrap();
        let image = Image::lower(&rules, &counters).unwrap();
        World { snapshot, image }
    }
}

#[allow(clippy::unwrap_used, reason = "constant input")]
fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>, C: FromIterator<T>>(texts: &[&str]) -> C {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn snapshot() -> Snapshot {
    let first = cluster(
        "c1",
        &["203.0.113.0/24", "198.51.100.7/32", "2001:db8:51::/64"],
        &[(Protocol::Tcp, 30_000), (Protocol::Udp, 30_001)],
        &[("192.0.2.100", 443), ("2001:db8:2::100", 443)],
    );
    let second = cluster("c2", &["0.0.0.0/1"], &[(Protocol::Tcp, 31_000)], &[]);
    let nodes = [
        ("node-1", ["192.0.2.10", "2001:db8:f::10"], ["10.244.1.0/24", "fd00:10:244:1::/64"]),
        ("node-2", ["192.0.2.11", "2001:db8:f::11"], ["10.244.2.0/24", "fd00:10:244:2::/64"]),
    ];
    let seed_node = |(name, addresses, ranges): (&str, [&str; 2], [&str; 2])| {
        let (addresses, pod_ranges) = (parsed(&addresses), parsed(&ranges));
        (name.to_owned(), SeedNode { addresses, pod_ranges })
    };
    Snapshot {
        options: Options {
            exempt: parsed(&["100.64.0.0/10"]),
            exempt_seed: ExemptSeed { nodes: true, pods: true },
            trusted_proxies: parsed(&["192.0.2.200/32"]),
            probes: ProbeRanges {
                ranges: parsed(&["35.191.0.0/16", "2600:2d00::/32"]),
                connected: false,
            },
            ..Options::default()
        },
        clusters: [first, second].map(|it| (it.id.clone(), it.into())).into(),
        nodes: nodes.map(seed_node).into(),
        this_node: ThisNode {
            name: "node-1".to_owned(),
            addresses: parsed(&["192.0.2.10", "2001:db8:f::10", "fe80::10"]),
            ..ThisNode::default()
        },
        ..Snapshot::default()
    }
}

/// The API server of the first cluster, and peers of every kind.
fn gated() -> Snapshot {
    let object = ObjectRef {
        kind: "Pod".to_owned(),
        namespace: "cluster-c1".to_owned(),
        name: "apiserver".to_owned(),
    };
    let addresses: BTreeSet<IpAddr> = parsed(&["10.244.1.8", "fd00:10:244:1::8"]);
    let peer = |net: &str, port| Peer {
        net: parsed::<_, Vec<_>>(&[net])[0],
        port,
        origin: Origin { object: object.clone(), field: "spec".to_owned() },
    };
    let peers = vec![
        peer("10.244.2.7/32", PeerPort::Any),
        peer("fd00:10:244:2::/64", PeerPort::Any),
        peer("10.96.0.1/32", PeerPort::Only(Protocol::Tcp, 443)),
        peer("192.0.2.0/24", PeerPort::Only(Protocol::Tcp, 6443)),
        peer("2001:db8:f::/112", PeerPort::Only(Protocol::Tcp, 443)),
        peer("0.0.0.0/0", PeerPort::Only(Protocol::Udp, 53)),
        peer("::/0", PeerPort::Only(Protocol::Udp, 53)),
    ];
    let pods = vec![GatedPod { object: object.clone(), addresses: addresses.clone() }];
    let mut snapshot = snapshot();
    snapshot.this_node.pod_interfaces =
        vec![PodInterface { index: GATED_INTERFACE, name: "veth".to_owned(), netns: 0, addresses }];
    for cluster in snapshot.clusters.values_mut().take(1) {
        Arc::make_mut(cluster).egress = Some(Egress { peers: peers.clone(), pods: pods.clone() });
    }
    snapshot
}

fn cluster(
    name: &str,
    ranges: &[&str],
    node_ports: &[(Protocol, u16)],
    addresses: &[(&str, u16)],
) -> Cluster {
    let id = ClusterId(name.to_owned());
    let object =
        ObjectRef { kind: "Cluster".to_owned(), namespace: String::new(), name: name.to_owned() };
    let nets: Vec<_> = parsed(ranges);
    let frontend = |protocol, at, kind| Frontend {
        protocol,
        at,
        kind,
        service: object.clone(),
        port_name: String::new(),
    };
    let frontends = (node_ports.iter())
        .map(|&(protocol, port)| {
            frontend(protocol, FrontendAddress::Node { port }, FrontendKind::ApiServerNodePort)
        })
        .chain(
            addresses
                .iter()
                .flat_map(|&(text, port)| {
                    parsed::<_, Vec<_>>(&[text]).into_iter().map(move |address| {
                        (
                            FrontendAddress::Address { address, port },
                            FrontendKind::FrontLoadBalancer,
                        )
                    })
                })
                .map(|(at, kind)| frontend(Protocol::Tcp, at, kind)),
        )
        .collect();
    Cluster {
        namespace: format!("cluster-{name}"),
        strategy: ExposeStrategy::LoadBalancer,
        allowed: Some(RangeList {
            origin: Origin { object: object.clone(), field: "cidrBlocks".to_owned() },
            written: nets.len(),
            ranges: (0..).zip(nets).map(|(position, net)| ListedRange { net, position }).collect(),
        }),
        frontends,
        own_pods: parsed(&["172.20.0.7", "10.244.2.7"]),
        api_server_pods: parsed(&["10.244.2.8"]),
        id,
        mode: enforcer_policy::model::Mode::Enforce,
        egress: None,
    }
}
