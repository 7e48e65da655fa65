//! An image is complete or not visible: what one edit changes, one packet changes. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use enforcer_tests::nat;
use enforcer_tests::packets::Packet;
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::Stage;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(30);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];
/// The TCP window that marks this file's packets.
const WINDOW: u16 = 31_009;
const EDITS: u32 = 10;

#[test]
fn two_clusters_in_one_file_change_between_the_same_two_packets() {
    let mut stage = Stage::customary().unwrap();
    stage.add_tenant("c2", 2).unwrap();
    allow(&mut stage, &LISTED);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let sniffers = ["apiserver", "envoy", "apiserver-c2", "envoy-c2"].map(|pod| {
        let pod = &stage.network.pod(pod).ns;
        let rule = format!("tcp flags syn tcp window {WINDOW} drop");
        pod.nft(&nat::filter("quiet", "prerouting", -310, &[&rule])).unwrap();
        let port = RawPort::open(pod, "eth0").unwrap();
        port.receive_buffer(64 << 20).unwrap();
        port
    });

    let row = Row::start(&stage);
    for edit in 0..EDITS {
        row.wait_for_more(200);
        let ranges = if edit % 2 == 0 { [LISTED, UNLISTED].concat() } else { LISTED.to_vec() };
        allow(&mut stage, &ranges);
        agent.enforces(|| stage.publish()).unwrap();
    }
    row.wait_for_more(200);
    let sent = row.stop();

    let mut arrived = BTreeSet::new();
    for port in sniffers {
        let seen = port.collect(Duration::from_millis(300), |seen| seen.window == WINDOW).unwrap();
        arrived.extend(seen.iter().map(|seen| seen.seq));
        assert_eq!(port.drops().unwrap(), 0);
    }
    let turns: Vec<u32> =
        (1..sent).filter(|n| arrived.contains(n) != arrived.contains(&(n - 1))).collect();
    println!(
        "{sent} packets to four frontends in turn, {} arrived, turns {turns:?}",
        arrived.len()
    );
    assert!(!arrived.contains(&0));
    assert_eq!(turns.len() as u32, EDITS, "verdicts were mixed around {turns:?}");
}

fn allow(stage: &mut Stage, ranges: &[&str]) {
    stage.cluster = stage.cluster.clone().allow(ranges);
    let c2 = &mut stage.tenants[0].cluster;
    *c2 = c2.clone().allow(ranges);
}

/// Numbered SYNs in one row, each to the next of four frontends: both clusters, both families.
struct Row {
    stopping: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    sender: JoinHandle<()>,
}

impl Row {
    fn start(stage: &Stage) -> Row {
        let unlisted = stage.network.host("unlisted");
        let (c1, c2) = (stage.frontends(), stage.frontends_of(&stage.tenants[0].cluster));
        let way = |frontends: &[enforcer_tests::seed::Frontend], label, v6| {
            let wanted =
                |f: &&enforcer_tests::seed::Frontend| f.label == label && f.address.is_ipv6() == v6;
            frontends.iter().find(wanted).unwrap().address
        };
        let ways = [
            way(&c1, "bypass nodePort", false),
            way(&c2, "VIP", false),
            way(&c1, "VIP", true),
            way(&c2, "bypass nodePort", true),
        ];
        let (mac, gateway, addresses) = (unlisted.mac, unlisted.gateway_mac, unlisted.addresses);
        let frame = move |number: u32| {
            let to = ways[number as usize % 4];
            let from = SocketAddr::new(addresses.like(to.ip()), 20_000 + (number / 4 % 64) as u16);
            Packet::tcp(from, to).numbers(number, 0).window(WINDOW, 0).frame(mac, gateway)
        };
        let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
        let (stopping, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stop, count) = (Arc::clone(&stopping), Arc::clone(&sent));
        let sender = std::thread::spawn(move || {
            stay_on_one_cpu();
            while !stop.load(Ordering::Acquire) {
                let number = count.load(Ordering::Relaxed);
                port.send(&frame(number)).unwrap();
                count.store(number + 1, Ordering::Release);
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        Row { stopping, sent, sender }
    }

    fn wait_for_more(&self, packets: u32) {
        let (end, start) = (Instant::now() + LIMIT, self.sent.load(Ordering::Acquire));
        while self.sent.load(Ordering::Acquire) < start + packets {
            assert!(Instant::now() < end, "the sender has stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it; how many were sent.
    fn stop(self) -> u32 {
        self.stopping.store(true, Ordering::Release);
        self.sender.join().unwrap();
        self.sent.load(Ordering::Acquire)
    }
}

/// Every CPU has a queue of its own: only what one CPU sends stays in order on its way.
fn stay_on_one_cpu() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
    let mut only = CpuSet::new();
    only.set(first).unwrap();
    sched_setaffinity(this_thread, &only).unwrap();
}
