//! Objects of `kubermatic.k8c.io/v1`.
//!
//! Input: the JSON of the real CRDs' objects. Output: the fields that decide who may enter, and
//! those that decide where an API server may go. Lists of ranges stay as written: judging
//! them is the work of `translate`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Metadata, null_is_absent};

/// A user cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`: an object without it is not a Cluster, and never one without restrictions.
    pub spec: ClusterSpec,
    /// `status`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub status: ClusterStatus,
}

/// `Cluster.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// `exposeStrategy`; empty means absent.
    #[serde(deserialize_with = "null_is_absent")]
    pub expose_strategy: String,
    /// C: absent is unrestricted as far as the cluster is concerned, an empty list is not.
    #[serde(rename = "apiServerAllowedIPRanges")]
    pub api_server_allowed_ip_ranges: Option<NetworkRanges>,
    /// `cloud`
    #[serde(deserialize_with = "null_is_absent")]
    pub cloud: CloudSpec,
    /// `pause`
    #[serde(deserialize_with = "null_is_absent")]
    pub pause: bool,
    /// `features`: feature gates; `null` reads as off.
    #[serde(deserialize_with = "null_is_absent")]
    pub features: BTreeMap<String, Option<bool>>,
    /// `oidc`
    #[serde(deserialize_with = "null_is_absent")]
    pub oidc: Oidc,
}

/// A list of ranges as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkRanges {
    /// `cidrBlocks`; absent reads as an empty list, as in KKP.
    #[serde(deserialize_with = "null_is_absent")]
    pub cidr_blocks: Vec<String>,
}

/// `Cluster.spec.cloud`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudSpec {
    /// Name of the datacenter, a key of [`SeedSpec::datacenters`].
    #[serde(deserialize_with = "null_is_absent")]
    pub dc: String,
}

/// `Cluster.spec.oidc`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Oidc {
    /// `issuerURL`
    #[serde(rename = "issuerURL", deserialize_with = "null_is_absent")]
    pub issuer_url: String,
}

/// `Cluster.status`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Namespace of the control plane; empty until KKP has made it.
    #[serde(deserialize_with = "null_is_absent")]
    pub namespace_name: String,
}

/// A seed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    pub spec: SeedSpec,
}

/// `Seed.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeedSpec {
    /// `exposeStrategy`: the default of its clusters; empty means absent.
    #[serde(deserialize_with = "null_is_absent")]
    pub expose_strategy: String,
    /// D: absent where `None`.
    #[serde(rename = "defaultAPIServerAllowedIPRanges")]
    pub default_api_server_allowed_ip_ranges: Option<Vec<String>>,
    /// `nodeportProxy`
    #[serde(deserialize_with = "null_is_absent")]
    pub nodeport_proxy: NodeportProxy,
    /// `defaultClusterTemplate`: name of a [`ClusterTemplate`].
    #[serde(deserialize_with = "null_is_absent")]
    pub default_cluster_template: String,
    /// `datacenters` by name.
    #[serde(deserialize_with = "null_is_absent")]
    pub datacenters: BTreeMap<String, Datacenter>,
}

/// `Seed.spec.nodeportProxy`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeportProxy {
    /// `disable`
    #[serde(deserialize_with = "null_is_absent")]
    pub disable: bool,
    /// `envoy`
    #[serde(deserialize_with = "null_is_absent")]
    pub envoy: Envoy,
}

/// `Seed.spec.nodeportProxy.envoy`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Envoy {
    /// `loadBalancerService`
    #[serde(deserialize_with = "null_is_absent")]
    pub load_balancer_service: LoadBalancerService,
}

/// `Seed.spec.nodeportProxy.envoy.loadBalancerService`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerService {
    /// S: absent where `None`.
    pub source_ranges: Option<Vec<String>>,
}

/// One of `Seed.spec.datacenters`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Datacenter {
    /// `spec`
    #[serde(deserialize_with = "null_is_absent")]
    pub spec: DatacenterSpec,
}

/// `Seed.spec.datacenters.*.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DatacenterSpec {
    /// `apiServerServiceType`: type of `apiserver-external`; empty means absent.
    #[serde(deserialize_with = "null_is_absent")]
    pub api_server_service_type: String,
}

/// A template of user clusters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterTemplate {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    #[serde(default, deserialize_with = "null_is_absent")]
    pub spec: TemplateSpec,
}

/// `ClusterTemplate.spec`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateSpec {
    /// `features`: what KKP's webhook writes into new clusters.
    #[serde(deserialize_with = "null_is_absent")]
    pub features: BTreeMap<String, Option<bool>>,
}
