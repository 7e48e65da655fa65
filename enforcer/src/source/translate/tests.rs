//! What objects mean, told as sentences over YAML as operators write it.

mod allowed;
mod egress;
mod hostile;
mod memory;
mod missing;
mod mode;
mod objects;
mod pods;
mod quota;
mod shared_proxy;

use std::net::IpAddr;

use enforcer_policy::{
    model::{Cluster, ClusterId, ExposeStrategy, FrontendAddress, Protocol, SeedDefaults},
    problem::ProblemKind,
};
use serde_json::Value;

use super::*;
use crate::source::objects::decode;

/// Reads documents into objects as the sources do, each of its own file.
fn objects(documents: &[&str]) -> Objects {
    let mut objects = Objects::default();
    for (number, text) in documents.iter().flat_map(|text| text.split("\n---\n")).enumerate() {
        let file = format!("{number}.yaml").into();
        let value: Value = serde_saphyr::from_str(text).unwrap();
        match decode(&value) {
            Ok(Some(object)) => objects.add(&object, &file),
            Ok(None) => panic!("of no known kind: {text}"),
            Err(failure) => {
                let named = failure.object.clone().expect("a name");
                objects.fail(&failure, named, &file);
            }
        }
    }
    objects
}

/// Where nothing was learned besides.
fn translate(
    objects: &Objects,
    settings: &Settings,
    this_node: &ThisNode,
    former: Option<&Snapshot>,
) -> Translated {
    super::translate(objects, settings, this_node, &Learned::default(), former)
}

fn settings() -> Settings {
    Settings {
        options: Options::default(),
        seed_name: None,
        kubermatic_namespace: "kubermatic".to_owned(),
        guard_pods: GuardPods::Auto,
        egress: EgressSettings::default(),
        limits: Limits::default(),
    }
}

fn this_node() -> ThisNode {
    ThisNode {
        name: "node-1".to_owned(),
        addresses: ["192.0.2.1".parse().unwrap()].into(),
        ..ThisNode::default()
    }
}

fn translated(documents: &[&str]) -> Translated {
    translate(&objects(documents), &settings(), &this_node(), None)
}

/// Translates the second documents after the first.
fn translated_after(former: &[&str], documents: &[&str]) -> Translated {
    let former = translated(former).snapshot;
    translate(&objects(documents), &settings(), &this_node(), Some(&former))
}

impl Translated {
    fn cluster(&self, id: &str) -> &Cluster {
        &self.snapshot.clusters[&ClusterId(id.to_owned())]
    }

    fn said(&self) -> Vec<String> {
        self.problems.iter().map(ToString::to_string).collect()
    }
}

/// A list as its valid ranges and the number of entries.
fn list(list: Option<&enforcer_policy::model::RangeList>) -> Option<(Vec<String>, usize)> {
    let list = list?;
    Some((list.ranges.iter().map(|range| range.net.to_string()).collect(), list.written))
}

/// Frontends of a cluster in short.
fn frontends(cluster: &Cluster) -> Vec<String> {
    short(&cluster.frontends)
}

/// Frontends in short: `tcp node 30000 ApiServerNodePort`.
fn short(frontends: &[enforcer_policy::model::Frontend]) -> Vec<String> {
    let short = |frontend: &enforcer_policy::model::Frontend| {
        let protocol = match frontend.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let at = match frontend.at {
            FrontendAddress::Node { port } => format!("node {port}"),
            FrontendAddress::Address { address, port } => format!("{address} {port}"),
        };
        format!("{protocol} {at} {:?}", frontend.kind)
    };
    frontends.iter().map(short).collect()
}

fn addresses(texts: &[&str]) -> std::collections::BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A Cluster as KKP's documentation writes it.
const CLUSTER: &str = "\
apiVersion: kubermatic.k8c.io/v1
kind: Cluster
metadata:
  name: abc
spec:
  humanReadableName: my cluster
  exposeStrategy: LoadBalancer
  cloud:
    dc: europe-west3-c
  apiServerAllowedIPRanges:
    cidrBlocks:
      - 198.51.100.0/24
status:
  namespaceName: cluster-abc";

/// A Seed as KKP's documentation writes it.
const SEED: &str = "\
apiVersion: kubermatic.k8s.io/v1
kind: Seed
metadata:
  name: europe
  namespace: kubermatic
spec:
  defaultAPIServerAllowedIPRanges:
    - 203.0.113.0/24
  nodeportProxy:
    envoy:
      loadBalancerService:
        sourceRanges:
          - 192.0.2.0/24";

const FRONT_LOAD_BALANCER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: front-loadbalancer, namespace: cluster-abc}
spec:
  type: LoadBalancer
  healthCheckNodePort: 32000
  ports:
    - {name: healthz, port: 8002, nodePort: 31999, targetPort: 8002}
    - {name: secure, port: 30443, nodePort: 31001, targetPort: 30443}
    - {name: konnectivity, port: 30132, nodePort: 31002}
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.10}, {ip: '2001:db8::10', ipMode: VIP}]";

const API_SERVER_EXTERNAL: &str = "\
apiVersion: v1
kind: Service
metadata: {name: apiserver-external, namespace: cluster-abc}
spec:
  type: NodePort
  ports: [{name: secure, port: 443, nodePort: 30443, protocol: TCP}]";

const NODE: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}
status:
  addresses:
    - {type: InternalIP, address: 192.0.2.1}
    - {type: InternalIP, address: '2001:db8::1'}
    - {type: ExternalIP, address: '::ffff:198.51.100.1'}
    - {type: Hostname, address: node-1}";

/// The shared proxy as KKP's updater writes it: port and targetPort are the nodePort of the exposed
/// service, its own nodePorts are others.
const NODEPORT_PROXY: &str = "\
apiVersion: v1
kind: Service
metadata: {name: nodeport-proxy, namespace: kubermatic}
spec:
  type: LoadBalancer
  healthCheckNodePort: 32500
  ports:
    - {name: healthz, port: 8002, targetPort: 8002, nodePort: 32400}
    - {name: sni-listener, port: 6443, targetPort: 6443, nodePort: 32401}
    - {name: tunneling-listener, port: 8088, targetPort: 8088, nodePort: 32402}
    - {name: cluster-abc-apiserver-external-30443, port: 30443, targetPort: 30443, nodePort: 32403}
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.20}]";

/// Endpoints of a service.
fn slice(namespace: &str, service: &str, addresses: &str, ports: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {service}-1, \
         namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: {addresses}}}]\nports: {ports}"
    )
}
