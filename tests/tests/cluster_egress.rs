//! Whom a gated API server may connect to, as the agent reads it from a real API server. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use enforcer_policy::model::{ClusterId, Egress, PeerPort, Protocol, Snapshot};
use enforcer_tests::{agent::Installation, watched::Watched};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER: &str = "c1";

/// The egress of the cluster that the agent enforces, once it is as wanted.
fn until(
    installation: &Installation,
    what: &str,
    wanted: impl Fn(Option<&Egress>) -> bool,
) -> Option<Egress> {
    let end = Instant::now() + LIMIT;
    loop {
        let read = std::fs::read(installation.state().join("snapshot.json"));
        let snapshot = read.ok().and_then(|text| serde_json::from_slice::<Snapshot>(&text).ok());
        let cluster = snapshot.and_then(|mut it| it.clusters.remove(&ClusterId(CLUSTER.into())));
        let known = cluster.is_some();
        let egress = cluster.and_then(|cluster| cluster.egress.clone());
        if known && wanted(egress.as_ref()) {
            return egress;
        }
        assert!(Instant::now() < end, "{what}: {egress:#?}\n{}", installation.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn short(egress: &Egress) -> BTreeSet<String> {
    let peers = egress.peers.iter().map(|peer| match peer.port {
        PeerPort::Any => format!("{}", peer.net.addr()),
        PeerPort::Only(Protocol::Tcp, port) => format!("{} tcp {port}", peer.net.addr()),
        PeerPort::Only(Protocol::Udp, port) => format!("{} udp {port}", peer.net.addr()),
    });
    peers.collect()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn slice(namespace: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace, "name": format!("{service}-x"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "nodeName": "seed-2"}],
        "ports": [{"name": "main", "protocol": "TCP", "port": 8443}],
    })
}

fn service(namespace: &str, name: &str, labels: Value, selector: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"selector": selector, "ports": [{"name": "main", "port": 443, "targetPort": 8443}]},
    })
}

#[test]
fn peers_come_from_the_seeds_objects_and_the_gate_toggles_them() {
    let watched = Watched::customary().unwrap();
    let admin = watched.admin().unwrap();
    let own = watched.stage.cluster.cluster()["status"]["namespaceName"].clone();
    let own = own.as_str().unwrap();
    let kyverno = json!({"app.kubernetes.io/component": "admission-controller"});
    admin
        .apply(&[
            slice(own, "etcd", "10.244.9.1"),
            slice(own, "usercluster-webhook", "10.244.9.2"),
            slice(own, "prometheus", "10.244.9.3"),
            service(
                own,
                "usercluster-webhook",
                json!({"app": "usercluster-webhook"}),
                json!({"app": "usercluster-webhook"}),
            ),
            service(own, "dns-resolver", json!({}), json!({"app": "dns-resolver"})),
            service(own, "kyverno-svc", kyverno.clone(), kyverno.clone()),
            namespace("nginx-ingress-controller"),
            service("nginx-ingress-controller", "ingress", json!({}), json!({"app": "ingress"})),
            slice("nginx-ingress-controller", "ingress", "10.244.9.4"),
        ])
        .unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": own, "name": "kyverno", "labels": kyverno},
        "spec": {"nodeName": "seed-2", "containers": [{"name": "main", "image": "main"}]},
        "status": {"phase": "Running", "podIP": "10.244.9.5", "podIPs": [{"ip": "10.244.9.5"}]},
    });
    admin.put(&pod).unwrap();
    let installation = watched.installation().unwrap();
    let agent = installation.start().unwrap();
    until(&installation, "absent is off", |egress| egress.is_none());

    let mut cluster = watched.stage.cluster.cluster();
    cluster["spec"]["features"] = json!({"apiserverNetworkPolicy": true});
    agent.enforces(|| admin.put(&cluster)).unwrap();
    let address = |namespace: &str, name: &str| {
        let service = admin.get("Service", namespace, name).unwrap().unwrap();
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let seed_api = admin.get("EndpointSlice", "default", "kubernetes").unwrap().unwrap();
    let endpoint = seed_api["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned();
    let port = &seed_api["ports"][0]["port"];
    let wanted: BTreeSet<String> = [
        "10.244.9.1".to_owned(),
        "10.244.9.2".to_owned(),
        "10.244.9.4".to_owned(),
        "10.244.9.5".to_owned(),
        format!("{} tcp 443", address(own, "usercluster-webhook")),
        format!("{} tcp 443", address(own, "dns-resolver")),
        format!("{} tcp 443", address(own, "kyverno-svc")),
        format!("{} tcp 443", address("nginx-ingress-controller", "ingress")),
        format!("{} tcp 443", address("default", "kubernetes")),
        format!("{endpoint} tcp {port}"),
        "0.0.0.0 udp 53".to_owned(),
    ]
    .into();
    let egress = until(&installation, "has its peers", |egress| {
        egress.is_some_and(|egress| short(egress).is_superset(&wanted))
    });
    let egress = egress.unwrap();
    assert!(!short(&egress).contains("10.244.9.3"), "{egress:?}");
    assert_eq!(egress.pods.len(), 1, "{egress:?}");
    assert_eq!(agent.said("forbidden"), 0, "{}", agent.log());

    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": own, "annotations": {"enforcer.k8c.io/egress-allow": "192.0.2.0/28:443"}},
    });
    admin.put(&namespace).unwrap();
    until(&installation, "is allowed more", |egress| {
        egress.is_some_and(|egress| short(egress).contains("192.0.2.0 tcp 443"))
    });
    cluster["spec"]["features"]["apiserverNetworkPolicy"] = false.into();
    admin.put(&cluster).unwrap();
    until(&installation, "is off again", |egress| egress.is_none());
}
