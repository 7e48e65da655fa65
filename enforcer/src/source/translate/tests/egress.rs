//! Whom API servers may connect to.

mod urls;

use enforcer_policy::model::{Egress, PeerPort};

use super::*;

const GATED: &str = "\
apiVersion: kubermatic.k8c.io/v1
kind: Cluster
metadata: {name: abc}
spec: {exposeStrategy: NodePort, features: {apiserverNetworkPolicy: true}}
status: {namespaceName: cluster-abc}";

/// Another one.
const GATED_XYZ: &str = "\
apiVersion: kubermatic.k8c.io/v1
kind: Cluster
metadata: {name: xyz}
spec: {exposeStrategy: NodePort, features: {apiserverNetworkPolicy: true}}
status: {namespaceName: cluster-xyz}";

/// An API server pod on this node.
const API_SERVER: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: apiserver-1, namespace: cluster-abc, labels: {app: apiserver, cluster: abc}}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}, {ip: 'fd00:1::5'}]}";

fn pod(namespace: &str, name: &str, labels: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{nodeName: node-2}}\nstatus: {{phase: Running, podIP: '{address}'}}"
    )
}

fn service(namespace: &str, name: &str, selector: &str, address: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {selector}, clusterIP: {address}, clusterIPs: [{address}], ports: {ports}}}"
    )
}

fn namespace(annotation: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\n\
         metadata: {{name: cluster-abc, annotations: {{enforcer.k8c.io/{annotation}: '{value}'}}}}"
    )
}

const HTTPS: &str = "[{port: 443, protocol: TCP}]";

fn short(egress: &Egress) -> Vec<String> {
    let mut peers: Vec<String> = egress
        .peers
        .iter()
        .map(|peer| match peer.port {
            PeerPort::Any => format!("{}", peer.net),
            PeerPort::Only(Protocol::Tcp, port) => format!("{} tcp {port}", peer.net),
            PeerPort::Only(Protocol::Udp, port) => format!("{} udp {port}", peer.net),
        })
        .collect();
    peers.sort();
    peers
}

/// Options under which only what the test is about is granted.
fn derived() -> Settings {
    let egress = EgressSettings { dns: EgressDns::Derived, allow: Vec::new() };
    // Which pods are guarded is no matter here.
    Settings { egress, guard_pods: GuardPods::Off, ..settings() }
}

/// Granted by `derived` everywhere.
const ON_NODES: [&str; 2] = ["169.254.20.10/32 tcp 53", "169.254.20.10/32 udp 53"];

fn with_learned(documents: &[&str], settings: &Settings, learned: &Learned) -> Translated {
    super::super::translate(&objects(documents), settings, &this_node(), learned, None)
}

fn gated(documents: &[&str]) -> Translated {
    let documents = [&[GATED, API_SERVER], documents].concat();
    with_learned(&documents, &derived(), &Learned::default())
}

/// Peers besides the pod itself and what `derived` grants.
fn granted(translated: &Translated) -> Vec<String> {
    let egress = translated.cluster("abc").egress.as_ref().unwrap();
    let own = ["10.244.1.5/32", "fd00:1::5/128"];
    let mut peers = short(egress);
    peers.retain(|peer| !own.contains(&peer.as_str()) && !ON_NODES.contains(&peer.as_str()));
    peers
}

#[test]
fn the_gate_is_on_where_it_is_true_and_off_where_it_is_false_or_absent() {
    for (features, on) in [
        ("{apiserverNetworkPolicy: true}", true),
        ("{apiserverNetworkPolicy: false}", false),
        ("{apiserverNetworkPolicy: null}", false),
        ("{other: true}", false),
        ("null", false),
    ] {
        let cluster = GATED.replace("{apiserverNetworkPolicy: true}", features);
        let translated = translated(&[&cluster, API_SERVER]);
        assert_eq!(translated.cluster("abc").egress.is_some(), on, "{features}");
    }
}

#[test]
fn a_template_says_what_new_clusters_get_and_changes_no_running_one() {
    let template = |name: &str, scope: &str, features: &str| {
        format!(
            "apiVersion: kubermatic.k8c.io/v1\nkind: ClusterTemplate\n\
             metadata: {{name: {name}, labels: {{scope: {scope}}}}}\nspec: {{features: {features}}}"
        )
    };
    for (named, template, expected) in [
        ("", template("usual", "seed", "{apiserverNetworkPolicy: false}"), Some(true)),
        ("usual", template("usual", "seed", "{apiserverNetworkPolicy: true}"), Some(true)),
        ("usual", template("usual", "seed", "{apiserverNetworkPolicy: false}"), Some(false)),
        ("usual", template("usual", "seed", "{}"), Some(true)),
        ("usual", template("usual", "user", "{apiserverNetworkPolicy: false}"), None),
        ("usual", template("other", "seed", "{apiserverNetworkPolicy: false}"), None),
    ] {
        let seed = format!("{SEED}\n  defaultClusterTemplate: '{named}'");
        let translated = translated(&[CLUSTER, GATED_XYZ, API_SERVER, &seed, &template]);
        let seed = translated.snapshot.seed.as_ref().unwrap();
        assert_eq!(seed.new_clusters_gate, expected, "{named} {template}");
        assert_eq!(translated.cluster("abc").egress, None);
        assert!(translated.cluster("xyz").egress.is_some());
    }
}

#[test]
fn a_cluster_that_cannot_be_read_keeps_its_egress_and_an_unknown_one_is_gated() {
    let broken = GATED.replace("exposeStrategy: NodePort", "exposeStrategy: 7");
    let etcd = pod("cluster-abc", "etcd-0", "{app: etcd, cluster: abc}", "10.244.2.6");
    let gated_before = translated_after(&[GATED, API_SERVER, &etcd], &[&broken, API_SERVER, &etcd]);
    let egress = gated_before.cluster("abc").egress.as_ref().unwrap();
    assert!(short(egress).contains(&"10.244.2.6/32".to_owned()), "{egress:?}");
    let open = GATED.replace("true}", "false}");
    let open_before = translated_after(&[&open, API_SERVER], &[&broken, API_SERVER]);
    assert_eq!(open_before.cluster("abc").egress, None);
    let unknown = translated(&[&broken, API_SERVER]);
    assert!(unknown.cluster("abc").egress.is_some());
}

#[test]
fn the_gated_pods_are_the_api_servers_of_this_node_whatever_network_they_are_in() {
    let elsewhere = API_SERVER.replace("node-1", "node-2").replace("apiserver-1", "apiserver-2");
    let host = API_SERVER
        .replace("nodeName: node-1", "nodeName: node-1, hostNetwork: true")
        .replace("apiserver-1", "apiserver-3");
    let ended = API_SERVER.replace("Running", "Failed").replace("apiserver-1", "apiserver-4");
    let waiting = API_SERVER
        .replace("apiserver-1", "apiserver-5")
        .replace("podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}, {ip: 'fd00:1::5'}]", "podIP: ''");
    let other =
        pod("cluster-abc", "etcd-0", "{app: etcd}", "10.244.1.9").replace("node-2", "node-1");
    let translated = gated(&[&elsewhere, &host, &ended, &waiting, &other]);
    let pods = &translated.cluster("abc").egress.as_ref().unwrap().pods;
    let names: Vec<&str> = pods.iter().map(|pod| pod.object.name.as_str()).collect();
    assert_eq!(names, ["apiserver-1", "apiserver-3", "apiserver-5"]);
    assert_eq!(pods[0].addresses, addresses(&["10.244.1.5", "fd00:1::5"]));
    assert_eq!(pods[2].addresses, addresses(&[]));
}

#[test]
fn peers_are_named_only_where_a_gated_pod_runs() {
    let etcd = pod("cluster-abc", "etcd-0", "{app: etcd, cluster: abc}", "10.244.2.6");
    let elsewhere = API_SERVER.replace("node-1", "node-2");
    let translated = translated(&[GATED, &elsewhere, &etcd]);
    assert_eq!(translated.cluster("abc").egress, Some(Egress::default()));
}

#[test]
fn pods_of_the_control_plane_are_granted_by_their_label_at_every_port() {
    let apps = [
        "etcd",
        "machine-controller-webhook",
        "operating-system-manager-webhook",
        "usercluster-webhook",
        "openvpn-server",
        "metrics-server",
        "dns-resolver",
        "apiserver",
        "prometheus",
        "kubernetes-dashboard",
    ];
    let pods: Vec<String> = (0..)
        .zip(apps)
        .map(|(n, app)| {
            pod(
                "cluster-abc",
                app,
                &format!("{{app: {app}, cluster: abc}}"),
                &format!("10.244.2.{n}"),
            )
        })
        .collect();
    let mut documents: Vec<&str> = pods.iter().map(String::as_str).collect();
    let kyverno = pod(
        "cluster-abc",
        "kyverno",
        "{app.kubernetes.io/component: admission-controller}",
        "10.244.2.100",
    );
    documents.push(&kyverno);
    let expected: Vec<String> = (0..8).chain([100]).map(|n| format!("10.244.2.{n}/32")).collect();
    let mut granted = granted(&gated(&documents));
    granted.sort_by_key(String::len);
    assert_eq!(granted, expected);
}

#[test]
fn pods_of_other_clusters_and_nodes_own_addresses_are_not_granted() {
    let translated = gated(&[
        &pod("cluster-xyz", "etcd-0", "{app: etcd, cluster: xyz}", "10.244.2.1"),
        &pod("cluster-abc", "etcd-1", "{app: etcd, cluster: xyz}", "10.244.2.2"),
        &pod("cluster-abc", "etcd-2", "{app: etcd, cluster: abc}", "192.0.2.1"),
        &slice("cluster-abc", "etcd", "[192.0.2.1]", "[]"),
        NODE,
    ]);
    assert_eq!(granted(&translated), [""; 0]);
}

#[test]
fn services_that_select_a_peer_are_granted_at_their_own_ports_and_headless_ones_have_no_address() {
    let translated = gated(&[
        &service(
            "cluster-abc",
            "usercluster-webhook",
            "{app: usercluster-webhook}",
            "10.96.0.7",
            "[{name: seed, port: 443}, {name: user, port: 6443, targetPort: 19444}]",
        ),
        &service(
            "cluster-abc",
            "openvpn",
            "{app: openvpn-server}",
            "10.96.0.8",
            "[{port: 1194, protocol: UDP}]",
        ),
        &service("cluster-abc", "etcd", "{app: etcd, cluster: abc}", "None", "[{port: 2379}]"),
        &service("cluster-abc", "etcd-of-another", "{app: etcd, cluster: xyz}", "10.96.0.9", HTTPS),
        &service("cluster-abc", "prometheus", "{app: prometheus}", "10.96.0.10", HTTPS),
        &service("cluster-abc", "by-hand", "{}", "10.96.0.11", HTTPS),
        &service("cluster-xyz", "metrics-server", "{app: metrics-server}", "10.96.0.12", HTTPS),
    ]);
    assert_eq!(
        granted(&translated),
        ["10.96.0.7/32 tcp 443", "10.96.0.7/32 tcp 6443", "10.96.0.8/32 udp 1194"]
    );
}

#[test]
fn a_service_of_two_families_is_granted_at_both_of_its_addresses() {
    let both =
        service("cluster-abc", "metrics-server", "{app: metrics-server}", "10.96.0.7", HTTPS)
            .replace("clusterIPs: [10.96.0.7]", "clusterIPs: [10.96.0.7, 'fd00:96::7']");
    assert_eq!(granted(&gated(&[&both])), ["10.96.0.7/32 tcp 443", "fd00:96::7/128 tcp 443"]);
}

#[test]
fn endpoints_of_a_service_that_selects_peers_are_granted_whether_or_not_its_object_is_seen() {
    let other = slice("cluster-abc", "dashboard", "[10.244.2.9]", "[]");
    let etcd = slice("cluster-abc", "etcd", "[10.244.2.1, 10.244.2.2]", "[{port: 2379}]");
    let six = slice("cluster-abc", "metrics-server", "['fd00:2::1']", "[]").replace("IPv4", "IPv6");
    let translated = gated(&[&etcd, &six, &other]);
    assert_eq!(granted(&translated), ["10.244.2.1/32", "10.244.2.2/32", "fd00:2::1/128"]);
    // One of a known name that selects something else is none.
    let renamed = service("cluster-abc", "etcd", "{app: dashboard}", "10.96.0.7", HTTPS);
    assert_eq!(granted(&gated(&[&etcd, &renamed])), [""; 0]);
}

#[test]
fn the_seeds_api_server_is_granted_at_its_endpoints_ports_and_its_services_address() {
    let translated = gated(&[
        &service("default", "kubernetes", "null", "10.96.0.1", HTTPS),
        &slice(
            "default",
            "kubernetes",
            "[192.0.2.1]",
            "[{name: https, port: 6443, protocol: TCP}]",
        ),
        &service("default", "other", "null", "10.96.0.2", HTTPS),
        NODE,
    ]);
    assert_eq!(granted(&translated), ["10.96.0.1/32 tcp 443", "192.0.2.1/32 tcp 6443"]);
}

#[test]
fn ingress_controllers_are_granted_as_pods_and_services_and_on_nodes_at_their_ports_alone() {
    for namespace in ["nginx-ingress-controller", "envoy-gateway-controller"] {
        let balancer = service(namespace, "ingress", "{app: ingress}", "10.96.0.7", HTTPS)
            + "\nstatus: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}";
        let ports = "[{port: 8443, protocol: TCP}]";
        let translated = gated(&[
            &balancer,
            &slice(namespace, "ingress", "[10.244.2.1, 192.0.2.1]", ports),
            &service("ingress", "ingress", "{app: ingress}", "10.96.0.8", HTTPS),
            NODE,
        ]);
        assert_eq!(
            granted(&translated),
            [
                "10.244.2.1/32",
                "10.96.0.7/32 tcp 443",
                "192.0.2.1/32 tcp 8443",
                "203.0.113.9/32 tcp 443"
            ]
        );
    }
}

#[test]
fn names_are_asked_of_anybody_by_default() {
    let translated = translated(&[GATED, API_SERVER]);
    let peers = short(translated.cluster("abc").egress.as_ref().unwrap());
    let dns = ["0.0.0.0/0 tcp 53", "0.0.0.0/0 udp 53", "::/0 tcp 53", "::/0 udp 53"];
    assert!(dns.iter().all(|peer| peers.contains(&(*peer).to_owned())), "{peers:?}");
}

#[test]
fn derived_dns_is_the_seeds_service_and_pods_at_their_ports_and_the_address_on_nodes() {
    let dns = service(
        "kube-system",
        "kube-dns",
        "{k8s-app: kube-dns}",
        "10.96.0.10",
        "[{name: dns, port: 53, protocol: UDP}, {name: metrics, port: 9153}]",
    );
    let ports = "[{name: dns, port: 5353, protocol: UDP}, {name: metrics, port: 9153}]";
    let renamed = slice("kube-system", "rke2-coredns", "[10.244.2.3]", ports)
        .replace("labels: {", "labels: {k8s-app: kube-dns, ");
    let translated = gated(&[
        &dns,
        &renamed,
        &service("kube-system", "metrics", "{k8s-app: metrics}", "10.96.0.11", HTTPS),
    ]);
    assert_eq!(
        granted(&translated),
        [
            "10.244.2.3/32 tcp 53",
            "10.244.2.3/32 udp 53",
            "10.244.2.3/32 udp 5353",
            "10.96.0.10/32 tcp 53",
            "10.96.0.10/32 udp 53",
        ]
    );
    let peers = short(translated.cluster("abc").egress.as_ref().unwrap());
    assert!(ON_NODES.iter().all(|peer| peers.contains(&(*peer).to_owned())));
}

#[test]
fn derived_dns_is_refused_for_a_cluster_that_it_would_cut_off_and_for_no_other() {
    let id = ClusterId("abc".to_owned());
    let asked = |address: &str| Learned {
        dns: [(id.clone(), addresses(&["169.254.20.10", address]))].into(),
        ..Learned::default()
    };
    let documents = [GATED, API_SERVER];
    let refused = with_learned(&documents, &derived(), &asked("192.0.2.53"));
    let peers = short(refused.cluster("abc").egress.as_ref().unwrap());
    assert!(peers.contains(&"0.0.0.0/0 udp 53".to_owned()), "{peers:?}");
    assert!(refused.said()[0].contains("would cut the cluster off from 192.0.2.53"), "{refused:?}");
    let mut settings = derived();
    settings.egress.allow = vec!["192.0.2.0/24:53".parse().unwrap()];
    let granted = with_learned(&documents, &settings, &asked("192.0.2.53"));
    let peers = short(granted.cluster("abc").egress.as_ref().unwrap());
    assert!(!peers.contains(&"0.0.0.0/0 udp 53".to_owned()) && granted.problems.is_empty());
}

#[test]
fn operators_allow_destinations_by_option_and_on_the_namespace() {
    let mut settings = derived();
    settings.egress.allow = vec!["10.9.0.0/16".parse().unwrap()];
    let namespace = namespace("egress-allow", "192.0.2.0/28:443, [2001:db8::/32]:8443, nonsense");
    let translated = with_learned(&[GATED, API_SERVER, &namespace], &settings, &Learned::default());
    assert_eq!(
        granted(&translated),
        [
            "10.9.0.0/16",
            "192.0.2.0/28 tcp 443",
            "192.0.2.0/28 udp 443",
            "2001:db8::/32 tcp 8443",
            "2001:db8::/32 udp 8443"
        ]
    );
    assert_eq!(translated.problems.len(), 1);
    assert_eq!(translated.problems[0].kind, ProblemKind::InvalidRange);
    assert_eq!(translated.problems[0].cluster, Some(ClusterId("abc".to_owned())));
}

#[test]
fn what_a_clusters_owner_allows_is_ignored_and_reported() {
    let annotation = "annotations: {enforcer.k8c.io/egress-allow: 0.0.0.0/0}";
    let own = GATED.replace("{name: abc}", &format!("{{name: abc, {annotation}}}"));
    let translated = with_learned(&[&own, API_SERVER], &derived(), &Learned::default());
    assert_eq!(granted(&translated), [""; 0]);
    assert_eq!(translated.problems.len(), 1);
    assert!(translated.said()[0].contains("counts on the control-plane Namespace"));
}

/// With an issuer, whose host has these addresses.
#[test]
fn peers_that_cannot_be_read_any_more_stay_granted_and_those_that_are_gone_do_not() {
    let etcd = slice("cluster-abc", "etcd", "[10.244.2.1]", "[]");
    let webhook =
        service("cluster-abc", "metrics-server", "{app: metrics-server}", "10.96.0.7", HTTPS);
    let before = [GATED, API_SERVER, &etcd, &webhook];
    let former = with_learned(&before, &derived(), &Learned::default()).snapshot;
    let after = |documents: &[&str]| {
        let objects = objects(documents);
        let learned = Learned::default();
        super::super::translate(&objects, &derived(), &this_node(), &learned, Some(&former))
    };
    let broken_slice = etcd.replace("endpoints: [", "endpoints: 7 #");
    let broken_service = webhook.replace("ports: [", "ports: 7, x: [");
    assert_eq!(
        granted(&after(&[GATED, API_SERVER, &broken_slice, &broken_service])),
        ["10.244.2.1/32", "10.96.0.7/32 tcp 443"]
    );
    assert_eq!(granted(&after(&[GATED, API_SERVER])), [""; 0]);
}

#[test]
fn a_gated_pod_that_cannot_be_read_stays_gated_and_one_that_is_gone_does_not() {
    let former = &[GATED, API_SERVER];
    let broken = API_SERVER.replace("podIP: 10.244.1.5", "podIP: 7");
    let gated =
        |translated: &Translated| translated.cluster("abc").egress.as_ref().unwrap().pods.len();
    assert_eq!(gated(&translated_after(former, &[GATED, &broken])), 1);
    assert_eq!(gated(&translated_after(former, &[GATED])), 0);
}
