//! From a JSON value to an object of a known kind.
//!
//! Input: one JSON value (YAML has become one before). Output: the object, nothing where its kind
//! is none of ours, or what is wrong with it: the field and its value, and, as far as it can be
//! told, which object it is. Invariant: an object of our kinds is never passed over in silence.

use std::{fmt, sync::Arc};

use enforcer_policy::{model::ObjectRef, problem::Problem};
use serde::Deserialize;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::{
    Cluster, ClusterTemplate, EndpointSlice, Metadata, Namespace, Node, Pod, Seed, Service,
    strict::Strict,
};
use crate::source::store::Key;

/// The kinds that the enforcer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kubermatic.k8c.io/v1`
    Cluster,
    /// `kubermatic.k8c.io/v1`
    Seed,
    /// `kubermatic.k8c.io/v1`
    ClusterTemplate,
    /// `v1`
    Namespace,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `v1`
    Pod,
    /// `v1`
    Node,
}

/// One object of a known kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A user cluster.
    Cluster(Arc<Cluster>),
    /// A seed.
    Seed(Arc<Seed>),
    /// A template of user clusters.
    ClusterTemplate(Arc<ClusterTemplate>),
    /// A namespace.
    Namespace(Arc<Namespace>),
    /// A service.
    Service(Arc<Service>),
    /// Endpoints of a service.
    EndpointSlice(Arc<EndpointSlice>),
    /// A pod.
    Pod(Arc<Pod>),
    /// A node of the seed cluster.
    Node(Arc<Node>),
}

/// Which object a document means, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `apiVersion` as written.
    pub api_version: String,
    /// `kind` as written.
    pub kind: String,
    /// `metadata.namespace` as written.
    pub namespace: String,
    /// `metadata.name` as written.
    pub name: String,
}

/// An object of a known kind, or something that is no object at all, that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode {field} = {value:?}: {reason}")]
pub struct Undecodable {
    /// The object, where kind and name can be told.
    pub object: Option<ObjectRef>,
    /// Path of the field that is wrong, empty where the object as a whole is meant.
    pub field: String,
    /// Its value, shortened.
    pub value: String,
    /// The decoder's words.
    pub reason: String,
}

/// Decodes one object; `None` where its kind is none of ours.
///
/// # Errors
/// What is wrong with the object.
pub fn decode(value: &Value) -> Result<Option<Object>, Box<Undecodable>> {
    let identity = Identity::of(value);
    let Some(kind) = identity.known_kind()? else { return Ok(None) };
    let object = match kind {
        Kind::Cluster => Object::Cluster(Arc::new(typed(value, &identity)?)),
        Kind::Seed => Object::Seed(Arc::new(typed(value, &identity)?)),
        Kind::ClusterTemplate => Object::ClusterTemplate(Arc::new(typed(value, &identity)?)),
        Kind::Namespace => Object::Namespace(Arc::new(typed(value, &identity)?)),
        Kind::Service => Object::Service(Arc::new(typed(value, &identity)?)),
        Kind::EndpointSlice => Object::EndpointSlice(Arc::new(typed(value, &identity)?)),
        Kind::Pod => Object::Pod(Arc::new(typed(value, &identity)?)),
        Kind::Node => Object::Node(Arc::new(typed(value, &identity)?)),
    };
    if object.metadata().name.is_empty() {
        return Err(identity.undecodable("metadata.name", "", "missing"));
    }
    Ok(Some(object))
}

impl Object {
    /// Names the object: its kind, its namespace as Kubernetes would take it, and its name.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let Metadata { name, namespace, .. } = self.metadata();
        self.kind().reference(namespace, name)
    }

    /// Where it is in its table.
    #[must_use]
    pub fn key(&self) -> Key {
        let Metadata { name, namespace, .. } = self.metadata();
        let counts = self.kind().namespace(namespace);
        let namespace =
            if *counts == **namespace { Arc::clone(namespace) } else { Arc::from(counts) };
        Key { namespace, name: Arc::clone(name) }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Seed(_) => Kind::Seed,
            Self::ClusterTemplate(_) => Kind::ClusterTemplate,
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
        }
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Cluster(object) => &object.metadata,
            Self::Seed(object) => &object.metadata,
            Self::ClusterTemplate(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
        }
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Cluster,
        Self::Seed,
        Self::ClusterTemplate,
        Self::Namespace,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
    ];

    /// The `apiVersion`s under which it is read. KKP's documentation also spells its group `k8s`.
    #[must_use]
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Cluster | Self::Seed | Self::ClusterTemplate => {
                &["kubermatic.k8c.io/v1", "kubermatic.k8s.io/v1"]
            }
            Self::Namespace | Self::Service | Self::Pod | Self::Node => &["v1"],
            Self::EndpointSlice => &["discovery.k8s.io/v1"],
        }
    }

    /// Names an object of this kind. The namespace of a cluster-scoped one is dropped; a namespaced
    /// one without a namespace is in `default`, a Seed excepted, whose documents often omit it.
    #[must_use]
    pub fn reference(self, namespace: &str, name: &str) -> ObjectRef {
        let namespace = self.namespace(namespace).to_owned();
        ObjectRef { kind: self.to_string(), namespace, name: name.to_owned() }
    }

    /// The namespace that counts where this one is written.
    fn namespace(self, written: &str) -> &str {
        match self {
            Self::Cluster | Self::ClusterTemplate | Self::Namespace | Self::Node => "",
            Self::Seed => written,
            Self::Service | Self::EndpointSlice | Self::Pod if written.is_empty() => "default",
            Self::Service | Self::EndpointSlice | Self::Pod => written,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "Cluster",
            Self::Seed => "Seed",
            Self::ClusterTemplate => "ClusterTemplate",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
        })
    }
}

impl Identity {
    /// Reads the identity of a JSON object; what is absent or no string stays empty.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let text =
            |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        Self {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }

    /// The kind that is meant; `None` where it is none of ours.
    ///
    /// # Errors
    /// Where this is no Kubernetes object, or one of ours in a version that nothing here knows.
    pub fn known_kind(&self) -> Result<Option<Kind>, Box<Undecodable>> {
        if self.kind.is_empty() {
            return Err(self.undecodable("kind", "", "not a Kubernetes object: it has no kind"));
        }
        let Some(kind) = self.kind_by_name() else { return Ok(None) };
        if kind.api_versions().contains(&self.api_version.as_str()) {
            return Ok(Some(kind));
        }
        let group_of =
            |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let group = group_of(&self.api_version);
        let ours = kind.api_versions().iter().any(|known| group_of(known) == group);
        // Another project's kind of the same name, Cluster API's Cluster for one.
        if !ours && !self.api_version.is_empty() {
            return Ok(None);
        }
        let known = kind.api_versions().first().copied().unwrap_or_default();
        Err(self.undecodable("apiVersion", &self.api_version, &format!("expected {known}")))
    }

    /// Says that this object is wrong.
    #[must_use]
    pub fn undecodable(&self, field: &str, value: &str, reason: &str) -> Box<Undecodable> {
        Box::new(Undecodable {
            object: self.reference(),
            field: field.to_owned(),
            value: Problem::shorten(value),
            reason: brief(reason),
        })
    }

    /// The object, where kind and name are there.
    fn reference(&self) -> Option<ObjectRef> {
        let kind = self.kind_by_name()?;
        (!self.name.is_empty()).then(|| kind.reference(&self.namespace, &self.name))
    }

    fn kind_by_name(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.to_string() == self.kind)
    }
}

fn typed<'de, T: Deserialize<'de>>(
    value: &'de Value,
    identity: &Identity,
) -> Result<T, Box<Undecodable>> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| {
        let field = match error.path().iter().next() {
            Some(_) => error.path().to_string(),
            None => String::new(),
        };
        let found = at(value, error.path()).map(written).unwrap_or_default();
        identity.undecodable(&field, &found, &error.inner().to_string())
    })
}

/// The value that a path leads to, nothing for the object as a whole.
fn at<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    let mut here = None;
    for segment in path {
        let parent = here.unwrap_or(value);
        here = Some(match segment {
            Segment::Seq { index } => parent.get(index)?,
            Segment::Map { key } => parent.get(key)?,
            Segment::Enum { .. } | Segment::Unknown => return here,
        });
    }
    here
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

/// A decoder's words can quote all of what it met.
fn brief(reason: &str) -> String {
    const CHARACTERS: usize = 200;
    match reason.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
