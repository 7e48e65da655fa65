//! Many user clusters at once, as KKP writes them: what benches and tests of load have in common.

use serde_json::{Value, json};

use crate::kube;

/// Everything of one cluster that is `name`, the `number`-th of a fleet, and admits `ranges`; about `bytes` of
/// its Cluster are what nobody here reads.
pub fn objects(name: &str, number: usize, ranges: &[String], bytes: usize) -> Vec<Value> {
    let namespace = format!("cluster-{name}");
    let (high, low) = (number / 250, number % 250 + 1);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": "apiserver-external-x",
            "labels": {"kubernetes.io/service-name": "apiserver-external"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [format!("10.201.{high}.{low}")]}],
        "ports": [{"name": "secure", "port": 6443, "protocol": "TCP"}],
    });
    // The range of nodePorts has no room for so many clusters; load balancers need none.
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": "front-loadbalancer"},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "selector": {"app": "nodeport-proxy-envoy"},
            "ports": [
                {"name": "healthz", "port": 8002},
                {"name": "apiserver-external-secure", "port": 31000},
                {"name": "konnectivity-server-secure", "port": 31100},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": format!("10.200.{high}.{low}")}]}},
    });
    let cluster = cluster(name, number, ranges, bytes);
    vec![kube::namespace(&namespace, &[]), cluster, service, slice]
}

/// Its Cluster.
pub fn cluster(name: &str, number: usize, ranges: &[String], bytes: usize) -> Value {
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    json!({
        "apiVersion": "kubermatic.k8c.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "annotations": {applied: prose(number, bytes)}},
        "spec": {
            "humanReadableName": name,
            "version": "1.33.1",
            "cloud": {"dc": "dc-1", "providerName": "kubevirt"},
            "clusterNetwork": {
                "dnsDomain": "cluster.local",
                "proxyMode": "ipvs",
                "pods": {"cidrBlocks": ["172.25.0.0/16"]},
                "services": {"cidrBlocks": ["10.240.16.0/20"]},
            },
            "exposeStrategy": "LoadBalancer",
            "features": {},
            "apiServerAllowedIPRanges": {"cidrBlocks": ranges},
        },
        "status": {"namespaceName": format!("cluster-{name}")},
    })
}

/// Text that compresses as objects do, to about a quarter.
fn prose(number: usize, bytes: usize) -> String {
    let mut state = number as u64 + 1;
    let mut text = String::new();
    while text.len() < bytes {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text += &format!("\"lastTransitionTime-{:x}\": \"2026-11-25\", ", state >> 40);
    }
    text
}
