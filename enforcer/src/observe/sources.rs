//! What recent sources give away: that something rewrites them on their way, or that a load balancer's
//! health checks are denied.
//!
//! Input: the sample of admitted sources, the kept denied packets, and the snapshot in force. Output:
//! problems of clusters, which are no problems of the objects. Pure but for the task that looks. What is
//! said depends on recent traffic alone, and no verdict depends on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use enforcer_ebpf::abi::Recent;
use enforcer_policy::{
    image::Counted,
    model::{ClusterId, FrontendAddress, FrontendKind, ObjectRef, Snapshot},
    problem::{Problem, ProblemKind},
    ranges::RangeSet,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::drops::{Clock, Dropped, Drops};
use crate::{
    agent::Status,
    kernel::{RecentSources, address},
};

/// What was seen longer ago is not recent.
pub const RECENTLY: Duration = Duration::from_secs(600);

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(5);

/// Of a hundred sources so many are enough for "nearly all".
const NEARLY_ALL: usize = 90;

/// Connections that make a rhythm.
const BEATS: usize = 5;

/// Looks until it is cancelled.
pub async fn look(
    recent: Arc<RecentSources>,
    drops: Drops,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    statuses: watch::Receiver<Arc<Status>>,
    found: watch::Sender<Arc<Vec<Problem>>>,
    cancelled: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let Some(snapshot) = snapshots.borrow().clone() else { continue };
        let status = Arc::clone(&statuses.borrow());
        let (recent, drops) = (Arc::clone(&recent), drops.clone());
        // A fleet of thousands of clusters takes some milliseconds, in which a change must not wait.
        let looked = tokio::task::spawn_blocking(move || {
            let seen = seen(&recent.all(), &status.report.counters);
            problems(&snapshot, &seen, &drops.kept(), Timestamp::now())
        });
        let Ok(problems) = looked.await else { continue };
        found.send_if_modified(|known| {
            let changed = **known != problems;
            if changed {
                *known = Arc::new(problems);
            }
            changed
        });
    }
}

/// An admitted source at a port of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The source.
    pub source: IpAddr,
    /// Whose frontend it was.
    pub cluster: ClusterId,
    /// Protocol: 0 TCP, 1 UDP.
    pub protocol: u32,
    /// Destination port.
    pub port: u16,
    /// How long ago.
    pub age: Duration,
}

/// The recent ones of the sample, by what owns their counter slots.
#[must_use]
pub fn seen(recent: &[(Recent, u64)], counters: &[(Counted, u32)]) -> Vec<Seen> {
    let owners: BTreeMap<u32, &ClusterId> =
        counters.iter().map(|(counted, slot)| (*slot, &counted.cluster)).collect();
    let clock = Clock::now();
    let one = |(Recent { source, cluster, port }, time): &(Recent, u64)| {
        let seen = Seen {
            source: address(*source),
            cluster: (*owners.get(cluster)?).clone(),
            protocol: port >> 16,
            port: *port as u16,
            age: clock.age(*time),
        };
        (seen.age <= RECENTLY).then_some(seen)
    };
    recent.iter().filter_map(one).collect()
}

/// What is wrong, in order.
#[must_use]
pub fn problems(
    snapshot: &Snapshot,
    seen: &[Seen],
    dropped: &[Arc<Dropped>],
    now: Timestamp,
) -> Vec<Problem> {
    let since = now - RECENTLY;
    let recently = dropped.iter().filter(|it| {
        it.direction == "ingress" && it.at.parse::<Timestamp>().is_ok_and(|at| at >= since)
    });
    let recently: Vec<&Dropped> = recently.map(AsRef::as_ref).collect();
    let mut problems = hidden(snapshot, seen, &recently);
    problems.extend(probes(snapshot, &recently));
    problems.sort();
    problems.dedup();
    problems
}

/// Ports at which nearly all sources are addresses of load balancers or nodes.
fn hidden(snapshot: &Snapshot, seen: &[Seen], dropped: &[&Dropped]) -> Vec<Problem> {
    if seen.is_empty() && dropped.is_empty() {
        return Vec::new();
    }
    let (inner, pods) = (inner_addresses(snapshot), Pods::of(snapshot));
    let mut sources: BTreeMap<(&str, String), BTreeSet<IpAddr>> = BTreeMap::new();
    for Seen { source, cluster, protocol, port, age: _ } in seen {
        let protocol = if *protocol == 0 { "tcp" } else { "udp" };
        sources.entry((&cluster.0, format!("{port}/{protocol}"))).or_default().insert(*source);
    }
    for dropped in dropped {
        let (Some(cluster), Some(source)) = (&dropped.cluster, dropped.source) else { continue };
        let port = format!("{}/{}", dropped.port, dropped.protocol);
        sources.entry((cluster, port)).or_default().insert(source);
    }
    let mut hidden = Vec::new();
    for ((cluster, port), mut sources) in sources {
        sources.retain(|source| !pods.contains(*source));
        let of_seed = sources.iter().filter(|source| inner.contains(*source)).count();
        let of_balancers =
            snapshot.options.probes.ranges.iter().chain(&snapshot.options.trusted_proxies);
        let of_balancers: Vec<&IpNet> = of_balancers.collect();
        let balancing = |source: &&IpAddr| {
            !inner.contains(*source) && of_balancers.iter().any(|range| range.contains(*source))
        };
        let known = of_seed + sources.iter().filter(balancing).count();
        if !sources.is_empty() && known * 100 >= sources.len() * NEARLY_ALL {
            hidden.push(problem(cluster, format!("port {port}"), ProblemKind::ClientsHidden));
        }
    }
    hidden
}

/// Addresses of nodes and load balancers.
fn inner_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let Snapshot { clusters, shared_proxy, nodes, this_node, .. } = snapshot;
    let frontends = clusters.values().flat_map(|cluster| &cluster.frontends).chain(shared_proxy);
    let balancers = frontends.filter_map(|frontend| match (frontend.kind, frontend.at) {
        (
            FrontendKind::FrontLoadBalancer
            | FrontendKind::ServiceAddress
            | FrontendKind::SharedProxy,
            FrontendAddress::Address { address, .. },
        ) => Some(address),
        _ => None,
    });
    let nodes = nodes.values().flat_map(|node| node.addresses.iter().copied());
    let own = this_node.addresses.iter().chain(&this_node.tunnel_peers).copied();
    balancers.chain(nodes).chain(own).collect()
}

/// Pods come to API servers as themselves, and are no clients from outside.
struct Pods {
    ranges: RangeSet,
    single: HashSet<IpAddr>,
}

impl Pods {
    fn of(snapshot: &Snapshot) -> Self {
        let ranges = snapshot.nodes.values().flat_map(|node| node.pod_ranges.iter().copied());
        let own = snapshot.clusters.values().flat_map(|cluster| &cluster.own_pods);
        let single = own.chain(&snapshot.shared_proxy_pods).copied().collect();
        Self { ranges: ranges.collect(), single }
    }

    fn contains(&self, source: IpAddr) -> bool {
        self.ranges.contains(source) || self.single.contains(&source)
    }
}

/// Denied sources of one subnet that knock in a rhythm.
fn probes(snapshot: &Snapshot, dropped: &[&Dropped]) -> Vec<Problem> {
    /// When each connection began, by its source and source port: retransmissions are no new ones.
    type Beats = BTreeMap<(IpAddr, u16), i64>;
    let mut subnets: BTreeMap<(&str, IpNet), Beats> = BTreeMap::new();
    for dropped in dropped {
        let (Some(cluster), Some(source)) = (&dropped.cluster, dropped.source) else { continue };
        let Ok(at) = dropped.at.parse::<Timestamp>() else { continue };
        if dropped.protocol == "tcp" {
            let beats = subnets.entry((cluster, subnet(source))).or_default();
            let first = beats.entry((source, dropped.source_port)).or_insert(i64::MAX);
            *first = (*first).min(at.as_millisecond());
        }
    }
    let mut found = Vec::new();
    for ((cluster, subnet), beats) in subnets {
        let mut by_source: BTreeMap<IpAddr, Vec<i64>> = BTreeMap::new();
        for ((source, _), at) in beats {
            by_source.entry(source).or_default().push(at);
        }
        let rhythmic: Vec<IpAddr> = by_source
            .into_iter()
            .filter_map(|(source, mut beats)| is_rhythm(&mut beats).then_some(source))
            .collect();
        let range = match rhythmic[..] {
            [] => continue,
            [one] => IpNet::from(one),
            _ => subnet,
        };
        let already = snapshot.options.probes.ranges.iter().any(|known| known.contains(&range));
        if !already {
            let kind = ProblemKind::ProbesDenied { range: range.to_string() };
            found.push(problem(cluster, String::new(), kind));
        }
    }
    found
}

/// At least [`BEATS`] connections a second to a minute apart, none of the gaps half again as long as another.
fn is_rhythm(beats: &mut [i64]) -> bool {
    beats.sort_unstable();
    let gaps: Vec<i64> = beats.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let (Some(least), Some(most)) = (gaps.iter().min(), gaps.iter().max()) else { return false };
    beats.len() >= BEATS && *least >= 1_000 && *most <= 60_000 && most * 2 <= least * 3
}

/// The /24 or /64 around an address.
fn subnet(source: IpAddr) -> IpNet {
    match source {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, 24)).trunc(),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, 64)).trunc(),
    }
}

fn problem(cluster: &str, value: String, kind: ProblemKind) -> Problem {
    let object = ObjectRef {
        kind: "Cluster".to_owned(),
        namespace: String::new(),
        name: cluster.to_owned(),
    };
    let cluster = Some(ClusterId(cluster.to_owned()));
    Problem { cluster, object, file: String::new(), field: String::new(), value, kind }
}

#[cfg(test)]
mod tests {
    use enforcer_policy::model::SeedNode;

    use super::*;

    fn snapshot() -> Snapshot {
        let node = SeedNode {
            addresses: ["192.0.2.11", "192.0.2.12"].map(|it| it.parse().unwrap()).into(),
            pod_ranges: vec!["10.244.0.0/24".parse().unwrap()],
        };
        Snapshot { nodes: [("n1".to_owned(), node)].into(), ..Snapshot::default() }
    }

    fn seen(sources: &[&str]) -> Vec<Seen> {
        let one = |source: &&str| Seen {
            source: source.parse().unwrap(),
            cluster: ClusterId("c1".to_owned()),
            protocol: 0,
            port: 31001,
            age: Duration::ZERO,
        };
        sources.iter().map(one).collect()
    }

    fn said(seen: &[Seen], dropped: &[Arc<Dropped>]) -> Vec<String> {
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        problems(&snapshot(), seen, dropped, now).iter().map(ToString::to_string).collect()
    }

    /// Connections of one source, each from a new port, at these seconds.
    fn knocks(source: &str, seconds: &[u32]) -> Vec<Arc<Dropped>> {
        let one = |(number, second): (usize, &u32)| {
            Arc::new(Dropped {
                at: format!("2026-01-01T00:0{}:{:02}.000Z", second / 60, second % 60),
                interface: "eth0".to_owned(),
                source: Some(source.parse().unwrap()),
                source_port: 40_000 + number as u16,
                destination: None,
                port: 31001,
                protocol: "tcp".to_owned(),
                cluster: Some("c1".to_owned()),
                direction: "ingress".to_owned(),
                reason: "not_listed".to_owned(),
                audited: false,
                suppressed: 0,
            })
        };
        seconds.iter().enumerate().map(one).collect()
    }

    #[test]
    fn a_port_whose_sources_are_nodes_hides_its_clients_and_pods_do_not_count() {
        let hidden = said(&seen(&["192.0.2.11", "192.0.2.12", "10.244.0.7"]), &[]);
        assert_eq!(hidden.len(), 1, "{hidden:?}");
        assert!(hidden[0].starts_with("Cluster c1 = \"port 31001/tcp\": "), "{hidden:?}");
        assert_eq!(said(&seen(&["10.244.0.7"]), &[]), [""; 0]);
        assert_eq!(said(&seen(&["192.0.2.11", "198.51.100.7"]), &[]), [""; 0]);
    }

    #[test]
    fn a_denied_client_from_outside_shows_that_clients_can_be_told_apart() {
        let nodes = seen(&["192.0.2.11"]);
        assert_eq!(said(&nodes, &[]).len(), 1);
        assert_eq!(said(&nodes, &knocks("198.51.100.7", &[1])), [""; 0]);
    }

    #[test]
    fn denied_connections_in_a_rhythm_are_named_with_the_range_that_admits_them() {
        let one = said(&[], &knocks("203.0.113.5", &[0, 10, 20, 30, 40]));
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(one[0].contains("--probe-ranges 203.0.113.5/32"), "{one:?}");
        let two = [
            knocks("203.0.113.5", &[0, 5, 10, 15, 20]),
            knocks("203.0.113.9", &[1, 6, 11, 16, 21]),
        ];
        let two = said(&[], &two.concat());
        assert!(two[0].contains("--probe-ranges 203.0.113.0/24"), "{two:?}");
    }

    #[test]
    fn a_client_that_tries_again_and_again_is_no_health_check() {
        assert_eq!(said(&[], &knocks("203.0.113.5", &[0, 1, 3, 7, 15, 31])), [""; 0]);
        assert_eq!(said(&[], &knocks("203.0.113.5", &[0, 10, 20])), [""; 0]);
    }
}
