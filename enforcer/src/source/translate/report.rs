//! Collects what is wrong.
//!
//! Input: problems, in any order. Output: each of them once, in order, with the cluster that it
//! concerns: the object itself, or the one whose control-plane namespace it is or lies in.

use std::collections::BTreeSet;

use enforcer_policy::{
    model::{ClusterId, ObjectRef},
    problem::{Problem, ProblemKind},
};

use crate::source::store::Objects;

/// The problems so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
}

/// Clusters by their control-plane namespaces, in order.
pub(super) type Claims<'a> = [(&'a str, &'a ClusterId)];

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
        Self { problems: objects.problems.iter().cloned().collect() }
    }

    /// Adds problems of a report that were taken from it, or remembered.
    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    /// Takes the problems so far, in the order in which they were added.
    pub(super) fn take(self) -> Vec<Problem> {
        self.problems
    }

    /// Adds a problem.
    pub(super) fn add(&mut self, place: Place<'_>, value: &str, kind: ProblemKind) {
        let Place { object, file, field } = place;
        self.problems.push(Problem {
            cluster: None,
            object: object.clone(),
            file: file.to_owned(),
            field: field.to_owned(),
            value: Problem::shorten(value),
            kind,
        });
    }

    /// All of them, each once. A namespace that several clusters claim is the first one's.
    pub(super) fn finish(self, claims: &Claims<'_>) -> Vec<Problem> {
        let first_in = |namespace: &str| {
            let at = claims.partition_point(|(claimed, _)| *claimed < namespace);
            let (claimed, cluster) = claims.get(at)?;
            (*claimed == namespace).then(|| (*cluster).clone())
        };
        let cluster_of = |object: &ObjectRef| match object.kind.as_str() {
            "Cluster" => Some(ClusterId(object.name.clone())),
            "Namespace" => first_in(&object.name),
            _namespaced => first_in(&object.namespace),
        };
        let problems: BTreeSet<Problem> = self
            .problems
            .into_iter()
            .map(|problem| Problem { cluster: cluster_of(&problem.object), ..problem })
            .collect();
        problems.into_iter().collect()
    }
}
