//! Hostile packets of a gated API server pod: no shape carries a byte or a connection to somebody whom it may
//! not connect to, and what it may goes on meanwhile. Needs root.
//!
//! Each class is sent twice, without an agent and with one, by a raw socket in the pod. What arrived is told
//! by nftables and a packet socket at the one who must not get it, and by its listener.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::addresses::{Dual, ROUTER};
use enforcer_tests::agent::Agent;
use enforcer_tests::gated::Gated;
use enforcer_tests::netns::Netns;
use enforcer_tests::packets::{Seen, flags, protocol};
use enforcer_tests::raw::RawPort;
use enforcer_tests::shapes::{self, Aim, Class, Segment, leaving};
use enforcer_tests::stage::NODE;
use enforcer_tests::talk::{Outcome, ask_udp};
use enforcer_tests::topology::Cni;
use enforcer_tests::traffic::{Effort, Traffic};

/// Answers come within this, or not at all.
const QUIET: Duration = Duration::from_millis(60);
const DENIED: [&str; 7] = [
    "not_peer",
    "spoofed_source",
    "forged",
    "router_message",
    "reset_limit",
    "short_fragment",
    "hidden_transport",
];
/// Reasons that would let a byte out.
const ADMITTED: [&str; 2] = ["peer", "icmp_error"];

struct Scene {
    ways: Vec<Way>,
    wire: RawPort,
    gated: Gated,
}

/// A way to somebody who must not be reached.
struct Way {
    label: &'static str,
    to: SocketAddr,
    /// Where that one is.
    ns: Netns,
    catch: RawPort,
}

/// What became of one class at one way.
struct Line {
    name: String,
    arrives: bool,
    sent: u64,
    /// IP packets that came to the peer, neighbour discovery aside.
    delivered: u64,
    /// Of these, answers without data: SYN-ACKs and resets, which carry nothing and open nothing.
    bare: u64,
    connections: u64,
    bytes: u64,
    drops: BTreeMap<&'static str, u64>,
    admitted: u64,
}

impl Scene {
    fn new() -> Scene {
        let gated = Gated::small(Cni::Routed).unwrap();
        let network = &gated.stage.network;
        network.set_mtu(9000).unwrap();
        let pod = gated.api_server();
        let wire = RawPort::open(&pod.ns, "eth0").unwrap();
        let internet = &network.host("unlisted").ns;
        let neighbour = &network.pod("etcd-c2").ns;
        for ns in [internet, neighbour] {
            ns.nft(&observer()).unwrap();
        }
        let way = |label, name, ns: &Netns, v6| Way {
            label,
            to: gated.address(name, v6),
            ns: ns.clone(),
            catch: RawPort::open(ns, "eth0").unwrap(),
        };
        let ways = vec![
            way("internet, IPv4", "internet", internet, false),
            way("internet, IPv6", "internet", internet, true),
            way("other cluster's etcd, IPv4", "etcd of c2", neighbour, false),
            way("other cluster's etcd, IPv6", "etcd of c2", neighbour, true),
        ];
        Scene { ways, wire, gated }
    }

    fn classes(&self, v6: bool) -> Vec<Class> {
        let network = &self.gated.stage.network;
        let others = [
            network.pod("envoy").addresses,
            network.node(NODE).addresses,
            network.host("listed").addresses,
            network.pod("etcd").addresses,
        ];
        let others: Vec<IpAddr> = others.iter().flat_map(|dual| dual.both()).collect();
        let served = self.gated.stage.cluster.ports().api_server;
        let mut classes = shapes::classes(v6);
        classes.extend(leaving::classes(served, &others, v6));
        classes
    }

    fn rain(&self, agent: Option<&Agent>) -> Vec<Line> {
        let ways = self.ways.iter();
        let all = ways.flat_map(|way| {
            self.classes(way.to.is_ipv6()).into_iter().map(move |class| (way, class))
        });
        all.map(|(way, class)| self.storm(&class, way, agent)).collect()
    }

    /// One class at one way; what is answered goes on in the same shape, with data.
    fn storm(&self, class: &Class, way: &Way, agent: Option<&Agent>) -> Line {
        observed(&way.ns);
        way.catch.collect(Duration::ZERO, |_| true).unwrap();
        let before = (self.served(), verdicts(agent));
        let mut sent = self.fire(class, way, &Segment::open());
        let mut answers = HashMap::new();
        let asked = |seen: &Seen| {
            seen.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK
                && seen.source == way.to.ip()
        };
        for seen in self.wire.collect(QUIET, asked).unwrap() {
            answers.insert(seen.destination_port, (seen.ack, seen.seq.wrapping_add(1)));
        }
        for (number, shape) in (0_u16..).zip(&class.shapes) {
            let aim = self.aim(way, number);
            let numbers = answers.get(&aim.from.port()).copied().unwrap_or((2, 1));
            sent += self.send(&shape.frames(&aim, &Segment::data(numbers)));
        }
        self.settle();
        // A flood takes its time in the node.
        let caught = way.catch.collect(QUIET, is_bare).unwrap();
        let after = (self.served(), verdicts(agent));
        let moved = |reason: &&'static str| {
            let of = |verdicts: &BTreeMap<_, u64>| verdicts.get(reason).copied().unwrap_or(0);
            of(&after.1) - of(&before.1)
        };
        let drops = DENIED.iter().map(|reason| (*reason, moved(reason)));
        Line {
            name: format!("{}: {}", way.label, class.name),
            arrives: class.arrives,
            sent,
            delivered: observed(&way.ns),
            bare: caught.len() as u64,
            connections: after.0.0 - before.0.0,
            bytes: after.0.1 - before.0.1,
            drops: drops.filter(|(_, count)| *count > 0).collect(),
            admitted: ADMITTED.iter().map(moved).sum(),
        }
    }

    fn fire(&self, class: &Class, way: &Way, segment: &Segment) -> u64 {
        let shapes = (0_u16..).zip(&class.shapes);
        shapes
            .map(|(number, shape)| self.send(&shape.frames(&self.aim(way, number), segment)))
            .sum()
    }

    fn send(&self, frames: &[Vec<u8>]) -> u64 {
        frames.iter().for_each(|frame| self.wire.send(frame).unwrap());
        frames.len() as u64
    }

    /// Every shape has a source port of its own.
    fn aim(&self, way: &Way, number: u16) -> Aim {
        let pod = self.gated.api_server();
        let place = self.ways.iter().position(|it| std::ptr::eq(it, way)).unwrap();
        let from = SocketAddr::new(
            pod.addresses.like(way.to.ip()),
            20_000 + 1_000 * place as u16 + number,
        );
        Aim { from, to: way.to, mac: pod.mac, node: pod.gateway_mac }
    }

    /// Connections and bytes that all listeners know of; a datagram is one.
    fn served(&self) -> (u64, u64) {
        let Gated { servers, datagrams, .. } = &self.gated;
        let connections = servers.iter().map(|server| server.accepted()).sum();
        let bytes: u64 = servers.iter().map(|server| server.payload()).sum();
        let datagrams: u64 = datagrams.iter().map(|server| server.received()).sum();
        (connections, bytes + datagrams)
    }

    /// Waits until nothing moves any more.
    fn settle(&self) {
        let mut last = self.served();
        loop {
            sleep(Duration::from_millis(20));
            let now = self.served();
            if now == last {
                return;
            }
            last = now;
        }
    }
}

/// A SYN-ACK or a reset without data.
fn is_bare(seen: &Seen) -> bool {
    const BOTH: u8 = flags::SYN | flags::ACK;
    seen.protocol == protocol::TCP
        && seen.payload.is_empty()
        && (seen.flags & flags::RST != 0 || seen.flags & BOTH == BOTH)
}

/// Counts what comes in, whole or in fragments, but for what the router says by itself: that answers to
/// sources which do not exist led nowhere.
fn observer() -> String {
    let Dual { v4, v6 } = ROUTER;
    format!(
        "table inet hostile {{
  counter every {{ }}
  chain early {{
    type filter hook prerouting priority -450
    iifname \"lo\" return
    ip saddr {v4} icmp type destination-unreachable return
    ip6 saddr {v6} icmpv6 type destination-unreachable return
    icmpv6 type {{ {NEIGHBOURS} }} return
    counter name every
  }}
}}
"
    )
}

/// What hosts on a wire say to each other.
const NEIGHBOURS: &str =
    "nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report";

/// Answers by hand are not spoiled by the pod's own kernel, which knows of no connection.
const SILENCE: &str = "\
table inet silence {
  chain out {
    type filter hook output priority 0
    tcp flags & rst == rst drop
  }
}
";

/// Packets since the last time.
fn observed(ns: &Netns) -> u64 {
    ns.nft_counter("hostile", "every").unwrap().0
}

/// Verdicts of the node by reason.
fn verdicts(agent: Option<&Agent>) -> BTreeMap<&'static str, u64> {
    let reasons = [&DENIED[..], &ADMITTED].concat();
    agent.map(|agent| agent.verdicts(&reasons).unwrap()).unwrap_or_default()
}

#[test]
fn no_shape_carries_a_byte_or_a_connection_of_a_gated_pod_to_a_stranger() {
    let scene = Scene::new();
    scene.gated.api_server().ns.nft(SILENCE).unwrap();
    let without = scene.rain(None);
    let installation = scene.gated.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let with = scene.rain(Some(&agent));

    let mut holes = Vec::new();
    println!(
        "{:<52} {:>6} {:>7} {:>9} {:>6}  drops by reason",
        "class", "sent", "ungated", "delivered", "bare"
    );
    for (free, line) in without.iter().zip(&with) {
        let Line { name, arrives, sent, delivered, bare, connections, bytes, drops, admitted } =
            line;
        let leaks = delivered - bare;
        println!("{name:<52} {sent:>6} {:>7} {leaks:>9} {bare:>6}  {drops:?}", free.delivered);
        if leaks + connections + bytes + admitted > 0 {
            holes.push(format!(
                "{name}: {leaks} delivered, {connections} connections, {bytes} bytes, \
                 {admitted} admitted"
            ));
        }
        if drops.is_empty() {
            holes.push(format!("{name}: nothing is dropped"));
        }
        if *arrives && free.delivered == 0 {
            holes.push(format!("{name} shows nothing: it arrives nowhere without the agent"));
        }
    }
    assert_eq!(holes, [""; 0]);
    let (connections, bytes): (u64, u64) =
        without.iter().fold((0, 0), |all, line| (all.0 + line.connections, all.1 + line.bytes));
    println!("without the agent: {connections} connections, {bytes} bytes; with it: none");
    assert!(connections > 40 && bytes > 1_000, "{connections} {bytes}");
    for reason in DENIED {
        let dropped: u64 = with.iter().filter_map(|line| line.drops.get(reason)).sum();
        assert!(dropped > 0, "{reason}");
    }
}

#[test]
fn answers_and_peers_of_the_pod_keep_full_service_while_it_rains() {
    const AT_LEAST: Duration = Duration::from_secs(6);
    let scene = Scene::new();
    let installation = scene.gated.stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    let network = &scene.gated.stage.network;
    let (client, pod) = (&network.host("listed").ns, &scene.gated.api_server().ns);
    let effort =
        Effort { threads: 1, timeout: Duration::from_secs(5), pause: Duration::from_millis(1) };
    let start = |ns, to| Traffic::start(ns, to, effort).unwrap();
    let traffic: Vec<(&str, Traffic)> = [false, true]
        .into_iter()
        .flat_map(|v6| {
            [
                ("clients", start(client, scene.gated.api_address(v6))),
                ("etcd", start(pod, scene.gated.address("etcd", v6))),
            ]
        })
        .collect();
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < AT_LEAST {
        for way in &scene.ways {
            for class in scene.classes(way.to.is_ipv6()) {
                sent += scene.fire(&class, way, &Segment::open());
                sent += scene.fire(&class, way, &Segment::data((2, 1)));
            }
            let resolver = scene.gated.address("dns-resolver", way.to.is_ipv6());
            let asked = ask_udp(pod, None, resolver, Duration::from_secs(5));
            assert_eq!(asked, Outcome::Answered, "{resolver}");
        }
    }
    let took = begin.elapsed();
    for (name, traffic) in traffic {
        let served = traffic.stop();
        println!("{sent} hostile packets in {took:?}: {name}: {served:?}");
        assert_eq!(served.answered, served.attempted, "{name}: {served:?}");
        assert!(served.answered > 100, "{name}: {served:?}");
    }
    assert!(sent > 5_000, "{sent}");
}
