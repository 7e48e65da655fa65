//! What the compilation of one snapshot leaves for the next, cluster by cluster.
//!
//! Input: snapshots, one after the other. Output: for each cluster what was made of it before, where it is
//! the very same cluster and the lists of the Seed that count for it are the same. Invariant: what is
//! remembered changes no result.

use std::{cmp::Ordering, sync::Arc};

use super::{lists::Admission, revision::PartDigest};
use crate::model::{Cluster, LoadBalancerRanges, Seed, SeedDefaults, Snapshot};

/// What was made of all clusters.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seed: Option<Seed>,
    seed_defaults: SeedDefaults,
    lb_ranges: LoadBalancerRanges,
    /// In the order of their ids.
    clusters: Vec<Known>,
}

/// What was made of a cluster.
#[derive(Debug)]
pub(super) struct Known {
    cluster: Arc<Cluster>,
    /// Of what all nodes share of it.
    pub(super) digest: Option<PartDigest>,
    /// Without and with the load balancer ranges, each once it was asked for.
    pub(super) admissions: [Option<Admission>; 2],
}

impl Memory {
    /// The clusters of a snapshot in the order of their ids, with what is known of them.
    pub(super) fn recall(&mut self, snapshot: &Snapshot) -> Vec<Known> {
        let Snapshot { options, seed, clusters, .. } = snapshot;
        let same_lists = self.seed == *seed
            && self.seed_defaults == options.seed_defaults
            && self.lb_ranges == options.lb_ranges;
        self.seed.clone_from(seed);
        (self.seed_defaults, self.lb_ranges) = (options.seed_defaults, options.lb_ranges);
        let mut before = std::mem::take(&mut self.clusters).into_iter().peekable();
        let mut recall = |cluster: &Arc<Cluster>| {
            let is_before = |known: &Known| {
                !Arc::ptr_eq(&known.cluster, cluster)
                    && known.cluster.id.cmp(&cluster.id) == Ordering::Less
            };
            while before.next_if(is_before).is_some() {}
            let known = before.next_if(|known| Arc::ptr_eq(&known.cluster, cluster))?;
            let admissions = if same_lists { known.admissions } else { [None, None] };
            Some(Known { admissions, ..known })
        };
        let new = |cluster: &Arc<Cluster>| {
            let cluster = Arc::clone(cluster);
            Known { cluster, digest: None, admissions: [None, None] }
        };
        clusters.values().map(|cluster| recall(cluster).unwrap_or_else(|| new(cluster))).collect()
    }

    /// Takes note of what was made.
    pub(super) fn note(&mut self, clusters: Vec<Known>) {
        self.clusters = clusters;
    }
}
