//! How much of what all clusters share one of them may have, besides the ranges of its list.
//!
//! Input: what belongs to a cluster, what of it was in force before, a limit. Output: at most so much, and a
//! problem that says what is left out. Invariants: the image has room for every other cluster whatever
//! one of them has; nothing that is left out widens what anybody else admits; what is kept stays the same
//! while objects do.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr};

use enforcer_policy::{
    model::{self, Frontend, FrontendAddress, Peer},
    problem::ProblemKind,
};

use super::{
    pods::Pods,
    report::{Place, Report},
};
use crate::source::objects::Kind;

/// What one cluster may have.
#[derive(Clone, Copy)]
pub(super) struct Quota<'a> {
    /// `--max-addresses-per-cluster`, of each kind.
    pub(super) limit: usize,
    /// Its namespace, which the problems are about.
    pub(super) namespace: &'a str,
    /// The cluster as it was.
    pub(super) former: Option<&'a model::Cluster>,
}

impl Quota<'_> {
    /// Frontends. nodePorts have a place for each number and are never left out; of the others those in
    /// force stay, and pods, which only the seed reaches, go first.
    pub(super) fn frontends(&self, all: BTreeSet<Frontend>, report: &mut Report) -> Vec<Frontend> {
        let is_limited = |it: &Frontend| matches!(it.at, FrontendAddress::Address { .. });
        let (mut limited, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_limited);
        let count = limited.len();
        if count > self.limit {
            let former = self.former.into_iter().flat_map(|former| &former.frontends);
            let former: BTreeSet<&Frontend> = former.collect();
            limited.sort_by_key(|it| (Reverse(former.contains(it)), it.kind.is_pod()));
            limited.truncate(self.limit);
            let beyond = "are not guarded";
            self.tell("frontends", count, "addresses with a port", beyond, report);
        }
        let kept: BTreeSet<Frontend> = limited.into_iter().chain(others).collect();
        kept.into_iter().collect()
    }

    /// Pods. Those of API servers are never left out, since they would count as any pod of the seed.
    pub(super) fn pods(&self, mut pods: Pods, report: &mut Report) -> Pods {
        let count = pods.own.len();
        if count > self.limit {
            let mut others: Vec<IpAddr> = pods.own.difference(&pods.api_servers).copied().collect();
            let was =
                |address: &IpAddr| self.former.is_some_and(|it| it.own_pods.contains(address));
            others.sort_by_key(|address| Reverse(was(address)));
            others.truncate(self.limit.saturating_sub(pods.api_servers.len()));
            pods.own = others.into_iter().chain(pods.api_servers.iter().copied()).collect();
            let beyond = "are not admitted as its own";
            self.tell("pods", count, "addresses", beyond, report);
        }
        pods
    }

    /// Peers in the cluster's own namespace.
    pub(super) fn peers(&self, mut peers: Vec<Peer>, report: &mut Report) -> Vec<Peer> {
        let count = peers.len();
        if count > self.limit {
            let former = self.former.and_then(|former| former.egress.as_ref());
            let former = former.into_iter().flat_map(|egress| &egress.peers);
            let former: BTreeSet<_> = former.map(|peer| (peer.net, peer.port)).collect();
            peers.sort_by_key(|peer| Reverse(former.contains(&(peer.net, peer.port))));
            peers.truncate(self.limit);
            let beyond = "are not granted";
            self.tell("egress peers", count, "addresses with a port", beyond, report);
        }
        peers
    }

    fn tell(&self, what: &str, count: usize, unit: &str, beyond: &str, report: &mut Report) {
        let object = Kind::Namespace.reference("", self.namespace);
        let place = Place { object: &object, file: "", field: what };
        let reason = format!("{count} {unit}, and {} are allowed", self.limit);
        let beyond = beyond.to_owned();
        report.add(place, &count.to_string(), ProblemKind::OverQuota { reason, beyond });
    }
}
