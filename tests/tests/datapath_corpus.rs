//! The fuzz corpus through the product's programs: the BPF build decides as the host's build does.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod judged;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv6Addr, TcpListener},
    path::Path,
};

use aya::programs::{TestRun as _, TestRunOptions};
use enforcer::kernel::Kernel;
use enforcer_ebpf::{
    abi::Explained,
    address::Address,
    leave::{Connection, Sender, Sockets, judge_leaving, state},
    parse::{Link, Packet},
    tables::{Tables as _, egress_entry},
    verdict::{Action, Reason},
};
use enforcer_fuzz_targets::{
    decide,
    world::{GATED_INTERFACE, World},
};
use enforcer_policy::plan::{Explain, LinkLayer, Program};
use enforcer_tests::{cleanup::Scratch, netns::Netns};
use zerocopy::{FromBytes, Immutable};

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

/// The port of the corpus that pods listen on.
const SERVED: u16 = 6443;

/// The sockets of a namespace where somebody listens on one port and nothing else happens.
struct Listening;

impl Sockets for Listening {
    fn sender(&self) -> Sender {
        Sender::default()
    }

    fn owner<A: Address>(&self, connection: &Connection<A>) -> u32 {
        if connection.local_port == SERVED { state::LISTEN } else { 0 }
    }

    fn listens<A: Address>(&self, _local: A, port: u16) -> bool {
        port == SERVED
    }

    fn listened(&self, _port: u16) -> bool {
        false
    }

    fn may_reset(&self) -> bool {
        true
    }

    fn asks<A: Address>(&self, _resolver: A, _cluster: u32) {}
}

struct Bytes<'a>(&'a [u8]);

impl Packet for Bytes<'_> {
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        T::read_from_prefix(self.0.get(offset as usize..)?).ok().map(|(value, _)| value)
    }
}

#[test]
fn the_kernel_judges_what_gated_pods_send_as_the_host_does() {
    let netns = Netns::new("corpus").unwrap();
    netns.enter(|| {
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVED)).unwrap();
        let mut scratch = Scratch::new("corpus").unwrap();
        let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
        let mut snapshot = World::gated().snapshot.clone();
        for interface in &mut snapshot.this_node.pod_interfaces {
            // The test's own.
            interface.netns = u32::MAX;
        }
        let image = enforce(&mut kernel, &snapshot);
        let entry = egress_entry(image.image(), GATED_INTERFACE).unwrap();
        let (mut tally, mut refused) = (BTreeMap::<&str, u64>::new(), 0);
        for data in corpus("leave") {
            let Some((first, packet)) = data.split_first() else { continue };
            // A dry run takes the interface's number from the Ethernet source address.
            if first & 1 != 0 || packet.len() < HEADER {
                continue;
            }
            let mut bytes = packet.to_vec();
            bytes[6..10].copy_from_slice(&GATED_INTERFACE.to_be_bytes());
            bytes.resize(bytes.len().max(HEADER + 40), 0);
            let options = TestRunOptions { data_in: Some(&bytes), ..TestRunOptions::new() };
            let program = kernel.program(Program::Explain(Explain::Leaving)).unwrap();
            let Ok(result) = program.test_run(options) else {
                refused += 1;
                continue;
            };
            let explained = Explained::from(result.return_value);
            let (length, sockets) = (bytes.len() as u32, Listening);
            let packet = Bytes(&bytes);
            let host = judge_leaving(&packet, Link::Ethernet, length, entry, &image, &sockets);
            let reason = Reason::ALL[explained.reason as usize];
            assert_eq!(reason, host.reason, "{data:02x?}");
            *tally.entry(reason.name()).or_default() += 1;
        }
        println!("packets of a gated pod, judged alike: {tally:?}; {refused} no test run takes");
        let judged: u64 = tally.values().sum();
        assert!(judged > 40 && tally.len() >= 6, "{tally:?}");
        assert!(refused * 10 < judged, "{refused}");
    });
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}
