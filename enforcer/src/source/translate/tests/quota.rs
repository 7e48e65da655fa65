//! One cluster with more of everything than fits: it is bounded, told, and nobody else's matter.

use enforcer_policy::{
    compile::compile,
    image::{Image, assign},
    model::{Egress, Side},
    oracle,
};
use serde_json::json;

use super::{hostile::of_values, *};

/// What one cluster may have in these tests.
const LIMIT: usize = 50;
const MORE: usize = 120;

fn bounded(objects: &Objects, former: Option<&Snapshot>) -> Translated {
    let limits = Limits { addresses: LIMIT, ..Limits::default() };
    let settings = Settings { limits, guard_pods: GuardPods::On, ..settings() };
    translate(objects, &settings, &this_node(), former)
}

fn cluster(name: &str) -> Value {
    json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": name},
        "spec": {
            "exposeStrategy": "LoadBalancer", "features": {"apiserverNetworkPolicy": true},
            "apiServerAllowedIPRanges": {"cidrBlocks": ["203.0.113.0/24"]},
        },
        "status": {"namespaceName": format!("cluster-{name}")},
    })
}

/// A service with so many external IPs in 10.`net`.0.0/16, from the number `first` on.
fn service(namespace: &str, net: u8, first: usize, count: usize) -> Value {
    let address = |number: usize| format!("10.{net}.{}.{}", number >> 8, number & 255);
    let external: Vec<String> = (first..first + count).map(address).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "apiserver-external", "namespace": namespace},
        "spec": {
            "type": "NodePort", "externalIPs": external,
            "ports": [{"name": "secure", "port": 443, "nodePort": 30_000 + u16::from(net)}],
        },
    })
}

fn pod(namespace: &str, app: &str, number: usize) -> Value {
    let address = format!("172.16.{}.{}", number >> 8, number & 255);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{app}-{number}"), "namespace": namespace, "labels": {"app": app},
        },
        "spec": {"nodeName": "node-1"},
        "status": {"podIP": address, "podIPs": [{"ip": address}]},
    })
}

/// What there is of everybody else.
fn others() -> [Value; 4] {
    let namespace = "cluster-c2";
    [
        cluster("c2"),
        service(namespace, 2, 0, 3),
        pod(namespace, "apiserver", 5_000),
        pod(namespace, "etcd", 5_001),
    ]
}

/// The one problem over the limit, as cluster, field, value and words.
fn told(translated: &Translated) -> (String, String, String, String) {
    let over = |it: &&Problem| matches!(it.kind, ProblemKind::OverQuota { .. });
    let told: Vec<_> = translated.problems.iter().filter(over).collect();
    let [problem] = told[..] else { panic!("{told:?}") };
    let cluster = problem.cluster.clone().map(|id| id.0).unwrap_or_default();
    (cluster, problem.field.clone(), problem.value.clone(), problem.to_string())
}

fn limited(cluster: &Cluster) -> Vec<FrontendAddress> {
    let places = cluster.frontends.iter().map(|frontend| frontend.at);
    places.filter(|at| matches!(at, FrontendAddress::Address { .. })).collect()
}

#[test]
fn frontends_beyond_the_limit_are_told_and_those_in_force_stay() {
    let with = |first, count| {
        let own = [cluster("c1"), service("cluster-c1", 1, first, count)];
        of_values(own.into_iter().chain(others()))
    };
    let former = bounded(&with(80, 40), None);
    assert_eq!(limited(former.cluster("c1")).len(), 40);
    // Those before come first in any order but that of force.
    let now = bounded(&with(0, MORE), Some(&former.snapshot));
    let kept = limited(now.cluster("c1"));
    assert_eq!(kept.len(), LIMIT);
    assert!(limited(former.cluster("c1")).iter().all(|at| kept.contains(at)), "{kept:?}");
    let node_port = FrontendAddress::Node { port: 30_001 };
    assert!(now.cluster("c1").frontends.iter().any(|frontend| frontend.at == node_port));
    assert_eq!(now.cluster("c2"), former.cluster("c2"));
    let (cluster, field, value, words) = told(&now);
    assert_eq!((&cluster[..], &field[..], &value[..]), ("c1", "frontends", "120"));
    let limit = "120 addresses with a port, and 50 are allowed";
    assert!(words.contains(limit) && words.contains("not guarded"), "{words}");
    assert_eq!(bounded(&with(0, MORE), Some(&now.snapshot)).snapshot, now.snapshot);
}

#[test]
fn of_too_many_pods_those_of_api_servers_are_kept_and_exempt_nowhere_else() {
    let own = [cluster("c1"), service("cluster-c1", 1, 0, 1)];
    let servers = (0..LIMIT + 10).map(|number| pod("cluster-c1", "apiserver", number));
    let rest = (1_000..1_000 + MORE).map(|number| pod("cluster-c1", "etcd", number));
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "spec": {"podCIDRs": ["172.16.0.0/16"]},
    });
    let objects =
        of_values(own.into_iter().chain(servers).chain(rest).chain(others()).chain([node]));
    let translated = bounded(&objects, None);
    let c1 = translated.cluster("c1");
    assert_eq!((c1.api_server_pods.len(), c1.own_pods.len()), (LIMIT + 10, LIMIT + 10));
    assert_eq!(translated.cluster("c2").own_pods.len(), 2);
    for server in &c1.api_server_pods {
        for (port, passes) in [(30_001, true), (30_002, false)] {
            let packet = oracle::Packet {
                source: *server,
                destination: "192.0.2.1".parse().unwrap(),
                protocol: Protocol::Tcp,
                port,
                side: Side::Pod,
                segment: oracle::Segment::Open,
                answers_node: false,
            };
            let answer = oracle::admit(&translated.snapshot, &packet);
            assert_eq!(answer.passes(), passes, "{server} to {port}: {answer:?}");
        }
    }
}

#[test]
fn peers_beyond_the_limit_are_not_granted() {
    let with = |count| {
        let own = [cluster("c1"), pod("cluster-c1", "apiserver", 0)];
        let peers = (1_000..1_000 + count).map(|number| pod("cluster-c1", "etcd", number));
        of_values(own.into_iter().chain(peers).chain(others()))
    };
    let egress = |translated: &Translated, id: &str| -> Egress {
        translated.cluster(id).egress.clone().expect("the gate is on")
    };
    let former = bounded(&with(20), None);
    let now = bounded(&with(MORE), Some(&former.snapshot));
    let own = |egress: &Egress| -> Vec<_> {
        let peers = egress.peers.iter();
        peers.filter(|it| it.origin.object.kind == "Pod").map(|it| (it.net, it.port)).collect()
    };
    let (before, after) = (own(&egress(&former, "c1")), own(&egress(&now, "c1")));
    assert_eq!((before.len(), after.len()), (21, LIMIT));
    assert!(before.iter().all(|peer| after.contains(peer)));
    assert_eq!(egress(&now, "c2"), egress(&former, "c2"));
    let over = now.said().into_iter().filter(|it| it.contains("over a limit"));
    let over: Vec<_> = over.collect();
    assert!(over.iter().any(|it| it.contains("egress peers = \"121\"")), "{over:?}");
    assert!(over.iter().all(|it| it.contains("cluster-c1")), "{over:?}");
}

#[test]
fn a_hundred_clusters_with_all_that_they_may_have_fit_together() {
    let objects = of_values((0..100_u8).flat_map(|number| {
        let name = format!("c{number}");
        let namespace = format!("cluster-{name}");
        [cluster(&name), service(&namespace, number, 0, 5_000)]
    }));
    let settings = Settings { guard_pods: GuardPods::On, ..settings() };
    let translated = translate(&objects, &settings, &this_node(), None);
    assert!(translated.snapshot.clusters.values().all(|it| limited(it).len() == 1_000));
    let (rules, _) = compile(&translated.snapshot);
    let counters = assign(&rules, &[]).unwrap();
    Image::lower(&rules, &counters).unwrap();
}
