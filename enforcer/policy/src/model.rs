//! The snapshot: everything that one decision depends on, parsed and valid.
//!
//! Strings of the objects have become types before they get here (`source::translate` of the
//! agent); what was wrong with them is a [`Problem`](crate::problem::Problem), not a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod egress;
mod probes;

pub use egress::{Egress, GatedPod, Peer, PeerPort, PodInterface};
pub use probes::ProbeRanges;

/// Everything that verdicts depend on at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What the operator set for the whole fleet.
    pub options: Options,
    /// The Seed object that governs the clusters; `None` when none is visible or it is ambiguous,
    /// and then nothing is assumed of its fields.
    pub seed: Option<Seed>,
    /// User clusters by id. Those that have not changed are the former snapshot's own.
    pub clusters: BTreeMap<ClusterId, Arc<Cluster>>,
    /// Frontends of the shared `nodeport-proxy` that lead to no single cluster: the ports that it
    /// tells clusters apart on by SNI or tunnel, and what cannot be mapped.
    #[serde(default)]
    pub shared_proxy: Vec<Frontend>,
    /// Addresses of the shared proxy's own pods: KKP's, through which clients reach API servers.
    #[serde(default)]
    pub shared_proxy_pods: BTreeSet<IpAddr>,
    /// Nodes of the seed cluster by name, this one included.
    pub nodes: BTreeMap<String, SeedNode>,
    /// The node that the agent runs on.
    pub this_node: ThisNode,
}

/// Options of the agent that change verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `--mode`
    #[serde(default)]
    pub mode: Mode,
    /// `--seed-defaults`
    pub seed_defaults: SeedDefaults,
    /// `--exempt`: ranges that every allowlist admits.
    pub exempt: Vec<IpNet>,
    /// `--exempt-seed`
    pub exempt_seed: ExemptSeed,
    /// `--lb-ranges`
    #[serde(default)]
    pub lb_ranges: LoadBalancerRanges,
    /// `--trusted-proxies`: load balancers that deliver from their own addresses and enforce the
    /// lists themselves.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// `--probe-ranges`
    #[serde(default)]
    pub probes: ProbeRanges,
    /// `--reject`
    #[serde(default)]
    pub reject: Reject,
}

/// How a denied packet is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// Not at all.
    #[default]
    Drop,
    /// TCP with RST, anything else with ICMP "administratively prohibited" (RFC 1812, RFC 4443);
    /// both at a bounded rate.
    Reset,
}

/// What becomes of packets that nothing admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are counted and dropped.
    #[default]
    Enforce,
    /// They are counted as denied, and pass.
    Audit,
}

/// How `spec.defaultAPIServerAllowedIPRanges` of the Seed (D) counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedDefaults {
    /// As KKP does: added where the cluster has a list of its own, ignored where it has none.
    #[default]
    Appended,
    /// As KKP's documentation reads: also restricts clusters without a list.
    Always,
}

/// Where the load balancer ranges of the Seed (S) count besides strategy LoadBalancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancerRanges {
    /// As KKP does: on the shared `nodeport-proxy` only.
    #[default]
    Proxies,
    /// On every frontend, direct nodePorts included.
    Everywhere,
}

/// Which addresses of the seed are admitted by every allowlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExemptSeed {
    /// Addresses of the seed's Nodes.
    pub nodes: bool,
    /// Pod ranges of the seed's Nodes.
    pub pods: bool,
}

impl Default for ExemptSeed {
    fn default() -> Self {
        Self { nodes: true, pods: true }
    }
}

/// Name of a Cluster object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a Seed object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Name of the object.
    pub name: String,
    /// D: `spec.defaultAPIServerAllowedIPRanges`.
    pub default_ranges: Option<RangeList>,
    /// S: `spec.nodeportProxy.envoy.loadBalancerService.sourceRanges`.
    pub load_balancer_ranges: Option<RangeList>,
    /// What the gate `apiserverNetworkPolicy` will be in new clusters, for people: it decides nothing.
    /// `None` where that cannot be told.
    #[serde(default)]
    pub new_clusters_gate: Option<bool>,
}

/// A list of ranges as written in one field of one object. An absent field is no list at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeList {
    /// The object and field that hold the list.
    pub origin: Origin,
    /// The valid entries: host bits cleared, IPv4-mapped IPv6 as IPv4.
    pub ranges: Vec<ListedRange>,
    /// Number of entries as written, the invalid ones included: a list of invalid entries only is
    /// not an empty list.
    pub written: usize,
}

/// One valid entry of a [`RangeList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRange {
    /// The range.
    pub net: IpNet,
    /// Its position in the list, from 0.
    pub position: u32,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The object.
    pub object: ObjectRef,
    /// Path of the field in it, `spec.apiServerAllowedIPRanges.cidrBlocks`.
    pub field: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.field)
    }
}

/// Names an object for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Kind, `Cluster`.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A user cluster's control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Name of the Cluster object.
    pub id: ClusterId,
    /// Namespace of its control plane.
    pub namespace: String,
    /// `spec.exposeStrategy`, the Seed's default where that is empty.
    pub strategy: ExposeStrategy,
    /// C: `spec.apiServerAllowedIPRanges`, or the annotation that stands for it where KKP refuses it.
    pub allowed: Option<RangeList>,
    /// Where clients reach it.
    pub frontends: Vec<Frontend>,
    /// Addresses of the pods of its control plane, which its own API server always admits.
    pub own_pods: BTreeSet<IpAddr>,
    /// Those of `own_pods` that are API servers: their owner steers them, so that no other cluster
    /// and no seed-wide exemption admits them.
    pub api_server_pods: BTreeSet<IpAddr>,
    /// `enforcer.k8c.io/mode` of its Namespace: in audit mode nothing of this cluster is dropped.
    #[serde(default)]
    pub mode: Mode,
    /// Whom its API servers may connect to, where the gate `apiserverNetworkPolicy` is on.
    #[serde(default)]
    pub egress: Option<Egress>,
}

/// How KKP exposes a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExposeStrategy {
    /// nodePorts of the services, and the shared proxy.
    NodePort,
    /// A load balancer per cluster.
    LoadBalancer,
    /// The shared proxy, by SNI and HTTP/2 CONNECT.
    Tunneling,
}

/// Where clients reach a control plane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frontend {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination that packets carry.
    pub at: FrontendAddress,
    /// Which way in this is.
    pub kind: FrontendKind,
    /// The Service that opens it.
    pub service: ObjectRef,
    /// Name of the service's port.
    pub port_name: String,
}

/// Transport protocol of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// Destination of the packets of a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendAddress {
    /// Any address of the node with this nodePort.
    Node {
        /// The nodePort.
        port: u16,
    },
    /// A load balancer's address or an external IP.
    Address {
        /// The address.
        address: IpAddr,
        /// The service's port.
        port: u16,
    },
}

/// The ways in that KKP opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendKind {
    /// Load balancer address, external IP or address inside the seed of `front-loadbalancer`.
    FrontLoadBalancer,
    /// The nodePorts that Kubernetes gave `front-loadbalancer`.
    FrontLoadBalancerNodePort,
    /// nodePort of `apiserver-external`.
    ApiServerNodePort,
    /// nodePort of `konnectivity-server`.
    KonnectivityNodePort,
    /// nodePort of `openvpn-server`.
    OpenVpnNodePort,
    /// Load balancer address, external IP or address inside the seed of one of the services behind
    /// those nodePorts, `front-loadbalancer` excepted.
    ServiceAddress,
    /// A pod behind one of those services, at the port that it listens on.
    PodEndpoint,
    /// Load balancer address, external IP or address inside the seed of the shared `nodeport-proxy`.
    SharedProxy,
    /// The nodePorts that Kubernetes gave the shared `nodeport-proxy`.
    SharedProxyNodePort,
    /// An Envoy pod of the shared `nodeport-proxy`.
    SharedProxyPod,
}

impl FrontendKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::FrontLoadBalancer,
        Self::FrontLoadBalancerNodePort,
        Self::ApiServerNodePort,
        Self::KonnectivityNodePort,
        Self::OpenVpnNodePort,
        Self::ServiceAddress,
        Self::PodEndpoint,
        Self::SharedProxy,
        Self::SharedProxyNodePort,
        Self::SharedProxyPod,
    ];

    /// Whether this way leads through the shared `nodeport-proxy`.
    #[must_use]
    pub fn is_shared_proxy(self) -> bool {
        match self {
            Self::SharedProxy | Self::SharedProxyNodePort | Self::SharedProxyPod => true,
            Self::FrontLoadBalancer
            | Self::FrontLoadBalancerNodePort
            | Self::ApiServerNodePort
            | Self::KonnectivityNodePort
            | Self::OpenVpnNodePort
            | Self::ServiceAddress
            | Self::PodEndpoint => false,
        }
    }

    /// Whether the destination is a pod, whose address each node learns at its own time.
    #[must_use]
    pub fn is_pod(self) -> bool {
        match self {
            Self::PodEndpoint | Self::SharedProxyPod => true,
            Self::FrontLoadBalancer
            | Self::FrontLoadBalancerNodePort
            | Self::ApiServerNodePort
            | Self::KonnectivityNodePort
            | Self::OpenVpnNodePort
            | Self::ServiceAddress
            | Self::SharedProxy
            | Self::SharedProxyNodePort => false,
        }
    }
}

impl Frontend {
    /// Who answers for a frontend of [`Snapshot::shared_proxy`]: namespace and name of its service,
    /// which no Cluster can be called, since names hold no slash.
    #[must_use]
    pub fn shared_claimant(&self) -> ClusterId {
        ClusterId(format!("{}/{}", self.service.namespace, self.service.name))
    }
}

/// Through which kind of interface a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// An uplink, or a tunnel that packets come out of.
    Uplink,
    /// The host's end of a pod's interface.
    Pod,
}

/// A node of the seed cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedNode {
    /// Addresses from its status.
    pub addresses: BTreeSet<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_ranges: Vec<IpNet>,
}

/// What the agent sees of its own node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisNode {
    /// Name of its Node object.
    pub name: String,
    /// Addresses of its interfaces (netlink), kube-ipvs0 left out.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses of other nodes' tunnel devices, as the permanent neighbours of this node's tunnel
    /// devices name them.
    #[serde(default)]
    pub tunnel_peers: BTreeSet<IpAddr>,
    /// Subnets that its uplinks are directly connected to.
    #[serde(default)]
    pub connected: BTreeSet<IpNet>,
    /// The host's ends of pods' interfaces.
    #[serde(default)]
    pub pod_interfaces: Vec<PodInterface>,
}
