//! Whole images swapped under traffic: every verdict is one of the old or of the new image's, never
//! of a mix.
#![allow(clippy::unwrap_used, reason = "a test")]

mod judged;

use std::{
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use enforcer::kernel::{Kernel, Pins};
use enforcer_policy::{
    generate::questions,
    model::{Protocol, Snapshot},
    oracle::{Packet as Question, admit},
};
use enforcer_tests::{cleanup::Scratch, packets::Packet};
use judged::enforce;
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};

const SWAPS: usize = 1_000;
/// Snapshots, in force in turn.
const SNAPSHOTS: usize = 40;
const PACKETS: usize = 24;

struct Traffic<'a> {
    snapshots: &'a [(Snapshot, Vec<Question>)],
    /// Swaps that have begun, and that have ended.
    begun: AtomicUsize,
    ended: AtomicUsize,
    stop: AtomicBool,
}

impl Traffic<'_> {
    /// Asks the pinned program until it is stopped; says how many verdicts came while a swap was
    /// under way, and how many in all.
    fn run(&self, program: &Path) -> (usize, usize) {
        let program = SchedClassifier::from_pin(program).unwrap();
        let questions: Vec<&Question> =
            self.snapshots.iter().flat_map(|(_, questions)| questions).collect();
        let frames: Vec<Vec<u8>> = questions.iter().map(|question| frame(question)).collect();
        let (mut during, mut all) = (0, 0);
        while !self.stop.load(Ordering::SeqCst) {
            let number = all * 7 % frames.len();
            let options =
                TestRunOptions { data_in: Some(&frames[number]), ..TestRunOptions::new() };
            let oldest = self.ended.load(Ordering::SeqCst);
            let result = program.test_run(options).unwrap();
            let newest = self.begun.load(Ordering::SeqCst);
            let passes = result.return_value.cast_signed() == -1;
            let explained = (oldest..=newest).any(|swap| {
                let (snapshot, _) = &self.snapshots[swap % SNAPSHOTS];
                admit(snapshot, questions[number]).passes() == passes
            });
            assert!(
                explained,
                "passes: {passes}, swaps {oldest}..={newest}, {:?}",
                questions[number]
            );
            during += usize::from(oldest != newest);
            all += 1;
        }
        (during, all)
    }
}

fn frame(question: &Question) -> Vec<u8> {
    let from = SocketAddr::new(question.source, 40_000);
    let to = SocketAddr::new(question.destination, question.port);
    let packet = match question.protocol {
        Protocol::Tcp => Packet::tcp(from, to),
        Protocol::Udp => Packet::udp(from, to),
    };
    packet.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

#[test]
fn a_thousand_swaps_under_traffic_are_each_whole() {
    let mut runner = TestRunner::deterministic();
    let snapshots: Vec<_> = (0..SNAPSHOTS)
        .map(|_| questions(PACKETS).new_tree(&mut runner).unwrap().current())
        .collect();
    let mut scratch = Scratch::new("swap").unwrap();
    let bpffs = scratch.bpffs("pins").unwrap();
    let mut kernel = Kernel::open(&bpffs).unwrap();
    enforce(&mut kernel, &snapshots[0].0);
    let traffic = Traffic {
        snapshots: &snapshots,
        begun: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let program = Pins::map_below(&bpffs, "program-ingress-uplink-ethernet");
    let (during, all) = thread::scope(|scope| {
        let asked = scope.spawn(|| traffic.run(&program));
        for swap in 1..=SWAPS {
            traffic.begun.store(swap, Ordering::SeqCst);
            enforce(&mut kernel, &snapshots[swap % SNAPSHOTS].0);
            traffic.ended.store(swap, Ordering::SeqCst);
            assert!(
                !asked.is_finished(),
                "the traffic ended with a verdict that no image explains"
            );
        }
        traffic.stop.store(true, Ordering::SeqCst);
        asked.join().unwrap()
    });
    println!("{SWAPS} swaps, {all} verdicts, {during} of them while a swap was under way");
    assert!(during > SWAPS && all > 10 * SWAPS, "{during} of {all}");
}
