//! Everything that is known of the seed's objects at one moment.
//!
//! Input: objects and failures, one by one, in order of precedence. Output: [`Objects`], typed
//! tables by namespace and name. Invariant: what could not be read is told apart from what is not
//! there ([`Objects::may_exist`]), so that an error never looks like a deletion.

mod touched;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::SystemTime,
};

use enforcer_policy::{
    model::ObjectRef,
    problem::{Problem, ProblemKind},
};

pub(in crate::source) use self::touched::Touched;
use super::objects::{
    Cluster, ClusterTemplate, EndpointSlice, Kind, Namespace, Node, Object, Pod, Seed, Service,
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
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
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
            self.report_second(&object.reference(), file, &first);
        }
    }

    /// Adds objects as [`Self::add`] does, many at once: tables of a fleet are made several times faster
    /// in one piece.
    pub fn add_all<'a>(&mut self, objects: impl IntoIterator<Item = (&'a Object, &'a Arc<str>)>) {
        for (object, file, first) in self.insert_all(objects) {
            self.report_second(&object, &file, &first);
        }
    }

    /// Adds former versions as [`Self::keep`] does, many at once.
    pub fn keep_all<'a>(&mut self, objects: impl IntoIterator<Item = (&'a Object, &'a Arc<str>)>) {
        self.insert_all(objects);
    }

    /// Adds the former version of an object that can no longer be read where it was; a version
    /// that can be read elsewhere goes first.
    pub fn keep(&mut self, object: &Object, file: &Arc<str>) {
        self.insert(object, file);
    }

    /// Puts an object in place of the one of the same kind and name, if there is one.
    pub fn replace(&mut self, object: &Object, file: &Arc<str>) {
        let key = object.key();
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

    fn report_second(&mut self, object: &ObjectRef, file: &str, first: &str) {
        self.problems.insert(Problem {
            cluster: None,
            object: object.clone(),
            file: file.to_owned(),
            field: String::new(),
            value: format!("first in {first}"),
            kind: ProblemKind::Duplicate,
        });
    }

    /// Inserts what is not there yet; the others, with their file and the file that holds the first.
    fn insert_all<'a>(
        &mut self,
        objects: impl IntoIterator<Item = (&'a Object, &'a Arc<str>)>,
    ) -> Vec<(ObjectRef, Arc<str>, Arc<str>)> {
        let mut rows = Rows::default();
        for (object, file) in objects {
            rows.push(object, file);
        }
        let Rows {
            clusters,
            seeds,
            cluster_templates,
            namespaces,
            services,
            endpoint_slices,
            pods,
            nodes,
        } = rows;
        let mut seconds = Vec::new();
        fill(&mut self.clusters, clusters, Kind::Cluster, &mut seconds);
        fill(&mut self.seeds, seeds, Kind::Seed, &mut seconds);
        fill(&mut self.cluster_templates, cluster_templates, Kind::ClusterTemplate, &mut seconds);
        fill(&mut self.namespaces, namespaces, Kind::Namespace, &mut seconds);
        fill(&mut self.services, services, Kind::Service, &mut seconds);
        fill(&mut self.endpoint_slices, endpoint_slices, Kind::EndpointSlice, &mut seconds);
        fill(&mut self.pods, pods, Kind::Pod, &mut seconds);
        fill(&mut self.nodes, nodes, Kind::Node, &mut seconds);
        seconds
    }

    /// The file that already holds the object, if one does.
    fn insert(&mut self, object: &Object, file: &Arc<str>) -> Option<Arc<str>> {
        let at = object.key();
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
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// The objects of one namespace.
pub fn in_namespace<'a, T>(
    table: &'a Table<T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a Stored<T>)> {
    table.range(Key::new(namespace, "")..).take_while(move |(key, _)| *key.namespace == *namespace)
}

/// Rows of tables to be, in order of precedence.
#[derive(Default)]
struct Rows {
    clusters: Vec<(Key, Stored<Cluster>)>,
    seeds: Vec<(Key, Stored<Seed>)>,
    cluster_templates: Vec<(Key, Stored<ClusterTemplate>)>,
    namespaces: Vec<(Key, Stored<Namespace>)>,
    services: Vec<(Key, Stored<Service>)>,
    endpoint_slices: Vec<(Key, Stored<EndpointSlice>)>,
    pods: Vec<(Key, Stored<Pod>)>,
    nodes: Vec<(Key, Stored<Node>)>,
}

impl Rows {
    fn push(&mut self, object: &Object, file: &Arc<str>) {
        let at = object.key();
        match object {
            Object::Cluster(object) => self.clusters.push((at, stored(object, file))),
            Object::Seed(object) => self.seeds.push((at, stored(object, file))),
            Object::ClusterTemplate(object) => {
                self.cluster_templates.push((at, stored(object, file)));
            }
            Object::Namespace(object) => self.namespaces.push((at, stored(object, file))),
            Object::Service(object) => self.services.push((at, stored(object, file))),
            Object::EndpointSlice(object) => self.endpoint_slices.push((at, stored(object, file))),
            Object::Pod(object) => self.pods.push((at, stored(object, file))),
            Object::Node(object) => self.nodes.push((at, stored(object, file))),
        }
    }
}

fn stored<T>(object: &Arc<T>, file: &Arc<str>) -> Stored<T> {
    Stored { object: Arc::clone(object), file: Arc::clone(file) }
}

/// Adds rows to a table; of several with one key the first stays, what the table has before all.
fn fill<T>(
    table: &mut Table<T>,
    rows: Vec<(Key, Stored<T>)>,
    kind: Kind,
    seconds: &mut Vec<(ObjectRef, Arc<str>, Arc<str>)>,
) {
    if rows.is_empty() {
        return;
    }
    let mut all: Vec<(Key, Stored<T>)> = std::mem::take(table).into_iter().collect();
    all.extend(rows);
    // Stable, so that the first of equals is the one that counts; mostly in order already.
    all.sort_by(|(left, _), (right, _)| left.cmp(right));
    all.dedup_by(|(key, second), (first_key, first)| {
        let same = key == first_key;
        if same {
            let object = kind.reference(&key.namespace, &key.name);
            seconds.push((object, Arc::clone(&second.file), Arc::clone(&first.file)));
        }
        same
    });
    *table = all.into_iter().collect();
}

fn put<T>(table: &mut Table<T>, at: Key, object: &Arc<T>, file: &Arc<str>) -> Option<Arc<str>> {
    match table.entry(at) {
        Entry::Occupied(first) => Some(Arc::clone(&first.get().file)),
        Entry::Vacant(free) => {
            free.insert(Stored { object: Arc::clone(object), file: Arc::clone(file) });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::objects::decode;

    #[test]
    fn many_objects_at_once_are_what_they_are_one_by_one() {
        let files: [Arc<str>; 3] = ["a.yaml".into(), "b.yaml".into(), "c.yaml".into()];
        let object = |kind: &str, name: &str, value: usize| {
            let metadata =
                json!({"name": name, "namespace": "n", "labels": {"v": value.to_string()}});
            let object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
            decode(&object).unwrap().unwrap()
        };
        // Not in order, and some twice or thrice.
        let names = ["d", "b", "d", "a", "c", "b", "d"];
        let rows: Vec<(Object, &Arc<str>)> = ["Service", "Pod"]
            .into_iter()
            .flat_map(|kind| names.iter().enumerate().map(move |(at, name)| (kind, at, *name)))
            .map(|(kind, at, name)| (object(kind, name, at), &files[at % files.len()]))
            .collect();
        let (mut whole, mut single, mut kept) =
            (Objects::default(), Objects::default(), Objects::default());
        // In two parts, so that the second meets a table that is not empty.
        let (first, second) = rows.split_at(4);
        for part in [first, second] {
            whole.add_all(part.iter().map(|(object, file)| (object, *file)));
            kept.keep_all(part.iter().map(|(object, file)| (object, *file)));
        }
        for (object, file) in &rows {
            single.add(object, file);
        }
        assert_eq!(whole, single);
        assert_eq!(single.problems.len(), 6);
        assert_eq!(
            (kept.services, kept.pods, kept.problems),
            (whole.services, whole.pods, [].into())
        );
    }
}
