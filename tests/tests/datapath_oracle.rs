//! The kernel's verdicts, taken with `test_run` on the product's own program, held against the
//! oracle, which never sees the compiled image.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod judged;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use enforcer::kernel::{Attach, Kernel, Layout};
use enforcer_ebpf::verdict::{Action, Reason};

use enforcer_policy::{
    generate::questions,
    model::{Mode, Protocol},
    oracle::{Answer, Packet as Question, Segment, admit},
    plan::{LinkLayer, Program},
};
use enforcer_tests::{
    cleanup::Scratch,
    packets::{Packet, flags},
    slow::{at_least, fewer},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use judged::{action, bytes_at, enforce, run, small};

const SNAPSHOTS: u32 = 250;
const PACKETS: usize = 48;
/// Source ports, one per question, long enough in turn for the node to forget.
const FIRST_PORT: u16 = 1024;

/// A question as a packet, from a source port of its own: what the node remembers of one question
/// answers no other.
fn crafted(question: &Question, source_port: u16) -> Packet {
    let from = SocketAddr::new(question.source, source_port);
    let to = SocketAddr::new(question.destination, question.port);
    match question.protocol {
        Protocol::Tcp => segment(Packet::tcp(from, to), question.segment),
        Protocol::Udp => Packet::udp(from, to).payload([7; 9]),
    }
}

fn segment(packet: Packet, segment: Segment) -> Packet {
    match segment {
        Segment::Open => packet.flags(flags::SYN),
        Segment::OpenData => packet.flags(flags::SYN).payload([7; 9]),
        Segment::Bare => packet.flags(flags::ACK),
        Segment::Data => packet.flags(flags::ACK | flags::PSH).payload([7; 9]),
    }
}

/// Lets the node open the connection that the question is an answer to, if it can: only from an
/// address of its own.
fn opened(
    kernel: &mut Kernel,
    link: LinkLayer,
    question: &mut Question,
    source_port: u16,
    own: bool,
) {
    question.answers_node &= own && question.protocol == Protocol::Tcp;
    if question.answers_node {
        let from = SocketAddr::new(question.destination, question.port);
        let to = SocketAddr::new(question.source, source_port);
        let bytes = bytes_at(link, &Packet::tcp(from, to).flags(flags::SYN));
        assert_eq!(run(kernel, Program::Egress { link }, &bytes), Action::Pass);
    }
}

fn reason_of(answer: &Answer) -> Reason {
    let named = Reason::ALL.into_iter().find(|reason| reason.name() == answer.reason());
    named.unwrap_or_else(|| panic!("no reason is called {}", answer.reason()))
}

fn counted(kernel: &Kernel) -> BTreeMap<Reason, u64> {
    Reason::ALL
        .into_iter()
        .map(|reason| (reason, kernel.counters().reason(reason).unwrap()))
        .collect()
}

#[test]
fn the_kernel_agrees_with_the_oracle_on_generated_snapshots_and_packets() {
    let mut scratch = Scratch::new("oracle").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    agree(&mut kernel, fewer(SNAPSHOTS), 20);
}

#[test]
fn so_does_one_that_takes_images_only_in_parts() {
    let mut scratch = Scratch::new("parts").unwrap();
    let bpffs = scratch.bpffs("pins").unwrap();
    let mut kernel = Kernel::open_laid_out(&bpffs, Attach::Auto, Layout::Parts).unwrap();
    agree(&mut kernel, SNAPSHOTS / 2, 5);
}

/// Asks the kernel what it makes of generated packets, and the oracle; each reason that often at least.
fn agree(kernel: &mut Kernel, snapshots: u32, least: u64) {
    let mut runner = TestRunner::new(Config {
        cases: snapshots,
        failure_persistence: None,
        ..Config::default()
    });
    let tally = std::cell::RefCell::new(BTreeMap::<Reason, u64>::new());
    let kernel = std::cell::RefCell::new(kernel);
    let next_port = std::cell::RefCell::new(FIRST_PORT);
    runner
        .run(&questions(PACKETS), |(snapshot, packets)| {
            let kernel = &mut **kernel.borrow_mut();
            enforce(kernel, &snapshot);
            for (number, mut question) in packets.into_iter().enumerate() {
                let link = if number % 2 == 0 { LinkLayer::Ethernet } else { LinkLayer::Raw };
                let source_port = {
                    let mut next = next_port.borrow_mut();
                    *next = if *next == u16::MAX { FIRST_PORT } else { *next + 1 };
                    *next
                };
                let own = snapshot.this_node.addresses.contains(&question.destination);
                opened(kernel, link, &mut question, source_port, own);
                let reason = reason_of(&admit(&snapshot, &question));
                let bytes = bytes_at(link, &crafted(&question, source_port));
                let before = counted(kernel);
                let action = run(kernel, Program::Ingress { side: question.side, link }, &bytes);
                let mut after = before.clone();
                if !matches!(reason, Reason::Unguarded | Reason::Listed) {
                    *after.entry(reason).or_default() += 1;
                }
                prop_assert_eq!(action, reason.action(), "{:?}", question);
                prop_assert_eq!(counted(kernel), after, "{:?}", question);
                *tally.borrow_mut().entry(reason).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    println!("pairs by reason: {tally:?}");
    assert!(tally.values().sum::<u64>() >= u64::from(snapshots) * 40, "{tally:?}");
    for reason in Reason::ALL.into_iter().filter(|reason| !reason.is_of_gated_pods()) {
        // What the shape of a packet decides is no question for the oracle.
        let of_shapes = matches!(reason, Reason::ShortFragment | Reason::HiddenTransport);
        let asked = tally.get(&reason).copied().unwrap_or_default();
        assert!(of_shapes || asked >= at_least(least), "{reason:?} {tally:?}");
    }
}

#[test]
fn counters_belong_to_the_cluster_and_count_packets_and_bytes() {
    let mut scratch = Scratch::new("counters").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    let snapshot = small::snapshot("203.0.113.0/24");
    enforce(&mut kernel, &snapshot);
    let to = SocketAddr::new("192.0.2.10".parse::<IpAddr>().unwrap(), 30_000);
    let listed = Packet::tcp("203.0.113.9:40000".parse().unwrap(), to);
    let unlisted = Packet::tcp("198.51.100.9:40000".parse().unwrap(), to).payload(vec![0; 100]);
    for _ in 0..3 {
        assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &listed), Action::Pass);
    }
    for _ in 0..2 {
        assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &unlisted), Action::Drop);
    }
    let counters = kernel.counters().cluster(0).unwrap();
    assert_eq!((counters.allowed_packets, counters.denied_packets), (3, 2));
    assert_eq!(counters.allowed_bytes, 3 * listed.ip_bytes().len() as u64);
    assert_eq!(counters.denied_bytes, 2 * unlisted.ip_bytes().len() as u64);
    enforce(&mut kernel, &small::snapshot("198.51.100.0/24"));
    assert_eq!(kernel.counters().cluster(0).unwrap(), counters, "an edit keeps the counters");
    assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &listed), Action::Drop);
    assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &unlisted), Action::Pass);
}

#[test]
fn audit_counts_what_it_would_drop_and_lets_it_pass() {
    let mut scratch = Scratch::new("audit").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    let mut snapshot = small::snapshot("203.0.113.0/24");
    let unlisted =
        Packet::tcp("198.51.100.9:40000".parse().unwrap(), "192.0.2.10:30000".parse().unwrap());
    for (mode, expected) in [(Mode::Audit, Action::Pass), (Mode::Enforce, Action::Drop)] {
        snapshot.options.mode = mode;
        enforce(&mut kernel, &snapshot);
        let before = kernel.counters().cluster(0).unwrap();
        let reason = kernel.counters().reason(Reason::NotListed).unwrap();
        assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &unlisted), expected, "{mode:?}");
        let after = kernel.counters().cluster(0).unwrap();
        let (denied, audited) = match mode {
            Mode::Enforce => (1, 0),
            Mode::Audit => (0, 1),
        };
        assert_eq!(after.denied_packets, before.denied_packets + denied, "{mode:?}");
        assert_eq!(after.would_deny_packets, before.would_deny_packets + audited, "{mode:?}");
        assert_eq!(after.allowed_packets, before.allowed_packets, "{mode:?}");
        assert_eq!(kernel.counters().reason(Reason::NotListed).unwrap(), reason + 1);
    }
}
