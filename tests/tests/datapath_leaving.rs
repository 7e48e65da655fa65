//! What gated pods send: the data path on the host and in the kernel, held against the oracle.
#![allow(clippy::unwrap_used, reason = "a test")]

mod judged;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
};

use enforcer::kernel::Kernel;
use enforcer_ebpf::{
    abi::{EgressEntry, Explained},
    address::Address,
    leave::{Connection, Sender, Sockets, judge_leaving, state},
    parse::{self, Link},
    tables::{Tables as _, egress_entry},
    verdict::{Action, Reason},
};
use enforcer_policy::{
    compile::compile,
    generate::{DEPARTURE_INTERFACE, departures},
    image::{Image, assign},
    model::{Side, Snapshot},
    oracle::{Carries, Departure, Does, Leaving, Owner, depart},
    plan::{Explain, LinkLayer, Program},
};
use enforcer_tests::{
    cleanup::Scratch,
    netns::Netns,
    packets::{Packet, flags},
    slow::{at_least, fewer},
};
use judged::{enforce, returned, run};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use zerocopy::{FromBytes, Immutable};

/// The port that the pod listens on, and one that it does not.
const SERVED: u16 = 6443;
const OTHER: u16 = 40_000;

fn crafted(question: &Leaving) -> Packet {
    let from = SocketAddr::new(question.source, source_port(question));
    let to = SocketAddr::new(question.destination, question.port);
    match question.carries {
        Carries::Udp => Packet::udp(from, to).payload([7; 9]),
        Carries::Echo => {
            let kind = if question.source.is_ipv4() { 8 } else { 128 };
            Packet::icmp(question.source, question.destination, kind, 0, [0, 1, 0, 1])
        }
        Carries::Tcp { does, data } => {
            let packet = Packet::tcp(from, to).flags(match does {
                Does::Asks => flags::SYN,
                Does::Accepts => flags::SYN | flags::ACK,
                Does::Resets => flags::RST,
                Does::GoesOn => flags::ACK,
            });
            if data { packet.payload([7; 9]) } else { packet }
        }
    }
}

const fn source_port(question: &Leaving) -> u16 {
    if question.listens { SERVED } else { OTHER }
}

/// The frame, with the interface's number where a dry run looks for it.
fn frame(question: &Leaving) -> Vec<u8> {
    let [a, b, c, d] = question.interface.to_be_bytes();
    crafted(question).frame([a, b, c, d, 0, 0], [2, 0, 0, 0, 0, 2])
}

struct Bytes<'a>(&'a [u8]);

impl parse::Packet for Bytes<'_> {
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        T::read_from_prefix(self.0.get(offset as usize..)?).ok().map(|(value, _)| value)
    }
}

/// Sockets as the question makes them up.
struct MadeUp<'a>(&'a Leaving);

impl Sockets for MadeUp<'_> {
    fn sender(&self) -> Sender {
        match self.0.owner {
            Owner::Sender => Sender {
                state: state::ESTABLISHED,
                local: source_port(self.0),
                remote: self.0.port,
            },
            Owner::Nobody | Owner::Connection | Owner::Remnant => Sender::default(),
        }
    }

    fn owner<A: Address>(&self, connection: &Connection<A>) -> u32 {
        let ports = (connection.local_port, connection.remote_port);
        assert_eq!(ports, (source_port(self.0), self.0.port));
        match self.0.owner {
            Owner::Nobody if self.0.listens => state::LISTEN,
            Owner::Nobody => 0,
            Owner::Sender | Owner::Connection => state::ESTABLISHED,
            Owner::Remnant => state::TIME_WAIT,
        }
    }

    fn listens<A: Address>(&self, _local: A, port: u16) -> bool {
        assert_eq!(port, source_port(self.0));
        self.0.listens
    }

    fn listened(&self, port: u16) -> bool {
        port == SERVED && self.0.listens
    }

    fn may_reset(&self) -> bool {
        true
    }

    fn asks<A: Address>(&self, _resolver: A, _cluster: u32) {}
}

fn host_reason(image: &Image, question: &Leaving) -> Option<&'static str> {
    let entry: &EgressEntry = egress_entry(image.image(), question.interface)?;
    let (bytes, sockets) = (frame(question), MadeUp(question));
    let length = bytes.len() as u32;
    let verdict = judge_leaving(&Bytes(&bytes), Link::Ethernet, length, entry, image, &sockets);
    Some(verdict.reason.name())
}

#[test]
fn the_host_agrees_with_the_oracle_on_generated_departures() {
    let tally = RefCell::new(BTreeMap::<&str, u64>::new());
    let config = Config { cases: 800, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&departures(40), |(snapshot, questions)| {
            let (rules, _) = compile(&snapshot);
            let image = Image::lower(&rules, &assign(&rules, &[]).unwrap()).unwrap();
            for question in questions {
                let departure = depart(&snapshot, &question);
                let reason = departure.reason();
                prop_assert_eq!(host_reason(&image, &question), reason, "{:?}", question);
                *tally.borrow_mut().entry(reason.unwrap_or("not gated")).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    println!("departures by reason: {tally:?}");
    for reason in ["not gated", "peer", "served", "not_peer", "spoofed_source", "forged"] {
        assert!(tally.get(reason).is_some_and(|asked| *asked >= 100), "{reason}: {tally:?}");
    }
}

/// The kernel's sockets are those of the test's own namespace, where one port is listened on.
fn as_here(snapshot: &mut Snapshot) {
    for interface in &mut snapshot.this_node.pod_interfaces {
        interface.netns = u32::MAX;
    }
}

#[test]
fn the_kernel_agrees_with_the_oracle_on_generated_departures() {
    let netns = Netns::new("leaving").unwrap();
    netns.enter(|| {
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVED)).unwrap();
        let mut scratch = Scratch::new("leaving").unwrap();
        let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
        let kernel = RefCell::new(&mut kernel);
        let tally = RefCell::new(BTreeMap::<&str, u64>::new());
        let config = Config { cases: fewer(200), failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&departures(60), |(mut snapshot, questions)| {
                as_here(&mut snapshot);
                let kernel = &mut **kernel.borrow_mut();
                enforce(kernel, &snapshot);
                for mut question in questions {
                    question.owner = Owner::Nobody;
                    let reason = depart(&snapshot, &question).reason();
                    let bytes = frame(&question);
                    let program = Program::Explain(Explain::Leaving);
                    let explained = Explained::from(returned(kernel, program, &bytes));
                    let known = Reason::ALL[explained.reason as usize];
                    prop_assert_eq!(known.name(), reason.unwrap_or("unguarded"), "{:?}", question);
                    *tally.borrow_mut().entry(known.name()).or_default() += 1;
                    if reason.is_some() {
                        acts(kernel, &bytes, known);
                    }
                }
                Ok(())
            })
            .unwrap();
        let tally = tally.into_inner();
        println!("departures by reason: {tally:?}");
        for reason in ["unguarded", "peer", "served", "not_peer", "spoofed_source", "forged"] {
            let asked = tally.get(reason).copied().unwrap_or_default();
            assert!(asked >= at_least(100), "{reason}: {tally:?}");
        }
    });
}

/// The attached program counts the reason, and drops where it says so. What passes may still be denied
/// at a frontend.
fn acts(kernel: &mut Kernel, bytes: &[u8], reason: Reason) {
    let program = Program::Ingress { side: Side::Pod, link: LinkLayer::Ethernet };
    let count = |kernel: &Kernel, reason| kernel.counters().reason(reason).unwrap();
    let limited = count(kernel, Reason::ResetLimit);
    let before = count(kernel, reason);
    let action = run(kernel, program, bytes);
    if count(kernel, Reason::ResetLimit) > limited {
        assert_eq!((reason, action), (Reason::Served, Action::Drop), "more resets than may leave");
        return;
    }
    assert_eq!(count(kernel, reason), before + 1, "{reason:?}");
    if reason.action() == Action::Drop {
        assert_eq!(action, Action::Drop, "{reason:?}");
    }
}

#[test]
fn a_dry_run_moves_no_counter_and_tells_nobody() {
    let netns = Netns::new("dry").unwrap();
    netns.enter(|| {
        let mut scratch = Scratch::new("dry").unwrap();
        let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
        enforce(&mut kernel, &judged::small::snapshot("203.0.113.0/24"));
        let to = "192.0.2.10:30000".parse().unwrap();
        let packet = |from: &str| {
            Packet::tcp(from.parse().unwrap(), to).frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        };
        let explain = |kernel: &mut Kernel, from| {
            let program = Program::Explain(Explain::Ingress(Side::Uplink));
            Explained::from(returned(kernel, program, &packet(from)))
        };
        let listed = explain(&mut kernel, "203.0.113.9:40000");
        let unlisted = explain(&mut kernel, "198.51.100.9:40000");
        assert_eq!((listed.reason, listed.drops), (Reason::Listed as u32, false));
        assert_eq!((unlisted.reason, unlisted.drops), (Reason::NotListed as u32, true));
        assert_ne!(listed.policy, 0);
        assert_eq!(listed.policy, unlisted.policy);
        assert_eq!(kernel.counters().cluster(0).unwrap(), enforcer_ebpf::abi::Counters::default());
        assert_eq!(kernel.counters().reason(Reason::NotListed).unwrap(), 0);
    });
}

/// Addresses of one family on one interface, the least of which counts.
#[test]
fn packets_of_a_gated_pod_to_nobody_are_denied_also_before_its_peers_are_known() {
    let netns = Netns::new("nobody").unwrap();
    netns.enter(|| {
        let mut scratch = Scratch::new("nobody").unwrap();
        let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
        let mut snapshot = judged::small::snapshot("203.0.113.0/24");
        let pod: IpAddr = "10.244.1.7".parse().unwrap();
        judged::small::gate(&mut snapshot, pod, DEPARTURE_INTERFACE);
        enforce(&mut kernel, &snapshot);
        let question = |destination: &str, carries| Leaving {
            interface: DEPARTURE_INTERFACE,
            source: pod,
            destination: destination.parse().unwrap(),
            port: 443,
            carries,
            listens: false,
            owner: Owner::Nobody,
        };
        for carries in [
            Carries::Udp,
            Carries::Echo,
            Carries::Tcp { does: Does::Asks, data: false },
            Carries::Tcp { does: Does::GoesOn, data: true },
        ] {
            for destination in ["169.254.169.254", "10.96.0.1", "192.0.2.10", "203.0.113.9"] {
                let question = question(destination, carries);
                let departure = depart(&snapshot, &question);
                assert!(matches!(departure, Departure::NotPeer | Departure::Forged));
                let program = Program::Ingress { side: Side::Pod, link: LinkLayer::Ethernet };
                let action = run(&mut kernel, program, &frame(&question));
                assert_eq!(action, Action::Drop, "{question:?}");
            }
        }
    });
}
