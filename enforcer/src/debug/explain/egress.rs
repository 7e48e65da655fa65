//! Connections that API servers open: the part of `explain` behind `--egress`.
//!
//! Input: a cluster or the address of a pod of this node, and a destination. Output: the verdict of the
//! pod's own policy, and the peer that grants it.

use std::net::{IpAddr, SocketAddr};

use enforcer_ebpf::verdict::Reason;
use enforcer_policy::{
    compile::EgressPod,
    model::{Cluster, ClusterId, Egress, Frontend, Peer, PeerPort, Protocol, Side},
};

use super::{
    Asker, DebugError, Direction, ExplainError, SOURCE_PORT, Said, address, place, reason, verdict,
};
use crate::{
    debug::words::{self, FrontendWords},
    kernel::{Probe, Step},
};

/// A gated pod of this node, by one of its addresses.
pub(super) struct Gated<'a> {
    interface: u32,
    own: IpAddr,
    id: &'a ClusterId,
}

impl<'a> Asker<'a> {
    /// What becomes of a connection that a pod of this node opens.
    pub(super) fn egress(&self, source: &str, target: &str) -> Result<Vec<Said>, DebugError> {
        let Some((to, protocol)) = place(target) else {
            return Err(ExplainError::EgressTarget(target.to_owned()).into());
        };
        let asked = address(source).ok();
        let mut verdicts = Vec::new();
        for (interface, pod) in &self.known.rules.egress {
            let addresses = own(pod);
            let of_family =
                addresses.into_iter().flatten().find(|own| own.is_ipv4() == to.is_ipv4());
            let (Some(own), Some(id)) = (of_family, self.owner_of(pod)) else { continue };
            if id.0 == source || asked.is_some_and(|asked| addresses.contains(&Some(asked))) {
                let pod = Gated { interface: *interface, own, id };
                verdicts.push(self.leaves_and_enters(
                    &pod,
                    to,
                    protocol,
                    None,
                    Direction::Egress,
                )?);
            }
        }
        let open = self.known.snapshot.clusters.get(&ClusterId(source.to_owned()));
        match (verdicts.is_empty(), open) {
            (false, _) => Ok(verdicts),
            (true, Some(cluster)) if cluster.egress.is_none() => {
                self.ungated(cluster, to, protocol)
            }
            (true, _) => Err(ExplainError::NoPod(source.to_owned()).into()),
        }
    }

    /// The gated pod of this node that has an address.
    pub(super) fn gated(&self, address: IpAddr) -> Option<Gated<'a>> {
        self.known.rules.egress.iter().find_map(|(interface, pod)| {
            let id = self.owner_of(pod)?;
            let is_its = own(pod).contains(&Some(address));
            is_its.then_some(Gated { interface: *interface, own: address, id })
        })
    }

    fn owner_of(&self, pod: &EgressPod) -> Option<&'a ClusterId> {
        self.known.rules.egress_policies.get(pod.policy).map(|policy| &policy.cluster)
    }

    /// What a gated pod sends has to be let go by its own policy, and then by the frontend's.
    pub(super) fn leaves_and_enters(
        &self,
        pod: &Gated<'_>,
        to: SocketAddr,
        protocol: Protocol,
        frontend: Option<&Frontend>,
        asked: Direction,
    ) -> Result<Said, DebugError> {
        let mut leaving = self.leaves(pod.interface, pod.own, pod.id, to, protocol)?;
        if asked == Direction::Ingress {
            leaving.frontend = frontend.map(FrontendWords::of);
        }
        if leaving.verdict == "denied" {
            return Ok(leaving);
        }
        let mut there = self.enters(pod.own, Side::Pod, to, protocol, frontend)?;
        let decides_there = match (there.verdict, leaving.verdict) {
            ("denied" | "handshake", _) => true,
            (_, "would-deny") => false,
            ("would-deny", _) => true,
            _ => asked == Direction::Ingress,
        };
        if !decides_there {
            return Ok(leaving);
        }
        if asked == Direction::Egress {
            there.why = format!("it may leave; where it arrives: {}", there.why);
        }
        Ok(there)
    }

    /// Pods that are not gated meet the frontend's lists alone.
    fn ungated(
        &self,
        cluster: &Cluster,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Vec<Said>, DebugError> {
        let here = self.known.snapshot.this_node.pod_interfaces.iter();
        let here = here.flat_map(|end| &end.addresses);
        let own =
            here.filter(|it| cluster.api_server_pods.contains(it) && it.is_ipv4() == to.is_ipv4());
        let mut verdicts = Vec::new();
        for own in own {
            let there = self.enters(*own, Side::Pod, to, protocol, None)?;
            if !matches!(there.verdict, "allowed" | "unguarded") {
                verdicts.push(there);
            }
        }
        if verdicts.is_empty() {
            verdicts.push(Said::ungated(cluster, to, protocol));
        }
        Ok(verdicts)
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

fn own(pod: &EgressPod) -> [Option<IpAddr>; 2] {
    [pod.v4.map(IpAddr::V4), pod.v6.map(IpAddr::V6)]
}

fn names(peer: &Peer, to: SocketAddr, protocol: Protocol) -> bool {
    let at = match peer.port {
        PeerPort::Any => true,
        PeerPort::Only(only, port) => only == protocol && port == to.port(),
    };
    at && peer.net.contains(&to.ip())
}
