//! The objects of one user cluster of a fleet, as KKP writes them.

use enforcer_tests::kube;
use serde_json::{Value, json};

use crate::world::Random;

/// Bytes of a real Cluster besides what matters here: conditions, and what kubectl applied last.
const REST: usize = 5_000;

/// Name of a cluster.
pub(crate) fn name(number: usize) -> String {
    format!("fleet{number:05}")
}

/// Everything of one cluster.
pub(crate) fn all(number: usize, ranges: usize) -> Vec<Value> {
    let namespace = format!("cluster-{}", name(number));
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
    vec![kube::namespace(&namespace, &[]), cluster(number, ranges), service, slice]
}

/// Its Cluster.
pub(crate) fn cluster(number: usize, ranges: usize) -> Value {
    let name = name(number);
    let applied = "kubectl.kubernetes.io/last-applied-configuration";
    json!({
        "apiVersion": "kubermatic.k8c.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name, "annotations": {applied: prose(number)}},
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
            "apiServerAllowedIPRanges": {"cidrBlocks": list(number, ranges)},
        },
        "status": {"namespaceName": format!("cluster-{name}")},
    })
}

/// Ranges, three of four IPv4: /20 to /32, /44 to /64.
fn list(number: usize, ranges: usize) -> Vec<String> {
    let mut random = Random::new(number as u64 + 100);
    let one = |at: usize| {
        if at % 4 == 3 {
            let address = 1_u128 << 125 | random.wide() >> 3;
            let length = 44 + random.below(21) as u8;
            format!(
                "{}/{length}",
                std::net::Ipv6Addr::from(address & (u128::MAX << (128 - length)))
            )
        } else {
            let address = (11 << 24) + random.below(180 << 24) as u32;
            let length = 20 + random.below(13) as u8;
            format!("{}/{length}", std::net::Ipv4Addr::from(address & (u32::MAX << (32 - length))))
        }
    };
    (0..ranges).map(one).collect()
}

/// Text that compresses as objects do, to about a quarter.
fn prose(number: usize) -> String {
    let mut random = Random::new(number as u64);
    let mut text = String::new();
    while text.len() < REST {
        text += &format!("\"lastTransitionTime-{:x}\": \"2026-11-25\", ", random.next() >> 40);
    }
    text
}
