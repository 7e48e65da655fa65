//! Narrow serde structs for the objects that the enforcer reads.
//!
//! Input: JSON or YAML of the real objects. Output: structs that hold only the fields the program
//! reads; every other field is ignored, whatever its shape. Invariant: `null` means absent, as in
//! Kubernetes, and absent is never the same as empty where that decides who may enter
//! ([`ClusterSpec::api_server_allowed_ip_ranges`]). A field that is read and has another type makes
//! the object undecodable, with the field named ([`Undecodable`]).
//!
//! A watch of the Kubernetes API uses the same structs: they hold nothing that changes without
//! meaning (no resourceVersion), so that equal structs need no new policy.

mod core;
mod decode;
mod kkp;
mod strict;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer};

pub use self::{
    core::{
        Address, Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, LoadBalancerStatus,
        Namespace, Node, NodeSpec, NodeStatus, Pod, PodIp, PodSpec, PodStatus, Service,
        ServicePort, ServiceSpec, ServiceStatus, TargetPort,
    },
    decode::{Identity, Kind, Object, Undecodable, decode},
    kkp::{
        CloudSpec, Cluster, ClusterSpec, ClusterStatus, ClusterTemplate, Datacenter,
        DatacenterSpec, Envoy, LoadBalancerService, NetworkRanges, NodeportProxy, Oidc, Seed,
        SeedSpec, TemplateSpec,
    },
};

/// Prefixes of the annotations that are kept: others can be long and are never read.
const ANNOTATIONS: [&str; 3] =
    ["enforcer.k8c.io/", "nodeport-proxy.k8s.io/", "service.beta.kubernetes.io/aws-load-balancer-"];

/// What every object carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    #[serde(deserialize_with = "null_is_absent")]
    pub name: Arc<str>,
    /// Namespace, empty for cluster-scoped objects.
    #[serde(deserialize_with = "null_is_absent")]
    pub namespace: Arc<str>,
    /// Identity of this incarnation, as the API server gave it.
    pub uid: Option<String>,
    /// Set once the object is being deleted.
    pub deletion_timestamp: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "null_is_absent")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the enforcer, of the nodeport-proxy and of AWS load balancers.
    #[serde(deserialize_with = "own_annotations")]
    pub annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// Value of a label, empty where it is absent.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Value of an annotation, empty where it is absent.
    #[must_use]
    pub fn annotation(&self, name: &str) -> &str {
        self.annotations.get(name).map_or("", String::as_str)
    }
}

/// Reads `null` as if the field were absent.
fn null_is_absent<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn own_annotations<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let mut annotations: BTreeMap<String, String> = null_is_absent(deserializer)?;
    annotations.retain(|name, _| ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)));
    Ok(annotations)
}
