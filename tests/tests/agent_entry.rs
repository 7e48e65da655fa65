//! Every way into an API server: who gets in where, held against the oracle. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use enforcer::state::State;
use enforcer_policy::model::{self, ClusterId, Side, Snapshot};
use enforcer_policy::oracle::{self, Segment};
use enforcer_tests::addresses::Dual;
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::entrances::{Entrance, Entrances};
use enforcer_tests::nat::Protocol;
use enforcer_tests::seed::Frontend;
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::survey::{Access, Answer, Question, ask};
use enforcer_tests::topology::Plan;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
/// C of every cluster.
const C: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// S, the Seed's load balancer ranges.
const S: [&str; 2] = ["203.0.113.48/28", "2001:db8:113:5::/64"];
/// In C, in S, in nothing, the address of another node, the address of a host beside the node.
const SOURCES: [&str; 5] = ["listed", "gateway", "unlisted", "far-node", "prober"];

#[test]
fn every_way_in_is_guarded_as_the_oracle_says() {
    let scene = Scene::new();
    let installation = scene.installation(&[]);
    let agent = installation.start().unwrap();
    let snapshot = snapshot(&installation);
    let (probes, clients): (Vec<_>, Vec<_>) = scene
        .questions(&SOURCES, by_custom)
        .into_iter()
        .partition(|(_, question)| question.expected == Access::Handshake);
    scene.assert_oracle(&snapshot, clients.iter().chain(&probes));

    let mut answers = survey(&clients);
    let before = scene.payload();
    let probed = survey(&probes);
    assert_eq!(scene.payload(), before, "a prober's data arrived at a server");
    for reason in ["probe", "probe_data", "exempt", "not_listed"] {
        assert!(counted(&agent, reason) > 0, "{reason}");
    }
    answers.extend(probed);
    table(&answers);
    assert_eq!(surprises(&answers), [""; 0]);
    for cluster in ["c1", "c2", "c3", "kubermatic/nodeport-proxy"] {
        let labels = [("cluster", cluster), ("verdict", "denied")];
        assert!(agent.metric("enforcer_packets_total", &labels).unwrap() > 0.0, "{cluster}");
    }
    // What cannot be enforced is said: C of c3, which shares ports with others.
    let problem = |line: &str| line.contains("Cluster c3") && line.contains("not enforced");
    assert_eq!(agent.log().lines().filter(|line| problem(line)).count(), 1, "{}", agent.log());
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 1.0);
}

#[test]
fn trusted_proxies_and_probe_ranges_admit_whom_the_options_name_and_nobody_else() {
    let scene = Scene::new();
    // Client `unlisted` is the load balancer now.
    let balancer = "203.0.113.10/32,2001:db8:113::10/128";
    let handshake = |frontend: &Frontend| match frontend.protocol {
        Protocol::Tcp => Access::Handshake,
        Protocol::Udp => Access::Closed,
    };
    type Judge<'a> = &'a dyn Fn(&str, &Entrance) -> Access;
    let cases: [(&[&str], Judge<'_>, Judge<'_>); 4] = [
        (
            &["--trusted-proxies", balancer, "--probe-ranges", "none"],
            &|_, _| Access::Open,
            &|_, _| Access::Closed,
        ),
        (&["--probe-ranges", "none"], &|_, _| Access::Closed, &|_, _| Access::Closed),
        (&["--probe-ranges", "connected"], &|_, _| Access::Closed, &|_, way| {
            handshake(&way.frontend)
        }),
        (&["--probe-ranges", balancer], &|_, way| handshake(&way.frontend), &|_, _| Access::Closed),
    ];
    for (arguments, unlisted, prober) in cases {
        let installation = scene.installation(arguments);
        let agent = installation.start().unwrap();
        let questions =
            scene.questions(&["listed", "unlisted", "prober"], |client, way| match client {
                "unlisted" if way.frontend.guarded => unlisted(client, way),
                "prober" if way.frontend.guarded => prober(client, way),
                _ => by_custom(client, way),
            });
        scene.assert_oracle(&snapshot(&installation), &questions);
        let answers = survey(&questions);
        assert_eq!(surprises(&answers), [""; 0], "{arguments:?}");
        let expected = |access| questions.iter().any(|(_, question)| question.expected == access);
        assert_eq!(counted(&agent, "trusted_proxy") > 0, arguments[0] == "--trusted-proxies");
        assert_eq!(counted(&agent, "probe") > 0, expected(Access::Handshake), "{arguments:?}");
        drop(agent);
        installation.clean().unwrap();
    }
}

/// Who gets in by default.
fn by_custom(client: &str, way: &Entrance) -> Access {
    let Entrance { cluster, frontend } = way;
    let shared = frontend.label.starts_with("proxy");
    if !frontend.guarded {
        return Access::Open;
    }
    let in_a_list = match client {
        // Strategy Tunneling: C cannot be told apart on shared ports, where S alone counts.
        "listed" => !(shared && *cluster == "c3"),
        // S counts for strategy LoadBalancer and on the shared proxy.
        "gateway" => shared || *cluster == "c1",
        "far-node" => true,
        _ => false,
    };
    match (in_a_list, client, frontend.protocol) {
        (true, ..) => Access::Open,
        (false, "prober", Protocol::Tcp) => Access::Handshake,
        (false, ..) => Access::Closed,
    }
}

/// All ways in, with clients of every kind and servers behind.
struct Scene {
    entrances: Entrances,
    stage: Stage,
}

type Asked<'a> = (&'a Entrance, Question<'a>);

impl Scene {
    fn new() -> Scene {
        let far_node = Dual::of("203.0.113.97", "2001:db8:113:6::97");
        let plan = Plan::customary()
            .client("gateway", Dual::of("203.0.113.49", "2001:db8:113:5::49"))
            .client("far-node", far_node)
            .neighbour("prober", Dual::of("192.0.2.60", "2001:db8:2::60"))
            .pod(NODE, "proxy");
        let mut stage = Stage::on(plan).unwrap();
        let entrances = Entrances::open(&mut stage).unwrap();
        stage.cluster = stage.cluster.allow(&C);
        for tenant in &mut stage.tenants {
            // Where KKP's webhook refuses the field.
            let annotation = ("enforcer.k8c.io/allowed-ip-ranges".to_owned(), C.join(", "));
            tenant.cluster.annotations.push(annotation);
        }
        stage.seed.source_ranges = Some(S.map(str::to_owned).to_vec());
        stage.publish().unwrap();
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "far"},
            "status": {"addresses": far_node.both().map(|address| {
                json!({"type": "InternalIP", "address": address})
            })},
        });
        stage.manifests.put("far-node.yaml", &[node]).unwrap();
        let scene = Scene { entrances, stage };
        scene.route_the_prober();
        scene
    }

    /// To the prober, the addresses of load balancers are on its own network.
    fn route_the_prober(&self) {
        let node = self.stage.network.node(NODE).addresses;
        let beside = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets().starts_with(&[192, 0, 2]),
            IpAddr::V6(address) => address.segments().starts_with(&[0x2001, 0xdb8, 2]),
        };
        let all = self.entrances.list.iter().map(|way| way.frontend.address.ip());
        let all: BTreeSet<IpAddr> =
            all.filter(|ip| beside(ip) && !node.both().contains(ip)).collect();
        let routes =
            all.iter().map(|address| format!("route add {address} via {}\n", node.like(*address)));
        self.stage.network.host("prober").ns.ip(&routes.collect::<String>()).unwrap();
    }

    fn installation(&self, arguments: &[&str]) -> Installation {
        self.stage.installation().unwrap().interfaces("auto").arguments(arguments)
    }

    /// Every client at every way in.
    fn questions<'a>(
        &'a self,
        clients: &[&'a str],
        judge: impl Fn(&str, &Entrance) -> Access,
    ) -> Vec<Asked<'a>> {
        let mut questions = Vec::new();
        for way in &self.entrances.list {
            for &client in clients {
                let from = &self.stage.network.host(client).ns;
                let (frontend, expected) = (way.frontend, judge(client, way));
                questions.push((way, Question { client, from, frontend, expected }));
            }
        }
        questions
    }

    /// The expectations are the oracle's verdicts on what the agent enforces.
    fn assert_oracle<'a>(
        &self,
        snapshot: &Snapshot,
        questions: impl IntoIterator<Item = &'a Asked<'a>>,
    ) {
        for (way, Question { client, from: _, frontend, expected }) in questions {
            let destination = frontend.address.ip();
            let source = self.stage.network.host(client).addresses.like(destination);
            let passes = |segment| {
                let packet = oracle::Packet {
                    source,
                    destination,
                    protocol: match frontend.protocol {
                        Protocol::Tcp => model::Protocol::Tcp,
                        Protocol::Udp => model::Protocol::Udp,
                    },
                    port: frontend.address.port(),
                    side: Side::Uplink,
                    segment,
                    answers_node: false,
                };
                oracle::admit(snapshot, &packet).passes()
            };
            let said = match (frontend.protocol, passes(Segment::Open), passes(Segment::Data)) {
                (Protocol::Tcp, true, true) | (Protocol::Udp, _, true) => Access::Open,
                (Protocol::Tcp, true, false) => Access::Handshake,
                (Protocol::Tcp, false, _) | (Protocol::Udp, _, false) => Access::Closed,
            };
            assert_eq!(said, *expected, "{client} at {way:?}");
        }
    }

    /// Bytes that arrived at servers.
    fn payload(&self) -> u64 {
        let customary = self.stage.servers.values();
        let tenants = self.stage.tenants.iter().flat_map(|tenant| tenant.servers.values());
        let tcp = customary.chain(tenants).chain(&self.entrances.servers);
        tcp.map(|server| server.payload()).sum()
    }
}

/// What the agent enforces, as it keeps it on disk.
fn snapshot(installation: &Installation) -> Snapshot {
    let begin = Instant::now();
    loop {
        let saved = State::open(installation.state()).unwrap().load();
        if let Some(saved) = saved.filter(|it| it.clusters.contains_key(&ClusterId("c3".into()))) {
            return saved;
        }
        assert!(begin.elapsed() < LIMIT, "nothing is saved");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// So many at once as leave a busy machine time to answer.
const AT_ONCE: usize = 100;

fn survey<'a>(questions: &[Asked<'a>]) -> Vec<(&'a Entrance, Answer<'a>)> {
    let ways = questions.iter().map(|(way, _)| *way);
    let asked: Vec<Question<'a>> = questions.iter().map(|(_, question)| *question).collect();
    ways.zip(asked.chunks(AT_ONCE).flat_map(ask)).collect()
}

fn surprises(answers: &[(&Entrance, Answer<'_>)]) -> Vec<String> {
    let differ = answers.iter().filter(|(_, answer)| !answer.is_as_expected());
    differ.map(|(way, answer)| format!("{}: {answer}", way.cluster)).collect()
}

/// One line for each way, one column for each client: what it met over IPv4 and IPv6.
fn table(answers: &[(&Entrance, Answer<'_>)]) {
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, [String; 2]>> = BTreeMap::new();
    for (Entrance { cluster, frontend }, answer) in answers {
        let row = rows.entry((cluster, frontend.label)).or_default();
        let cell = row.entry(answer.question.client).or_default();
        let known = [Access::Open, Access::Handshake, Access::Closed];
        let met = known.iter().find(|access| access.is(answer.observed));
        cell[usize::from(frontend.address.is_ipv6())] =
            met.map_or_else(|| answer.observed.to_string(), Access::to_string);
    }
    let line = |cluster: &str, label: &str, cells: [String; 5]| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<22}")).collect();
        println!("{cluster:<4}{label:<33}{cells}");
    };
    line("", "way in (IPv4 / IPv6)", SOURCES.map(str::to_owned));
    for ((cluster, label), row) in &rows {
        line(cluster, label, SOURCES.map(|client| row[client].join(" / ")));
    }
}

fn counted(agent: &Agent, reason: &str) -> u64 {
    agent.count("enforcer_verdicts_total", &[("reason", reason)]).unwrap()
}
