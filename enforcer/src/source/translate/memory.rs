//! What one translation leaves for the next, so that an edit costs what it changes and not what there is.
//!
//! A cluster is taken as it was translated before where nothing that its translation reads is another:
//! the [`Environment`], the Cluster and the objects of its namespace ([`Touched`]), and its former
//! version, which may also be the one that came of the translation before, while all can be read. Invariants: what is remembered
//! changes no result; a cluster whose egress is judged here is translated every time, since that reads
//! objects of the whole seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_policy::{
    model::{Cluster, ClusterId, ObjectRef, Snapshot},
    problem::Problem,
};

use super::{Settings, guard_pods::Guard, outside::Outside, seed::Chosen};
use crate::source::store::Touched;

/// What the translation of every cluster reads, besides its own objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) settings: Settings,
    pub(super) seed: Chosen,
    pub(super) guard: Guard,
    /// Name of this node.
    pub(super) this_node: String,
    /// Objects that cannot be read.
    pub(super) failed: BTreeSet<ObjectRef>,
    /// Whether others may be missing.
    pub(super) incomplete: bool,
}

/// What is remembered of a translation.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) outside: Option<Outside>,
    pub(super) environment: Environment,
    pub(super) clusters: BTreeMap<ClusterId, Remembered>,
}

/// A cluster by itself, before the shared proxy's frontends are added.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) cluster: Arc<Cluster>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// The version that its translation read.
    pub(super) former: Option<Arc<Cluster>>,
}

/// A cluster and what became of it.
#[derive(Debug)]
pub(super) struct Remembered {
    made: Made,
    became: Arc<Cluster>,
}

/// Clusters of the translation before that may be taken as they were.
#[derive(Debug, Default)]
pub(super) struct Recall<'a> {
    clusters: BTreeMap<ClusterId, Remembered>,
    touched: Touched<'a>,
    /// Whether something cannot be read: then what was there before counts, and another former version can
    /// give another result.
    is_unread: bool,
}

impl<'a> Recall<'a> {
    /// What was remembered, where the environment is what it was.
    pub(super) fn new(
        before: Environment,
        clusters: BTreeMap<ClusterId, Remembered>,
        touched: Touched<'a>,
        now: &Environment,
    ) -> Self {
        // What cannot be read may be a way in through the shared proxy that a cluster had before.
        let is_unread = now.incomplete || !now.failed.is_empty();
        let proxy = now.settings.kubermatic_namespace.as_str();
        let is_other = before != *now || (is_unread && touched.namespaces.contains(proxy));
        if is_other { Self::default() } else { Self { clusters, touched, is_unread } }
    }

    /// Takes a cluster out, where its translation would give the same again.
    pub(super) fn take(&mut self, id: &ClusterId, former: Option<&Arc<Cluster>>) -> Option<Made> {
        let Remembered { made, became } = self.clusters.remove(id)?;
        let is = |one: &Arc<Cluster>| former.is_some_and(|former| Arc::ptr_eq(former, one));
        let is_former = made.former.as_ref().map_or(former.is_none(), is);
        let is_untouched = !self.touched.clusters.contains(id.0.as_str())
            && !self.touched.namespaces.contains(made.cluster.namespace.as_str());
        let is_known = is_former || (!self.is_unread && is(&became));
        (is_untouched && is_known).then_some(made)
    }
}

/// What to remember of clusters, and of what became of them.
pub(super) fn remembered(
    all_made: BTreeMap<ClusterId, Made>,
    snapshot: &Snapshot,
) -> BTreeMap<ClusterId, Remembered> {
    let remember = |(id, mut made): (ClusterId, Made)| {
        let became = Arc::clone(snapshot.clusters.get(&id)?);
        if is_judged_here(&became) {
            return None;
        }
        // One of two equal ones is enough.
        if made.cluster == became {
            made.cluster = Arc::clone(&became);
        }
        Some((id, Remembered { made, became }))
    };
    all_made.into_iter().filter_map(remember).collect()
}

fn is_judged_here(cluster: &Cluster) -> bool {
    cluster.egress.as_ref().is_some_and(|egress| !egress.pods.is_empty())
}
