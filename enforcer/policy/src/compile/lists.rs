//! Whom the lists of a claimant admit.
//!
//! Input: the lists of Cluster and Seed. Output: an [`Admission`] for each claimant and for each of
//! the two kinds of frontends that one cluster may have. Invariant: equal lists are one set in memory.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use ipnet::IpNet;

use super::claims::Claim;
use crate::{
    model::{
        Cluster, ClusterId, ExposeStrategy, LoadBalancerRanges, Options, RangeList, Seed,
        SeedDefaults, Snapshot,
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
pub(super) struct Lists<'a> {
    options: &'a Options,
    seed: Option<&'a Seed>,
    /// By cluster, `None` for the shared proxy, and whether the load balancer ranges count.
    known: BTreeMap<(Option<&'a ClusterId>, bool), Admission>,
    sets: HashSet<Arc<RangeSet>>,
}

impl<'a> Lists<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let (options, seed) = (&snapshot.options, snapshot.seed.as_ref());
        Self { options, seed, known: BTreeMap::new(), sets: HashSet::new() }
    }

    /// Whom the claimant admits at this frontend.
    pub(super) fn admission(&mut self, claim: &Claim<'a>) -> Admission {
        let balanced = claim.frontend.kind.is_shared_proxy()
            || self.options.lb_ranges == LoadBalancerRanges::Everywhere
            || claim.cluster.is_none_or(|cluster| cluster.strategy == ExposeStrategy::LoadBalancer);
        let key = (claim.cluster.map(|cluster| &cluster.id), balanced);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let admission = self.read(claim.cluster, balanced);
        self.known.insert(key, admission.clone());
        admission
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
        let set: RangeSet = lists.into_iter().flatten().flat_map(nets).collect();
        Admission::Only(self.shared(set))
    }

    fn shared(&mut self, set: RangeSet) -> Arc<RangeSet> {
        if let Some(known) = self.sets.get(&set) {
            return Arc::clone(known);
        }
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        set
    }
}

/// What both admit.
pub(super) fn both(left: Arc<RangeSet>, right: Arc<RangeSet>) -> Arc<RangeSet> {
    if left == right { left } else { Arc::new(left.intersection(&right)) }
}

fn nets(list: &RangeList) -> impl Iterator<Item = IpNet> {
    list.ranges.iter().map(|range| range.net)
}
