//! Whom the lists of a claimant admit.
//!
//! Input: the lists of Cluster and Seed. Output: an [`Admission`] for each claimant and for each of
//! the two kinds of frontends that one cluster may have. Invariant: lists of equal ranges are one set in
//! memory, also from one snapshot to the next.

use std::{
    collections::{BTreeMap, HashMap},
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
pub(super) struct Lists<'a, 's> {
    options: &'a Options,
    seed: Option<&'a Seed>,
    /// By cluster, `None` for the shared proxy, and whether the load balancer ranges count.
    known: BTreeMap<(Option<&'a ClusterId>, bool), Admission>,
    sets: &'s mut Sets,
}

/// Sets by the ranges that they were made of, in their order.
#[derive(Debug, Default)]
pub(super) struct Sets {
    known: HashMap<Vec<IpNet>, Known>,
    made: usize,
}

#[derive(Debug)]
struct Known {
    set: Arc<RangeSet>,
    is_used: bool,
}

impl Sets {
    /// The set of these ranges.
    pub(super) fn of(&mut self, ranges: Vec<IpNet>) -> Arc<RangeSet> {
        let known = self.known.entry(ranges).or_insert_with_key(|ranges| {
            self.made += 1;
            Known { set: Arc::new(ranges.iter().copied().collect()), is_used: true }
        });
        known.is_used = true;
        Arc::clone(&known.set)
    }

    /// Sets made since they were last looked through.
    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// Forgets what was not asked for since the last call.
    pub(super) fn forget_unused(&mut self) {
        self.known.retain(|_, known| std::mem::take(&mut known.is_used));
    }
}

impl<'a, 's> Lists<'a, 's> {
    pub(super) fn new(snapshot: &'a Snapshot, sets: &'s mut Sets) -> Self {
        sets.made = 0;
        let (options, seed) = (&snapshot.options, snapshot.seed.as_ref());
        Self { options, seed, known: BTreeMap::new(), sets }
    }

    /// For sets that are no list's.
    pub(super) fn sets(&mut self) -> &mut Sets {
        self.sets
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
        Admission::Only(self.sets.of(lists.into_iter().flatten().flat_map(nets).collect()))
    }
}

/// What both admit.
pub(super) fn both(left: Arc<RangeSet>, right: Arc<RangeSet>) -> Arc<RangeSet> {
    if left == right { left } else { Arc::new(left.intersection(&right)) }
}

fn nets(list: &RangeList) -> impl Iterator<Item = IpNet> {
    list.ranges.iter().map(|range| range.net)
}
