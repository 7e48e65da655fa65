//! What a dry run says is what the programs on the hooks do, on generated snapshots and packets, and it
//! leaves no trace.
#![allow(clippy::unwrap_used, reason = "a test")]

mod judged;

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr};

use enforcer::kernel::{DryRun, Kernel, Probe, RecentSources, Step, Suppressed};
use enforcer_ebpf::verdict::{Action, Reason};
use enforcer_policy::{
    generate::questions,
    model::Protocol,
    oracle::{Segment, admit},
    plan::{LinkLayer, Program},
};
use enforcer_tests::{
    cleanup::Scratch,
    packets::{Packet, flags},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use judged::{bytes_at, enforce, run};

const SNAPSHOTS: u32 = 100;
const PACKETS: usize = 40;
/// A port from which nothing was ever opened.
const PORT: u16 = 55_555;

#[test]
fn a_dry_run_says_what_the_programs_do_and_leaves_no_trace() {
    let mut scratch = Scratch::new("explain").unwrap();
    let pins = scratch.bpffs("pins").unwrap();
    let mut kernel = Kernel::open(&pins).unwrap();
    let dry_run = DryRun::open(&pins).unwrap();
    let (recent, suppressed) =
        (RecentSources::open(&pins).unwrap(), Suppressed::open(&pins).unwrap());
    let config = Config { cases: SNAPSHOTS, failure_persistence: None, ..Config::default() };
    let tally = RefCell::new(BTreeMap::<&str, u64>::new());
    let kernel = RefCell::new(&mut kernel);
    TestRunner::new(config)
        .run(&questions(PACKETS), |(snapshot, packets)| {
            let kernel = &mut **kernel.borrow_mut();
            enforce(kernel, &snapshot);
            for mut question in packets {
                question.answers_node = false;
                for step in [Step::Open, Step::Data] {
                    question.segment = match (step, question.protocol) {
                        (Step::Open, Protocol::Tcp) => Segment::Open,
                        (Step::Data, _) | (_, Protocol::Udp) => Segment::Data,
                    };
                    let from = SocketAddr::new(question.source, PORT);
                    let to = SocketAddr::new(question.destination, question.port);
                    let probe = Probe { from, to, protocol: question.protocol, step };

                    let trace = (counted(kernel), recent.all(), suppressed.ever().unwrap());
                    let explained = dry_run.enters(question.side, &probe).unwrap();
                    let after = (counted(kernel), recent.all(), suppressed.ever().unwrap());
                    prop_assert_eq!(trace, after, "a dry run left a trace: {:?}", question);

                    // Made by another hand than the dry run's own packet.
                    let packet = match (question.protocol, step) {
                        (Protocol::Tcp, Step::Open) => Packet::tcp(from, to).flags(flags::SYN),
                        (Protocol::Tcp, Step::Data) => {
                            Packet::tcp(from, to).flags(flags::ACK | flags::PSH).payload([7; 5])
                        }
                        (Protocol::Udp, _) => Packet::udp(from, to).payload([7; 5]),
                    };
                    let bytes = bytes_at(LinkLayer::Ethernet, &packet);
                    let link = LinkLayer::Ethernet;
                    let action =
                        run(kernel, Program::Ingress { side: question.side, link }, &bytes);
                    let drops = explained.drops && !explained.audited;
                    prop_assert_eq!(drops, action == Action::Drop, "{:?}", question);
                    let reason = admit(&snapshot, &question).reason();
                    let said = Reason::ALL[explained.reason as usize].name();
                    prop_assert_eq!(said, reason, "{:?}", question);
                    *tally.borrow_mut().entry(said).or_default() += 1;
                }
            }
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    println!("dry runs by reason: {tally:?}");
    assert!(tally.values().sum::<u64>() >= 5_000, "{tally:?}");
    for reason in ["listed", "not_listed", "exempt", "own_pod", "probe", "probe_data", "unguarded"]
    {
        assert!(tally.get(reason).is_some_and(|asked| *asked >= 20), "{reason}: {tally:?}");
    }
}

fn counted(kernel: &Kernel) -> Vec<u64> {
    let reasons = Reason::ALL.map(|reason| kernel.counters().reason(reason).unwrap());
    let clusters = (0..4).map(|slot| kernel.counters().cluster(slot).unwrap().allowed_packets);
    reasons.into_iter().chain(clusters).collect()
}
