//! The kernel's verdicts, taken with `test_run` on the product's own program, held against the
//! oracle, which never sees the compiled image.
#![allow(clippy::unwrap_used, reason = "a test")]

mod judged;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use enforcer::kernel::Kernel;
use enforcer_ebpf::decide::{Action, Reason};

use enforcer_policy::{
    generate::questions,
    model::{Protocol, Side},
    oracle::{Answer, Packet as Question, admit},
    plan::LinkLayer,
};
use enforcer_tests::{cleanup::Scratch, packets::Packet};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use judged::{action, enforce, small};

const SNAPSHOTS: u32 = 250;
const PACKETS: usize = 48;

fn crafted(question: &Question) -> Packet {
    let from = SocketAddr::new(question.source, 40_000);
    let to = SocketAddr::new(question.destination, question.port);
    match question.protocol {
        Protocol::Tcp => Packet::tcp(from, to),
        Protocol::Udp => Packet::udp(from, to),
    }
}

/// `None` for what the image does not tell apart yet.
fn expected(answer: &Answer) -> Option<Reason> {
    match answer {
        Answer::Unguarded => Some(Reason::Unguarded),
        Answer::Listed(_) => Some(Reason::Listed),
        Answer::Exempt(_) => Some(Reason::Exempt),
        Answer::NotListed(_) => Some(Reason::NotListed),
        Answer::OwnPod(_)
        | Answer::TrustedProxy(_)
        | Answer::Reply
        | Answer::Probe(_)
        | Answer::ProbeData(_) => None,
    }
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
    let mut runner = TestRunner::new(Config {
        cases: SNAPSHOTS,
        failure_persistence: None,
        ..Config::default()
    });
    let tally = std::cell::RefCell::new(BTreeMap::<Reason, u64>::new());
    let kernel = std::cell::RefCell::new(&mut kernel);
    runner
        .run(&questions(PACKETS), |(snapshot, packets)| {
            let kernel = &mut **kernel.borrow_mut();
            enforce(kernel, &snapshot);
            for (number, question) in packets.iter().enumerate() {
                let link = if number % 2 == 0 { LinkLayer::Ethernet } else { LinkLayer::Raw };
                let Some(reason) = expected(&admit(&snapshot, question)) else { continue };
                let is_pod = |pods: &BTreeSet<IpAddr>| pods.contains(&question.source);
                if question.side == Side::Pod
                    || snapshot.clusters.values().any(|cluster| is_pod(&cluster.own_pods))
                {
                    continue;
                }
                let before = counted(kernel);
                let action = action(kernel, link, &crafted(question));
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
    assert!(tally.values().sum::<u64>() >= 10_000, "{tally:?}");
    for reason in [Reason::Unguarded, Reason::Listed, Reason::Exempt, Reason::NotListed] {
        assert!(tally.get(&reason).is_some_and(|count| *count >= 100), "{reason:?} {tally:?}");
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
