//! `--reject=reset`: who is denied is told at once, by right packets, and not without bound.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_ebpf::abi::ANSWERS_PER_WINDOW;
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::gated::Gated;
use enforcer_tests::netns::Netns;
use enforcer_tests::packets::{Packet, Seen, checksum, flags, protocol};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::NODE;
use enforcer_tests::talk::{Conversation, Exchange, Outcome, ask_udp, connect};
use enforcer_tests::topology::{Cni, Host};

const LIMIT: Duration = Duration::from_secs(10);
/// TCP sends a SYN again after a second: what is refused sooner is refused by the answer to the first.
const AT_ONCE: Duration = Duration::from_millis(900);

struct Scene {
    agent: Agent,
    _installation: Installation,
    gated: Gated,
}

impl Scene {
    /// Clients in `198.51.100.0/24` and `2001:db8:51::/64` are listed.
    fn new(cni: Cni) -> Scene {
        let mut gated = Gated::small(cni).unwrap();
        gated.stage.cluster = gated.stage.cluster.allow(&["198.51.100.0/24", "2001:db8:51::/64"]);
        gated.publish().unwrap();
        let arguments = ["--reject", "reset", "--egress-dns", "derived", "--probe-ranges", "none"];
        let installation = gated.stage.installation().unwrap().interfaces("auto");
        let _installation = installation.arguments(&arguments);
        let agent = _installation.start().unwrap();
        Scene { agent, _installation, gated }
    }

    fn client(&self, name: &str) -> &Host {
        self.gated.stage.network.host(name)
    }

    /// Who is denied where: on the way out of the pod, and on the way in from outside.
    fn denials(&self) -> Vec<(&Netns, SocketAddr)> {
        let (pod, outside) = (&self.gated.api_server().ns, &self.client("unlisted").ns);
        let mut all = Vec::new();
        for v6 in [false, true] {
            for label in ["etcd of c2", "internet"] {
                all.push((pod, self.gated.address(label, v6)));
            }
            for label in ["VIP", "bypass nodePort"] {
                all.push((outside, self.gated.stage.frontend(label, v6)));
            }
        }
        all
    }
}

#[test]
fn denied_connections_fail_at_once_with_checksum_offload_and_without() {
    for cni in [Cni::Routed, Cni::Bridge] {
        let scene = Scene::new(cni);
        for on in [true, false] {
            for (ns, to) in scene.denials() {
                ns.checksum_offload("eth0", on).unwrap();
                let start = Instant::now();
                let outcome = connect(ns, None, to, LIMIT);
                let took = start.elapsed();
                assert_eq!(outcome, Outcome::Refused, "{to}, offload {on}, {cni:?}");
                assert!(took < AT_ONCE, "{to} took {took:?}, offload {on}, {cni:?}");
            }
            for v6 in [false, true] {
                let pod = &scene.gated.api_server().ns;
                let start = Instant::now();
                let to = scene.gated.address("DNS elsewhere", v6);
                let outcome = ask_udp(pod, None, to, LIMIT);
                let took = start.elapsed();
                assert_eq!(outcome, Outcome::Unreachable, "{to}, offload {on}, {cni:?}");
                assert!(took < AT_ONCE, "{to} took {took:?}");
                let own = scene.gated.address("dns-resolver", v6);
                assert_eq!(ask_udp(pod, None, own, LIMIT), Outcome::Answered, "{own}");
                let listed = &scene.client("listed").ns;
                let vip = scene.gated.stage.frontend("VIP", v6);
                assert_eq!(connect(listed, None, vip, LIMIT), Outcome::Answered, "{vip}");
            }
        }
    }
}

#[test]
fn a_connection_that_is_cut_ends_at_once() {
    let Scene { agent, _installation, mut gated } = Scene::new(Cni::Routed);
    gated.stage.cluster.gate = None;
    agent.enforces(|| gated.stage.publish()).unwrap();
    let pod = &gated.api_server().ns;
    let mut talks = [false, true]
        .map(|v6| Conversation::open(pod, None, gated.address("etcd of c2", v6), LIMIT).unwrap());
    gated.stage.cluster.gate = Some(true);
    agent.enforces(|| gated.stage.publish()).unwrap();
    for talk in &mut talks {
        let start = Instant::now();
        assert_eq!(talk.exchange(100, LIMIT), Exchange::Broken);
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }
}

/// A packet that is denied, and the flags and numbers of the reset that answers it; none is ICMP's.
type Case = (&'static str, Packet, Option<(u8, u32, u32)>);

fn cases(from: SocketAddr, to: SocketAddr) -> Vec<Case> {
    let tcp = |bits| Packet::tcp(from, to).numbers(1000, 5000).flags(bits);
    let reset = flags::RST | flags::ACK;
    vec![
        ("SYN", tcp(flags::SYN), Some((reset, 0, 1001))),
        ("SYN with data", tcp(flags::SYN).payload([1; 33]), Some((reset, 0, 1034))),
        ("data", tcp(flags::ACK).payload([1; 1001]), Some((flags::RST, 5000, 0))),
        ("FIN", tcp(flags::FIN | flags::ACK), Some((flags::RST, 5000, 0))),
        ("no flags", tcp(0).payload([9]), Some((reset, 0, 1001))),
        ("datagram", Packet::udp(from, to).payload([1; 200]), None),
        ("short datagram", Packet::udp(from, to).payload([1; 17]), None),
        ("odd datagram", Packet::udp(from, to).payload([3; 99]), None),
    ]
}

/// Whether all checksums of a frame are right.
fn is_right(frame: &[u8]) -> bool {
    let ip = &frame[14..];
    let (addresses, segment, number) = if ip[0] >> 4 == 4 {
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if checksum(&[&ip[..20]]) != 0 {
            return false;
        }
        (&ip[12..20], &ip[20..total], ip[9])
    } else {
        let length = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        (&ip[8..40], &ip[40..40 + length], ip[6])
    };
    if number == protocol::ICMP {
        return checksum(&[segment]) == 0;
    }
    let length = (segment.len() as u32).to_be_bytes();
    checksum(&[addresses, &length, &[0, 0, 0, number], segment]) == 0
}

fn is_answer(seen: &Seen, from: SocketAddr, to: SocketAddr) -> bool {
    let icmp = [protocol::ICMP, protocol::ICMPV6].contains(&seen.protocol);
    let prohibited = [(3, 13), (1, 1)].contains(&(seen.flags, seen.urgent));
    let is_theirs = seen.source == to.ip() && seen.destination == from.ip();
    let is_reset = seen.protocol == protocol::TCP && seen.from() == to && seen.to() == from;
    is_theirs && (icmp && prohibited || is_reset && seen.flags & flags::RST != 0)
}

#[test]
fn answers_say_what_they_answer_and_their_checksums_are_right() {
    let scene = Scene::new(Cni::Routed);
    let (pod, outside) = (scene.gated.api_server(), scene.client("unlisted"));
    for v6 in [false, true] {
        for (host, to) in [
            (pod, scene.gated.address("internet", v6)),
            (outside, scene.gated.stage.frontend("VIP", v6)),
        ] {
            let from = SocketAddr::new(host.addresses.like(to.ip()), 4567);
            for (name, packet, expected) in cases(from, to) {
                // UDP to the API server's port is nothing that is guarded.
                if expected.is_none() && host.mac == outside.mac {
                    continue;
                }
                let port = RawPort::open(&host.ns, "eth0").unwrap();
                let frame = packet.frame(host.mac, host.gateway_mac);
                port.send(&frame).unwrap();
                let caught = port.next_frame(LIMIT, |seen| is_answer(seen, from, to)).unwrap();
                let (seen, bytes) = caught.unwrap_or_else(|| panic!("{name} to {to}: no answer"));
                assert!(is_right(&bytes), "{name} to {to}: {seen:?}");
                if let Some((bits, seq, ack)) = expected {
                    assert_eq!((seen.flags, seen.seq, seen.ack), (bits, seq, ack), "{name} {to}");
                    assert_eq!(seen.payload, [0; 0]);
                } else {
                    let quoted = &frame[14..14 + seen.payload.len()];
                    assert_eq!(seen.payload, quoted, "{name} to {to} quotes what it answers");
                }
            }
        }
    }
}

#[test]
fn a_checksum_left_to_a_device_is_right_behind_the_next_one() {
    let scene = Scene::new(Cni::Routed);
    let outside = scene.client("unlisted");
    let pod = scene.gated.api_server();
    // The client leaves its checksums open, and the node's uplink must fill in those of the answers.
    outside.ns.checksum_offload("eth0", true).unwrap();
    scene.gated.stage.network.node(NODE).ns.checksum_offload("eth0", false).unwrap();
    // The pod fills in its own.
    pod.ns.checksum_offload("eth0", false).unwrap();
    for v6 in [false, true] {
        for (host, to) in [
            (outside, scene.gated.stage.frontend("VIP", v6)),
            (pod, scene.gated.address("internet", v6)),
        ] {
            let port = RawPort::open(&host.ns, "eth0").unwrap();
            assert_eq!(connect(&host.ns, None, to, LIMIT), Outcome::Refused, "{to}");
            let is_reset = |seen: &Seen| seen.from() == to && seen.flags & flags::RST != 0;
            let (_, bytes) = port.next_frame(LIMIT, is_reset).unwrap().unwrap();
            assert!(is_right(&bytes), "{to}");
        }
    }
}

#[test]
fn no_more_answers_than_a_bound_come_however_much_is_denied() {
    const EACH: u16 = 20_000;
    let scene = Scene::new(Cni::Routed);
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    for host in [scene.gated.api_server(), scene.client("unlisted")] {
        let is_pod = host.mac == scene.gated.api_server().mac;
        let to = if is_pod {
            scene.gated.address("internet", false)
        } else {
            scene.gated.stage.frontend("VIP", false)
        };
        let frames: Vec<Vec<u8>> = (0..EACH)
            .map(|port| {
                let from = SocketAddr::new(host.addresses.v4.into(), 10_000 + port);
                Packet::tcp(from, to).frame(host.mac, host.gateway_mac)
            })
            .collect();
        let port = RawPort::open(&host.ns, "eth0").unwrap();
        port.receive_buffer(64 << 20).unwrap();
        let start = Instant::now();
        port.send_many(&frames).unwrap();
        let took = start.elapsed();
        let answers =
            port.collect(Duration::from_millis(200), |seen| seen.from() == to).unwrap().len()
                as u64;
        assert_eq!(port.drops().unwrap(), 0);
        // A window is 32 ticks of the kernel: 32 ms at its fastest.
        let windows = took.as_millis() as u64 / 32 + 2;
        let bound = windows * cpus * ANSWERS_PER_WINDOW;
        println!("{EACH} denied in {took:?}: {answers} answered, {bound} at most");
        assert!(answers >= ANSWERS_PER_WINDOW && answers <= bound, "{answers} of {bound}");
    }
}
