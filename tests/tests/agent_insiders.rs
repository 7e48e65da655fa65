//! Who is inside the seed: pods, connections that the node masquerades, and who only says so; and
//! clusters that claim the same way in. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use enforcer_tests::addresses::{Dual, cluster_ip};
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::counted::Counted;
use enforcer_tests::kube::{self, KubePort, KubeService, Pod, ServiceType};
use enforcer_tests::listen::Server;
use enforcer_tests::nat::Protocol;
use enforcer_tests::packets::Packet;
use enforcer_tests::raw::RawPort;
use enforcer_tests::seed::{Frontend, KONNECTIVITY, UserCluster};
use enforcer_tests::stage::{MANIFEST, NODE, Stage};
use enforcer_tests::survey::{Access, Question, SILENCE, surprises};
use enforcer_tests::talk::{Outcome, connect};
use enforcer_tests::topology::{Cni, Plan};
use serde_json::{Value, json};

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const COLLEAGUE: [&str; 2] = ["203.0.113.33/32", "2001:db8:113:d::33/128"];
const LIMIT: Duration = Duration::from_secs(20);
const OTHER_NODE: &str = "seed-2";

#[test]
fn an_api_server_pod_reaches_its_own_cluster_and_no_other_one() {
    let seed = TwoNodes::new(&[]);
    let agents = seed.start();
    let steered = ["apiserver-c2", "apiserver-c2-far"];
    let own = ["apiserver", "envoy", "apiserver-far", "envoy-c2"];
    let mut questions = seed.questions(&steered, Access::Closed);
    questions.extend(seed.questions(&own, Access::Open));
    assert_eq!(surprises(&questions), [""; 0]);
    assert_eq!(seed.stage.surprises(&["listed"]), [""; 0]);
    let denied = Counted::now(&agents[0], "c1").unwrap().denied;
    assert!(denied > 0, "{denied}");
}

#[test]
fn a_control_planes_own_pods_get_in_though_nobody_of_the_seed_is_exempt() {
    let seed = TwoNodes::new(&["--exempt-seed", "none"]);
    let agents = seed.start();
    let mut questions = seed.questions(&["apiserver", "envoy"], Access::Open);
    // Through the other node they come with that node's address, which nothing exempts now.
    let here = seed.stage.network.node(OTHER_NODE).addresses;
    questions.retain(|question| !here.both().contains(&question.frontend.address.ip()));
    questions.extend(seed.questions(&["envoy-c2", "apiserver-c2"], Access::Closed));
    assert_eq!(surprises(&questions), [""; 0]);
    let reason = [("reason", "own_pod")];
    assert!(agents[0].count("enforcer_verdicts_total", &reason).unwrap() > 0);
}

#[test]
fn an_api_server_answers_what_another_node_opened_from_a_guarded_port() {
    let seed = TwoNodes::new(&[]);
    let agents = seed.start();
    let network = &seed.stage.network;
    let far = network.node(OTHER_NODE);
    // As its masquerade may draw it: a nodePort of `c2`, whom the API server of `c1` may not reach.
    let drawn = seed.stage.tenants[0].cluster.ports().api_server;
    let api_server = network.pod("apiserver").addresses.at(seed.stage.cluster.ports().api_server);
    for to in api_server {
        let from = SocketAddr::new(far.addresses.like(to.ip()), drawn);
        assert_eq!(connect(&far.ns, Some(from), to, LIMIT), Outcome::Answered, "{from} {to}");
    }
    for agent in &agents {
        let reason = [("reason", "reply")];
        assert!(agent.count("enforcer_verdicts_total", &reason).unwrap() > 0);
    }
}

#[test]
fn what_comes_from_outside_with_the_address_of_a_local_pod_is_dropped() {
    const EACH: u64 = 20;
    let seed = TwoNodes::new(&[]);
    let agents = seed.start();
    let network = &seed.stage.network;
    let unlisted = network.host("unlisted");
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    for pod in ["apiserver", "envoy", "envoy-c2", "apiserver-c2"] {
        for Frontend { label, address, guarded, protocol: _ } in seed.stage.frontends() {
            if !guarded {
                continue;
            }
            let source = network.pod(pod).addresses.like(address.ip());
            let spoofed = Packet::tcp(SocketAddr::new(source, 40_000), address);
            let frame = spoofed.frame(unlisted.mac, unlisted.gateway_mac);
            let before = Counted::now(&agents[0], "c1").unwrap();
            for _ in 0..EACH {
                port.send(&frame).unwrap();
            }
            let counted = settled(&agents[0], before, EACH);
            let expected = Counted { denied: EACH, not_listed: EACH, ..Counted::default() };
            assert_eq!(counted, expected, "as {pod} at {label} {address}");
        }
    }
}

#[test]
fn connections_masqueraded_from_guarded_ports_work_while_unlisted_clients_stay_out() {
    const CONNECTIONS: usize = 3_000;
    const AT_ONCE: usize = 24;
    let plan = Plan::customary()
        .client("world", Dual::of("203.0.113.80", "2001:db8:113::80"))
        .pod(NODE, "worker");
    let mut stage = Stage::on(plan).unwrap();
    stage.cluster = stage.cluster.allow(&LISTED);
    let crowd = Crowd::of(&stage);
    stage
        .network
        .serve_also(&crowd.services.iter().map(KubeService::rules).collect::<Vec<_>>())
        .unwrap();
    stage.publish().unwrap();
    stage.manifests.put("crowd.yaml", &crowd.objects).unwrap();
    let installation = stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let clusters = agent.metric("enforcer_guarded_clusters", &[]).unwrap();
    assert_eq!(clusters as usize, crowd.services.len() / 2 + 1);

    let (network, node) = (&stage.network, stage.network.node(NODE).addresses);
    let world = network.host("world");
    let server = Server::echo(&world.ns, "[::]:443".parse().unwrap(), "world").unwrap();
    let (worker, unlisted) = (&network.pod("worker").ns, &network.host("unlisted").ns);
    let (started, ended, ports) = (AtomicU64::new(0), AtomicBool::new(false), &crowd.ports);
    let begin = Instant::now();
    let (failed, tried) = std::thread::scope(|scope| {
        let batch = || -> Vec<(SocketAddr, Outcome)> {
            let mut failed = Vec::new();
            loop {
                let number = started.fetch_add(1, Ordering::Relaxed) as usize;
                if number >= CONNECTIONS {
                    return failed;
                }
                let to = world.addresses.at(443)[number % 2];
                let outcome = connect(worker, None, to, LIMIT);
                if outcome != Outcome::Answered {
                    failed.push((to, outcome));
                }
            }
        };
        let intruders: Vec<_> = (0..16usize)
            .map(|first| {
                let ended = &ended;
                scope.spawn(move || {
                    let mut tried = Vec::new();
                    for port in ports.iter().skip(first * 125) {
                        if ended.load(Ordering::Acquire) {
                            break;
                        }
                        let to = node.at(*port)[first % 2];
                        tried.push((to, connect(unlisted, None, to, SILENCE)));
                    }
                    tried
                })
            })
            .collect();
        let batches: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(batch)).collect();
        let failed: Vec<_> = batches.into_iter().flat_map(|it| it.join().unwrap()).collect();
        ended.store(true, Ordering::Release);
        let tried: Vec<_> = intruders.into_iter().flat_map(|it| it.join().unwrap()).collect();
        (failed, tried)
    });
    assert_eq!(failed, []);
    let peers = server.peers();
    assert_eq!(peers.len(), CONNECTIONS);
    assert!(peers.iter().all(|peer| peer.ip() == node.like(peer.ip())), "not masqueraded");
    let drawn = peers.iter().filter(|peer| ports.contains(&peer.port())).count();
    let replies = agent.count("enforcer_verdicts_total", &[("reason", "reply")]).unwrap();
    println!(
        "{CONNECTIONS} connections in {:?}, {drawn} from guarded ports ({replies} replies); {} \
         attempts of an unlisted client meanwhile",
        begin.elapsed(),
        tried.len()
    );
    assert!(drawn > 50, "{drawn}");
    assert!(replies > drawn as u64, "{replies}");
    assert!(tried.len() >= 16);
    let let_in: Vec<_> = tried.iter().filter(|(_, it)| *it != Outcome::TimedOut).collect();
    assert_eq!(let_in, Vec::<&(SocketAddr, Outcome)>::new());
    let at_the_end: Vec<_> = ports.iter().take(40).flat_map(|port| node.at(*port)).collect();
    let question = |&address: &SocketAddr, client, expected| Question {
        client,
        from: &network.host(client).ns,
        frontend: frontend("nodePort", address),
        expected,
    };
    let closed = at_the_end.iter().map(|at| question(at, "unlisted", Access::Closed));
    // Behind them somebody listens: it is the list that keeps others out.
    let open = at_the_end.iter().map(|at| question(at, "listed", Access::Open));
    assert_eq!(surprises(&closed.chain(open).collect::<Vec<_>>()), [""; 0]);
}

#[test]
fn where_two_clusters_claim_one_way_in_what_both_lists_admit_passes() {
    let plan =
        Plan::customary().client("colleague", Dual::of("203.0.113.33", "2001:db8:113:d::33"));
    let mut stage = Stage::on(plan).unwrap();
    stage.add_tenant("c2", 2).unwrap();
    stage.cluster = stage.cluster.allow(&[LISTED, COLLEAGUE].concat());
    stage.tenants[0].cluster = stage.tenants[0].cluster.clone().allow(&COLLEAGUE);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let clients = ["listed", "colleague", "unlisted"];
    let all = |admitted: &[&str], at: &[&str]| {
        let mut questions = stage.questions_of(&clients, admitted);
        questions.retain(|question| at.is_empty() || at.contains(&question.frontend.label));
        surprises(&questions)
    };
    assert_eq!(all(&["listed", "colleague"], &[]), [""; 0]);
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);

    let mut objects = stage.objects();
    let ports = stage.cluster.ports();
    let service = |objects: &mut Vec<Value>, name: &str| -> usize {
        let wanted = |object: &Value| {
            object["kind"] == "Service"
                && object["metadata"]["namespace"] == "cluster-c2"
                && object["metadata"]["name"] == name
        };
        objects.iter().position(wanted).unwrap()
    };
    let at = service(&mut objects, "apiserver-external");
    objects[at]["spec"]["ports"][0]["nodePort"] = ports.api_server.into();
    agent.enforces(|| stage.manifests.put(MANIFEST, &objects)).unwrap();
    let (claimed, free): (&[&str], &[&str]) =
        (&["bypass nodePort"], &["VIP", "nodePort", "bypass nodePort, konnectivity"]);
    assert_eq!(all(&["colleague"], claimed), [""; 0]);
    assert_eq!(all(&["listed", "colleague"], free), [""; 0]);
    conflict(&agent, "nodePort 31001", 1.0);

    let at = service(&mut objects, "front-loadbalancer");
    let vip = stage.cluster.vip();
    objects[at]["status"]["loadBalancer"]["ingress"] =
        json!(vip.both().map(|ip| json!({"ip": ip})));
    objects[at]["spec"]["ports"][1]["port"] = ports.api_server.into();
    agent.enforces(|| stage.manifests.put(MANIFEST, &objects)).unwrap();
    let (claimed, free): (&[&str], &[&str]) = (
        &["bypass nodePort", "VIP"],
        &["nodePort", "VIP, konnectivity", "bypass nodePort, konnectivity"],
    );
    assert_eq!(all(&["colleague"], claimed), [""; 0]);
    assert_eq!(all(&["listed", "colleague"], free), [""; 0]);
    for address in vip.both() {
        conflict(&agent, &format!("{address} port {}", ports.api_server), 3.0);
    }

    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(all(&["listed", "colleague"], &[]), [""; 0]);
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);
}

/// Somebody is told that two clusters claim this, and so many problems there are.
fn conflict(agent: &Agent, place: &str, problems: f64) {
    let said = |line: &&str| line.contains(place) && line.contains("is claimed by cluster c2 too");
    assert_eq!(agent.log().lines().filter(said).count(), 1, "{place}: {}", agent.log());
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), problems);
}

/// Clusters `c1` and `c2` with API server pods on each of two nodes, and an agent on each.
struct TwoNodes {
    installations: [Installation; 2],
    stage: Stage,
}

impl TwoNodes {
    fn new(arguments: &[&str]) -> TwoNodes {
        let plan = Plan::customary()
            .node(OTHER_NODE, Cni::Routed)
            .pod(OTHER_NODE, "apiserver-far")
            .pod(OTHER_NODE, "apiserver-c2-far");
        let mut stage = Stage::on(plan).unwrap();
        stage.cluster = stage.cluster.allow(&LISTED);
        let second = &mut stage.add_tenant("c2", 2).unwrap().cluster;
        *second = second.clone().allow(&LISTED);
        // They listen nowhere: beside the services' pods, only as sources.
        let pods = [("cluster-c1", "apiserver-far"), ("cluster-c2", "apiserver-c2-far")].map(
            |(namespace, name)| {
                let addresses = stage.network.pod(name).addresses;
                let pod = Pod { name: name.into(), node: OTHER_NODE.into(), addresses };
                kube::pod(namespace, &pod, &[("app", "apiserver")])
            },
        );
        stage.manifests.put("far.yaml", &pods).unwrap();
        stage.publish().unwrap();
        let installations = [NODE, OTHER_NODE].map(|name| {
            let ns = &stage.network.node(name).ns;
            let new = Installation::new(ns, name, stage.manifests.folder()).unwrap();
            new.interfaces("auto").arguments(arguments)
        });
        TwoNodes { installations, stage }
    }

    fn start(&self) -> [Agent; 2] {
        self.installations.each_ref().map(|installation| installation.start().unwrap())
    }

    /// Pods at every way into `c1`: addresses of both nodes, of load balancer, services and pods.
    fn questions<'a>(&'a self, clients: &[&'a str], expected: Access) -> Vec<Question<'a>> {
        let network = &self.stage.network;
        let mut ways = self.stage.frontends();
        let far = network.node(OTHER_NODE).addresses;
        let of_node = self.stage.cluster.frontends(far).into_iter();
        ways.extend(of_node.filter(|way| way.label.contains("nodePort")));
        ways.retain(|way| way.guarded);
        let ports = self.stage.cluster.ports();
        let more = [
            ("cluster IP", cluster_ip(10), 443),
            ("cluster IP, konnectivity", cluster_ip(11), 443),
            ("Envoy pod", network.pod("envoy").addresses, ports.api_server),
            ("API server pod", network.pod("apiserver").addresses, ports.api_server),
            ("API server pod, konnectivity", network.pod("apiserver").addresses, KONNECTIVITY),
        ];
        ways.extend(more.iter().flat_map(|&(label, dual, port)| {
            dual.at(port).map(|address| frontend(label, address))
        }));
        let of = |&client: &&'a str| {
            let pod = network.pod(client);
            let others = ways.iter().filter(move |way| {
                // A packet to oneself never leaves the pod.
                !pod.addresses.both().contains(&way.address.ip())
            });
            others.map(move |&frontend| Question { client, from: &pod.ns, frontend, expected })
        };
        clients.iter().flat_map(of).collect()
    }
}

/// A thousand clusters, each with two nodePorts, behind which the servers of `c1` listen.
struct Crowd {
    ports: BTreeSet<u16>,
    services: Vec<KubeService>,
    objects: Vec<Value>,
}

impl Crowd {
    fn of(stage: &Stage) -> Crowd {
        let pods = &stage.cluster.api_servers;
        let own = stage.cluster.ports();
        let taken = [&[own.api_server, own.konnectivity][..], &own.front].concat();
        let free = (30_000..=32_767u16).filter(|port| !taken.contains(port));
        let ports: Vec<u16> = free.take(2_000).collect();
        let (mut services, mut objects) = (Vec::new(), Vec::new());
        for (number, ports) in (0..).zip(ports.chunks(2)) {
            let cluster = UserCluster::new(&format!("crowd{number}"), 1).allow(&LISTED);
            let service = |index: u16, name: &str, target| KubeService {
                namespace: cluster.namespace(),
                name: name.into(),
                kind: ServiceType::NodePort,
                cluster_ip: cluster_ip(1_000 + 2 * number + index),
                vip: None,
                external_ips: Vec::new(),
                local: false,
                annotations: Vec::new(),
                selector: Vec::new(),
                ports: vec![KubePort::tcp("secure", 443, target, ports[usize::from(index)])],
                pods: pods.clone(),
            };
            let both = [
                service(0, "apiserver-external", own.api_server),
                service(1, "konnectivity-server", KONNECTIVITY),
            ];
            objects.push(cluster.cluster());
            objects.push(kube::namespace(&cluster.namespace(), &[]));
            // Without EndpointSlices: one pod cannot be a thousand clusters' own.
            objects.extend(both.iter().map(|service| service.objects().swap_remove(0)));
            services.extend(both);
        }
        Crowd { ports: ports.into_iter().collect(), services, objects }
    }
}

fn frontend(label: &'static str, address: SocketAddr) -> Frontend {
    Frontend { label, address, guarded: true, protocol: Protocol::Tcp }
}

/// What is counted since `before`, when so many are denied and no more come.
fn settled(agent: &Agent, before: Counted, expected: u64) -> Counted {
    let begin = Instant::now();
    let now = || Counted::now(agent, "c1").unwrap() - before;
    while now().denied < expected && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(10));
    now()
}
