//! The packets behind the questions: sent where they would come in, and seen by netfilter, which is behind
//! the hook and before anything that routes or rewrites.
//!
//! Each packet has a number of its own: the sequence number of TCP, the source port of UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use enforcer_tests::agent::Agent;
use enforcer_tests::packets::{Mac, Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::NODE;
use serde_json::Value;

use crate::fleet::{Fleet, GATED, OTHER_POD};
use crate::said::{Case, Group};

/// The TCP window that marks this file's packets.
const WINDOW: u16 = 31_022;
/// UDP packets of one group; their source ports are their numbers.
const PORTS: std::ops::Range<u32> = 20_000..60_000;
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Wire<'a> {
    fleet: &'a Fleet,
    uplink: RawPort,
    pods: BTreeMap<&'static str, RawPort>,
    next: u32,
}

/// What of the packets of a group is to pass, and what the counters are to say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    numbers: BTreeSet<u32>,
    passing: BTreeSet<u32>,
    reasons: BTreeMap<String, u64>,
    fates: BTreeMap<&'static str, u64>,
}

impl<'a> Wire<'a> {
    pub(crate) fn open(fleet: &'a Fleet) -> Wire<'a> {
        let set = |name: &str, what: &str| {
            format!("  set {name} {{ typeof {what}; flags dynamic; size 65535; }}\n")
        };
        let table = format!(
            "table inet asked\ndelete table inet asked\ntable inet asked {{\n{}{}\
             chain seen {{ type filter hook prerouting priority -400; policy accept;\n\
             tcp window {WINDOW} add @segments {{ tcp sequence }} drop\n\
             udp sport {}-{} add @datagrams {{ udp sport }} drop\n}}\n}}\n",
            set("segments", "tcp sequence"),
            set("datagrams", "udp sport"),
            PORTS.start,
            PORTS.end,
        );
        let network = &fleet.stage.network;
        network.node(NODE).ns.nft(&table).unwrap();
        let pod = |name| (name, RawPort::open(&network.pod(name).ns, "eth0").unwrap());
        Wire {
            fleet,
            uplink: RawPort::open(network.router(), "nodes").unwrap(),
            pods: GATED.into_iter().chain([OTHER_POD]).map(pod).collect(),
            next: PORTS.start,
        }
    }

    /// Packets sent so far.
    pub(crate) fn sent(&self) -> u64 {
        u64::from(self.next - PORTS.start)
    }

    /// Sends the packets of a group.
    ///
    /// # Panics
    /// If they fare otherwise than was said.
    pub(crate) fn send(&mut self, agent: &Agent, cases: &[&Case], group: &Group) {
        let mut expected = Expected::default();
        let mut frames: BTreeMap<&str, Vec<Vec<u8>>> = BTreeMap::new();
        for case in cases {
            let place = self.place(case);
            let opening = self.packet(case, group, false, &mut expected);
            let from = frames.entry(place).or_default();
            from.push(self.frame(place, &opening));
            // A segment of no connection is for gated pods another question.
            if !case.asked.udp && !group.gated {
                let data = self.packet(case, group, true, &mut expected);
                from.push(self.frame(place, &data));
            }
        }
        let before = Counters::now(agent);
        for (place, frames) in &frames {
            self.pods.get(place).unwrap_or(&self.uplink).send_many(frames).unwrap();
        }
        let end = Instant::now() + LIMIT;
        loop {
            let moved = Counters::now(agent) - &before;
            let passed = self.passed();
            let wrong = expected.differs(&moved, &passed, group);
            match wrong {
                None => break,
                Some(why) if Instant::now() > end => {
                    let lost = |numbers: &BTreeSet<u32>, from: &BTreeSet<u32>| {
                        let first = *expected.numbers.first().unwrap();
                        let numbers = numbers.difference(from).filter(|it| **it >= first);
                        numbers.take(3).map(|it| it - first).collect::<Vec<_>>()
                    };
                    panic!(
                        "{group:?}: {why}; not seen: {:?}, seen too: {:?} of {cases:#?}",
                        lost(&expected.passing, &passed),
                        lost(&passed, &expected.passing),
                    );
                }
                Some(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        for set in ["segments", "datagrams"] {
            self.node().run("nft", &["flush", "set", "inet", "asked", set]).unwrap();
        }
    }

    fn node(&self) -> &enforcer_tests::netns::Netns {
        &self.fleet.stage.network.node(NODE).ns
    }

    /// Where a packet is sent from: a pod's name, or nothing for the uplink.
    fn place(&self, case: &Case) -> &'static str {
        match (self.fleet.sender(&case.asked), case.side.as_str()) {
            (Some(pod), _) => pod,
            (None, "pod") => OTHER_POD,
            (None, _) => "",
        }
    }

    /// The next packet of a case, noted as expected.
    fn packet(
        &mut self,
        case: &Case,
        group: &Group,
        data: bool,
        expected: &mut Expected,
    ) -> Packet {
        let number = self.next;
        self.next += 1;
        assert!(PORTS.contains(&number));
        let asked = &case.asked;
        let source_port = if asked.udp { number as u16 } else { 40_000 };
        let from = std::net::SocketAddr::new(asked.source, source_port);
        let packet = match (asked.udp, data) {
            (true, _) => Packet::udp(from, asked.to).payload(*b"hello"),
            (false, false) => Packet::tcp(from, asked.to).flags(flags::SYN),
            (false, true) => {
                Packet::tcp(from, asked.to).flags(flags::ACK | flags::PSH).payload(*b"hello")
            }
        };
        // A health check's source may open what it may not use.
        let probes = group.reason == "probe";
        let fate = match (group.verdict.as_str(), data && probes) {
            ("unguarded", _) => "",
            ("allowed" | "handshake", false) => "allowed",
            ("handshake", true) | ("denied", _) => "denied",
            ("would-deny", false) if probes => "allowed",
            ("would-deny", _) => "would_deny",
            other => panic!("{other:?}"),
        };
        expected.numbers.insert(number);
        if fate != "denied" {
            expected.passing.insert(number);
        }
        let reason = if data && probes { "probe_data" } else { &group.reason };
        // What lists admit is counted by cluster only.
        if !matches!(reason, "listed" | "unguarded") {
            *expected.reasons.entry(reason.to_owned()).or_default() += 1;
        }
        if !fate.is_empty() {
            *expected.fates.entry(fate).or_default() += 1;
        }
        packet.numbers(number, 0).window(WINDOW, 0)
    }

    fn frame(&self, place: &str, packet: &Packet) -> Vec<u8> {
        const ROUTER: Mac = [0x02, 0xee, 0, 0, 0, 1];
        let network = &self.fleet.stage.network;
        if place.is_empty() {
            return packet.frame(ROUTER, network.node(NODE).mac);
        }
        let pod = network.pod(place);
        packet.frame(pod.mac, pod.gateway_mac)
    }

    /// Numbers of packets that came past the hook.
    fn passed(&self) -> BTreeSet<u32> {
        let list = |set| {
            let text =
                self.node().run("nft", &["-j", "list", "set", "inet", "asked", set]).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let sets = json["nftables"].as_array().unwrap().iter();
            let elements = sets.filter_map(|it| it["set"]["elem"].as_array()).flatten();
            elements.map(|it| it.as_u64().unwrap() as u32).collect::<Vec<_>>()
        };
        list("segments").into_iter().chain(list("datagrams")).collect()
    }
}

impl Expected {
    /// What is not as it was said.
    fn differs(&self, moved: &Counters, passed: &BTreeSet<u32>, group: &Group) -> Option<String> {
        if *passed != self.passing {
            return Some(format!("{} of {} came through", passed.len(), self.passing.len()));
        }
        let Group { cluster, gated, .. } = group;
        let counted = moved.reasons.iter().filter(|(reason, _)| match gated {
            // Two programs count what gated pods send: each has reasons of its own.
            true => self.reasons.contains_key(*reason),
            // Neighbour discovery of gated pods goes on.
            false => *reason != "neighbour",
        });
        let counted: BTreeMap<String, u64> = counted.map(|(it, n)| (it.clone(), *n)).collect();
        if counted != self.reasons {
            return Some(format!("counted {counted:?} and not {:?}", self.reasons));
        }
        if *gated {
            return None;
        }
        for fate in ["allowed", "denied", "would_deny"] {
            let expected = self.fates.get(fate).copied().unwrap_or(0);
            let of = |name: &str| {
                let rows = moved
                    .ingress
                    .iter()
                    .filter(|((row, of), _)| of == fate && (name.is_empty() || row == name));
                rows.map(|(_, packets)| packets).sum::<u64>()
            };
            let name = cluster.as_deref().unwrap_or_default();
            if of("") != expected || of(name) != expected {
                return Some(format!(
                    "{fate}: {expected} expected of {name}, not {:?}",
                    moved.ingress
                ));
            }
        }
        None
    }
}

/// What the kernel counted, by the agent's metrics; zeroes are not there.
#[derive(Debug, Default)]
struct Counters {
    reasons: BTreeMap<String, u64>,
    /// By cluster and fate, of packets to API servers.
    ingress: BTreeMap<(String, String), u64>,
}

impl Counters {
    fn now(agent: &Agent) -> Counters {
        let page = agent.metrics().unwrap();
        let mut counters = Counters::default();
        for line in page.lines() {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            let labels: BTreeMap<&str, &str> = labels
                .split("\",")
                .filter_map(|label| label.trim_end_matches('"').split_once("=\""))
                .collect();
            let count = || value.parse::<f64>().unwrap() as u64;
            match name {
                "enforcer_verdicts_total" => {
                    counters.reasons.insert(labels["reason"].to_owned(), count());
                }
                "enforcer_packets_total" if labels["direction"] == "ingress" => {
                    let row = (labels["cluster"].to_owned(), labels["verdict"].to_owned());
                    counters.ingress.insert(row, count());
                }
                _ => {}
            }
        }
        counters
    }
}

impl std::ops::Sub<&Counters> for Counters {
    type Output = Counters;

    /// What moved.
    fn sub(mut self, before: &Counters) -> Counters {
        for (reason, packets) in &mut self.reasons {
            *packets -= before.reasons.get(reason).copied().unwrap_or(0);
        }
        for (row, packets) in &mut self.ingress {
            *packets -= before.ingress.get(row).copied().unwrap_or(0);
        }
        self.reasons.retain(|_, packets| *packets > 0);
        self.ingress.retain(|_, packets| *packets > 0);
        self
    }
}
