//! Who claims which frontend.
//!
//! Input: a snapshot. Output: every frontend with its claims, clusters before the shared proxy and in
//! the order of their ids, and what is to be said where several claim one. Invariant: a destination
//! that a packet reaches in two ways has the claims of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{FrontendKey, sources};
use crate::{
    model::{Cluster, ClusterId, Frontend, FrontendAddress, Snapshot},
    problem::{Problem, ProblemKind},
};

/// One claim on a frontend.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The cluster; `None` for the shared proxy.
    pub(super) cluster: Option<&'a Cluster>,
    /// The way in.
    pub(super) frontend: &'a Frontend,
}

impl Claim<'_> {
    /// Who claims it.
    pub(super) fn claimant(&self) -> ClusterId {
        match self.cluster {
            Some(cluster) => cluster.id.clone(),
            None => self.frontend.shared_claimant(),
        }
    }
}

/// Every frontend with all that claim it.
///
/// An external IP may be an address of a node. A packet to it then meets a nodePort of the same
/// number too, so that both count.
pub(super) fn claims<'a>(
    snapshot: &'a Snapshot,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<FrontendKey, Vec<Claim<'a>>> {
    let of_clusters = snapshot.clusters.values().flat_map(|cluster| {
        cluster.frontends.iter().map(move |frontend| Claim { cluster: Some(cluster), frontend })
    });
    let shared = snapshot.shared_proxy.iter().map(|frontend| Claim { cluster: None, frontend });
    let mut claims: BTreeMap<FrontendKey, Vec<Claim<'a>>> = BTreeMap::new();
    for claim in of_clusters.chain(shared) {
        claims.entry((claim.frontend.protocol, claim.frontend.at)).or_default().push(claim);
    }
    let two_ways: Vec<_> = claims
        .keys()
        .filter_map(|key| match *key {
            (protocol, FrontendAddress::Address { address, port })
                if sources::is_of_a_node(node_addresses, address) =>
            {
                let node_port = claims.get(&(protocol, FrontendAddress::Node { port }))?;
                Some((*key, node_port.clone()))
            }
            (_, FrontendAddress::Address { .. } | FrontendAddress::Node { .. }) => None,
        })
        .collect();
    for (key, node_port) in two_ways {
        let claims = claims.entry(key).or_default();
        claims.extend(node_port);
        claims.sort_by_cached_key(|claim| (claim.cluster.is_none(), claim.claimant()));
    }
    claims
}

/// Frontends that several claim, with all who do.
pub(super) fn contested(
    snapshot: &Snapshot,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<FrontendKey, BTreeSet<ClusterId>> {
    let claimants = |claims: Vec<Claim<'_>>| claims.iter().map(Claim::claimant).collect();
    let mut contested: BTreeMap<FrontendKey, BTreeSet<ClusterId>> =
        claims(snapshot, node_addresses)
            .into_iter()
            .map(|(frontend, claims)| (frontend, claimants(claims)))
            .collect();
    contested.retain(|_, claimants| claimants.len() > 1);
    contested
}

/// One problem for every claimant but the first.
pub(super) fn conflicts(claims: &[Claim<'_>]) -> Vec<Problem> {
    let [first, others @ ..] = claims else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let claimant = first.claimant();
    let mut others: BTreeSet<ClusterId> = others.iter().map(Claim::claimant).collect();
    others.remove(&claimant);
    let port = match first.frontend.at {
        FrontendAddress::Node { port } => format!("nodePort {port}"),
        FrontendAddress::Address { address, port } => format!("{address} port {port}"),
    };
    let conflict = |other| Problem {
        cluster: first.cluster.map(|cluster| cluster.id.clone()),
        object: first.frontend.service.clone(),
        file: String::new(),
        field: "spec.ports".to_owned(),
        value: port.clone(),
        kind: ProblemKind::Conflict { other },
    };
    others.into_iter().map(conflict).collect()
}
