//! Pods whose addresses lie in no range that pods are known to have.
//!
//! Input: the pods and endpoints that are seen, known ranges, addresses of nodes, what was found before.
//! Output: [`Outside`]. Invariant: what is remembered changes no result.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{Options, SeedNode},
    ranges::RangeSet,
};

use super::pods;
use crate::source::store::{Objects, Touched};

/// Such pods.
#[derive(Debug, Default)]
pub(super) struct Outside {
    known: RangeSet,
    hosts: BTreeSet<IpAddr>,
    /// Of each namespace that has any.
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Outside {
    /// Looks for them: among all pods, or only where something was touched since `former` was found.
    pub(super) fn find(
        objects: &Objects,
        options: &Options,
        nodes: &BTreeMap<String, SeedNode>,
        hosts: &BTreeSet<IpAddr>,
        former: Option<(Self, &Touched<'_>)>,
    ) -> Self {
        let ranges = nodes.values().flat_map(|node| &node.pod_ranges).chain(&options.exempt);
        let known: RangeSet = ranges.copied().collect();
        match former {
            Some((former, touched)) if former.known == known && former.hosts == *hosts => {
                former.look_again(objects, touched)
            }
            Some(_) | None => {
                let hosts = hosts.clone();
                Self { known, hosts, addresses: BTreeMap::new() }.look(objects)
            }
        }
    }

    fn look(mut self, objects: &Objects) -> Self {
        for (namespace, address) in pods::all(objects) {
            if !self.is_inside(address) {
                self.addresses.entry(namespace.to_owned()).or_default().push(address);
            }
        }
        self
    }

    fn look_again(mut self, objects: &Objects, touched: &Touched<'_>) -> Self {
        for namespace in &touched.namespaces {
            self.addresses.remove(*namespace);
            let outside: Vec<IpAddr> =
                pods::all_in(objects, namespace).filter(|it| !self.is_inside(*it)).collect();
            if !outside.is_empty() {
                self.addresses.insert((*namespace).to_owned(), outside);
            }
        }
        self
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address) || self.known.contains(address)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Their addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.values().flatten().copied()
    }
}
