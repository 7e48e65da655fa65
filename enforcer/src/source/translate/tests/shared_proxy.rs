//! The nodeport-proxy that all clusters share.

use super::*;

#[test]
fn a_listener_belongs_to_the_cluster_whose_node_port_has_its_number() {
    let translated = translated(&[CLUSTER, API_SERVER_EXTERNAL, NODEPORT_PROXY]);
    assert_eq!(
        frontends(translated.cluster("abc")),
        [
            "tcp node 30443 ApiServerNodePort",
            "tcp node 32403 SharedProxyNodePort",
            "tcp 203.0.113.20 30443 SharedProxy",
        ]
    );
    assert_eq!(
        short(&translated.snapshot.shared_proxy),
        [
            "tcp node 32401 SharedProxyNodePort",
            "tcp node 32402 SharedProxyNodePort",
            "tcp 203.0.113.20 6443 SharedProxy",
            "tcp 203.0.113.20 8088 SharedProxy",
        ]
    );
    assert_eq!(translated.said(), Vec::<String>::new());
}

#[test]
fn the_target_port_names_the_listener_and_the_port_does_where_that_is_a_name() {
    for (port, found) in [
        ("{name: a, port: 443, targetPort: 30443}", "tcp 203.0.113.20 443 SharedProxy"),
        ("{name: a, port: 30443, targetPort: envoy}", "tcp 203.0.113.20 30443 SharedProxy"),
        ("{name: a, port: 30443, targetPort: 0}", "tcp 203.0.113.20 30443 SharedProxy"),
        ("{name: a, port: 30443}", "tcp 203.0.113.20 30443 SharedProxy"),
    ] {
        let proxy = format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: nodeport-proxy, namespace: kubermatic}}\n\
             spec: {{type: LoadBalancer, ports: [{port}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.20}}]}}}}"
        );
        let translated = translated(&[CLUSTER, API_SERVER_EXTERNAL, &proxy]);
        let of_cluster = frontends(translated.cluster("abc"));
        assert_eq!(of_cluster, ["tcp node 30443 ApiServerNodePort", found], "{port}");
        assert_eq!(short(&translated.snapshot.shared_proxy), Vec::<String>::new(), "{port}");
    }
}

#[test]
fn a_load_balancer_without_an_address_of_its_own_leaves_the_node_ports_to_guard() {
    for ingress in ["{hostname: lb.example.com}", "{ip: 203.0.113.20, ipMode: Proxy}"] {
        let proxy = NODEPORT_PROXY.replace("{ip: 203.0.113.20}", ingress);
        let translated = translated(&[CLUSTER, API_SERVER_EXTERNAL, &proxy]);
        assert_eq!(
            frontends(translated.cluster("abc")),
            ["tcp node 30443 ApiServerNodePort", "tcp node 32403 SharedProxyNodePort"],
            "{ingress}"
        );
    }
}

#[test]
fn only_the_service_in_kkps_own_namespace_is_the_shared_proxy() {
    let elsewhere = NODEPORT_PROXY.replace("namespace: kubermatic", "namespace: default");
    let translated = translated(&[CLUSTER, API_SERVER_EXTERNAL, &elsewhere]);
    assert_eq!(frontends(translated.cluster("abc")), ["tcp node 30443 ApiServerNodePort"]);
    assert_eq!(short(&translated.snapshot.shared_proxy), Vec::<String>::new());
}

#[test]
fn envoys_pods_are_mapped_by_the_port_that_they_listen_on_and_are_never_locked_out() {
    let envoy = slice(
        "kubermatic",
        "nodeport-proxy",
        "[10.244.1.7]",
        "[{name: healthz, port: 8002}, {name: s, port: 6443}, {name: x, port: 30443}]",
    );
    let translated = translated(&[CLUSTER, NODE, API_SERVER_EXTERNAL, NODEPORT_PROXY, &envoy]);
    let of_cluster = frontends(translated.cluster("abc"));
    assert!(of_cluster.contains(&"tcp 10.244.1.7 30443 SharedProxyPod".to_owned()));
    let shared = short(&translated.snapshot.shared_proxy);
    assert!(shared.contains(&"tcp 10.244.1.7 6443 SharedProxyPod".to_owned()));
    let pods = of_cluster.iter().chain(&shared).filter(|it| it.contains("10.244.1.7"));
    assert_eq!(pods.count(), 2, "healthz stays open");
    assert_eq!(translated.snapshot.shared_proxy_pods, addresses(&["10.244.1.7"]));
}

#[test]
fn a_shared_proxy_that_cannot_be_read_keeps_what_it_had_whether_its_clusters_remain_or_not() {
    let envoy = slice("kubermatic", "nodeport-proxy", "[10.244.1.7]", "[{port: 30443}]");
    let former = [CLUSTER, NODE, API_SERVER_EXTERNAL, NODEPORT_PROXY, &envoy];
    let before = translated(&former).snapshot;
    let broken = "apiVersion: v1\nkind: Service\n\
                  metadata: {name: nodeport-proxy, namespace: kubermatic}\nspec: 7";
    let kept = translated_after(&former, &[CLUSTER, NODE, API_SERVER_EXTERNAL, broken, &envoy]);
    assert_eq!(kept.snapshot, before);
    let without_cluster = translated_after(&former, &[NODE, broken, &envoy]);
    let count = |snapshot: &Snapshot| {
        let of_clusters = snapshot.clusters.values().flat_map(|cluster| &cluster.frontends);
        let all = of_clusters.chain(&snapshot.shared_proxy);
        all.filter(|frontend| frontend.kind.is_shared_proxy()).count()
    };
    assert_eq!(count(&without_cluster.snapshot), count(&before));
    let gone = translated_after(&former, &[CLUSTER, NODE, API_SERVER_EXTERNAL]);
    assert_eq!(count(&gone.snapshot), 0, "one that is gone is gone");
}

#[test]
fn a_shared_proxy_without_clusters_is_no_problem() {
    let proxy = "apiVersion: v1\nkind: Service\n\
                 metadata: {name: nodeport-proxy, namespace: kubermatic}\n\
                 spec: {type: LoadBalancer, ports: [{name: healthz, port: 8002, nodePort: 32400}]}";
    let translated = translated(&[proxy]);
    assert_eq!(translated.said(), Vec::<String>::new());
    assert_eq!(translated.snapshot.shared_proxy, []);
}
