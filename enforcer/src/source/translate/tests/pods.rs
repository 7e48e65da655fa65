//! Pod addresses as destinations.

use super::*;

/// API server and Envoy of cluster abc, in the pod range of [`NODE`].
fn endpoints(addresses: &str) -> String {
    let api = slice("cluster-abc", "apiserver-external", addresses, "[{name: s, port: 30443}]");
    let konnectivity = slice("cluster-abc", "konnectivity-server", addresses, "[{port: 8132}]");
    format!("{api}\n---\n{konnectivity}")
}

const KONNECTIVITY: &str = "\
apiVersion: v1
kind: Service
metadata: {name: konnectivity-server, namespace: cluster-abc}
spec: {ports: [{name: secure, port: 443, targetPort: 8132}]}";

fn with(guard_pods: GuardPods, exempt: &[&str], documents: &[&str]) -> Translated {
    let exempt = exempt.iter().map(|net| net.parse().unwrap()).collect();
    let options = Options { exempt, ..Options::default() };
    let settings = Settings { guard_pods, options, ..settings() };
    translate(&objects(documents), &settings, &this_node(), None)
}

/// Frontends that are pods.
fn pods(translated: &Translated) -> Vec<String> {
    let mut all = frontends(translated.cluster("abc"));
    all.retain(|frontend| frontend.ends_with("PodEndpoint"));
    all
}

#[test]
fn pods_are_frontends_at_the_ports_that_they_listen_on() {
    let endpoints = endpoints("[10.244.1.7]");
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, KONNECTIVITY, &endpoints];
    let translated = translated(&documents);
    assert_eq!(
        pods(&translated),
        ["tcp 10.244.1.7 8132 PodEndpoint", "tcp 10.244.1.7 30443 PodEndpoint"]
    );
    assert_eq!(translated.said(), Vec::<String>::new());
}

#[test]
fn services_of_other_purposes_and_health_checks_are_no_frontends() {
    let documents = [
        slice("cluster-abc", "etcd", "[10.244.1.8]", "[{port: 2379}]"),
        slice(
            "cluster-abc",
            "front-loadbalancer",
            "[10.244.1.9]",
            "[{name: healthz, port: 9000}, {port: 8002}, {name: a, port: 30443},
              {name: any}, {name: s, port: 30443, protocol: SCTP}]",
        ),
        slice("cluster-abc", "openvpn-server", "[10.244.1.10]", "[{port: 1194}]"),
    ];
    let mut all = vec![CLUSTER, NODE, FRONT_LOAD_BALANCER];
    all.extend(documents.iter().map(String::as_str));
    let translated = translated(&all);
    assert_eq!(pods(&translated), ["tcp 10.244.1.9 30443 PodEndpoint"], "no Service: no frontend");
    assert_eq!(translated.said(), Vec::<String>::new());
}

#[test]
fn a_pod_in_the_hosts_network_is_no_pod() {
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints("[192.0.2.1, 10.244.1.7]")];
    assert_eq!(pods(&translated(&documents)), ["tcp 10.244.1.7 30443 PodEndpoint"]);
}

#[test]
fn a_pod_is_guarded_where_it_runs_or_where_nobody_says_where_that_is() {
    let on = |node: &str| {
        let endpoints =
            slice("cluster-abc", "apiserver-external", "[10.244.1.7]", "[{port: 30443}]");
        endpoints.replace("[{addresses", &format!("[{{nodeName: {node}, addresses"))
    };
    let count = |documents: &[&str]| pods(&translated(documents)).len();
    assert_eq!(count(&[CLUSTER, NODE, API_SERVER_EXTERNAL, &on("node-1")]), 1);
    assert_eq!(count(&[CLUSTER, NODE, API_SERVER_EXTERNAL, &on("node-2")]), 0);
    assert_eq!(count(&[CLUSTER, NODE, API_SERVER_EXTERNAL, &on("null")]), 1);
    let nameless = NODE.replace("name: node-1}", "name: node-3}");
    assert_eq!(count(&[CLUSTER, &nameless, API_SERVER_EXTERNAL, &on("node-2")]), 1);
}

#[test]
fn services_are_guarded_at_their_addresses_inside_the_seed_where_all_pods_are_known() {
    let service = "apiVersion: v1\nkind: Service\n\
                   metadata: {name: apiserver-external, namespace: cluster-abc}\n\
                   spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00::9'], \
                          ports: [{port: 443, targetPort: 30443}]}";
    let headless = service.replace("[10.96.0.9, 'fd00::9']", "[None]");
    let headless = headless.replace("clusterIP: 10.96.0.9", "clusterIP: None");
    let unknown = endpoints("[172.20.3.4]");
    let found = |documents: &[&str]| frontends(translated(documents).cluster("abc"));
    assert_eq!(
        found(&[CLUSTER, NODE, service]),
        ["tcp 10.96.0.9 443 ServiceAddress", "tcp fd00::9 443 ServiceAddress"]
    );
    assert_eq!(found(&[CLUSTER, NODE, &headless]), Vec::<String>::new());
    assert_eq!(translated(&[CLUSTER, NODE, &headless]).said(), Vec::<String>::new());
    assert_eq!(found(&[CLUSTER, NODE, service, &unknown]), Vec::<String>::new());
    let off = with(GuardPods::Off, &[], &[CLUSTER, NODE, service]);
    assert_eq!(frontends(off.cluster("abc")), Vec::<String>::new());
}

#[test]
fn one_pod_outside_of_known_ranges_leaves_pods_open_and_is_reported_once() {
    let elsewhere = "apiVersion: v1\nkind: Pod\nmetadata: {name: dns, namespace: kube-system}\n\
                     status: {podIP: 172.20.3.4, podIPs: [{ip: 172.20.3.4}]}\n---\n\
                     apiVersion: v1\nkind: Pod\nmetadata: {name: other, namespace: kube-system}\n\
                     status: {podIP: 172.20.5.6}";
    let endpoints = endpoints("[10.244.1.7]");
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints, elsewhere];
    let open = with(GuardPods::Auto, &[], &documents);
    assert_eq!(pods(&open), Vec::<String>::new());
    assert_eq!(open.said().len(), 1);
    assert!(open.said()[0].starts_with("Option --guard-pods"), "{:?}", open.said());
    assert!(open.said()[0].contains("172.20.0.0/21"), "{:?}", open.said());
    let known = with(GuardPods::Auto, &["172.20.0.0/16"], &documents);
    assert_eq!(pods(&known), ["tcp 10.244.1.7 30443 PodEndpoint"]);
    assert_eq!(known.said(), Vec::<String>::new());
    let ended = elsewhere.replace("{podIP", "{phase: Succeeded, podIP");
    let host = elsewhere.replace("status", "spec: {hostNetwork: true}\nstatus");
    for gone in [&ended, &host] {
        let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints, gone];
        assert_eq!(pods(&with(GuardPods::Auto, &[], &documents)).len(), 1);
    }
}

#[test]
fn endpoints_outside_of_known_ranges_count_as_pods_that_are_seen() {
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints("[172.20.3.4]")];
    assert_eq!(with(GuardPods::Auto, &[], &documents).said().len(), 1);
    let foreign = slice("default", "kubernetes", "[172.20.3.4]", "[{port: 6443}]");
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &foreign];
    assert_eq!(with(GuardPods::Auto, &[], &documents).said(), Vec::<String>::new());
}

#[test]
fn the_option_decides_where_it_is_on_or_off() {
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints("[172.20.3.4]")];
    let on = with(GuardPods::On, &[], &documents);
    assert_eq!(pods(&on), ["tcp 172.20.3.4 30443 PodEndpoint"]);
    assert_eq!(on.said(), Vec::<String>::new());
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints("[10.244.1.7]")];
    let off = with(GuardPods::Off, &[], &documents);
    assert_eq!(pods(&off), Vec::<String>::new());
    assert_eq!(off.said(), Vec::<String>::new());
}

#[test]
fn pods_that_a_load_balancer_targets_are_guarded_wherever_they_are() {
    let aws = |name: &str, value: &str| {
        format!("{{service.beta.kubernetes.io/aws-load-balancer-{name}: {value}}}")
    };
    let spec = "{type: LoadBalancer, ports: [{port: 443, nodePort: 30443}]}";
    let bare = "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 443}]}";
    let hostname = "[{hostname: lb.example.com}]";
    for (annotations, spec, ingress, guarded) in [
        (aws("nlb-target-type", "ip"), spec, hostname, true),
        (aws("type", "nlb-ip"), spec, hostname, true),
        (aws("nlb-target-type", "instance"), spec, hostname, false),
        (aws("type", "external"), spec, hostname, false),
        ("{}".to_owned(), spec, hostname, false),
        ("{}".to_owned(), bare, hostname, true),
        ("{}".to_owned(), bare, "[{ip: 203.0.113.8, ipMode: Proxy}]", true),
        ("{}".to_owned(), bare, "[{ip: 203.0.113.8}]", false),
        (aws("nlb-target-type", "ip"), "{type: NodePort, ports: [{port: 443}]}", "[]", false),
    ] {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: apiserver-external, \
             namespace: cluster-abc, annotations: {annotations}}}\nspec: {spec}\n\
             status: {{loadBalancer: {{ingress: {ingress}}}}}"
        );
        let documents = [CLUSTER, NODE, &service, &endpoints("[172.20.3.4]")];
        let found = !pods(&with(GuardPods::Auto, &[], &documents)).is_empty();
        assert_eq!(found, guarded, "{annotations} {spec} {ingress}");
        assert!(pods(&with(GuardPods::Off, &[], &documents)).is_empty());
    }
}

#[test]
fn pods_stay_frontends_while_their_endpoints_cannot_be_read_unless_the_option_says_off() {
    let endpoints = slice("cluster-abc", "apiserver-external", "[10.244.1.7]", "[{port: 30443}]");
    let broken = endpoints.replace("port: 30443", "port: https");
    let former = [CLUSTER, NODE, API_SERVER_EXTERNAL, &endpoints];
    let documents = [CLUSTER, NODE, API_SERVER_EXTERNAL, &broken];
    let kept = translated_after(&former, &documents);
    assert_eq!(pods(&kept), ["tcp 10.244.1.7 30443 PodEndpoint"]);
    let off = Settings { guard_pods: GuardPods::Off, ..settings() };
    let before = translated(&former).snapshot;
    let off = translate(&objects(&documents), &off, &this_node(), Some(&before));
    assert_eq!(pods(&off), Vec::<String>::new());
    let gone = translated_after(&former, &[CLUSTER, NODE, API_SERVER_EXTERNAL]);
    assert_eq!(pods(&gone), Vec::<String>::new());
}
