//! Collects what is wrong.
//!
//! Input: problems, in any order. Output: each of them once, in order, with the cluster that it
//! concerns: the object itself, or the one whose control-plane namespace it is or is in.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_policy::{
    model::{ClusterId, ObjectRef},
    problem::{Problem, ProblemKind},
};

use crate::source::store::Objects;

/// The problems so far.
pub(super) struct Report {
    problems: BTreeSet<Problem>,
    /// First cluster of each control-plane namespace.
    clusters: BTreeMap<String, ClusterId>,
}

/// Where a value stands that may be wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The object.
    pub(super) object: &'a ObjectRef,
    /// File that holds it.
    pub(super) file: &'a str,
    /// The field.
    pub(super) field: &'a str,
}

impl Report {
    /// Starts with the problems that the source has found.
    pub(super) fn new(objects: &Objects) -> Self {
        Self { problems: objects.problems.clone(), clusters: BTreeMap::new() }
    }

    /// Notes which cluster a namespace belongs to.
    pub(super) fn claim(&mut self, namespace: &str, cluster: &ClusterId) {
        self.clusters.entry(namespace.to_owned()).or_insert_with(|| cluster.clone());
    }

    /// Adds a problem.
    pub(super) fn add(&mut self, place: Place<'_>, value: &str, kind: ProblemKind) {
        let Place { object, file, field } = place;
        self.problems.insert(Problem {
            cluster: None,
            object: object.clone(),
            file: file.to_owned(),
            field: field.to_owned(),
            value: Problem::shorten(value),
            kind,
        });
    }

    /// All of them.
    pub(super) fn finish(self) -> Vec<Problem> {
        let Self { problems, clusters } = self;
        let cluster_of = |object: &ObjectRef| match object.kind.as_str() {
            "Cluster" => Some(ClusterId(object.name.clone())),
            "Namespace" => clusters.get(&object.name).cloned(),
            _namespaced => clusters.get(&object.namespace).cloned(),
        };
        let problems: BTreeSet<Problem> = problems
            .into_iter()
            .map(|problem| Problem { cluster: cluster_of(&problem.object), ..problem })
            .collect();
        problems.into_iter().collect()
    }
}
