//! The fuzz corpus through the product's programs: the BPF build decides as the host's build does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod judged;

use std::{fs, path::Path};

use aya::programs::{TestRun as _, TestRunOptions};
use enforcer::kernel::Kernel;
use enforcer_ebpf::{
    parse::Link,
    verdict::{Action, Reason},
};
use enforcer_fuzz_targets::{decide, world::World};
use enforcer_policy::plan::{LinkLayer, Program};
use enforcer_tests::cleanup::Scratch;

use judged::enforce;

/// What a test run sees as the Ethernet header, also of a program for devices without one.
const HEADER: usize = 14;

#[test]
fn the_kernel_judges_the_fuzz_corpus_as_the_host_does() {
    let mut scratch = Scratch::new("corpus").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    enforce(&mut kernel, &World::get().snapshot);
    let (mut judged, mut dropped, mut refused) = (0, 0, 0);
    for data in corpus("parse").into_iter().chain(corpus("decide")) {
        let Some((first, packet)) = data.split_first() else { continue };
        let (host, link) = match first & 1 {
            0 => (Link::Ethernet, LinkLayer::Ethernet),
            _ => (Link::Raw, LinkLayer::Raw),
        };
        let side = decide::side(&data);
        // Long enough for the kernel to take it for a frame; what is behind a packet's end is no part
        // of it.
        let mut bytes = packet.to_vec();
        bytes.resize(bytes.len().max(HEADER + 40), 0);
        let options = TestRunOptions { data_in: Some(&bytes), ..TestRunOptions::new() };
        let program = kernel.program(Program::Ingress { side, link }).unwrap();
        let Ok(result) = program.test_run(options) else {
            refused += 1;
            continue;
        };
        let action = match result.return_value.cast_signed() {
            -1 => Action::Pass,
            2 => Action::Drop,
            other => panic!("the program returned {other}"),
        };
        let mut reason = decide::reason(host, side, &bytes);
        if host == Link::Raw && matches!(reason, None | Some(Reason::Unguarded)) {
            // The program looks again where the kernel has found the network header.
            reason = decide::reason(host, side, &bytes[HEADER..]);
        }
        let expected = reason.map_or(Action::Pass, Reason::action);
        assert_eq!(action, expected, "{reason:?} {data:02x?}");
        judged += 1;
        dropped += u64::from(action == Action::Drop);
    }
    println!(
        "{judged} packets judged alike, {dropped} of them dropped; {refused} no test run takes"
    );
    assert!(judged > 150 && dropped > 30, "{judged} {dropped}");
    assert!(refused * 10 < judged, "{refused}");
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}
