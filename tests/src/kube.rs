//! Kubernetes objects of a seed, from the same description that drives kube-proxy's NAT.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use crate::addresses::Dual;
use crate::nat::{self, Protocol};
use crate::topology::Node;

/// A pod, for EndpointSlices and Pod objects.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its object's name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its addresses.
    pub addresses: Dual,
}

/// `spec.type` of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Reached inside the seed only.
    ClusterIp,
    /// Also by node ports.
    NodePort,
    /// Also by load balancer addresses.
    LoadBalancer,
}

/// One port of a [`KubeService`]; TCP unless said otherwise.
#[derive(Clone, Debug)]
pub struct KubePort {
    /// Its name.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// On the service's addresses.
    pub port: u16,
    /// On its pods.
    pub target: u16,
    /// On every node; ignored for [`ServiceType::ClusterIp`].
    pub node_port: u16,
}

impl KubePort {
    /// A TCP port.
    pub fn tcp(name: &str, port: u16, target: u16, node_port: u16) -> KubePort {
        KubePort { name: name.into(), protocol: Protocol::Tcp, port, target, node_port }
    }
}

/// A dual-stack service with its pods.
#[derive(Clone, Debug)]
pub struct KubeService {
    /// The namespace of the object.
    pub namespace: String,
    /// The name of the object.
    pub name: String,
    /// How it is exposed.
    pub kind: ServiceType,
    /// Its cluster IPs.
    pub cluster_ip: Dual,
    /// `status.loadBalancer.ingress`, one entry per family, for [`ServiceType::LoadBalancer`].
    pub vip: Option<Dual>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// `metadata.annotations`.
    pub annotations: Vec<(String, String)>,
    /// `spec.selector`.
    pub selector: Vec<(String, String)>,
    /// Its ports.
    pub ports: Vec<KubePort>,
    /// The ready pods behind it.
    pub pods: Vec<Pod>,
}

impl KubeService {
    /// What kube-proxy makes of it.
    pub fn rules(&self) -> nat::Service {
        let vips = self.vip.filter(|_| self.kind == ServiceType::LoadBalancer);
        let vips = vips.map(Dual::both).into_iter().flatten();
        let port = |port: &KubePort| {
            let at = |pod: &Pod| pod.addresses.at(port.target);
            nat::ServicePort {
                protocol: port.protocol,
                port: port.port,
                node_port: (self.kind != ServiceType::ClusterIp).then_some(port.node_port),
                endpoints: self.pods.iter().flat_map(at).collect::<Vec<SocketAddr>>(),
            }
        };
        nat::Service {
            name: format!("{}-{}", self.namespace, self.name),
            cluster_ips: self.cluster_ip.both().to_vec(),
            external: vips.chain(self.external_ips.iter().copied()).collect(),
            local: self.local,
            ports: self.ports.iter().map(port).collect(),
        }
    }

    /// The Service object and one EndpointSlice for each family.
    pub fn objects(&self) -> Vec<Value> {
        vec![self.service(), self.slice(false), self.slice(true)]
    }

    fn service(&self) -> Value {
        let kind = match self.kind {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        };
        let ports = self.ports.iter().map(|port| {
            let mut object = json!({
                "name": port.name,
                "protocol": protocol(port.protocol),
                "port": port.port,
                "targetPort": port.target,
            });
            if self.kind != ServiceType::ClusterIp {
                object["nodePort"] = port.node_port.into();
            }
            object
        });
        let [v4, v6] = self.cluster_ip.both();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": self.namespace,
                "name": self.name,
                "annotations": strings(&self.annotations),
            },
            "spec": {
                "type": kind,
                "clusterIP": v4,
                "clusterIPs": [v4, v6],
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "externalIPs": self.external_ips,
                "selector": strings(&self.selector),
                "ports": ports.collect::<Vec<_>>(),
            },
            "status": {"loadBalancer": {}},
        });
        if self.kind != ServiceType::ClusterIp {
            let policy = if self.local { "Local" } else { "Cluster" };
            object["spec"]["externalTrafficPolicy"] = policy.into();
        }
        if let (ServiceType::LoadBalancer, Some(vip)) = (self.kind, self.vip) {
            let ingress = vip.both().map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
            object["status"]["loadBalancer"]["ingress"] = json!(ingress);
        }
        object
    }

    fn slice(&self, v6: bool) -> Value {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let endpoints = self.pods.iter().map(|pod| {
            json!({
                "addresses": [pod.addresses.both()[usize::from(v6)]],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": pod.node,
                "targetRef": {"kind": "Pod", "namespace": self.namespace, "name": pod.name},
            })
        });
        let ports = self.ports.iter().map(|port| {
            let protocol = protocol(port.protocol);
            json!({"name": port.name, "protocol": protocol, "port": port.target})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": self.namespace,
                "name": format!("{}-{}", self.name, family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
        })
    }
}

/// A running Pod object with labels.
pub fn pod(namespace: &str, pod: &Pod, labels: &[(&str, &str)]) -> Value {
    let [v4, v6] = pod.addresses.both();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": namespace,
            "name": pod.name,
            "labels": labels.iter().map(|(k, v)| ((*k).into(), Value::from(*v))).collect::<Map<_, _>>(),
        },
        "spec": {"nodeName": pod.node, "containers": [{"name": "main", "image": "main"}]},
        "status": {"phase": "Running", "podIP": v4, "podIPs": [{"ip": v4}, {"ip": v6}]},
    })
}

/// The Node object of a node of the topology.
pub fn node(name: &str, node: &Node) -> Value {
    let [v4, v6] = node.addresses.both();
    let ranges = node.pod_ranges();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        "status": {"addresses": [
            {"type": "InternalIP", "address": v4},
            {"type": "InternalIP", "address": v6},
            {"type": "Hostname", "address": name},
        ]},
    })
}

/// A Namespace object.
pub fn namespace(name: &str, annotations: &[(String, String)]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "annotations": strings(annotations)},
        "status": {"phase": "Active"},
    })
}

pub(crate) fn strings(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}
