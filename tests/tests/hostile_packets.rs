//! Hostile packets from another host: no shape carries a stranger to a guarded listener. Needs root.
//!
//! Each class is sent twice, without an agent and with one. What reached the listeners is told by
//! themselves (connections, bytes) and by nftables on the node, behind the hook and behind the
//! kernel's own reassembly; neither is code of ours.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enforcer_tests::addresses::{Dual, NEIGHBOUR, STRANGER};
use enforcer_tests::agent::Agent;
use enforcer_tests::listen::{Server, UdpServer};
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::pairs::{Lane, PairStream};
use enforcer_tests::raw::RawPort;
use enforcer_tests::shapes::{Aim, Class, Segment, classes, loopback};
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::topology::Plan;
use enforcer_tests::traffic::{Effort, Traffic};

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Nobody guards it, and somebody listens.
const OPEN_PORT: u16 = 22_222;
/// Answers come within this, or not at all.
const QUIET: Duration = Duration::from_millis(60);
const VXLAN: u16 = 4789;
const OPEN_VPN: u16 = 1194;
const OPEN_VPN_NODE_PORT: u16 = 31_201;
const DENIED: [&str; 4] = ["not_listed", "probe_data", "short_fragment", "hidden_transport"];
const ADMITTED: [&str; 5] = ["own_pod", "exempt", "trusted_proxy", "reply", "probe"];

#[test]
fn no_shape_carries_a_byte_or_a_handshake_of_a_stranger_to_a_guarded_listener() {
    let seed = Hostile::new();
    let without: Vec<Line> = seed.rain(None);
    seed.first_port.set(40_000);
    seed.stage.publish().unwrap();
    let installation = seed.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let with = seed.rain(Some(&agent));

    let mut holes = Vec::new();
    println!(
        "{:<44} {:>6} {:>9} {:>9}  drops by reason",
        "class", "sent", "unguarded", "delivered"
    );
    for (free, line) in without.iter().zip(&with) {
        let Line { name, sent, delivered, drops, .. } = line;
        println!("{name:<44} {sent:>6} {:>9} {delivered:>9}  {drops:?}", free.delivered);
        holes.extend(line.surprises(free));
    }
    assert_eq!(holes, [""; 0]);
    let free: u64 = without.iter().map(|line| line.connections).sum();
    let bytes: u64 = without.iter().map(|line| line.bytes).sum();
    println!("without the agent: {free} connections, {bytes} bytes; with it: none");
    assert!(free > 100 && bytes > 1_000, "{free} {bytes}");
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in with.iter().flat_map(|line| &line.drops) {
        *reasons.entry(reason).or_default() += count;
    }
    for reason in ["not_listed", "short_fragment", "hidden_transport"] {
        assert!(reasons.get(reason).is_some_and(|count| *count > 0), "{reason}: {reasons:?}");
    }
    assert_eq!(seed.stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn listed_clients_keep_full_service_while_it_rains() {
    const AT_LEAST: Duration = Duration::from_secs(6);
    let seed = Hostile::new();
    seed.stage.publish().unwrap();
    let installation = seed.stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    let network = &seed.stage.network;
    let (listed, unlisted) = (network.host("listed"), network.host("unlisted"));
    let to = seed.stage.frontend("bypass nodePort", false);
    let pods = [network.pod("apiserver"), network.pod("envoy")];
    let lanes = [Lane::new(listed, to), Lane::new(unlisted, to)];
    let pairs = PairStream::start(lanes[0], lanes[1], &pods, 2_000).unwrap();
    let effort = Effort { threads: 2, timeout: Duration::from_secs(5), ..Effort::default() };
    let traffic = Traffic::start(&listed.ns, seed.stage.frontend("VIP", true), effort).unwrap();
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < AT_LEAST {
        for way in &seed.ways {
            for class in classes(way.to.is_ipv6()) {
                sent += seed.fire(&class, way, &way.opening(), way.to);
                sent += seed.fire(&class, way, &way.data((2, 1)), way.to);
            }
        }
    }
    let took = begin.elapsed();
    let served = traffic.stop();
    let pairs = pairs.stop().unwrap();
    println!("{sent} hostile packets in {took:?}: {pairs}; listed connections: {served:?}");
    assert!(pairs.clean(), "{pairs}");
    assert_eq!(served.answered, served.attempted, "{served:?}");
    assert!(sent > 5_000 && pairs.sent > 2_000 && served.answered > 100, "{sent} {pairs}");
}

/// A seed with a stranger beside its node.
struct Hostile {
    ways: Vec<Way>,
    /// From where source ports count: a connection of before would answer for a new one.
    first_port: Cell<u16>,
    wire: RawPort,
    tun: File,
    open: Server,
    /// OpenVPN's, at both families.
    vpn: Vec<UdpServer>,
    stage: Stage,
}

/// A way to a guarded frontend.
struct Way {
    label: &'static str,
    by: By,
    to: SocketAddr,
    /// Whether datagrams are served there, and no connections.
    datagrams: bool,
}

impl Way {
    /// What opens a connection, or is all that there is.
    fn opening(&self) -> Segment {
        if self.datagrams { Segment::datagram() } else { Segment::open() }
    }

    fn data(&self, numbers: (u32, u32)) -> Segment {
        if self.datagrams { Segment::datagram() } else { Segment::data(numbers) }
    }
}

/// How packets get to the node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// Over the wire.
    Wire,
    /// From a device without an Ethernet header.
    Tun,
    /// Out of a tunnel.
    Vxlan,
}

/// What became of one class at one way.
struct Line {
    name: String,
    arrives: bool,
    buried: bool,
    sent: u64,
    /// Segments to the frontend that nftables saw behind the hook.
    delivered: u64,
    connections: u64,
    bytes: u64,
    drops: BTreeMap<&'static str, u64>,
    admitted: u64,
    /// Packets and bytes of the class that nftables saw when it was sent to an unguarded port.
    passed: (u64, u64),
}

impl Line {
    /// What is not as it should be, given what became of the same packets without an agent.
    fn surprises(&self, free: &Line) -> Vec<String> {
        let Line { name, delivered, connections, bytes, admitted, .. } = self;
        let mut found = Vec::new();
        if *delivered + connections + bytes + admitted > 0 {
            found.push(format!(
                "{name}: {delivered} delivered, {connections} connections, {bytes} bytes, \
                 {admitted} admitted"
            ));
        }
        if self.arrives && free.delivered == 0 {
            found.push(format!("{name} shows nothing: the kernel takes none of it"));
        }
        if self.arrives && self.drops.is_empty() {
            found.push(format!("{name}: nothing is dropped"));
        }
        if !self.buried && self.passed != free.passed {
            let (now, before) = (self.passed, free.passed);
            found.push(format!("{name} to an unguarded port: {now:?} pass instead of {before:?}"));
        }
        found
    }
}

impl Hostile {
    fn new() -> Hostile {
        let mut stage = Stage::on(Plan::customary().neighbour("beside", NEIGHBOUR)).unwrap();
        stage.cluster = stage.cluster.allow(&LISTED);
        stage.cluster.wide = true;
        stage.network.serve(&stage.cluster.rules()).unwrap();
        let network = &stage.network;
        let (node, beside) = (network.node(NODE), network.host("beside"));
        network.set_mtu(9000).unwrap();
        let Dual { v4, v6 } = STRANGER;
        let (via4, via6) = (NEIGHBOUR.v4, NEIGHBOUR.v6);
        node.ns
            .ip(&format!(
                "route add {v4} via {via4}\nroute add {v6} via {via6}\n\
                 link add vx0 address 02:00:00:00:00:42 type vxlan id 42 dstport {VXLAN} local {}\n\
                 link set vx0 up\n",
                node.addresses.v4
            ))
            .unwrap();
        let tun = node.ns.enter(open_tun);
        node.ns.ip("link set tun0 up\n").unwrap();
        node.ns
            .sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/eth0/rp_filter", "0")])
            .unwrap();
        let port = stage.cluster.ports().api_server;
        let pod = network.pod("apiserver").addresses.v4;
        node.ns.nft(&observers(port, SocketAddr::new(pod.into(), port))).unwrap();
        let wire = RawPort::open(&beside.ns, "eth0").unwrap();
        let at = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), OPEN_PORT);
        let open = Server::echo(&node.ns, at, "open").unwrap();
        let pod = network.pod("apiserver");
        let vpn = pod.addresses.at(OPEN_VPN).map(|at| UdpServer::echo(&pod.ns, at, "vpn").unwrap());
        let datagrams = false;
        let way = |label, name, v6, by| Way { label, by, to: stage.frontend(name, v6), datagrams };
        let [vpn4, vpn6] = node.addresses.at(OPEN_VPN_NODE_PORT);
        let ways = vec![
            way("nodePort, IPv4", "bypass nodePort", false, By::Wire),
            way("nodePort, IPv6", "bypass nodePort", true, By::Wire),
            way("VIP, IPv4", "VIP", false, By::Wire),
            way("VIP, IPv6", "VIP", true, By::Wire),
            Way { label: "127.0.0.1", by: By::Wire, to: loopback(port), datagrams },
            Way { label: "UDP nodePort, IPv4", by: By::Wire, to: vpn4, datagrams: true },
            Way { label: "UDP nodePort, IPv6", by: By::Wire, to: vpn6, datagrams: true },
            Way { label: "UDP, VXLAN, IPv4", by: By::Vxlan, to: vpn4, datagrams: true },
            way("no link header, IPv4", "bypass nodePort", false, By::Tun),
            way("no link header, IPv6", "bypass nodePort", true, By::Tun),
            way("VXLAN, IPv4", "bypass nodePort", false, By::Vxlan),
            way("VXLAN, IPv6", "bypass nodePort", true, By::Vxlan),
        ];
        let (first_port, vpn) = (Cell::new(20_000), vpn.into());
        Hostile { ways, first_port, wire, tun, open, vpn, stage }
    }

    /// Every class at every way. With an agent there is no need to wait for answers.
    fn rain(&self, agent: Option<&Agent>) -> Vec<Line> {
        let mut lines = Vec::new();
        for way in &self.ways {
            for class in classes(way.to.is_ipv6()) {
                // Tags are of Ethernet.
                let is_of_ethernet = way.by == By::Tun && class.name.contains("VLAN");
                let is_of_tcp = way.datagrams && class.tcp_only;
                if !is_of_ethernet && !is_of_tcp {
                    lines.push(self.storm(&class, way, agent));
                }
            }
        }
        lines
    }

    /// One class at one way: what it opens is answered in the same shape, with data.
    fn storm(&self, class: &Class, way: &Way, agent: Option<&Agent>) -> Line {
        self.observed("every");
        self.observed("reached");
        let before = (self.served(), verdicts(agent));
        let mut sent = self.fire(class, way, &way.opening(), way.to);
        let mut answers = HashMap::new();
        let asked = |seen: &enforcer_tests::packets::Seen| {
            seen.flags & (flags::SYN | flags::ACK) == flags::SYN | flags::ACK
        };
        for seen in self.wire.collect(QUIET, asked).unwrap() {
            answers.insert(seen.destination_port, (seen.ack, seen.seq.wrapping_add(1)));
        }
        for (number, shape) in (0_u16..).zip(&class.shapes) {
            let aim = self.aim(way, way.to, number);
            let numbers = answers.get(&aim.from.port()).copied().unwrap_or((2, 1));
            for frame in shape.frames(&aim, &way.data(numbers)) {
                self.send(way, &frame);
                sent += 1;
            }
        }
        self.settle();
        let after = (self.served(), verdicts(agent));
        let delivered = self.observed("reached").0;
        self.observed("every");
        let open = self.stage.network.node(NODE).addresses.like(way.to.ip());
        let unguarded = SocketAddr::new(open, OPEN_PORT);
        self.fire(class, way, &way.opening(), unguarded);
        self.fire(class, way, &way.data((2, 1)), unguarded);
        self.settle();
        let moved = |reason: &&'static str| {
            let now = after.1.get(reason).copied().unwrap_or(0);
            now - before.1.get(reason).copied().unwrap_or(0)
        };
        let drops = DENIED.iter().map(|reason| (*reason, moved(reason)));
        Line {
            name: format!("{}: {}", way.label, class.name),
            arrives: class.arrives,
            buried: class.buried,
            sent,
            delivered,
            connections: after.0.0 - before.0.0,
            bytes: after.0.1 - before.0.1,
            drops: drops.filter(|(_, count)| *count > 0).collect(),
            admitted: ADMITTED.iter().map(moved).sum(),
            passed: self.observed("every"),
        }
    }

    /// Sends a segment in all shapes of a class; returns how many packets that were.
    fn fire(&self, class: &Class, way: &Way, segment: &Segment, to: SocketAddr) -> u64 {
        let mut sent = 0;
        for (number, shape) in (0_u16..).zip(&class.shapes) {
            for frame in shape.frames(&self.aim(way, to, number), segment) {
                self.send(way, &frame);
                sent += 1;
            }
        }
        sent
    }

    /// Every shape has a source port of its own.
    fn aim(&self, way: &Way, to: SocketAddr, number: u16) -> Aim {
        let network = &self.stage.network;
        let place = self.ways.iter().position(|it| std::ptr::eq(it, way)).unwrap();
        let base = self.first_port.get() + 1_000 * place as u16;
        let from = SocketAddr::new(STRANGER.like(to.ip()), base + number);
        let node = match way.by {
            By::Wire | By::Tun => network.node(NODE).mac,
            By::Vxlan => [2, 0, 0, 0, 0, 0x42],
        };
        Aim { from, to, mac: network.host("beside").mac, node }
    }

    fn send(&self, way: &Way, frame: &[u8]) {
        let network = &self.stage.network;
        let (mac, node) = (network.host("beside").mac, network.node(NODE));
        match way.by {
            By::Wire => self.wire.send(frame).unwrap(),
            // The kernel refuses what is not IP at all.
            By::Tun => drop((&self.tun).write(&frame[14..])),
            By::Vxlan => {
                let header = [8, 0, 0, 0, 0, 0, 42, 0];
                let from = SocketAddr::new(NEIGHBOUR.v4.into(), 50_000);
                let to = SocketAddr::new(node.addresses.v4.into(), VXLAN);
                let packet = Packet::udp(from, to).payload([&header[..], frame].concat());
                self.wire.send(&packet.frame(mac, node.mac)).unwrap();
            }
        }
    }

    /// Connections and bytes that the listeners know of; a datagram is one.
    fn served(&self) -> (u64, u64) {
        let servers = self.stage.servers.values();
        let datagrams = self.vpn.iter().map(|server| server.received()).sum();
        servers.fold((0, datagrams), |(connections, bytes), server| {
            (connections + server.accepted(), bytes + server.payload())
        })
    }

    /// Waits until nothing moves any more.
    fn settle(&self) {
        let open = || (self.served(), self.open.accepted());
        let mut last = open();
        loop {
            sleep(Duration::from_millis(20));
            let now = open();
            if now == last {
                return;
            }
            last = now;
        }
    }

    /// Packets and bytes of a counter of nftables, which begins anew.
    fn observed(&self, counter: &str) -> (u64, u64) {
        self.stage.network.node(NODE).ns.nft_counter("hostile", counter).unwrap()
    }
}

/// Verdicts of the node by reason.
fn verdicts(agent: Option<&Agent>) -> BTreeMap<&'static str, u64> {
    let reasons = [&DENIED[..], &ADMITTED].concat();
    agent.map(|agent| agent.verdicts(&reasons).unwrap()).unwrap_or_default()
}

/// Counts the stranger's packets, as they come and when they are whole; and takes packets to
/// 127.0.0.0/8 to the API server, as kube-proxy's iptables mode does.
fn observers(port: u16, pod: SocketAddr) -> String {
    let Dual { v4, v6 } = STRANGER;
    format!(
        "table inet hostile {{\n\
           counter every {{ }}\n\
           counter reached {{ }}\n\
           chain early {{\n\
             type filter hook prerouting priority -450\n\
             ip saddr {v4} counter name every\n\
             ip6 saddr {v6} counter name every\n\
           }}\n\
           chain whole {{\n\
             type filter hook prerouting priority -310\n\
             iifname != {{ \"eth0\", \"tun0\", \"vx0\" }} return\n\
             meta l4proto tcp tcp dport 30000-32767 counter name reached\n\
             meta l4proto udp udp dport {OPEN_VPN_NODE_PORT} counter name reached\n\
           }}\n\
         }}\n\
         table ip loopback {{\n\
           chain pre {{\n\
             type nat hook prerouting priority dstnat\n\
             ip daddr 127.0.0.0/8 tcp dport {port} dnat to {pod}\n\
           }}\n\
         }}\n"
    )
}

/// A device without an Ethernet header that the test holds the other end of.
fn open_tun() -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN_NO_PI: u16 = 0x1001;
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0_u8; 40];
    request[..4].copy_from_slice(b"tun0");
    request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
    // SAFETY: the request is as long as an ifreq and lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}
