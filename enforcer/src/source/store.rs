//! Everything that is known of the seed's objects at one moment.
//!
//! Input: objects and failures, one by one, in order of precedence. Output: [`Objects`], typed
//! tables by namespace and name. Invariant: what could not be read is told apart from what is not
//! there ([`Objects::may_exist`]), so that an error never looks like a deletion.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::SystemTime,
};

use enforcer_policy::{
    model::ObjectRef,
    problem::{Problem, ProblemKind},
};

use super::objects::{
    Cluster, ClusterTemplate, EndpointSlice, Namespace, Node, Object, Pod, Seed, Service,
    Undecodable,
};

/// The seed's objects, as far as they can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// User clusters.
    pub clusters: Table<Cluster>,
    /// Seeds.
    pub seeds: Table<Seed>,
    /// Templates of user clusters.
    pub cluster_templates: Table<ClusterTemplate>,
    /// Namespaces.
    pub namespaces: Table<Namespace>,
    /// Services.
    pub services: Table<Service>,
    /// Endpoints of services.
    pub endpoint_slices: Table<EndpointSlice>,
    /// Pods.
    pub pods: Table<Pod>,
    /// Nodes of the seed cluster.
    pub nodes: Table<Node>,
    /// What is wrong with the input, whether or not a former version stands in for it.
    pub problems: BTreeSet<Problem>,
    /// Objects that are there but cannot be decoded. The tables hold the former version of those
    /// that have one.
    pub failed: BTreeSet<ObjectRef>,
    /// Set while something cannot be read of which no version was ever read: any object that is
    /// missing here may be in it.
    pub incomplete: bool,
    /// Set until everything has been read once: the tables are empty because of that.
    pub unread: bool,
    /// Set while the source cannot be read: since then this is old.
    pub stale_since: Option<SystemTime>,
}

/// Objects of one kind.
pub type Table<T> = BTreeMap<Key, Stored<T>>;

/// Where an object is in its [`Table`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The object.
    pub object: Arc<T>,
    /// File that holds it, empty for the Kubernetes API.
    pub file: Arc<str>,
}

impl Objects {
    /// Adds an object. A second one of the same kind and name is left out and reported.
    pub fn add(&mut self, object: &Object, file: &Arc<str>) {
        if let Some(first) = self.insert(object, file) {
            self.problems.insert(Problem {
                cluster: None,
                object: object.reference(),
                file: file.to_string(),
                field: String::new(),
                value: format!("first in {first}"),
                kind: ProblemKind::Duplicate,
            });
        }
    }

    /// Adds the former version of an object that can no longer be read where it was; a version
    /// that can be read elsewhere goes first.
    pub fn keep(&mut self, object: &Object, file: &Arc<str>) {
        self.insert(object, file);
    }

    /// Puts an object in place of the one of the same kind and name, if there is one.
    pub fn replace(&mut self, object: &Object, file: &Arc<str>) {
        let ObjectRef { kind: _, namespace, name } = object.reference();
        let key = Key { namespace, name };
        match object {
            Object::Cluster(_) => drop(self.clusters.remove(&key)),
            Object::Seed(_) => drop(self.seeds.remove(&key)),
            Object::ClusterTemplate(_) => drop(self.cluster_templates.remove(&key)),
            Object::Namespace(_) => drop(self.namespaces.remove(&key)),
            Object::Service(_) => drop(self.services.remove(&key)),
            Object::EndpointSlice(_) => drop(self.endpoint_slices.remove(&key)),
            Object::Pod(_) => drop(self.pods.remove(&key)),
            Object::Node(_) => drop(self.nodes.remove(&key)),
        }
        self.insert(object, file);
    }

    /// Reports something that cannot be decoded. `unnamed` names it where it does not say itself
    /// which object it is.
    pub fn fail(&mut self, failure: &Undecodable, unnamed: ObjectRef, file: &Arc<str>) {
        let Undecodable { object, field, value, reason } = failure;
        self.failed.extend(object.clone());
        self.problems.insert(Problem {
            cluster: None,
            object: object.clone().unwrap_or(unnamed),
            file: file.to_string(),
            field: field.clone(),
            value: value.clone(),
            kind: ProblemKind::WrongShape { reason: reason.clone() },
        });
    }

    /// Whether an object that is in none of the tables may be there nevertheless.
    #[must_use]
    pub fn may_exist(&self, object: &ObjectRef) -> bool {
        self.incomplete || self.failed.contains(object)
    }

    /// The file that already holds the object, if one does.
    fn insert(&mut self, object: &Object, file: &Arc<str>) -> Option<Arc<str>> {
        let at = object.reference();
        match object {
            Object::Cluster(object) => put(&mut self.clusters, at, object, file),
            Object::Seed(object) => put(&mut self.seeds, at, object, file),
            Object::ClusterTemplate(object) => put(&mut self.cluster_templates, at, object, file),
            Object::Namespace(object) => put(&mut self.namespaces, at, object, file),
            Object::Service(object) => put(&mut self.services, at, object, file),
            Object::EndpointSlice(object) => put(&mut self.endpoint_slices, at, object, file),
            Object::Pod(object) => put(&mut self.pods, at, object, file),
            Object::Node(object) => put(&mut self.nodes, at, object, file),
        }
    }
}

impl Key {
    /// Of an object in a namespace.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// The objects of one namespace.
pub fn in_namespace<'a, T>(
    table: &'a Table<T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a Stored<T>)> {
    table.range(Key::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
}

fn put<T>(
    table: &mut Table<T>,
    at: ObjectRef,
    object: &Arc<T>,
    file: &Arc<str>,
) -> Option<Arc<str>> {
    match table.entry(Key { namespace: at.namespace, name: at.name }) {
        Entry::Occupied(first) => Some(Arc::clone(&first.get().file)),
        Entry::Vacant(free) => {
            free.insert(Stored { object: Arc::clone(object), file: Arc::clone(file) });
            None
        }
    }
}
