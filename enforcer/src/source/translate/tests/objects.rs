//! Objects that can be read.

use proptest::prelude::*;

use super::*;

/// A Cluster with another name, strategy and list.
fn cluster(id: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: kubermatic.k8c.io/v1\nkind: Cluster\nmetadata: {{name: {id}}}\n\
         spec: {spec}\nstatus: {status}"
    )
}

fn service(name: &str, spec: &str, status: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: cluster-abc}}\n\
         spec: {spec}\nstatus: {status}"
    )
}

#[test]
fn a_documented_cluster_and_seed_are_read_without_a_problem() {
    let translated = translated(&[CLUSTER, SEED, FRONT_LOAD_BALANCER, API_SERVER_EXTERNAL, NODE]);
    assert_eq!(translated.said(), Vec::<String>::new());
    let cluster = translated.cluster("abc");
    assert_eq!(cluster.namespace, "cluster-abc");
    assert_eq!(cluster.strategy, ExposeStrategy::LoadBalancer);
    assert_eq!(list(cluster.allowed.as_ref()), Some((vec!["198.51.100.0/24".to_owned()], 1)));
    assert_eq!(
        frontends(cluster),
        [
            "tcp node 30443 ApiServerNodePort",
            "tcp node 31001 FrontLoadBalancerNodePort",
            "tcp node 31002 FrontLoadBalancerNodePort",
            "tcp 203.0.113.10 30132 FrontLoadBalancer",
            "tcp 203.0.113.10 30443 FrontLoadBalancer",
            "tcp 2001:db8::10 30132 FrontLoadBalancer",
            "tcp 2001:db8::10 30443 FrontLoadBalancer",
        ]
    );
    let seed = translated.snapshot.seed.as_ref().unwrap();
    assert_eq!(seed.name, "europe");
    assert_eq!(list(seed.default_ranges.as_ref()), Some((vec!["203.0.113.0/24".to_owned()], 1)));
    let source_ranges = list(seed.load_balancer_ranges.as_ref());
    assert_eq!(source_ranges, Some((vec!["192.0.2.0/24".to_owned()], 1)));
    let allowed = cluster.allowed.as_ref().unwrap();
    assert_eq!(allowed.origin.to_string(), "Cluster abc spec.apiServerAllowedIPRanges.cidrBlocks");
    let node = &translated.snapshot.nodes["node-1"];
    assert_eq!(node.addresses, addresses(&["192.0.2.1", "2001:db8::1", "198.51.100.1"]));
    let pods: Vec<String> = node.pod_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(pods, ["10.244.1.0/24", "fd00:1::/64"]);
    assert_eq!(translated.snapshot.this_node, this_node());
}

#[test]
fn no_list_and_an_empty_list_are_told_apart() {
    for (spec, expected) in [
        ("{}", None),
        ("{apiServerAllowedIPRanges: null}", None),
        ("{apiServerAllowedIPRanges: {}}", Some((vec![], 0))),
        ("{apiServerAllowedIPRanges: {cidrBlocks: []}}", Some((vec![], 0))),
        ("{apiServerAllowedIPRanges: {cidrBlocks: [nonsense]}}", Some((vec![], 1))),
    ] {
        let translated = translated(&[&cluster("abc", spec, "{namespaceName: x}")]);
        assert_eq!(list(translated.cluster("abc").allowed.as_ref()), expected, "{spec}");
    }
}

#[test]
fn a_cluster_without_a_namespace_is_in_the_usual_one_and_reported_where_that_is_empty() {
    let nameless = cluster("abc", "{}", "{}");
    let alone = translated(&[&nameless]);
    assert_eq!(alone.cluster("abc").namespace, "cluster-abc");
    assert_eq!(
        alone.said(),
        [
            "0.yaml: Cluster abc status.namespaceName: names no control-plane namespace; not enforced yet"
        ]
    );
    assert_eq!(alone.problems[0].cluster, Some(ClusterId("abc".to_owned())));
    let inhabited = translated(&[&nameless, API_SERVER_EXTERNAL]);
    assert_eq!(inhabited.said(), Vec::<String>::new());
    assert_eq!(frontends(inhabited.cluster("abc")), ["tcp node 30443 ApiServerNodePort"]);
}

#[test]
fn services_of_another_namespace_are_never_a_clusters_frontends() {
    let elsewhere = cluster("abc", "{}", "{namespaceName: elsewhere}");
    let translated = translated(&[&elsewhere, API_SERVER_EXTERNAL]);
    assert_eq!(frontends(translated.cluster("abc")), Vec::<String>::new());
}

#[test]
fn a_strategy_comes_from_the_cluster_then_the_seed_then_kkp() {
    let seed = |strategy: &str| {
        format!(
            "apiVersion: kubermatic.k8c.io/v1\nkind: Seed\nmetadata: {{name: eu}}\n\
             spec: {{exposeStrategy: {strategy}}}"
        )
    };
    for (own, of_seed, expected) in [
        ("NodePort", "Tunneling", ExposeStrategy::NodePort),
        ("Tunneling", "NodePort", ExposeStrategy::Tunneling),
        ("''", "Tunneling", ExposeStrategy::Tunneling),
        ("null", "LoadBalancer", ExposeStrategy::LoadBalancer),
        ("null", "''", ExposeStrategy::NodePort),
    ] {
        let spec = format!("{{exposeStrategy: {own}}}");
        let translated =
            translated(&[&cluster("abc", &spec, "{namespaceName: x}"), &seed(of_seed)]);
        assert_eq!(translated.cluster("abc").strategy, expected, "{own} {of_seed}");
    }
}

#[test]
fn an_unknown_strategy_is_reported_and_means_the_former_or_the_strictest_one() {
    let known = cluster("abc", "{exposeStrategy: Tunneling}", "{namespaceName: x}");
    let unknown = cluster("abc", "{exposeStrategy: Telepathy}", "{namespaceName: x}");
    let at_first = translated(&[&unknown]);
    assert_eq!(at_first.cluster("abc").strategy, ExposeStrategy::LoadBalancer);
    assert_eq!(
        at_first.said(),
        [
            "0.yaml: Cluster abc spec.exposeStrategy = \"Telepathy\": cannot be understood (expected \
         NodePort, LoadBalancer or Tunneling); the last good version is kept"
        ]
    );
    let later = translated_after(&[&known], &[&unknown]);
    assert_eq!(later.cluster("abc").strategy, ExposeStrategy::Tunneling);
}

#[test]
fn every_way_in_is_a_frontend_and_nothing_else() {
    let services = [
        service("front-loadbalancer", "{type: LoadBalancer, externalIPs: [198.51.100.9],
            ports: [{name: healthz, port: 9000, nodePort: 31000}, {port: 8002, nodePort: 31001},
                    {name: secure, port: 30443}]}",
            "{loadBalancer: {ingress: [{hostname: lb.example.com}, {ip: 203.0.113.9, ipMode: Proxy},
                                       {ip: 203.0.113.10}]}}"),
        service("apiserver-external", "{type: LoadBalancer, externalIPs: ['::ffff:198.51.100.8'],
            ports: [{name: secure, port: 443, nodePort: 30443}]}",
            "{loadBalancer: {ingress: [{ip: 203.0.113.8}]}}"),
        service("konnectivity-server",
            "{type: NodePort, ports: [{name: secure, port: 443, nodePort: 30132}]}", "{}"),
        service("openvpn-server", "{type: NodePort, ports: [
            {name: u, port: 1194, nodePort: 31194, protocol: UDP},
            {name: t, port: 1194, nodePort: 31195, protocol: TCP},
            {name: s, port: 1194, nodePort: 31196, protocol: SCTP}]}", "{}"),
        service("etcd", "{type: NodePort, ports: [{port: 2379, nodePort: 32379}]}", "{}"),
    ];
    let mut documents = vec![CLUSTER];
    documents.extend(services.iter().map(String::as_str));
    let translated = translated(&documents);
    assert_eq!(translated.said(), Vec::<String>::new());
    assert_eq!(
        frontends(translated.cluster("abc")),
        [
            "tcp node 30132 KonnectivityNodePort",
            "tcp node 30443 ApiServerNodePort",
            "tcp node 31195 OpenVpnNodePort",
            "tcp 198.51.100.8 443 ServiceAddress",
            "tcp 198.51.100.9 30443 FrontLoadBalancer",
            "tcp 203.0.113.8 443 ServiceAddress",
            "tcp 203.0.113.10 30443 FrontLoadBalancer",
            "udp node 31194 OpenVpnNodePort",
        ]
    );
}

#[test]
fn apiserver_external_is_guarded_whatever_type_the_datacenter_gives_it() {
    let status = "{loadBalancer: {ingress: [{ip: 203.0.113.8}]}}";
    for (spec, status, expected) in [
        ("{type: ClusterIP, ports: [{port: 443}]}", "{}", &[][..]),
        ("{clusterIP: None, ports: [{port: 443, targetPort: https}]}", "{}", &[]),
        (
            "{type: NodePort, ports: [{port: 443, targetPort: 30443, nodePort: 30443}]}",
            "{}",
            &["tcp node 30443 ApiServerNodePort"],
        ),
        (
            "{type: LoadBalancer, ports: [{port: 443, targetPort: 30443, nodePort: 30443}]}",
            status,
            &["tcp node 30443 ApiServerNodePort", "tcp 203.0.113.8 443 ServiceAddress"],
        ),
        (
            "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 443}]}",
            status,
            &["tcp 203.0.113.8 443 ServiceAddress"],
        ),
        (
            "{type: NodePort, ports: [{name: a, port: 443, nodePort: 30443},
                                      {name: b, port: 443, nodePort: 30443}]}",
            "{}",
            &["tcp node 30443 ApiServerNodePort", "tcp node 30443 ApiServerNodePort"],
        ),
    ] {
        let translated = translated(&[CLUSTER, &service("apiserver-external", spec, status)]);
        assert_eq!(frontends(translated.cluster("abc")), expected, "{spec}");
        assert_eq!(translated.said(), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn a_service_without_ports_is_reported_where_it_should_have_some() {
    for (spec, reported) in [
        ("{type: NodePort}", true),
        ("{type: LoadBalancer, ports: []}", true),
        ("{type: ClusterIP}", false),
        ("{}", false),
    ] {
        let translated = translated(&[CLUSTER, &service("apiserver-external", spec, "{}")]);
        let kinds: Vec<&ProblemKind> = translated.problems.iter().map(|p| &p.kind).collect();
        let expected: &[&ProblemKind] = if reported { &[&ProblemKind::NoPorts] } else { &[] };
        assert_eq!(kinds, expected, "{spec}");
        assert!(translated.problems.iter().all(|problem| problem.cluster.is_some()), "{spec}");
    }
}

#[test]
fn an_address_that_is_none_is_reported_and_left_out() {
    let broken = service(
        "apiserver-external",
        "{type: LoadBalancer, externalIPs: [nowhere],
        ports: [{port: 443}]}",
        "{loadBalancer: {ingress: [{ip: 203.0.113.8}, {ip: 1.2.3}]}}",
    );
    let translated = translated(&[CLUSTER, &broken]);
    assert_eq!(frontends(translated.cluster("abc")), ["tcp 203.0.113.8 443 ServiceAddress"]);
    let fields: Vec<&str> = translated.problems.iter().map(|problem| &*problem.field).collect();
    assert_eq!(fields, ["spec.externalIPs[0]", "status.loadBalancer.ingress[1].ip"]);
}

#[test]
fn pods_of_the_control_plane_are_its_own_and_api_servers_are_known_among_them() {
    let pod = |name: &str, labels: &str, spec: &str, status: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: cluster-abc, \
         labels: {labels}}}\nspec: {spec}\nstatus: {status}"
        )
    };
    let slice = |name: &str, service: &str, kind: &str, addresses: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: \
         cluster-abc, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: {kind}\n\
         endpoints: [{{addresses: {addresses}, conditions: {{ready: false}}}}]"
        )
    };
    let documents = [
        pod(
            "api",
            "{app: apiserver}",
            "{}",
            "{podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}",
        ),
        pod("etcd", "{app: etcd}", "{}", "{podIP: 10.0.0.2}"),
        pod("done", "{app: apiserver}", "{}", "{phase: Succeeded, podIP: 10.0.0.3}"),
        pod("host", "{app: apiserver}", "{hostNetwork: true}", "{podIP: 192.0.2.1}"),
        pod("pending", "{app: apiserver}", "{}", "{phase: Pending}"),
        slice("a", "apiserver-external", "IPv4", "[10.0.0.4]"),
        slice("b", "etcd", "IPv6", "['fd00::2']"),
        slice("c", "apiserver-external", "FQDN", "[api.example.com]"),
        slice("d", "apiserver-external", "IPv4", "[192.0.2.1]"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: api, namespace: cluster-other, labels: \
         {app: apiserver}}\nstatus: {podIP: 10.9.9.9}"
            .to_owned(),
    ];
    let mut all = vec![CLUSTER, NODE];
    all.extend(documents.iter().map(String::as_str));
    let translated = translated(&all);
    let cluster = translated.cluster("abc");
    let own = addresses(&["10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.4", "fd00::2"]);
    assert_eq!(cluster.own_pods, own);
    assert_eq!(cluster.api_server_pods, addresses(&["10.0.0.1", "fd00::1", "10.0.0.4"]));
}

#[test]
fn a_node_without_pod_cidrs_has_the_one_pod_cidr() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.244.1.7/24}";
    let translated = translated(&[node]);
    assert_eq!(translated.snapshot.nodes["a"].pod_ranges, ["10.244.1.0/24".parse().unwrap()]);
}

#[test]
fn addresses_of_this_node_are_those_of_its_node_object() {
    let objects = objects(&[NODE]);
    let expected = addresses(&["192.0.2.1", "2001:db8::1", "198.51.100.1"]);
    assert_eq!(objects.node_addresses("node-1"), expected);
    assert!(objects.node_addresses("node-2").is_empty());
}

#[test]
fn two_clusters_in_one_namespace_share_its_frontends_and_are_reported() {
    let one = cluster("one", "{}", "{namespaceName: cluster-abc}");
    let two = cluster("two", "{}", "{namespaceName: cluster-abc}");
    let translated = translated(&[&one, &two, API_SERVER_EXTERNAL]);
    assert_eq!(frontends(translated.cluster("one")), frontends(translated.cluster("two")));
    assert_eq!(
        translated.said(),
        [
            "0.yaml: Cluster one status.namespaceName = \"cluster-abc\": is claimed by cluster two \
         too; only sources that both admit pass",
            "1.yaml: Cluster two status.namespaceName = \"cluster-abc\": is claimed by cluster one \
         too; only sources that both admit pass",
        ]
    );
}

#[test]
fn equal_objects_give_equal_snapshots_whatever_their_order() {
    let mut documents = [CLUSTER, SEED, FRONT_LOAD_BALANCER, API_SERVER_EXTERNAL, NODE];
    let forwards = translated(&documents);
    documents.reverse();
    assert_eq!(translated(&documents).snapshot, forwards.snapshot);
}

proptest! {
    #[test]
    fn a_present_list_stays_present_whatever_stands_in_it(
        entries in prop::collection::vec(".{0,20}|[0-9a-f:./]{1,20}", 0..6),
    ) {
        let expected = entries.len();
        let document = serde_json::json!({
            "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": "abc"},
            "spec": {"apiServerAllowedIPRanges": {"cidrBlocks": entries}},
        });
        let mut objects = Objects::default();
        objects.add(&decode(&document).unwrap().unwrap(), &"a.yaml".into());
        let translated = translate(&objects, &settings(), &this_node(), None);
        let written = translated.cluster("abc").allowed.as_ref().map(|list| list.written);
        prop_assert_eq!(written, Some(expected));
    }
}
