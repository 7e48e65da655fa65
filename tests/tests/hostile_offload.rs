//! Packets larger than a wire takes, as senders leave them to their devices to cut (GSO), and jumbo frames:
//! judged as small ones are, before anybody cuts them. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use enforcer_tests::addresses::{NEIGHBOUR, STRANGER};
use enforcer_tests::listen::UdpServer;
use enforcer_tests::netns::Netns;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::{Large, LargePort, Offload};
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::topology::Plan;

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const NOBODY: [&str; 2] = ["192.0.2.250/32", "2001:db8:fa11::/64"];
const OPEN_VPN: u16 = 1194;
const OPEN_VPN_NODE_PORT: u16 = 31_201;
const LIMIT: Duration = Duration::from_secs(20);
const ETHERNET: u16 = 14;

/// A seed whose node counts what comes in behind the hook.
struct Scene {
    vpn: Vec<UdpServer>,
    stage: Stage,
}

impl Scene {
    fn new(mtu: u16) -> Scene {
        let mut stage = Stage::on(Plan::customary().neighbour("beside", NEIGHBOUR)).unwrap();
        stage.cluster.wide = true;
        stage.network.serve(&stage.cluster.rules()).unwrap();
        let network = &stage.network;
        network.set_mtu(mtu).unwrap();
        let node = network.node(NODE);
        node.ns.nft(OBSERVER).unwrap();
        let pod = network.pod("apiserver");
        let vpn = pod.addresses.at(OPEN_VPN).map(|at| UdpServer::echo(&pod.ns, at, "vpn").unwrap());
        Scene { vpn: vpn.into(), stage }
    }

    /// Packets and bytes at guarded ports since the last time.
    fn observed(&self) -> (u64, u64) {
        self.stage.network.node(NODE).ns.nft_counter("hostile", "large").unwrap()
    }

    /// Bytes that listeners got, datagrams as one.
    fn payload(&self) -> u64 {
        let datagrams: u64 = self.vpn.iter().map(|server| server.received()).sum();
        let servers = ["apiserver", "konnectivity"].map(|name| &self.stage.servers[name]);
        servers.iter().map(|server| server.payload()).sum::<u64>() + datagrams
    }
}

const OBSERVER: &str = "\
table inet hostile {
  counter large { }
  chain early {
    type filter hook prerouting priority -450
    iifname != \"eth0\" return
    meta l4proto { tcp, udp } th dport 30000-32767 counter name large
  }
}
";

/// Writes so many bytes to a server that echoes, and reads them back.
fn pour(ns: &Netns, to: SocketAddr, bytes: usize) -> std::io::Result<usize> {
    let mut stream = ns.enter(|| TcpStream::connect_timeout(&to, LIMIT))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut writer = stream.try_clone()?;
    let writing = spawn(move || -> std::io::Result<()> {
        writer.write_all(&vec![7; bytes])?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    writing.join().unwrap()?;
    Ok(back.len())
}

#[test]
fn a_listed_client_sends_in_large_segments_and_jumbo_frames_and_is_cut_in_the_middle_of_them() {
    const BYTES: usize = 8 << 20;
    for mtu in [1500, 9000] {
        let mut scene = Scene::new(mtu);
        scene.stage.cluster = scene.stage.cluster.clone().allow(&LISTED);
        scene.stage.publish().unwrap();
        let installation = scene.stage.installation().unwrap().interfaces("auto");
        let agent = installation.start().unwrap();
        let listed = scene.stage.network.host("listed").ns.clone();
        for v6 in [false, true] {
            let to = scene.stage.frontend("bypass nodePort", v6);
            scene.observed();
            let back = pour(&listed, to, BYTES).unwrap();
            assert_eq!(back, BYTES + b"apiserver\n".len(), "{to}");
            let (packets, bytes) = scene.observed();
            let mean = bytes / packets;
            println!("MTU {mtu}, {to}: {packets} packets of {mean} bytes at the node");
            assert!(mean > u64::from(mtu), "{to}: nothing is larger than a frame");
        }
        cut_in_the_middle(&mut scene, &agent, &listed);
    }
}

/// Somebody pours without end; then his range is gone.
fn cut_in_the_middle(scene: &mut Scene, agent: &enforcer_tests::agent::Agent, listed: &Netns) {
    let to = scene.stage.frontend("bypass nodePort", false);
    let mut stream = listed.enter(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let reading = spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).ok());
    let begin = scene.payload();
    let writing = spawn(move || {
        let chunk = vec![7; 256 << 10];
        while stream.write_all(&chunk).is_ok() {}
        stream.shutdown(std::net::Shutdown::Both).ok();
    });
    let end = Instant::now() + LIMIT;
    while scene.payload() - begin < 4 << 20 {
        assert!(Instant::now() < end, "nothing comes through");
        sleep(Duration::from_millis(5));
    }
    scene.stage.cluster = scene.stage.cluster.clone().allow(&NOBODY);
    agent.enforces(|| scene.stage.publish()).unwrap();
    // What is on its way in the node arrives yet.
    sleep(Duration::from_millis(200));
    let cut = scene.payload();
    writing.join().unwrap();
    reading.join().unwrap();
    assert_eq!(scene.payload(), cut, "not a byte behind the change");
}

/// UDP sockets cut one large datagram into many (UDP_SEGMENT, linux/udp.h).
fn send_segmented(ns: &Netns, to: SocketAddr, part: u16, parts: usize) {
    const UDP_SEGMENT: libc::c_int = 103;
    let any: SocketAddr = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let socket = ns.enter(|| UdpSocket::bind(any)).unwrap();
    let size = libc::c_int::from(part);
    // SAFETY: the value lives until the call returns and its length is right.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as u32,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    socket.send_to(&vec![7; usize::from(part) * parts], to).unwrap();
}

#[test]
fn datagrams_that_are_sent_as_one_arrive_of_a_listed_client_and_of_nobody_else() {
    const PARTS: usize = 30;
    let mut scene = Scene::new(1500);
    scene.stage.cluster = scene.stage.cluster.clone().allow(&LISTED);
    scene.stage.publish().unwrap();
    let installation = scene.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let node = scene.stage.network.node(NODE).addresses;
    for to in node.at(OPEN_VPN_NODE_PORT) {
        for (client, arrive) in [("unlisted", 0), ("listed", PARTS as u64)] {
            let before = (scene.payload(), agent.count("enforcer_verdicts_total", &[]).unwrap());
            scene.observed();
            send_segmented(&scene.stage.network.host(client).ns, to, 1_000, PARTS);
            let end = Instant::now() + LIMIT;
            while scene.payload() - before.0 < arrive {
                assert!(Instant::now() < end, "{client} at {to}");
                sleep(Duration::from_millis(5));
            }
            sleep(Duration::from_millis(60));
            assert_eq!(scene.payload() - before.0, arrive, "{client} at {to}");
            let (packets, bytes) = scene.observed();
            println!("{client} at {to}: {packets} packets, {bytes} bytes behind the hook");
            assert_eq!(packets > 0, arrive > 0, "{client} at {to}");
        }
    }
}

/// A large packet to be, by hand.
struct Shape {
    name: &'static str,
    /// Bytes of data.
    data: usize,
    flags: u8,
    datagram: bool,
    tagged: bool,
}

const fn tcp(name: &'static str, data: usize, flags: u8) -> Shape {
    Shape { name, data, flags, datagram: false, tagged: false }
}

const SHAPES: [Shape; 8] = [
    tcp("data", 20_000, flags::ACK | flags::PSH),
    tcp("data, one part and a byte", 1_001, flags::ACK | flags::PSH),
    tcp("data with a SYN", 20_000, flags::SYN),
    tcp("last data", 20_000, flags::FIN | flags::ACK),
    tcp("as much as fits", 65_000, flags::ACK),
    tcp("no flags", 20_000, 0),
    Shape { tagged: true, ..tcp("data behind a priority tag", 20_000, flags::ACK) },
    Shape { datagram: true, ..tcp("datagrams", 20_000, 0) },
];

/// Sends every shape to a guarded port; returns lines of name, what was sent, and packets that came.
fn by_hand(scene: &Scene) -> Vec<(String, u64, u64)> {
    const PART: u16 = 1_000;
    let network = &scene.stage.network;
    let (beside, node) = (network.host("beside"), network.node(NODE));
    let port = LargePort::open(&beside.ns, "eth0").unwrap();
    let mut lines = Vec::new();
    for v6 in [false, true] {
        for shape in &SHAPES {
            let to = match shape.datagram {
                true => node.addresses.at(OPEN_VPN_NODE_PORT)[usize::from(v6)],
                false => scene.stage.frontend("bypass nodePort", v6),
            };
            let from = SocketAddr::new(STRANGER.like(to.ip()), 40_000);
            let packet = match shape.datagram {
                true => Packet::udp(from, to),
                false => Packet::tcp(from, to).flags(shape.flags).numbers(1, 1),
            };
            let mut packet = packet.payload(vec![7; shape.data]);
            if shape.tagged {
                packet = packet.vlan(0);
            }
            let start = ETHERNET + if v6 { 40 } else { 20 } + if shape.tagged { 4 } else { 0 };
            let (length, checksum) = if shape.datagram { (8, 6) } else { (20, 16) };
            let kind = match (shape.datagram, v6) {
                (true, _) => Large::Udp,
                (false, false) => Large::Tcp4,
                (false, true) => Large::Tcp6,
            };
            let offload =
                Offload { kind, part: PART, headers: start + length, checksum: (start, checksum) };
            scene.observed();
            let sent = 4;
            for _ in 0..sent {
                port.send(&packet.frame(beside.mac, node.mac), offload).unwrap();
            }
            sleep(Duration::from_millis(30));
            let name = format!("{}, {}", shape.name, if v6 { "IPv6" } else { "IPv4" });
            lines.push((name, sent, scene.observed().0));
        }
    }
    lines
}

#[test]
fn large_packets_of_a_stranger_are_dropped_whole() {
    let mut scene = Scene::new(1500);
    let free = by_hand(&scene);
    scene.stage.cluster = scene.stage.cluster.clone().allow(&LISTED);
    scene.stage.publish().unwrap();
    let installation = scene.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let count = |reason| agent.count("enforcer_verdicts_total", &[("reason", reason)]).unwrap();
    let before = count("not_listed");
    let heard = scene.payload();
    let held = by_hand(&scene);
    let dropped = count("not_listed") - before;
    println!("{:<40} {:>5} {:>9} {:>9}", "large packets", "sent", "unguarded", "delivered");
    let mut holes = Vec::new();
    for ((name, sent, without), (_, _, with)) in free.iter().zip(&held) {
        println!("{name:<40} {sent:>5} {without:>9} {with:>9}");
        if *with > 0 || *without == 0 {
            holes.push(format!("{name}: {with} delivered, {without} without an agent"));
        }
    }
    println!("drops by reason: not_listed {dropped}");
    assert_eq!(holes, [""; 0]);
    let sent: u64 = held.iter().map(|(_, sent, _)| sent).sum();
    assert!(dropped >= sent, "{dropped} of {sent}");
    assert_eq!(scene.payload(), heard);
}
