//! The seed that fuzzed packets are sent to: small, and with every reason in it.

use std::sync::LazyLock;

use enforcer_policy::{
    compile::compile,
    image::{Image, assign},
    model::{
        Cluster, ClusterId, ExemptSeed, ExposeStrategy, Frontend, FrontendAddress, FrontendKind,
        ListedRange, ObjectRef, Options, Origin, ProbeRanges, Protocol, RangeList, SeedNode,
        Snapshot, ThisNode,
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

static WORLD: LazyLock<World> = LazyLock::new(World::new);

impl World {
    /// The one world.
    pub fn get() -> &'static World {
        &WORLD
    }

    #[allow(clippy::unwrap_used, reason = "constant input")]
    fn new() -> World {
        let snapshot = snapshot();
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
