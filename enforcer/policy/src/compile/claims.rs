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
    /// The cluster and its place in the order of ids; `None` for the shared proxy.
    pub(super) cluster: Option<(usize, &'a Cluster)>,
    /// The way in.
    pub(super) frontend: &'a Frontend,
}

impl Claim<'_> {
    /// Who claims it.
    pub(super) fn claimant(&self) -> ClusterId {
        match self.cluster {
            Some((_, cluster)) => cluster.id.clone(),
            None => self.frontend.shared_claimant(),
        }
    }
}

/// Every frontend with all that claim it, in order.
///
/// An external IP may be an address of a node. A packet to it then meets a nodePort of the same
/// number too, so that both count.
pub(super) fn claims<'a>(
    snapshot: &'a Snapshot,
    node_addresses: &BTreeSet<IpAddr>,
) -> Vec<(FrontendKey, Claim<'a>)> {
    let of_clusters = snapshot.clusters.values().enumerate().flat_map(|(at, cluster)| {
        let cluster = Some((at, &**cluster));
        cluster
            .into_iter()
            .flat_map(|(_, it)| &it.frontends)
            .map(move |frontend| Claim { cluster, frontend })
    });
    let shared = snapshot.shared_proxy.iter().map(|frontend| Claim { cluster: None, frontend });
    let keyed = |claim: Claim<'a>| ((claim.frontend.protocol, claim.frontend.at), claim);
    let mut claims: Vec<(FrontendKey, Claim<'a>)> = of_clusters.chain(shared).map(keyed).collect();
    // Stable: clusters stay in the order of their ids, the shared proxy behind them.
    claims.sort_by_key(|(key, _)| *key);
    let two_ways = two_ways(&claims, node_addresses);
    if !two_ways.is_empty() {
        claims.extend(two_ways);
        claims.sort_by(|(left, one), (right, other)| {
            let order = |claim: &Claim<'_>| claim.cluster.map_or(usize::MAX, |(at, _)| at);
            left.cmp(right).then(order(one).cmp(&order(other)))
        });
    }
    claims
}

/// The claims of nodePorts at addresses of nodes that are frontends of the same number, once more for these.
fn two_ways<'a>(
    claims: &[(FrontendKey, Claim<'a>)],
    node_addresses: &BTreeSet<IpAddr>,
) -> Vec<(FrontendKey, Claim<'a>)> {
    let all = |key: FrontendKey| {
        let first = claims.partition_point(|(other, _)| *other < key);
        claims[first..].iter().take_while(move |(other, _)| *other == key)
    };
    let mut found = Vec::new();
    for same in claims.chunk_by(|(left, _), (right, _)| left == right) {
        let Some((key, _)) = same.first() else { continue };
        match *key {
            (protocol, FrontendAddress::Address { address, port })
                if sources::is_of_a_node(node_addresses, address) =>
            {
                let node_port = all((protocol, FrontendAddress::Node { port }));
                found.extend(node_port.map(|(_, claim)| (*key, *claim)));
            }
            (_, FrontendAddress::Address { .. } | FrontendAddress::Node { .. }) => {}
        }
    }
    found
}

/// Frontends that several claim, with all who do.
pub(super) fn contested(
    snapshot: &Snapshot,
    node_addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<FrontendKey, BTreeSet<ClusterId>> {
    let mut contested: BTreeMap<FrontendKey, BTreeSet<ClusterId>> = BTreeMap::new();
    for (frontend, claim) in claims(snapshot, node_addresses) {
        contested.entry(frontend).or_default().insert(claim.claimant());
    }
    contested.retain(|_, claimants| claimants.len() > 1);
    contested
}

/// One problem for every claimant but the first.
pub(super) fn conflicts(claims: &[(FrontendKey, Claim<'_>)]) -> Vec<Problem> {
    let [(_, first), others @ ..] = claims else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let claimant = first.claimant();
    let mut others: BTreeSet<ClusterId> =
        others.iter().map(|(_, claim)| claim.claimant()).collect();
    others.remove(&claimant);
    let port = match first.frontend.at {
        FrontendAddress::Node { port } => format!("nodePort {port}"),
        FrontendAddress::Address { address, port } => format!("{address} port {port}"),
    };
    let conflict = |other| Problem {
        cluster: first.cluster.map(|(_, cluster)| cluster.id.clone()),
        object: first.frontend.service.clone(),
        file: String::new(),
        field: "spec.ports".to_owned(),
        value: port.clone(),
        kind: ProblemKind::Conflict { other },
    };
    others.into_iter().map(conflict).collect()
}
