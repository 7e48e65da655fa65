//! Which counter slot belongs to which cluster and direction, read off the image in force.
//!
//! Both keep their slot across images and agents. A slot that the image in force uses is never
//! given to another cluster: it is free in the next image, and zeroed before it is used again.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::abi::CLUSTERS;
use sha2::{Digest, Sha256};

use super::CapacityError;
use crate::{compile::Rules, model::ClusterId};

/// What a slot counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Packets of this cluster.
    pub cluster: ClusterId,
    /// Which way they go.
    pub direction: Direction,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To frontends of the cluster.
    Ingress,
    /// From its API server pods.
    Egress,
}

impl Direction {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Counted {
    /// Packets to frontends of a cluster.
    #[must_use]
    pub const fn ingress(cluster: ClusterId) -> Self {
        Self { cluster, direction: Direction::Ingress }
    }

    /// Packets of a cluster's API server pods.
    #[must_use]
    pub const fn egress(cluster: ClusterId) -> Self {
        Self { cluster, direction: Direction::Egress }
    }

    /// The word that stands for it in an image, never 0.
    #[must_use]
    pub fn word(&self) -> u64 {
        let Self { cluster, direction } = self;
        let mut hash = Sha256::new_with_prefix(&cluster.0);
        match direction {
            Direction::Ingress => {}
            // No name ends like this.
            Direction::Egress => hash.update("\0egress"),
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte)).max(1)
    }
}

/// The slots of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    slots: BTreeMap<Counted, u32>,
    /// Slots that are new in this image and have to be zeroed before it is in force.
    pub fresh: BTreeSet<u32>,
}

impl Assignment {
    /// Slot of what the assignment was made for.
    pub(super) fn slot(&self, counted: &Counted) -> u32 {
        self.slots.get(counted).copied().unwrap_or(u32::MAX)
    }

    /// Everything that is counted and its slot.
    pub fn slots(&self) -> impl Iterator<Item = (&Counted, u32)> {
        self.slots.iter().map(|(counted, slot)| (counted, *slot))
    }

    /// Every slot and the word that names its owner.
    pub fn owners(&self) -> impl Iterator<Item = (u32, u64)> {
        self.slots.iter().map(|(counted, slot)| (*slot, counted.word()))
    }
}

/// Gives everything that is counted a slot; `observed` are the owners in the image in force.
pub fn assign(rules: &Rules, observed: &[u64]) -> Result<Assignment, CapacityError> {
    let guarded = rules.policies.iter().map(|policy| &policy.cluster);
    let gated = rules.egress_policies.iter().map(|policy| &policy.cluster);
    let counted: BTreeSet<Counted> = guarded
        .map(|cluster| Counted::ingress(cluster.clone()))
        .chain(gated.map(|cluster| Counted::egress(cluster.clone())))
        .collect();
    let limit = CLUSTERS as usize;
    if counted.len() > limit {
        return Err(CapacityError::Clusters { wanted: counted.len(), limit });
    }
    let held: BTreeMap<u64, u32> =
        observed.iter().copied().zip(0..).filter(|(owner, _)| *owner != 0).collect();
    let in_use = |slot: u32| observed.get(slot as usize).is_some_and(|owner| *owner != 0);
    let mut assignment = Assignment::default();
    let mut without = Vec::new();
    for one in counted {
        match held.get(&one.word()) {
            Some(slot) => {
                assignment.slots.insert(one, *slot);
            }
            None => without.push(one),
        }
    }
    let taken: BTreeSet<u32> = assignment.slots.values().copied().collect();
    // Slots that just lost their cluster come last: the image in force still counts in them.
    let free = (0..CLUSTERS).filter(|slot| !in_use(*slot));
    let vacated = (0..CLUSTERS).filter(|slot| in_use(*slot) && !taken.contains(slot));
    for (one, slot) in without.into_iter().zip(free.chain(vacated)) {
        assignment.slots.insert(one, slot);
        assignment.fresh.insert(slot);
    }
    Ok(assignment)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{compile::Policy, model::Mode, ranges::RangeSet};

    fn rules(clusters: &[&str]) -> Rules {
        let policy = |id: &&str| Policy {
            cluster: ClusterId((*id).to_owned()),
            admitted: Arc::new(RangeSet::default()),
            own_pods: true,
            mode: Mode::Enforce,
        };
        Rules { policies: clusters.iter().map(policy).collect(), ..Rules::default() }
    }

    fn owners(assignment: &Assignment) -> Vec<u64> {
        let mut owners = vec![0; CLUSTERS as usize];
        for (slot, owner) in assignment.owners() {
            owners[slot as usize] = owner;
        }
        owners
    }

    #[test]
    fn a_cluster_keeps_its_slot_when_others_come_and_go() {
        let first = assign(&rules(&["b", "c"]), &[]).unwrap();
        let second = assign(&rules(&["a", "c"]), &owners(&first)).unwrap();
        let slot = |assignment: &Assignment, id: &str| {
            assignment.slot(&Counted::ingress(ClusterId(id.to_owned())))
        };
        assert_eq!(slot(&second, "c"), slot(&first, "c"));
        assert_ne!(slot(&second, "a"), slot(&first, "b"), "the image in force counts for b there");
        assert_eq!(second.fresh, BTreeSet::from([slot(&second, "a")]));
        let third = assign(&rules(&["a", "c", "d"]), &owners(&second)).unwrap();
        assert_eq!(slot(&third, "d"), slot(&first, "b"), "free by now");
    }

    #[test]
    fn more_clusters_than_counters_are_refused() {
        let ids: Vec<String> = (0..=CLUSTERS).map(|i| format!("c{i}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let limit = CLUSTERS as usize;
        assert_eq!(
            assign(&rules(&ids), &[]),
            Err(CapacityError::Clusters { wanted: limit + 1, limit })
        );
        assert!(assign(&rules(&ids[1..]), &[]).is_ok());
    }
}
