//! Objects at the limits of what can be written, and beyond those of sense.

use enforcer_policy::{
    compile::compile,
    image::{Image, assign},
    oracle,
};
use serde_json::json;

use super::*;

const MANY: usize = 100_000;

pub(super) fn of_values(values: impl IntoIterator<Item = Value>) -> Objects {
    let mut objects = Objects::default();
    let file = "hostile.yaml".into();
    for value in values {
        match decode(&value) {
            Ok(Some(object)) => objects.add(&object, &file),
            Ok(None) => panic!("of no known kind: {value}"),
            Err(failure) => {
                let named = failure.object.clone().expect("a name");
                objects.fail(&failure, named, &file);
            }
        }
    }
    objects
}

fn cluster(name: &str, ranges: &[String]) -> Value {
    json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": name},
        "spec": {
            "exposeStrategy": "LoadBalancer",
            "apiServerAllowedIPRanges": {"cidrBlocks": ranges},
        },
        "status": {"namespaceName": format!("cluster-{name}")},
    })
}

fn service(namespace: &str, name: &str, spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec, "status": status,
    })
}

fn node_port(namespace: &str, port: u16) -> Value {
    let ports = json!([{"name": "secure", "port": 443, "nodePort": port}]);
    let spec = json!({"type": "NodePort", "ports": ports});
    service(namespace, "apiserver-external", &spec, &json!({}))
}

fn ranges(count: usize) -> Vec<String> {
    let address = |number: usize| std::net::Ipv4Addr::from(0x0a00_0000 + 2 * number as u32);
    (0..count).map(|number| format!("{}/32", address(number))).collect()
}

fn translated_of(objects: &Objects, settings: &Settings, former: Option<&Snapshot>) -> Translated {
    translate(objects, settings, &this_node(), former)
}

fn frontends(translated: &Translated, id: &str) -> Vec<String> {
    let at = |frontend: &enforcer_policy::model::Frontend| match frontend.at {
        FrontendAddress::Node { port } => format!("node:{port}"),
        FrontendAddress::Address { address, port } => format!("{address}:{port}"),
    };
    translated.cluster(id).frontends.iter().map(at).collect()
}

#[test]
fn a_list_over_the_limit_keeps_the_one_before_and_concerns_nobody_else() {
    let usual = || [cluster("c2", &ranges(3)), node_port("cluster-c2", 30_002)];
    let before = of_values([cluster("c1", &ranges(5))].into_iter().chain(usual()));
    let former = translated_of(&before, &settings(), None).snapshot;
    let huge = of_values([cluster("c1", &ranges(MANY))].into_iter().chain(usual()));

    let kept = translated_of(&huge, &settings(), Some(&former));
    assert_eq!(kept.cluster("c1").allowed, former.clusters[&ClusterId("c1".into())].allowed);
    let said: Vec<_> = kept.said().into_iter().filter(|it| it.contains("Cluster c1")).collect();
    assert!(matches!(&said[..], [one] if one.contains("100000 entries, and 20000 are allowed")));
    assert_eq!(kept.cluster("c2"), &*former.clusters[&ClusterId("c2".into())]);

    let new = translated_of(&huge, &settings(), None);
    assert_eq!(list(new.cluster("c1").allowed.as_ref()), Some((vec![], 1)), "exemptions only");

    let limits = Limits { ranges: MANY, ..Limits::default() };
    let all = translated_of(&huge, &Settings { limits, ..settings() }, None);
    let list = all.cluster("c1").allowed.as_ref().unwrap();
    assert_eq!((list.ranges.len(), list.written), (MANY, MANY));
    let (rules, _) = compile(&all.snapshot);
    let counters = assign(&rules, &[]).unwrap();
    Image::lower(&rules, &counters).unwrap();
}

#[test]
fn a_list_over_the_limit_after_none_admits_exemptions_only() {
    let none = json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": "c1"},
        "spec": {"exposeStrategy": "NodePort"}, "status": {"namespaceName": "cluster-c1"},
    });
    let former = translated_of(&of_values([none.clone()]), &settings(), None).snapshot;
    let mut annotated = none;
    annotated["metadata"]["annotations"] =
        json!({"enforcer.k8c.io/allowed-ip-ranges": "10.0.0.1,".repeat(25_000)});
    let now = translated_of(&of_values([annotated]), &settings(), Some(&former));
    assert_eq!(list(now.cluster("c1").allowed.as_ref()), Some((vec![], 1)));
}

#[test]
fn ten_thousand_clusters_have_room_and_each_its_own_list() {
    const CLUSTERS: u16 = 10_000;
    let objects = of_values((0..CLUSTERS).flat_map(|number| {
        let name = format!("c{number:05}");
        let own = [format!("10.{}.{}.0/24", number >> 8, number & 255)];
        [cluster(&name, &own), node_port(&format!("cluster-{name}"), 20_000 + number)]
    }));
    let translated = translated_of(&objects, &settings(), None);
    assert_eq!(translated.snapshot.clusters.len(), usize::from(CLUSTERS));
    let (rules, conflicts) = compile(&translated.snapshot);
    assert_eq!(conflicts, []);
    let counters = assign(&rules, &[]).unwrap();
    Image::lower(&rules, &counters).unwrap();
    for (port, passes) in [(20_000, true), (20_001, false)] {
        let packet = oracle::Packet {
            source: "10.0.0.7".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            port,
            side: enforcer_policy::model::Side::Uplink,
            segment: oracle::Segment::Open,
            answers_node: false,
        };
        assert_eq!(oracle::admit(&translated.snapshot, &packet).passes(), passes, "{port}");
    }
}

#[test]
fn names_and_values_at_their_limits_and_beyond_ascii_are_told_in_short() {
    let name = "c".repeat(253);
    let rubbish = [
        "ü".repeat(60_000),
        "٣.٣.٣.٣/٨".to_owned(),
        "10.0.0.0/8\u{202e}".to_owned(),
        "\u{0}".to_owned(),
        "１０.0.0.0/8".to_owned(),
    ];
    let all: Vec<String> = rubbish.into_iter().chain(["192.0.2.0/24".to_owned()]).collect();
    let translated = translated_of(&of_values([cluster(&name, &all)]), &settings(), None);
    let read = list(translated.cluster(&name).allowed.as_ref());
    assert_eq!(read, Some((vec!["192.0.2.0/24".to_owned()], 6)));
    assert_eq!(translated.problems.len(), 5, "one for each entry");
    assert!(translated.problems.iter().all(|it| it.value.chars().count() <= 65));
    let unicode = translated_of(&of_values([cluster("größe-🦀", &ranges(1))]), &settings(), None);
    assert!(unicode.snapshot.clusters.contains_key(&ClusterId("größe-🦀".to_owned())));
}

#[test]
fn ports_that_are_there_twice_are_one_frontend_each() {
    let port = |name: &str, port: u16, node_port: u16| json!({"name": name, "port": port, "nodePort": node_port});
    let ports = [
        port("a", 443, 30_001),
        port("a", 443, 30_001),
        port("b", 443, 30_002),
        json!({"name": "zero", "port": 0, "nodePort": 0}),
    ];
    let spec =
        json!({"type": "NodePort", "ports": ports, "externalIPs": ["192.0.2.7", "192.0.2.7"]});
    let objects = of_values([
        cluster("c1", &ranges(1)),
        service("cluster-c1", "apiserver-external", &spec, &json!({})),
    ]);
    let translated = translated_of(&objects, &settings(), None);
    let (rules, _) = compile(&translated.snapshot);
    let mut at: Vec<_> = rules.frontends.keys().map(|(_, at)| *at).collect();
    at.retain(|at| !matches!(at, FrontendAddress::Address { port: 0, .. }));
    let address = "192.0.2.7".parse().unwrap();
    assert_eq!(
        at,
        [
            FrontendAddress::Node { port: 30_001 },
            FrontendAddress::Node { port: 30_002 },
            FrontendAddress::Address { address, port: 443 },
        ]
    );
}

#[test]
fn a_service_that_changes_its_type_is_guarded_at_what_it_opens_now() {
    let ports = json!([{"name": "secure", "port": 443, "nodePort": 30_001}]);
    let inner = json!([{"name": "secure", "port": 443}]);
    let ingress =
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]}});
    let types = [
        (json!({"type": "NodePort", "ports": ports}), json!({}), vec!["node:30001"]),
        (
            json!({"type": "LoadBalancer", "ports": ports}),
            ingress,
            vec!["192.0.2.9:443", "2001:db8::9:443", "node:30001"],
        ),
        (json!({"type": "ClusterIP", "ports": inner}), json!({}), vec![]),
        (json!({"type": "ExternalName", "externalName": "example.org"}), json!({}), vec![]),
    ];
    let mut former: Option<Snapshot> = None;
    for (spec, status, expected) in types.iter().chain(types.iter().rev()) {
        let objects = of_values([
            cluster("c1", &ranges(1)),
            service("cluster-c1", "apiserver-external", spec, status),
        ]);
        let translated = translated_of(&objects, &settings(), former.as_ref());
        let mut found = frontends(&translated, "c1");
        found.sort();
        assert_eq!(&found, expected, "{spec}");
        former = Some(translated.snapshot);
    }
}

#[test]
fn headless_and_dual_stack_services_and_endpoints_of_every_type() {
    let on = Settings { guard_pods: GuardPods::On, ..settings() };
    let ports = json!([{"name": "secure", "port": 443, "targetPort": 6443}]);
    let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
        "ports": ports});
    let dual = json!({"type": "ClusterIP", "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00:10:96::1"], "ports": ports});
    let slice = |name: &str, kind: &str, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "cluster-c1",
                "labels": {"kubernetes.io/service-name": "apiserver-external"}},
            "addressType": kind, "ports": [{"name": "secure", "port": 6443}],
            "endpoints": [{"addresses": [address], "nodeName": "node-1"}],
        })
    };
    for (spec, cluster_ips) in [(headless, 0), (dual, 2)] {
        let objects = of_values([
            cluster("c1", &ranges(1)),
            service("cluster-c1", "apiserver-external", &spec, &json!({})),
            slice("v4", "IPv4", "10.244.1.7"),
            slice("v6", "IPv6", "fd00:10:244:1::7"),
            slice("name", "FQDN", "apiserver.example.org"),
            slice("odd", "IPv9", "10.244.1.99"),
        ]);
        let translated = translated_of(&objects, &on, None);
        let found = frontends(&translated, "c1");
        assert_eq!(
            found.iter().filter(|it| it.ends_with(":443")).count(),
            cluster_ips,
            "{found:?}"
        );
        let mut pods: Vec<_> = found.iter().filter(|it| it.ends_with(":6443")).collect();
        pods.sort();
        assert_eq!(pods, ["10.244.1.7:6443", "fd00:10:244:1::7:6443"]);
    }
}

#[test]
fn a_namespace_that_another_cluster_gets_brings_nothing_of_the_former_one_along() {
    let in_namespace = |name: &str, namespace: &str, allowed: &str| {
        let mut cluster = cluster(name, &[allowed.to_owned()]);
        cluster["status"]["namespaceName"] = namespace.into();
        cluster
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "shared", "labels": {"app": "apiserver"}},
        "spec": {}, "status": {"podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}]},
    });
    let first =
        of_values([in_namespace("c1", "shared", "192.0.2.0/24"), node_port("shared", 30_001), pod]);
    let former = translated_of(&first, &settings(), None).snapshot;
    // c1 is gone, c2 has its namespace, whose objects cannot be read for the moment.
    let mut second = of_values([in_namespace("c2", "shared", "198.51.100.0/24")]);
    second.failed.insert(enforcer_policy::model::ObjectRef {
        kind: "Service".to_owned(),
        namespace: "shared".to_owned(),
        name: "apiserver-external".to_owned(),
    });
    let translated = translated_of(&second, &settings(), Some(&former));
    assert_eq!(frontends(&translated, "c2"), [""; 0]);
    assert!(translated.cluster("c2").own_pods.is_empty());
    // Both claim it: at its frontends only what both admit passes, and both are told.
    let both = of_values([
        in_namespace("c1", "shared", "192.0.2.0/24"),
        in_namespace("c2", "shared", "198.51.100.0/24"),
        node_port("shared", 30_001),
    ]);
    let translated = translated_of(&both, &settings(), Some(&former));
    let (rules, conflicts) = compile(&translated.snapshot);
    assert_eq!(conflicts.len(), 1);
    assert!(rules.policies.iter().all(|policy| policy.admitted.is_empty()), "{:?}", rules.policies);
}

#[test]
fn objects_that_vanish_take_their_own_frontends_along_and_no_lists() {
    let all = [
        cluster("c1", &ranges(2)),
        node_port("cluster-c1", 30_001),
        cluster("c2", &ranges(3)),
        node_port("cluster-c2", 30_002),
    ];
    let former = translated_of(&of_values(all.clone()), &settings(), None).snapshot;
    for gone in 0..all.len() {
        let mut rest = all.to_vec();
        rest.remove(gone);
        let translated = translated_of(&of_values(rest), &settings(), Some(&former));
        for (id, cluster) in &translated.snapshot.clusters {
            assert_eq!(cluster.allowed, former.clusters[id].allowed, "{id}");
        }
        // Clusters whose object is gone are not guarded by what is left of them.
        let expected = if gone % 2 == 0 { 1 } else { 2 };
        assert_eq!(translated.snapshot.clusters.len(), expected);
    }
}
