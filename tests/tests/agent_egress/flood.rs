//! A gated API server under a flood of SYNs keeps answering and connecting, and nothing of ours grows.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use enforcer::kernel::Pins;
use enforcer_ebpf::abi::MAP_LISTENED;
use enforcer_tests::agent::Agent;
use enforcer_tests::gated::Gated;
use enforcer_tests::http::samples;
use enforcer_tests::netns::Netns;
use enforcer_tests::packets::Packet;
use enforcer_tests::raw::RawPort;
use enforcer_tests::talk::{Outcome, connect};
use enforcer_tests::topology::{Cni, Host};

const LIMIT: Duration = Duration::from_secs(10);
const FLOOD: Duration = Duration::from_secs(4);

/// Entries of the map of ports that pods listen on.
fn listened(bpffs: &Path) -> usize {
    let data = MapData::from_pin(Pins::map_below(bpffs, MAP_LISTENED)).unwrap();
    let map: HashMap<_, [u8; 8], u32> = Map::LruHashMap(data).try_into().unwrap();
    map.keys().map(Result::unwrap).count()
}

/// SYN cookies that a namespace's kernel has sent.
fn cookies(ns: &Netns) -> u64 {
    let text = ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    both.find(|(name, _)| *name == "SyncookiesSent").unwrap().1.parse().unwrap()
}

/// Sends SYNs from ever new addresses and ports of a range; says how many.
fn flood(from: &Host, to: SocketAddr, stop: &AtomicBool) -> u64 {
    let port = RawPort::open(&from.ns, "eth0").unwrap();
    let frames: Vec<Vec<u8>> = (0..4096u16)
        .map(|number| {
            let offset = 20 + number % 200;
            let source = SocketAddr::new(from.addresses.plus(offset).like(to.ip()), 1024 + number);
            Packet::tcp(source, to).numbers(number.into(), 0).frame(from.mac, from.gateway_mac)
        })
        .collect();
    let mut sent = 0;
    while !stop.load(Ordering::Acquire) {
        for frames in frames.chunks(64) {
            port.send_many(frames).unwrap();
            sent += frames.len() as u64;
            // The machine has other work.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    sent
}

/// Clients and the API server's own connections while somebody floods; returns SYNs sent.
fn under_flood(gated: &Gated) -> u64 {
    let network = &gated.stage.network;
    let (client, pod) = (&network.host("listed").ns, &gated.api_server().ns);
    let (stop, sent, connected) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for v6 in [false, true] {
            let (to, from) = (gated.api_address(v6), network.host("unlisted"));
            let (stop, sent) = (&stop, &sent);
            scope.spawn(move || sent.fetch_add(flood(from, to, stop), Ordering::AcqRel));
        }
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let start = Instant::now();
            while start.elapsed() < FLOOD {
                for v6 in [false, true] {
                    let api = gated.api_address(v6);
                    assert_eq!(connect(client, None, api, LIMIT), Outcome::Answered, "{api}");
                    let etcd = gated.address("etcd", v6);
                    assert_eq!(connect(pod, None, etcd, LIMIT), Outcome::Answered, "{etcd}");
                    connected.fetch_add(1, Ordering::AcqRel);
                }
            }
        }));
        stop.store(true, Ordering::Release);
        if let Err(panic) = asked {
            resume_unwind(panic);
        }
    });
    let (sent, connected) = (sent.into_inner(), connected.into_inner());
    println!("{connected} clients answered during a flood of {sent} SYNs");
    sent
}

#[test]
fn clients_are_answered_during_a_flood_of_syns_with_cookies_and_without() {
    let gated = Gated::small(Cni::Routed).unwrap();
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let pod = &gated.api_server().ns;
    let v6 = gated.address("etcd of c2", true);
    // Every SYN is answered by a cookie; then only those that find no room.
    for mode in ["2", "1"] {
        pod.sysctl(&[("ipv4/tcp_syncookies", mode)]).unwrap();
        let (before, served) = (cookies(pod), served(&agent));
        let sent = under_flood(&gated);
        let (cookies, served) = (cookies(pod) - before, self::served(&agent) - served);
        println!("{cookies} cookies, {served} packets let go as answers");
        assert!(cookies > sent / 10, "{cookies} of {sent}");
        assert!(served > sent as f64 / 10.0, "{served} of {sent}");
        // The API server's, and konnectivity's if somebody has asked it.
        let ports = listened(installation.bpffs());
        assert!((1..=2).contains(&ports), "{ports} ports are remembered");
        assert_eq!(connect(pod, None, v6, Duration::from_millis(300)), Outcome::TimedOut);
    }
}

fn served(agent: &Agent) -> f64 {
    let page = agent.metrics().unwrap();
    samples(&page, "enforcer_verdicts_total", &[("reason", "served")]).iter().sum()
}
