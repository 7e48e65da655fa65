//! The allowlist truth table, end to end: who gets through where, for every combination of lists.
//! Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::net::SocketAddr;
use std::time::Duration;

use enforcer_tests::addresses::{Dual, pod_range};
use enforcer_tests::counted::Counted;
use enforcer_tests::listen::Server;
use enforcer_tests::nat::{Protocol, Service, ServicePort};
use enforcer_tests::packets::Packet;
use enforcer_tests::raw::RawPort;
use enforcer_tests::seed::Frontend;
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::survey::{Access, Question, surprises};
use enforcer_tests::topology::{Cni, Plan};

/// The client of each list, and one that is in none.
const CLIENTS: [&str; 4] = ["listed", "colleague", "gateway", "unlisted"];
const C: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64"];
const D: &[&str] = &["203.0.113.32/28", "2001:db8:113:d::/64"];
const S: &[&str] = &["203.0.113.48/28", "2001:db8:113:5::/64"];
const NOTHING: &[&str] = &[];
/// Entries of which none is a range.
const INVALID: &[&str] = &["everyone", "198.51.100.0/33", "2001:db8:51::/129", "300.1.2.3/8", ""];

/// A list of ranges, or none at all.
type List = Option<&'static [&'static str]>;
/// C, D, S, and who gets in.
type Row = (List, List, List, &'static [&'static str]);

const TABLE: &[Row] = &[
    (None, None, None, &CLIENTS),
    (None, Some(D), None, &CLIENTS),
    (None, Some(D), Some(NOTHING), &CLIENTS),
    (None, None, Some(S), &["gateway"]),
    (None, Some(D), Some(S), &["gateway"]),
    (Some(NOTHING), None, None, &CLIENTS),
    (Some(NOTHING), Some(NOTHING), Some(NOTHING), &CLIENTS),
    (Some(NOTHING), Some(D), None, &["colleague"]),
    (Some(NOTHING), None, Some(S), &["gateway"]),
    (Some(NOTHING), Some(D), Some(S), &["colleague", "gateway"]),
    (Some(C), None, None, &["listed"]),
    (Some(C), Some(D), None, &["listed", "colleague"]),
    (Some(C), None, Some(S), &["listed", "gateway"]),
    (Some(C), Some(D), Some(S), &["listed", "colleague", "gateway"]),
    (Some(INVALID), None, None, &[]),
    (Some(INVALID), Some(D), None, &["colleague"]),
    (Some(NOTHING), Some(INVALID), None, &[]),
    (None, None, Some(INVALID), &[]),
];

#[test]
fn every_row_of_the_table_holds_at_every_frontend_and_touches_nothing_else() {
    let mut scene = Scene::new();
    let installation = scene.stage.installation().unwrap();
    scene.write(&TABLE[0]);
    scene.stage.publish().unwrap();
    let agent = installation.start().unwrap();
    for (number, row) in TABLE.iter().enumerate() {
        let (c, d, s, admitted) = row;
        let row_text = format!("C {c:?}, D {d:?}, S {s:?}");
        if number > 0 {
            scene.write(row);
            agent.enforces(|| scene.stage.publish()).unwrap();
        }
        let before = Counted::now(&agent, "c1").unwrap();
        let mut questions = scene.at_c1(admitted);
        // Strategy LoadBalancer without a list of its own: S alone applies.
        questions.extend(scene.at_c2(match s {
            None | Some([]) => &CLIENTS,
            Some(S) => &["gateway"],
            Some(_) => &[],
        }));
        questions.extend(scene.elsewhere());
        assert_eq!(surprises(&questions), [""; 0], "{row_text}");

        let counted = Counted::now(&agent, "c1").unwrap() - before;
        let to_c1 = &questions[..CLIENTS.len() * scene.stage.frontends().len()];
        let closed = to_c1.iter().filter(|q| q.expected == Access::Closed).count() as u64;
        // Stragglers of the former row's connections may be among those denied.
        assert!(counted.denied >= closed, "{row_text}: {closed} denied, but {counted:?}");
        let restricted = closed > 0;
        assert_eq!(counted.denied > 0, restricted, "{row_text}");
        assert_eq!(counted.exempt > 0, restricted, "{row_text}: the other node, {counted:?}");
        let listed = counted.allowed - counted.exempt;
        assert_eq!(listed > 0, restricted && !admitted.is_empty(), "{row_text}: {counted:?}");
    }
}

#[test]
fn a_node_of_the_seed_is_admitted_by_every_list() {
    let mut scene = Scene::new();
    scene.write(&(Some(C), None, None, &[]));
    scene.stage.publish().unwrap();
    let installation = scene.stage.installation().unwrap();
    let agent = installation.start().unwrap();
    assert_eq!(surprises(&scene.other_node(Access::Open)), [""; 0]);
    let counted = Counted::now(&agent, "c1").unwrap();
    assert!(counted.exempt > 0 && counted.allowed == counted.exempt, "{counted:?}");
    assert_eq!((counted.denied, counted.not_listed), (0, 0));
}

#[test]
fn exempt_seed_none_admits_neither_nodes_nor_pods() {
    let mut scene = Scene::new();
    scene.write(&(Some(C), None, None, &[]));
    scene.stage.publish().unwrap();
    let arguments = ["--exempt-seed", "none", "--probe-ranges", "none"];
    let installation = scene.stage.installation().unwrap().arguments(&arguments);
    let agent = installation.start().unwrap();
    let questions = scene.other_node(Access::Closed);
    assert_eq!(surprises(&questions), [""; 0]);
    assert_eq!(surprises(&scene.at_c1(&["listed"])), [""; 0]);
    assert!(!scene.pod_packet_arrives(1));
    let counted = Counted::now(&agent, "c1").unwrap();
    assert!(counted.denied > questions.len() as u64, "{counted:?}");
    assert_eq!(counted.exempt, 0);
}

#[test]
fn pods_of_other_nodes_are_admitted_and_forged_ones_of_this_node_are_not() {
    let mut scene = Scene::new();
    scene.write(&(Some(C), None, None, &[]));
    scene.stage.publish().unwrap();
    let installation = scene.stage.installation().unwrap();
    let agent = installation.start().unwrap();
    assert!(scene.pod_packet_arrives(1));
    assert_eq!(Counted::now(&agent, "c1").unwrap().exempt, 1);
    assert!(!scene.pod_packet_arrives(0));
    assert_eq!(Counted::now(&agent, "c1").unwrap().not_listed, 1);
}

#[test]
fn an_exempt_range_is_admitted_by_every_list_and_by_no_other_means() {
    let mut scene = Scene::new();
    scene.write(&(Some(C), None, None, &[]));
    scene.stage.publish().unwrap();
    let ranges = "203.0.113.10/32,2001:db8:113::/64";
    let installation = scene.stage.installation().unwrap().arguments(&["--exempt", ranges]);
    let agent = installation.start().unwrap();
    assert_eq!(surprises(&scene.at_c1(&["listed", "unlisted"])), [""; 0]);
    let counted = Counted::now(&agent, "c1").unwrap();
    assert!(counted.exempt > 0 && counted.allowed > counted.exempt, "{counted:?}");
}

#[test]
fn seed_defaults_always_restricts_clusters_without_a_list() {
    let mut scene = Scene::new();
    scene.write(&(None, Some(D), None, &[]));
    scene.stage.publish().unwrap();
    let arguments = ["--seed-defaults", "always"];
    let installation = scene.stage.installation().unwrap().arguments(&arguments);
    let agent = installation.start().unwrap();
    let mut questions = scene.at_c1(&["colleague"]);
    questions.extend(scene.at_c2(&["colleague"]));
    questions.extend(scene.elsewhere());
    assert_eq!(surprises(&questions), [""; 0]);
    scene.write(&(Some(C), Some(D), None, &[]));
    agent.enforces(|| scene.stage.publish()).unwrap();
    assert_eq!(surprises(&scene.at_c1(&["listed", "colleague"])), [""; 0]);
}

/// The customary stage with a client for each list, a second node, a second cluster, and servers
/// that belong to no cluster.
struct Scene {
    stage: Stage,
    _unrelated: [Server; 2],
}

const NODE_PORT_OF_WEB: u16 = 30_080;
const PORT_OF_NODE: u16 = 9_090;

impl Scene {
    fn new() -> Scene {
        let plan = Plan::customary()
            .client("colleague", Dual::of("203.0.113.33", "2001:db8:113:d::33"))
            .client("gateway", Dual::of("203.0.113.49", "2001:db8:113:5::49"))
            .node("seed-2", Cni::Bridge)
            .pod(NODE, "web");
        let mut stage = Stage::on(plan).unwrap();
        stage.add_tenant("c2", 2).unwrap();
        let any = |port| format!("[::]:{port}").parse().unwrap();
        let web = stage.network.pod("web");
        let port = ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(NODE_PORT_OF_WEB),
            endpoints: web.addresses.at(8080).to_vec(),
        };
        let unrelated = [
            Server::echo(&web.ns, any(8080), "web").unwrap(),
            Server::echo(&stage.network.node(NODE).ns, any(PORT_OF_NODE), "node").unwrap(),
        ];
        let service = Service {
            name: "web".into(),
            cluster_ips: Vec::new(),
            external: Vec::new(),
            local: false,
            ports: vec![port],
        };
        stage.network.serve_also(&[service]).unwrap();
        stage.publish().unwrap();
        Scene { stage, _unrelated: unrelated }
    }

    fn write(&mut self, (c, d, s, _): &Row) {
        let list = |ranges: &List| {
            ranges.map(|ranges| ranges.iter().map(|range| (*range).to_owned()).collect::<Vec<_>>())
        };
        self.stage.cluster.allowed = list(c);
        self.stage.seed.defaults = list(d);
        self.stage.seed.source_ranges = list(s);
    }

    /// Every client at every frontend of `c1`; the health ports are open to all.
    fn at_c1(&self, admitted: &[&str]) -> Vec<Question<'_>> {
        self.at(&self.stage.frontends(), admitted)
    }

    fn at_c2(&self, admitted: &[&str]) -> Vec<Question<'_>> {
        self.at(&self.stage.frontends_of(&self.stage.tenants[0].cluster), admitted)
    }

    /// What no list can close: other ports of the node, and the node's peers.
    fn elsewhere(&self) -> Vec<Question<'_>> {
        let node = self.stage.network.node(NODE).addresses;
        let unrelated = [("web", NODE_PORT_OF_WEB), ("port of the node", PORT_OF_NODE)];
        let frontends: Vec<Frontend> = unrelated
            .iter()
            .flat_map(|&(label, port)| {
                node.at(port).map(|address| Frontend {
                    label,
                    address,
                    guarded: false,
                    protocol: Protocol::Tcp,
                })
            })
            .collect();
        [self.at(&frontends, &[]), self.other_node(Access::Open)].concat()
    }

    /// Node `seed-2` at the nodePorts of `seed-1`; VIPs its own kube-proxy would take.
    fn other_node(&self, expected: Access) -> Vec<Question<'_>> {
        let from = &self.stage.network.node("seed-2").ns;
        let frontends = self.stage.frontends().into_iter();
        frontends
            .filter(|frontend| frontend.guarded && frontend.label.contains("nodePort"))
            .map(|frontend| Question { client: "seed-2", from, frontend, expected })
            .collect()
    }

    fn at(&self, frontends: &[Frontend], admitted: &[&str]) -> Vec<Question<'_>> {
        let of = |&client: &&'static str| {
            let from = &self.stage.network.host(client).ns;
            frontends.iter().map(move |&frontend| {
                let guarded = Access::of(client, admitted);
                let expected = if frontend.guarded { guarded } else { Access::Open };
                Question { client, from, frontend, expected }
            })
        };
        CLIENTS.iter().flat_map(of).collect()
    }

    /// Whether a SYN to the bypass nodePort with the source of a pod of that node, sent from the
    /// nodes' network, arrives at the API server.
    fn pod_packet_arrives(&self, node: u8) -> bool {
        let network = &self.stage.network;
        let to = self.stage.frontend("bypass nodePort", false);
        let from = SocketAddr::new(pod_range(node).plus(99).v4.into(), 40_000);
        let port = RawPort::open(network.router(), "nodes").unwrap();
        let pod = RawPort::open(&network.pod("apiserver").ns, "eth0").unwrap();
        let window = 20_001;
        let syn = Packet::tcp(from, to).window(window, 0);
        let router = [0x02, 0xee, 0, 0, 0, 1];
        port.send(&syn.frame(router, network.node(NODE).mac)).unwrap();
        let limit = Duration::from_millis(if node == 0 { 300 } else { 5_000 });
        pod.next(limit, |seen| seen.window == window).unwrap().is_some()
    }
}

#[test]
fn audit_cuts_nobody_and_enforcing_after_it_cuts_whom_it_counted() {
    let mut scene = Scene::new();
    scene.write(&(Some(C), None, None, &[]));
    scene.stage.publish().unwrap();
    let mut installation = scene.stage.installation().unwrap().arguments(&["--mode", "audit"]);
    let agent = installation.start().unwrap();
    let everybody = ["listed", "colleague", "gateway", "unlisted"];
    assert_eq!(surprises(&scene.at_c1(&everybody)), [""; 0]);
    assert_eq!(agent.metric("enforcer_audit_mode", &[]).unwrap(), 1.0);
    let counted = Counted::now(&agent, "c1").unwrap();
    assert!(counted.would_deny > 0 && counted.not_listed > 0, "{counted:?}");
    assert_eq!(counted.denied, 0);
    agent.terminate().unwrap();

    installation.use_arguments(&["--mode", "enforce"]);
    let agent = installation.start().unwrap();
    assert_eq!(surprises(&scene.at_c1(&["listed"])), [""; 0]);
    assert_eq!(agent.metric("enforcer_audit_mode", &[]).unwrap(), 0.0);
}
