//! One object as the API sends it, decoded while it is read.
//!
//! Input: the JSON of an element of a list or of a watch event. Output: [`Item`], which object it is
//! and what it says, or what is wrong with it. Invariant: reading one never fails, so that a
//! malformed object stops neither a list nor a watch. Managed fields and everything else that no
//! struct of `objects` names is dropped right here.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::source::{
    objects::{
        Cluster, ClusterTemplate, EndpointSlice, Identity, Kind, Namespace, Node, Object, Pod,
        Seed, Service, Undecodable, decode,
    },
    store::Key,
};

/// A kind that is watched, named by its struct.
pub(super) trait Watched: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;
    /// Its name in paths.
    const PLURAL: &'static str;
}

macro_rules! watched {
    ($($name:ident $plural:literal)*) => {$(
        impl Watched for $name {
            const KIND: Kind = Kind::$name;
            const PLURAL: &'static str = $plural;
        }
    )*};
}

watched! {
    Cluster "clusters"
    Seed "seeds"
    ClusterTemplate "clustertemplates"
    Namespace "namespaces"
    Service "services"
    EndpointSlice "endpointslices"
    Pod "pods"
    Node "nodes"
}

/// An object, or what is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// Which one.
    pub(super) key: Key,
    /// What it says.
    pub(super) decoded: Result<Object, Box<Undecodable>>,
}

/// An object of the kind that `T` stands for, in the form in which kube's watcher wants it.
#[derive(Clone, Debug)]
pub(super) struct Seen<T> {
    /// Holds the resource version, which is what the watcher reads.
    metadata: ObjectMeta,
    item: Item,
    kind: PhantomData<T>,
}

impl<T> Seen<T> {
    /// What was read.
    pub(super) fn into_item(self) -> Item {
        self.item
    }
}

impl<'de, T: Watched> Deserialize<'de> for Seen<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Value::Object(map) = &mut value {
            // Elements of lists of built-in kinds carry no type.
            let version = T::KIND.api_versions().first().copied().unwrap_or_default();
            map.entry("kind").or_insert_with(|| T::KIND.to_string().into());
            map.entry("apiVersion").or_insert_with(|| version.into());
        }
        let identity = Identity::of(&value);
        let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let metadata = ObjectMeta {
            name: Some(identity.name.clone()),
            namespace: Some(identity.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            resource_version: version.map(str::to_owned),
            ..ObjectMeta::default()
        };
        let decoded = match decode(&value) {
            Ok(Some(object)) => Ok(object),
            Ok(None) => {
                let expected = format!("expected a {}", T::KIND);
                Err(identity.undecodable("kind", &identity.kind, &expected))
            }
            Err(wrong) => Err(wrong),
        };
        let key = Key::new(&identity.namespace, &identity.name);
        Ok(Self { metadata, item: Item { key, decoded }, kind: PhantomData })
    }
}

impl<T: Watched> Resource for Seen<T> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.to_string().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        group_and_version(T::KIND).0.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        group_and_version(T::KIND).1.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn group_and_version(kind: Kind) -> (&'static str, &'static str) {
    let text = kind.api_versions().first().copied().unwrap_or_default();
    text.split_once('/').unwrap_or(("", text))
}

#[cfg(test)]
mod tests {
    use kube::{ResourceExt as _, core::ObjectList};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_malformed_object_in_a_list_hides_none_of_the_others() {
        let list = json!({
            "kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [
                {"metadata": {"namespace": "cluster-a", "name": "good", "resourceVersion": "3",
                              "managedFields": [{"manager": "x"}]}},
                {"metadata": {"namespace": "cluster-a", "name": "bad", "resourceVersion": "4"},
                 "spec": {"ports": "none"}},
            ],
        });
        let list: ObjectList<Seen<Service>> = serde_json::from_value(list).unwrap();
        let [good, bad] = list.items.as_slice() else { panic!("{list:?}") };
        assert_eq!(good.resource_version().as_deref(), Some("3"));
        assert!(matches!(&good.item.decoded, Ok(Object::Service(_))), "{good:?}");
        assert_eq!(bad.resource_version().as_deref(), Some("4"));
        let wrong = bad.item.decoded.as_ref().unwrap_err();
        assert_eq!(wrong.field, "spec.ports");
        assert_eq!(wrong.object, Some(Kind::Service.reference("cluster-a", "bad")));
    }

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(Seen::<Cluster>::url_path(&(), None), "/apis/kubermatic.k8c.io/v1/clusters");
        assert_eq!(
            Seen::<Seed>::url_path(&(), Some("kubermatic")),
            "/apis/kubermatic.k8c.io/v1/namespaces/kubermatic/seeds"
        );
        assert_eq!(Seen::<Pod>::url_path(&(), None), "/api/v1/pods");
        assert_eq!(
            Seen::<EndpointSlice>::url_path(&(), None),
            "/apis/discovery.k8s.io/v1/endpointslices"
        );
    }
}
