//! Whether pods, and services' addresses inside the seed, are guarded as destinations.
//!
//! Input: `--guard-pods`, the pods that are seen, and the ranges that pods are known to have. Output:
//! [`Guard`], which services' pods are guarded on this node. Invariant: with `auto`, they are guarded
//! only where sources inside the seed can be told from outside ones, or where a load balancer sends
//! its clients to pods: guarding them elsewhere would cut the seed off from its own API servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use enforcer_policy::{
    model::{ObjectRef, SeedNode, ThisNode},
    problem::ProblemKind,
};
use ipnet::IpNet;

use super::{
    Settings, frontends,
    outside::Outside,
    report::{Place, Report},
};
use crate::source::objects::Service;

/// `--guard-pods`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardPods {
    /// Where sources inside the seed can be told from outside ones, and where load balancers target
    /// pods.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What is guarded of pods.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Guard {
    whose: Whose,
    /// Addresses of nodes: none of them is a pod's.
    pub(super) hosts: BTreeSet<IpAddr>,
    /// This node, where its Node object is seen.
    node: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Whose {
    /// Those of every service that exposes a control plane.
    All,
    /// Those of services whose load balancer targets pods.
    Targeted,
    Nobodys,
}

impl Guard {
    /// Decides it, and says once what stays open; `outside` are the pods that lie in no known range, asked
    /// for with `auto` only.
    pub(super) fn decide(
        settings: &Settings,
        nodes: &BTreeMap<String, SeedNode>,
        this_node: &ThisNode,
        hosts: BTreeSet<IpAddr>,
        outside: Option<&Outside>,
        report: &mut Report,
    ) -> Self {
        let outside = outside.filter(|outside| !outside.is_empty());
        let whose = match (settings.guard_pods, outside) {
            (GuardPods::Off, _) => Whose::Nobodys,
            (GuardPods::On, _) | (GuardPods::Auto, None) => Whose::All,
            (GuardPods::Auto, Some(outside)) => {
                say_open(outside, report);
                Whose::Targeted
            }
        };
        let node = nodes.contains_key(&this_node.name).then(|| this_node.name.clone());
        Self { whose, hosts, node }
    }

    /// Whether the pods of a service are guarded.
    pub(super) fn holds_pods(&self, service: &Service) -> bool {
        match self.whose {
            Whose::All => true,
            Whose::Targeted => balances_over_pods(service),
            Whose::Nobodys => false,
        }
    }

    /// Whether any pods are.
    pub(super) fn holds_some(&self) -> bool {
        !matches!(self.whose, Whose::Nobodys)
    }

    /// Whether services are guarded at their addresses inside the seed: it is pods that use them.
    pub(super) fn holds_cluster_addresses(&self) -> bool {
        matches!(self.whose, Whose::All)
    }

    /// Whether packets to a pod on that node come in on this one, where it may be: they are judged
    /// where the pod runs.
    pub(super) fn is_here(&self, node: &str) -> bool {
        node.is_empty() || self.node.as_deref().is_none_or(|this| this == node)
    }
}

fn say_open(outside: &Outside, report: &mut Report) {
    let around: Vec<String> = [IpAddr::is_ipv4, IpAddr::is_ipv6]
        .into_iter()
        .filter_map(|family| around(outside.addresses().filter(family)))
        .map(|net| net.to_string())
        .collect();
    let reason = format!(
        "pods have addresses outside the Nodes' podCIDRs and --exempt, so that the seed's own clients \
         cannot be told from others; pod addresses are guarded only where a load balancer targets \
         pods. Name the pods' range with --exempt (it holds {}), or choose --guard-pods=on or off",
        around.join(" and ")
    );
    let object = ObjectRef {
        kind: "Option".to_owned(),
        namespace: String::new(),
        name: "--guard-pods".to_owned(),
    };
    let place = Place { object: &object, file: "", field: "" };
    report.add(place, "auto", ProblemKind::NotEnforced { reason });
}

/// Whether a load balancer sends clients to pods, past nodePorts and its own addresses. AWS says so
/// in annotations (AWS Load Balancer Controller, "Service annotations"); any other that needs no
/// nodePorts does, unless packets carry its address up to the node.
fn balances_over_pods(service: &Service) -> bool {
    let Service { metadata, spec, status: _ } = service;
    let aws =
        |name| metadata.annotation(&format!("service.beta.kubernetes.io/aws-load-balancer-{name}"));
    let has_node_ports = spec.ports.iter().any(|port| port.node_port != 0);
    let by_address = frontends::balancer_addresses(service).next().is_some();
    spec.service_type == "LoadBalancer"
        && (aws("nlb-target-type") == "ip"
            || aws("type") == "nlb-ip"
            || (spec.allocate_load_balancer_node_ports == Some(false)
                && !has_node_ports
                && !by_address))
}

/// The smallest range that holds all of them.
fn around(addresses: impl Iterator<Item = IpAddr>) -> Option<IpNet> {
    addresses.map(IpNet::from).reduce(|range, next| {
        let holds = |range: &IpNet| range.contains(&next);
        std::iter::successors(Some(range), IpNet::supernet).find(holds).unwrap_or(range)
    })
}
