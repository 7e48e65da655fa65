//! Objects of Kubernetes itself: `v1` and `discovery.k8s.io/v1`.
//!
//! Input: the JSON of the real objects. Output: where a control plane is reached, where its pods
//! are, and what the seed's nodes are called. Addresses stay as written.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Metadata, null_is_absent};

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// `metadata`
    pub metadata: Metadata,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub spec: ServiceSpec,
    /// `status`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub status: ServiceStatus,
}

/// `Service.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `type`; empty means `ClusterIP`.
    #[serde(rename = "type", deserialize_with = "null_is_absent")]
    pub service_type: String,
    /// `ports`
    #[serde(deserialize_with = "null_is_absent")]
    pub ports: Vec<ServicePort>,
    /// `selector`: labels of the pods behind it; empty where its endpoints are made by hand.
    #[serde(deserialize_with = "null_is_absent")]
    pub selector: BTreeMap<String, String>,
    /// `clusterIPs`: addresses inside the seed; `None` where the service is headless.
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_absent")]
    pub cluster_ips: Vec<String>,
    /// `clusterIP`: the first of them.
    #[serde(rename = "clusterIP", deserialize_with = "null_is_absent")]
    pub cluster_ip: String,
    /// `externalIPs`
    #[serde(rename = "externalIPs", deserialize_with = "null_is_absent")]
    pub external_ips: Vec<String>,
    /// `allocateLoadBalancerNodePorts`; absent means `true`.
    pub allocate_load_balancer_node_ports: Option<bool>,
}

/// One of `Service.spec.ports`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// `name`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub name: String,
    /// `protocol`; empty means `TCP`.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub protocol: String,
    /// `port`
    pub port: u16,
    /// `targetPort`; absent means `port`.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    /// `nodePort`; 0 where there is none.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub node_port: u16,
}

/// Where a pod listens for a [`ServicePort`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a port number or the name of a container's port")]
pub enum TargetPort {
    /// The port; 0 means the service's own.
    Number(u16),
    /// The name that the container gives it.
    Name(String),
}

/// `Service.status`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// `loadBalancer`
    #[serde(deserialize_with = "null_is_absent")]
    pub load_balancer: LoadBalancerStatus,
}

/// `Service.status.loadBalancer`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// `ingress`
    #[serde(deserialize_with = "null_is_absent")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One of `Service.status.loadBalancer.ingress`. A `hostname` names no packet destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// `ip`
    #[serde(deserialize_with = "null_is_absent")]
    pub ip: String,
    /// `ipMode`: `VIP`, or `Proxy` where packets arrive with a node's address instead of `ip`.
    #[serde(deserialize_with = "null_is_absent")]
    pub ip_mode: String,
}

/// Endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// `metadata`; the label `kubernetes.io/service-name` names the service.
    pub metadata: Metadata,
    /// `addressType`: `IPv4`, `IPv6` or `FQDN`.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub address_type: String,
    /// `endpoints`, the ones that are not ready included.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub endpoints: Vec<Endpoint>,
    /// `ports`, the ones that pods listen on.
    #[serde(default, deserialize_with = "null_is_absent")]
    pub ports: Vec<EndpointPort>,
}

/// One of `EndpointSlice.ports`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// `name`: the one of the service's port.
    #[serde(deserialize_with = "null_is_absent")]
    pub name: String,
    /// `protocol`; empty means `TCP`.
    #[serde(deserialize_with = "null_is_absent")]
    pub protocol: String,
    /// `port`; absent means any.
    pub port: Option<u16>,
}

/// One of `EndpointSlice.endpoints`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// `addresses`
    #[serde(deserialize_with = "null_is_absent")]
    pub addresses: Vec<String>,
    /// `nodeName`; empty where it does not say where it runs.
    #[serde(deserialize_with = "null_is_absent")]
    pub node_name: String,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub spec: PodSpec,
    /// `status`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub status: PodStatus,
}

/// `Pod.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// `nodeName`; empty until it runs somewhere.
    #[serde(deserialize_with = "null_is_absent")]
    pub node_name: String,
    /// `hostNetwork`: the pod's addresses are its node's.
    #[serde(deserialize_with = "null_is_absent")]
    pub host_network: bool,
}

/// `Pod.status`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `phase`
    #[serde(deserialize_with = "null_is_absent")]
    pub phase: String,
    /// `podIP`
    #[serde(rename = "podIP", deserialize_with = "null_is_absent")]
    pub pod_ip: String,
    /// `podIPs`
    #[serde(rename = "podIPs", deserialize_with = "null_is_absent")]
    pub pod_ips: Vec<PodIp>,
}

/// One of `Pod.status.podIPs`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodIp {
    /// `ip`
    #[serde(deserialize_with = "null_is_absent")]
    pub ip: String,
}

/// A node of the seed cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub spec: NodeSpec,
    /// `status`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub status: NodeStatus,
}

/// `Node.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// `podCIDR`
    #[serde(rename = "podCIDR", deserialize_with = "null_is_absent")]
    pub pod_cidr: String,
    /// `podCIDRs`
    #[serde(rename = "podCIDRs", deserialize_with = "null_is_absent")]
    pub pod_cidrs: Vec<String>,
}

/// `Node.status`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// `addresses`
    #[serde(deserialize_with = "null_is_absent")]
    pub addresses: Vec<Address>,
}

/// One of `Node.status.addresses`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// `type`: `InternalIP`, `ExternalIP`, `Hostname` and others.
    #[serde(rename = "type", deserialize_with = "null_is_absent")]
    pub address_type: String,
    /// `address`
    #[serde(deserialize_with = "null_is_absent")]
    pub address: String,
}
