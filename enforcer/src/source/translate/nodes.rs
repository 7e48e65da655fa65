//! The nodes of the seed cluster.
//!
//! Input: Node objects and the former snapshot. Output: their addresses and pod ranges. Invariant: a
//! node that is there and cannot be read keeps what it had: it is not locked out by an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{SeedNode, Snapshot},
    problem::ProblemKind,
};

use super::{
    ranges,
    report::{Place, Report},
};
use crate::source::{
    objects::{Kind, Node, NodeSpec},
    store::{Key, Objects, Stored},
};

/// Translates all nodes.
pub(super) fn translate(
    objects: &Objects,
    former: Option<&Snapshot>,
    report: &mut Report,
) -> BTreeMap<String, SeedNode> {
    let read = objects
        .nodes
        .iter()
        .map(|(Key { name, .. }, stored)| (name.to_string(), node(name, stored, report)));
    let mut nodes: BTreeMap<String, SeedNode> = read.collect();
    for (name, node) in former.into_iter().flat_map(|former| &former.nodes) {
        if objects.may_exist(&Kind::Node.reference("", name)) {
            nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
    }
    nodes
}

fn node(name: &str, stored: &Stored<Node>, report: &mut Report) -> SeedNode {
    let Node { metadata: _, spec: NodeSpec { pod_cidr, pod_cidrs }, status: _ } = &*stored.object;
    let object = Kind::Node.reference("", name);
    let mut pod_ranges = BTreeSet::new();
    let mut add = |field: &str, text: &str| match ranges::range(text) {
        Some(net) => {
            pod_ranges.insert(net);
        }
        None => {
            let place = Place { object: &object, file: &stored.file, field };
            report.add(place, text, ProblemKind::InvalidRange);
        }
    };
    for (position, text) in pod_cidrs.iter().enumerate() {
        add(&format!("spec.podCIDRs[{position}]"), text);
    }
    if pod_cidrs.is_empty() && !pod_cidr.is_empty() {
        add("spec.podCIDR", pod_cidr);
    }
    SeedNode { addresses: addresses(&stored.object), pod_ranges: pod_ranges.into_iter().collect() }
}

/// A node's addresses; names and what is no address are left out.
fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    node.status
        .addresses
        .iter()
        .filter(|address| matches!(address.address_type.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| ranges::address(&address.address))
        .collect()
}

impl Objects {
    /// Addresses in the status of a Node, none where it is not there.
    #[must_use]
    pub fn node_addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        let stored = self.nodes.get(&Key::new("", name));
        stored.map(|stored| addresses(&stored.object)).unwrap_or_default()
    }
}
