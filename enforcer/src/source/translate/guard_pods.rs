//! Whether pod addresses are guarded as destinations.
//!
//! Input: `--guard-pods`, the pods that are seen, and the ranges that pods are known to have. Output:
//! which services' pods are guarded. Invariant: with `auto`, pods are guarded only where sources inside
//! the seed can be told from outside ones, or where a load balancer sends its clients to pods: guarding
//! them elsewhere would cut the seed off from its own API servers.

use std::{collections::BTreeMap, net::IpAddr};

use enforcer_policy::{
    model::{ObjectRef, Options, SeedNode},
    problem::ProblemKind,
    ranges::RangeSet,
};
use ipnet::IpNet;

use super::{
    frontends, pods,
    report::{Place, Report},
};
use crate::source::{objects::Service, store::Objects};

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

/// Whose pods are guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guarded {
    /// Those of every service that exposes a control plane.
    All,
    /// Those of services whose load balancer targets pods.
    Targeted,
    /// Nobody's.
    Nobodys,
}

impl Guarded {
    /// Whether the pods of a service are.
    pub(super) fn holds(self, service: &Service) -> bool {
        match self {
            Self::All => true,
            Self::Targeted => balances_over_pods(service),
            Self::Nobodys => false,
        }
    }
}

/// Decides it, and says once what stays open.
pub(super) fn decide(
    objects: &Objects,
    option: GuardPods,
    options: &Options,
    nodes: &BTreeMap<String, SeedNode>,
    report: &mut Report,
) -> Guarded {
    match option {
        GuardPods::On => return Guarded::All,
        GuardPods::Off => return Guarded::Nobodys,
        GuardPods::Auto => {}
    }
    let known: RangeSet =
        nodes.values().flat_map(|node| &node.pod_ranges).chain(&options.exempt).copied().collect();
    let hosts = pods::host_addresses(nodes);
    let outside: Vec<IpAddr> = pods::all(objects)
        .filter(|address| !hosts.contains(address) && !known.contains(*address))
        .collect();
    if outside.is_empty() {
        return Guarded::All;
    }
    let around: Vec<String> = [IpAddr::is_ipv4, IpAddr::is_ipv6]
        .into_iter()
        .filter_map(|family| around(outside.iter().copied().filter(family)))
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
    Guarded::Targeted
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
