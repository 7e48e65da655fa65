//! Whom the lists of a claimant admit.
//!
//! Input: the lists of Cluster and Seed. Output: an [`Admission`] for each claimant and for each of
//! the two kinds of frontends that one cluster may have. Invariant: lists of equal ranges are one set in
//! memory, also from one snapshot to the next.

use std::{collections::HashSet, sync::Arc};

use ipnet::IpNet;

use super::{claims::Claim, memory::Known};
use crate::{
    model::{
        Cluster, ExposeStrategy, LoadBalancerRanges, Options, RangeList, Seed, SeedDefaults,
        Snapshot,
    },
    ranges::RangeSet,
};

/// Whom an allowlist admits. Absent is not empty: only the first lets everybody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No list applies.
    Unrestricted,
    /// These, and the exemptions.
    Only(Arc<RangeSet>),
}

/// The admissions of one snapshot, each made when it is first asked for.
pub(super) struct Lists<'a, 's> {
    options: &'a Options,
    seed: Option<&'a Seed>,
    clusters: &'s mut [Known],
    shared_proxy: Option<Admission>,
    sets: &'s mut Sets,
}

/// Sets, each once, also from one snapshot to the next.
#[derive(Debug, Default)]
pub(super) struct Sets {
    all: HashSet<Arc<RangeSet>>,
    made: usize,
}

impl Sets {
    /// The set of these ranges.
    pub(super) fn of(&mut self, ranges: impl IntoIterator<Item = IpNet>) -> Arc<RangeSet> {
        self.one(ranges.into_iter().collect())
    }

    /// What both admit.
    pub(super) fn both(&mut self, left: Arc<RangeSet>, right: &Arc<RangeSet>) -> Arc<RangeSet> {
        if left == *right { left } else { self.one(left.intersection(right)) }
    }

    /// The one that is equal to this.
    fn one(&mut self, set: RangeSet) -> Arc<RangeSet> {
        self.made += 1;
        if let Some(known) = self.all.get(&set) {
            return Arc::clone(known);
        }
        let set = Arc::new(set);
        self.all.insert(Arc::clone(&set));
        set
    }

    /// Sets made since [`Self::begin`].
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// Forgets what nobody else holds.
    pub(super) fn forget_unused(&mut self) {
        self.all.retain(|set| Arc::strong_count(set) > 1);
    }

    /// Begins to count anew.
    pub(super) fn begin(&mut self) {
        self.made = 0;
    }
}

impl<'a, 's> Lists<'a, 's> {
    /// `clusters` are those of the snapshot, in order.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        clusters: &'s mut [Known],
        sets: &'s mut Sets,
    ) -> Self {
        let (options, seed) = (&snapshot.options, snapshot.seed.as_ref());
        Self { options, seed, clusters, shared_proxy: None, sets }
    }

    /// For sets that are no list's.
    pub(super) fn sets(&mut self) -> &mut Sets {
        self.sets
    }

    /// Whether the load balancer ranges count for a claim.
    pub(super) fn is_balanced(&self, claim: &Claim<'a>) -> bool {
        claim.frontend.kind.is_shared_proxy()
            || self.options.lb_ranges == LoadBalancerRanges::Everywhere
            || claim.cluster.is_none_or(|(_, it)| it.strategy == ExposeStrategy::LoadBalancer)
    }

    /// Whom the claimant admits at this frontend.
    pub(super) fn admission(&mut self, claim: &Claim<'a>) -> Admission {
        let balanced = self.is_balanced(claim);
        let cluster = claim.cluster.map(|(_, cluster)| cluster);
        if let Some(known) = self.slot(claim, balanced) {
            return known.clone();
        }
        let admission = self.read(cluster, balanced);
        *self.slot(claim, balanced) = Some(admission.clone());
        admission
    }

    /// Where the admission of a claimant is kept.
    fn slot(&mut self, claim: &Claim<'a>, balanced: bool) -> &mut Option<Admission> {
        match claim.cluster {
            Some((at, _)) => &mut self.clusters[at].admissions[usize::from(balanced)],
            None => &mut self.shared_proxy,
        }
    }

    /// The truth table of KKP (README, "What is enforced").
    fn read(&mut self, cluster: Option<&Cluster>, balanced: bool) -> Admission {
        let balancer = self.seed.and_then(|seed| seed.load_balancer_ranges.as_ref());
        let balancer = balancer.filter(|_| balanced);
        let lists = match cluster {
            None => [None, None, balancer],
            Some(cluster) => {
                let own = cluster.allowed.as_ref();
                let defaults = self.seed.and_then(|seed| seed.default_ranges.as_ref());
                let defaults = match (own, self.options.seed_defaults) {
                    (Some(_), SeedDefaults::Appended | SeedDefaults::Always)
                    | (None, SeedDefaults::Always) => defaults,
                    (None, SeedDefaults::Appended) => None,
                };
                [own, defaults, balancer]
            }
        };
        if lists.iter().flatten().all(|list| list.written == 0) {
            return Admission::Unrestricted;
        }
        Admission::Only(self.sets.of(lists.into_iter().flatten().flat_map(nets)))
    }
}

fn nets(list: &RangeList) -> impl Iterator<Item = IpNet> {
    list.ranges.iter().map(|range| range.net)
}
