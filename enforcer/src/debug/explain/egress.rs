//! Connections that API servers open: the part of `explain` behind `--egress`.
//!
//! Input: a cluster or the address of a pod of this node, and a destination. Output: the verdict of the
//! pod's own policy, and the peer that grants it.

use std::net::{IpAddr, SocketAddr};

use enforcer_ebpf::verdict::Reason;
use enforcer_policy::{
    compile::EgressPod,
    model::{Cluster, ClusterId, Egress, Peer, PeerPort, Protocol},
};

use super::{Asker, DebugError, ExplainError, SOURCE_PORT, Said, address, place, reason, verdict};
use crate::{
    debug::words,
    kernel::{Probe, Step},
};

impl Asker<'_> {
    /// What becomes of a connection that a pod of this node opens.
    pub(super) fn egress(&self, source: &str, target: &str) -> Result<Vec<Said>, DebugError> {
        let Some((to, protocol)) = place(target) else {
            return Err(ExplainError::EgressTarget(target.to_owned()).into());
        };
        let policies = &self.known.rules.egress_policies;
        let mut verdicts = Vec::new();
        for (interface, pod) in &self.known.rules.egress {
            let EgressPod { netns: _, v4, v6, policy } = pod;
            let own = if to.is_ipv4() { v4.map(IpAddr::V4) } else { v6.map(IpAddr::V6) };
            let addresses = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)];
            let id = policies.get(*policy).map(|policy| &policy.cluster);
            let is_meant = id.is_some_and(|id| id.0 == source)
                || address(source).is_ok_and(|address| addresses.contains(&Some(address)));
            let (Some(own), Some(id), true) = (own, id, is_meant) else { continue };
            verdicts.push(self.leaves(*interface, own, id, to, protocol)?);
        }
        let open = self.known.snapshot.clusters.get(&ClusterId(source.to_owned()));
        match (verdicts.is_empty(), open) {
            (false, _) => Ok(verdicts),
            (true, Some(cluster)) if cluster.egress.is_none() => {
                Ok(vec![Said::ungated(cluster, to, protocol)])
            }
            (true, _) => Err(ExplainError::NoPod(source.to_owned()).into()),
        }
    }

    fn leaves(
        &self,
        interface: u32,
        own: IpAddr,
        id: &ClusterId,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Said, DebugError> {
        let from = SocketAddr::new(own, SOURCE_PORT);
        let explained =
            self.dry_run.leaves(interface, &Probe { from, to, protocol, step: Step::Open })?;
        let egress = self.known.snapshot.clusters.get(id).and_then(|it| it.egress.as_ref());
        let peer = egress
            .and_then(|Egress { peers, .. }| peers.iter().find(|peer| names(peer, to, protocol)));
        let (reason, peer) = (reason(explained), peer.filter(|_| !explained.drops));
        Ok(Said {
            frontend: None,
            cluster: Some(id.to_string()),
            source: own.to_string(),
            destination: to.to_string(),
            protocol: words::protocol(protocol),
            verdict: verdict(explained),
            reason,
            range: peer.map(|peer| peer.net.to_string()),
            object: peer.map(|peer| peer.origin.object.to_string()),
            field: peer.map(|peer| peer.origin.field.clone()),
            why: match peer {
                Some(Peer { net, port, origin }) => {
                    format!("{net} port {} of {origin}", words::peer_port(*port))
                }
                None if explained.drops => format!("no peer of {id} is there"),
                None => reason.replace('_', " "),
            },
        })
    }
}

impl Said {
    fn ungated(cluster: &Cluster, to: SocketAddr, protocol: Protocol) -> Self {
        Self {
            frontend: None,
            cluster: Some(cluster.id.to_string()),
            source: cluster.id.to_string(),
            destination: to.to_string(),
            protocol: words::protocol(protocol),
            verdict: "unguarded",
            reason: Reason::Unguarded.name(),
            range: None,
            object: None,
            field: None,
            why: "spec.features.apiserverNetworkPolicy is off".to_owned(),
        }
    }
}

fn names(peer: &Peer, to: SocketAddr, protocol: Protocol) -> bool {
    let at = match peer.port {
        PeerPort::Any => true,
        PeerPort::Only(only, port) => only == protocol && port == to.port(),
    };
    at && peer.net.contains(&to.ip())
}
