//! What somebody in a gated pod makes by hand, and what its kernel must be able to send.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use enforcer_tests::addresses::Dual;
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::gated::{Gated, OTHER_NODE};
use enforcer_tests::http::samples;
use enforcer_tests::packets::{Packet, Seen, flags, protocol};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::NODE;
use enforcer_tests::talk::{Conversation, Exchange, Outcome, connect};
use enforcer_tests::topology::{Cni, Host};

const LIMIT: Duration = Duration::from_secs(10);
/// What has not come by then does not come: a veth hands over before its sender's system call ends.
const QUIET: Duration = Duration::from_millis(60);
/// What all packets of these tests carry, so that they are known wherever they come.
const MARK: &[u8] = b"made by hand in a pod";
const ELSEWHERE: u16 = 9999;

struct Scene {
    agent: Agent,
    _installation: Installation,
    gated: Gated,
}

impl Scene {
    fn new(cni: Cni) -> Scene {
        let gated = Gated::small(cni).unwrap();
        let _installation = gated.stage.installation().unwrap().interfaces("auto");
        let agent = _installation.start().unwrap();
        Scene { agent, _installation, gated }
    }

    fn host(&self, name: &str) -> &Host {
        let network = &self.gated.stage.network;
        if ["listed", "unlisted"].contains(&name) { network.host(name) } else { network.pod(name) }
    }

    fn counted(&self, reason: &str) -> f64 {
        let page = self.agent.metrics().unwrap();
        samples(&page, "enforcer_verdicts_total", &[("reason", reason)]).iter().sum()
    }

    /// Whether this packet, sent by a pod through its gateway to a host, arrives there as `expected`.
    fn sends(&self, sender: &str, packet: &Packet, receiver: &str, expected: Arrives) -> bool {
        let from = self.host(sender);
        let frame = packet.frame(from.mac, from.gateway_mac);
        delivers(from, &frame, self.host(receiver), expected)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrives {
    Yes,
    No,
}

/// Whether a frame arrives as expected.
fn delivers(from: &Host, frame: &[u8], to: &Host, expected: Arrives) -> bool {
    let catch = RawPort::open(&to.ns, "eth0").unwrap();
    let send = RawPort::open(&from.ns, "eth0").unwrap();
    send.send(frame).unwrap();
    let patience = if expected == Arrives::Yes { LIMIT } else { QUIET };
    catch.next(patience, is_ours).unwrap().is_some() == (expected == Arrives::Yes)
}

fn is_ours(seen: &Seen) -> bool {
    seen.payload.windows(MARK.len()).any(|window| window == MARK)
}

/// Packets that no pod may send to somebody whom it may not connect to, by what counts them.
fn forged(from: IpAddr, served: u16, to: IpAddr) -> Vec<(&'static str, &'static str, Packet)> {
    let at = |port| SocketAddr::new(from, port);
    let there = SocketAddr::new(to, ELSEWHERE);
    let segment = |port, bits| Packet::tcp(at(port), there).flags(bits).payload(MARK);
    let [echo, other, error] = if from.is_ipv4() { [8, 13, 3] } else { [128, 140, 1] };
    let quoted = |port| Packet::tcp(there, at(port)).flags(flags::ACK).ip_bytes();
    let icmp = |kind| Packet::icmp(from, to, kind, 0, [0; 4]);
    vec![
        ("SYN-ACK with data", "forged", segment(served, flags::SYN | flags::ACK)),
        ("SYN-ACK with data of no listener", "forged", segment(4444, flags::SYN | flags::ACK)),
        ("SYN with data", "not_peer", segment(served, flags::SYN)),
        ("data from a listening port", "forged", segment(served, flags::ACK | flags::PSH)),
        ("data", "forged", segment(4444, flags::ACK)),
        ("data without flags", "forged", segment(4444, 0)),
        ("last data", "forged", segment(served, flags::FIN | flags::ACK)),
        ("RST with data", "forged", segment(served, flags::RST | flags::ACK)),
        ("datagram", "not_peer", Packet::udp(at(served), there).payload(MARK)),
        ("echo", "not_peer", icmp(echo).payload(MARK)),
        ("another message", "not_peer", icmp(other).payload(MARK)),
        (
            "error about nothing",
            "not_peer",
            icmp(error).payload([quoted(4444), MARK.into()].concat()),
        ),
        (
            "error about a connection that is none",
            "not_peer",
            icmp(error).payload([quoted(served), MARK.into()].concat()),
        ),
        ("another protocol", "not_peer", Packet::raw(from, to, 47).payload(MARK)),
    ]
}

#[test]
fn what_belongs_to_no_connection_does_not_leave() {
    let scene = Scene::new(Cni::Routed);
    let served = scene.gated.stage.cluster.ports().api_server;
    let to = scene.host("unlisted").addresses;
    for pod in ["envoy", "apiserver"] {
        let from = scene.host(pod).addresses;
        for (from, to) in from.both().into_iter().zip(to.both()) {
            for (name, reason, packet) in forged(from, served, to) {
                if pod == "envoy" {
                    let arrives = name == "another protocol"
                        || scene.sends(pod, &packet, "unlisted", Arrives::Yes);
                    assert!(arrives, "{name} to {to} of a pod that is not gated");
                    continue;
                }
                let before = scene.counted(reason);
                assert!(scene.sends(pod, &packet, "unlisted", Arrives::No), "{name} to {to}");
                assert_eq!(scene.counted(reason) - before, 1.0, "{name} to {to} is {reason}");
            }
        }
    }
}

/// Packets with a source that is not the pod's, to somebody whom it may connect to.
fn spoofed(source: IpAddr, to: IpAddr) -> Vec<(&'static str, Packet)> {
    let from = SocketAddr::new(source, 4444);
    let echo = if source.is_ipv4() { 8 } else { 128 };
    vec![
        ("SYN", Packet::tcp(from, SocketAddr::new(to, 2379)).payload(MARK)),
        ("data", Packet::tcp(from, SocketAddr::new(to, 2379)).flags(flags::ACK).payload(MARK)),
        ("datagram", Packet::udp(from, SocketAddr::new(to, 53)).payload(MARK)),
        ("echo", Packet::icmp(source, to, echo, 0, [0; 4]).payload(MARK)),
    ]
}

#[test]
fn what_has_another_source_does_not_leave_even_to_peers() {
    for cni in [Cni::Routed, Cni::Bridge] {
        let scene = Scene::new(cni);
        let to = scene.host("etcd").addresses;
        let [own, other, nobody] = [
            scene.host("apiserver").addresses,
            scene.host("envoy").addresses,
            Dual::of("198.51.100.77", "2001:db8:51::77"),
        ];
        for (index, to) in to.both().into_iter().enumerate() {
            for source in [other, nobody].map(|source| source.both()[index]) {
                for (name, packet) in spoofed(source, to) {
                    let before = scene.counted("spoofed_source");
                    let is_held = scene.sends("apiserver", &packet, "etcd", Arrives::No);
                    assert!(is_held, "{name} as {source} to {to}, {cni:?}");
                    assert_eq!(scene.counted("spoofed_source") - before, 1.0, "{name} as {source}");
                    // The kernel itself lets it through where nobody is gated.
                    if source == other.both()[index] {
                        assert!(scene.sends("envoy", &packet, "etcd", Arrives::Yes), "{name}");
                    }
                }
            }
            for (name, packet) in spoofed(own.both()[index], to) {
                // Data without a connection is a matter of policy too: this is a peer.
                let arrives = scene.sends("apiserver", &packet, "etcd", Arrives::Yes);
                assert!(arrives, "{name} to {to}");
            }
        }
    }
}

/// A multicast Ethernet address for IPv6.
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

#[test]
fn a_pod_is_no_router_to_those_on_its_bridge() {
    let scene = Scene::new(Cni::Bridge);
    let neighbour = scene.host("envoy");
    let link_local: IpAddr = "fe80::1:2:3".parse().unwrap();
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let [v4, v6] = neighbour.addresses.both();
    for (sender, expected) in [("apiserver-c2", Arrives::Yes), ("apiserver", Arrives::No)] {
        let host = scene.host(sender);
        let [own4, own6] = host.addresses.both();
        let icmp = |from, to, kind| Packet::icmp(from, to, kind, 0, [0; 4]).ttl(255).payload(MARK);
        for (name, packet, mac) in [
            ("router advertisement", icmp(link_local, all_nodes, 134), ALL_NODES),
            ("router advertisement to one", icmp(own6, v6, 134), neighbour.mac),
            ("redirect", icmp(link_local, v6, 137), neighbour.mac),
            ("redirect, IPv4", icmp(own4, v4, 5), neighbour.mac),
        ] {
            let frame = packet.frame(host.mac, mac);
            assert!(delivers(host, &frame, neighbour, expected), "{name} of {sender}");
        }
    }
    assert!(scene.counted("router_message") >= 3.0);
}

#[test]
fn neighbours_find_each_other_anew() {
    for cni in [Cni::Routed, Cni::Bridge] {
        let scene = Scene::new(cni);
        let node = &scene.gated.stage.network.node(NODE).ns;
        let pod = &scene.host("apiserver").ns;
        let before = scene.counted("neighbour");
        for v6 in [false, true] {
            for _ in 0..3 {
                for ns in [node, pod, &scene.host("dns-resolver").ns] {
                    ns.run("ip", &["neigh", "flush", "all"]).unwrap();
                }
                let to = scene.gated.address("etcd", v6);
                assert_eq!(connect(pod, None, to, LIMIT), Outcome::Answered, "{to}");
                let client = &scene.host("listed").ns;
                let api = scene.gated.api_address(v6);
                assert_eq!(connect(client, None, api, LIMIT), Outcome::Answered, "{api}");
            }
        }
        assert!(scene.counted("neighbour") > before);
    }
}

#[test]
fn errors_about_what_the_pod_may_answer_arrive() {
    let scene = Scene::new(Cni::Routed);
    let api = scene.host("apiserver");
    for v6 in [false, true] {
        let to = scene.gated.api_address(v6);
        let client = scene.host("listed");
        let mut talk = Conversation::open(&client.ns, None, to, LIMIT).unwrap();
        assert_eq!(talk.exchange(100, LIMIT), Exchange::Completed);
        let theirs = talk.local().unwrap();
        let quoted = Packet::tcp(theirs, to).flags(flags::ACK).ip_bytes();
        let kind = if v6 { 1 } else { 3 };
        let error = Packet::icmp(to.ip(), theirs.ip(), kind, 1, [0; 4]);
        let error = error.payload([quoted, MARK.into()].concat());
        let before = scene.counted("icmp_error");
        assert!(scene.sends("apiserver", &error, "listed", Arrives::Yes), "{to}");
        assert_eq!(scene.counted("icmp_error") - before, 1.0, "{to}");
        assert_eq!(talk.exchange(100, LIMIT), Exchange::Completed);

        // A late answer of the resolver, which the pod's kernel has no socket for.
        let resolver = scene.host("dns-resolver");
        let catch = RawPort::open(&resolver.ns, "eth0").unwrap();
        let from = scene.gated.address("dns-resolver", v6);
        let answer = Packet::udp(from, SocketAddr::new(to.ip(), 4444)).payload(MARK);
        let send = RawPort::open(&resolver.ns, "eth0").unwrap();
        send.send(&answer.frame(resolver.mac, resolver.gateway_mac)).unwrap();
        let icmp = if v6 { protocol::ICMPV6 } else { protocol::ICMP };
        let caught = catch.next(LIMIT, |seen| seen.protocol == icmp && is_ours(seen)).unwrap();
        assert_eq!(caught.unwrap().source, to.ip());
    }
    // What it has no connection for and nobody listens on is refused by its kernel itself.
    for to in api.addresses.at(4444) {
        let outcome = connect(&scene.host("listed").ns, None, to, LIMIT);
        assert_eq!(outcome, Outcome::Refused, "{to}");
    }
}

#[test]
fn a_path_with_a_smaller_mtu_is_found_in_both_directions() {
    const BYTES: usize = 3 << 20;
    let scene = Scene::new(Cni::Routed);
    let network = &scene.gated.stage.network;
    let client = scene.host("listed");
    // On the way out alone: the client does not know, so that the router has to tell.
    network.router().ip(&format!("link set {} mtu 1280\n", client.peer)).unwrap();
    let pod = scene.host("apiserver");
    for to in pod.addresses.at(7443) {
        let listener = pod.ns.enter(|| TcpListener::bind(to)).unwrap();
        let writer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&vec![7; BYTES]).unwrap();
        });
        let mut stream = client.ns.enter(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        writer.join().unwrap();
        assert_eq!(read.len(), BYTES, "{to}");
        assert_eq!(path_mtu(pod, client.addresses.like(to.ip())), Some(1280), "{to}");
    }
    // A datagram too large for the way to a peer: the node says so, and what comes next is in pieces.
    let [range4, range6] = enforcer_tests::addresses::pod_range(1).ranges(24, 64);
    let Dual { v4, v6 } = network.node(OTHER_NODE).addresses;
    let routes = format!(
        "route replace {range4} via {v4} mtu lock 1300\nroute replace {range6} via {v6} mtu lock 1300\n"
    );
    network.node(NODE).ns.ip(&routes).unwrap();
    let resolver = scene.host("dns-resolver");
    for (to, own) in resolver.addresses.at(53).into_iter().zip(pod.addresses.at(0)) {
        let socket = pod.ns.enter(|| UdpSocket::bind(own)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect(to).unwrap();
        socket.send(&[7; 1400]).unwrap();
        assert!(socket.recv(&mut [0; 2048]).is_err(), "{to}: too large");
        assert_eq!(path_mtu(pod, to.ip()), Some(1300), "{to}");
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send(&[7; 1400]).unwrap();
        let echoed = socket.recv(&mut [0; 2048]).unwrap();
        assert_eq!(echoed, 1400 + b"dns-resolver\n".len(), "{to}");
    }
}

/// What a pod has learned of the way to an address.
fn path_mtu(pod: &Host, to: IpAddr) -> Option<u32> {
    let route = pod.ns.run("ip", &["route", "get", &to.to_string()]).unwrap();
    let mut words = route.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().and_then(|word| word.parse().ok())
}
