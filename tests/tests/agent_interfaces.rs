//! The interfaces of a node as they come, go and change, and the real agent on them. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::cleanup::Scratch;
use enforcer_tests::counted::Counted;
use enforcer_tests::netns::Netns;
use enforcer_tests::onlooker::{Onlooker, await_tcx_programs, tcx_egress_programs, tcx_programs};
use enforcer_tests::packets::{Mac, Packet};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::survey::SILENCE;
use enforcer_tests::talk::{Outcome, connect};
use enforcer_tests::topology::{Cni, Host, Plan};

const LIMIT: Duration = Duration::from_secs(30);
const PACKETS: u64 = 200;
const LISTED: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64"];
/// Nobody of the seed is exempt, so that a pod is a client like any other.
const NOBODY: &[&str] = &["--exempt-seed", "none"];

#[test]
fn auto_guards_uplink_and_pods_and_judges_a_pods_packet_once_on_either_kind_of_network() {
    for cni in [Cni::Routed, Cni::Bridge] {
        let stage = stage(cni);
        let node = node(&stage);
        let installation = auto(&stage).arguments(NOBODY);
        let agent = installation.start().unwrap();
        for interface in ["eth0", "v-apiserver", "v-envoy", "v-stranger"] {
            assert_eq!(tcx_programs(node, interface).unwrap(), 1, "{interface}");
            assert_eq!(tcx_egress_programs(node, interface).unwrap(), 1, "{interface}");
        }
        if cni == Cni::Bridge {
            assert_eq!(tcx_programs(node, "cni0").unwrap(), 0);
        }
        for v6 in [false, true] {
            let to = stage.frontend("bypass nodePort", v6);
            let pod = stage.network.pod("stranger");
            assert_eq!(denied(&agent, || syns(pod, to)), PACKETS, "{cni:?} {to}");
            let client = stage.network.host("unlisted");
            assert_eq!(denied(&agent, || syns(client, to)), PACKETS, "{cni:?} {to}");
        }
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    }
}

#[test]
fn what_comes_encapsulated_is_judged_once_where_it_is_decapsulated() {
    const HERE: Mac = [2, 0, 0, 0, 7, 1];
    const THERE: Mac = [2, 0, 0, 0, 7, 2];
    let mut stage = stage(Cni::Routed);
    stage.network.add_node("seed-2", Cni::Routed).unwrap();
    stage.publish().unwrap();
    let installation = auto(&stage).arguments(NOBODY);
    let agent = installation.start().unwrap();
    let [here, there] = [NODE, "seed-2"].map(|name| stage.network.node(name));
    let tunnel = |mac: &str, own: IpAddr, far: IpAddr, address: &str| {
        format!(
            "link add vx0 address {mac} type vxlan id 7 dstport 4789 local {own} remote {far}\n\
             addr add {address}/24 dev vx0\nlink set vx0 up\n"
        )
    };
    let [a, b] = [here, there].map(|node| IpAddr::from(node.addresses.v4));
    there.ns.ip(&tunnel("02:00:00:00:07:02", b, a, "172.30.0.2")).unwrap();
    // The address of the tunnel's device is one of the node's: its nodePorts are guarded there.
    let ready = || here.ns.ip(&tunnel("02:00:00:00:07:01", a, b, "172.30.0.1"));
    agent.enforces(ready).unwrap();
    await_tcx_programs(&here.ns, "vx0", 1).unwrap();

    let to: SocketAddr = SocketAddr::new([172, 30, 0, 1].into(), stage.cluster.ports().api_server);
    let port = RawPort::open(&there.ns, "vx0").unwrap();
    let from = SocketAddr::new([172, 30, 0, 2].into(), 40_000);
    // What pods of two nodes send to each other looks like the second.
    let pod = SocketAddr::new([10, 244, 1, 10].into(), 40_000);
    let api_server = stage.network.pod("apiserver").addresses.at(to.port())[0];
    for (from, to) in [(from, to), (pod, api_server)] {
        let frame = Packet::tcp(from, to).frame(THERE, HERE);
        let before = Counted::now(&agent, "c1").unwrap();
        send(&port, &frame);
        assert_eq!(settled(&agent, before, PACKETS), PACKETS, "{from} {to}");
    }
    stage.cluster = stage.cluster.clone().allow(&["172.30.0.2/32"]);
    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(connect(&there.ns, None, to, LIMIT), Outcome::Answered);
    assert_eq!(stage.surprises(&[]), [""; 0]);
}

#[test]
fn interfaces_that_are_renamed_moved_away_and_made_again_are_guarded_all_the_same() {
    let stage = stage(Cni::Routed);
    let node = node(&stage);
    let installation = auto(&stage);
    let agent = installation.start().unwrap();
    let elsewhere = Netns::new("elsewhere").unwrap();
    let far = elsewhere.name();
    node.ip(&format!("link add pod0 type veth peer name far0 netns {far}")).unwrap();
    guarded(node, &agent, "pod0");

    node.ip("link set pod0 name pod1\nlink set pod1 up").unwrap();
    guarded(node, &agent, "pod1");

    let index = index(node, "pod1");
    // Gone and back between two looks of the agent: the number is the same, the link is not.
    node.ip(&format!(
        "link del pod1\nlink add pod1 index {index} type veth peer name far0 netns {far}"
    ))
    .unwrap();
    guarded(node, &agent, "pod1");

    node.ip(&format!("link set pod1 netns {far}")).unwrap();
    await_tcx_programs(&elsewhere, "pod1", 0).unwrap();
    elsewhere.ip(&format!("link set pod1 netns {}", node.name())).unwrap();
    elsewhere.ip("link set far0 down").unwrap();
    // Both ends: the far one is elsewhere again.
    guarded(node, &agent, "pod1");

    node.ip("link del pod1").unwrap();
    wait_ready(&agent);
    let number = format!("{index}-ingress");
    assert!(!links(&installation).contains(&number), "{:?}", links(&installation));
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn interfaces_that_change_while_no_agent_runs_are_guarded_by_the_next_one() {
    let stage = stage(Cni::Routed);
    let node = node(&stage);
    let installation = auto(&stage);
    let elsewhere = Netns::new("elsewhere").unwrap();
    let far = elsewhere.name();
    let agent = installation.start().unwrap();
    node.ip(&format!("link add pod0 type veth peer name far0 netns {far}")).unwrap();
    guarded(node, &agent, "pod0");
    let index = index(node, "pod0");
    agent.kill().unwrap();
    node.ip(&format!(
        "link del pod0\nlink add pod1 index {index} type veth peer name far0 netns {far}\n\
         link add pod2 type veth peer name far1 netns {far}"
    ))
    .unwrap();
    assert_eq!(tcx_programs(node, "pod1").unwrap(), 0);
    let agent = installation.start().unwrap();
    guarded(node, &agent, "pod1");
    guarded(node, &agent, "pod2");
}

#[test]
fn a_changed_image_does_not_wait_for_a_crowd_of_pods() {
    const CROWD: usize = 200;
    let mut stage = stage(Cni::Routed);
    for attach in ["auto", "clsact"] {
        let node = &stage.network.node(NODE).ns.clone();
        let installation = auto(&stage).arguments(&["--attach", attach]);
        let agent = installation.start().unwrap();
        let elsewhere = Netns::new("crowd").unwrap();
        let alone: Vec<Duration> = (0..10)
            .map(|number| {
                let one = pair(&format!("one{number}"), &elsewhere);
                let begin = Instant::now();
                node.ip(&one).unwrap();
                while !has_program(node, attach, &format!("one{number}")) {
                    assert!(begin.elapsed() < LIMIT);
                }
                begin.elapsed()
            })
            .collect();
        println!("{attach}: one pod guarded {}", spread(alone));

        let begin = Instant::now();
        let batch: String = (0..CROWD).map(|n| pair(&format!("pod{n}"), &elsewhere)).collect();
        node.ip(&batch).unwrap();
        println!("{attach}: {CROWD} pairs made in {:?}", begin.elapsed());
        let waiting = || agent.get("/readyz").unwrap().1.matches("about to be guarded").count();
        while attach == "auto" && waiting() < CROWD / 4 {
            assert!(begin.elapsed() < LIMIT, "{:?}", agent.get("/readyz"));
        }
        stage.cluster = stage.cluster.clone().allow(&["203.0.113.0/24", "2001:db8:113::/64"]);
        let took = agent.enforces(|| stage.publish()).unwrap();
        let waiting = waiting();
        println!("{attach}: the image changed in {took:?}, {waiting} interfaces were waiting");
        if attach == "auto" {
            assert!(waiting > 0, "the crowd was too small to say anything");
        }
        wait_ready(&agent);
        println!("{attach}: all guarded {:?} after the first was made", begin.elapsed());
        for number in 0..CROWD {
            assert!(has_program(node, attach, &format!("pod{number}")), "pod{number}");
        }
        assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
        agent.terminate().unwrap();
        installation.clean().unwrap();
        stage.cluster = stage.cluster.clone().allow(LISTED);
        stage.publish().unwrap();
    }
}

#[test]
fn an_address_that_moves_to_the_node_is_guarded_at_once() {
    const WINDOW: u16 = 31_010;
    let stage = stage(Cni::Routed);
    let node = node(&stage);
    let installation = auto(&stage);
    let agent = installation.start().unwrap();
    let mut arrived = Onlooker::of_window(WINDOW).unwrap();
    arrived.attach_tcx(&stage.network.pod("apiserver").ns, "eth0").unwrap();
    let unlisted = stage.network.host("unlisted");
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    let (mut took, mut open) = (Vec::new(), Vec::new());
    for number in 200..220 {
        let address = IpAddr::from([192, 0, 2, number]);
        let to = SocketAddr::new(address, stage.cluster.ports().api_server);
        stage.network.route(&[address], NODE).unwrap();
        let from = SocketAddr::new(unlisted.addresses.like(address), 40_002);
        // As long as the node does not have the address, the packet goes back and ends.
        let packet = Packet::tcp(from, to).window(WINDOW, 0).ttl(3);
        let frame = packet.frame(unlisted.mac, unlisted.gateway_mac);
        let before = arrived.seen().unwrap();
        std::thread::scope(|scope| {
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let port = &port;
            scope.spawn(move || {
                while ended.recv_timeout(Duration::from_millis(1))
                    == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
                {
                    port.send(&frame).unwrap();
                }
            });
            let add = format!("addr add {address}/32 dev eth0");
            took.push(agent.enforces(|| node.ip(&add)).unwrap());
            std::thread::sleep(Duration::from_millis(20));
            drop(end);
        });
        let through = arrived.seen().unwrap() - before;
        open.push(Duration::from_millis(through));
        send(
            &port,
            &Packet::tcp(from, to).window(WINDOW, 0).frame(unlisted.mac, unlisted.gateway_mac),
        );
        let listed = &stage.network.host("listed").ns;
        assert_eq!(connect(listed, None, to, LIMIT), Outcome::Answered);
        assert_eq!(arrived.seen().unwrap() - before, through, "what came later was let through");
        agent.enforces(|| node.ip(&format!("addr del {address}/32 dev eth0"))).unwrap();
    }
    println!("an added address is enforced {}, the `ip` command included", spread(took));
    println!("of one packet a millisecond, those of {} got through", spread(open));
}

#[test]
fn objects_that_come_right_behind_an_address_are_enforced_with_it() {
    let mut stage = stage(Cni::Routed);
    let installation = auto(&stage);
    let agent = installation.start().unwrap();
    for number in 0..10u8 {
        let ranges = [format!("198.51.{number}.0/24"), LISTED[0].to_owned()];
        let address = IpAddr::from([192, 0, 2, 200 + number]);
        stage.network.route(&[address], NODE).unwrap();
        stage.cluster = stage.cluster.clone().allow(&ranges.each_ref().map(String::as_str));
        let node = node(&stage);
        node.ip(&format!("addr add {address}/32 dev eth0")).unwrap();
        agent.enforces(|| stage.publish()).unwrap();
        let to = SocketAddr::new(address, stage.cluster.ports().api_server);
        let at = |client| connect(&stage.network.host(client).ns, None, to, SILENCE);
        assert_eq!([at("unlisted"), at("listed")], [Outcome::TimedOut, Outcome::Answered]);
    }
}

#[test]
fn filters_of_clsact_come_first_leave_those_of_others_alone_and_go_without_trace() {
    const WINDOW: u16 = 31_009;
    let stage = stage(Cni::Routed);
    let node = node(&stage);
    let mut scratch = Scratch::new("other").unwrap();
    let pin = scratch.bpffs("bpffs").unwrap().join("onlooker");
    let other = Onlooker::of_window(WINDOW).unwrap();
    other.attach_clsact(node, "eth0", &pin).unwrap();
    let installation = auto(&stage).arguments(&[&["--attach", "clsact"], NOBODY].concat());
    let agent = installation.start().unwrap();
    let shown = filters(node, "eth0");
    assert!(
        shown.contains("pref 1 bpf") && shown.contains("ingress_uplink_ethernet direct-action"),
        "{shown}"
    );
    let shown = filters(node, "v-envoy");
    assert!(shown.contains("ingress_pod_ethernet+clsact direct-action"), "{shown}");
    assert_eq!(tcx_programs(node, "eth0").unwrap(), 0);

    let to = stage.frontend("bypass nodePort", false);
    assert_eq!(denied(&agent, || syns(stage.network.pod("stranger"), to)), PACKETS);
    let marked = |client| {
        let host = stage.network.host(client);
        let from = SocketAddr::new(host.addresses.like(to.ip()), 40_001);
        let frame = Packet::tcp(from, to).window(WINDOW, 0).frame(host.mac, host.gateway_mac);
        send(&RawPort::open(&host.ns, "eth0").unwrap(), &frame);
    };
    assert_eq!(denied(&agent, || marked("unlisted")), PACKETS);
    assert_eq!(other.seen().unwrap(), 0);
    marked("listed");
    let begin = Instant::now();
    while other.seen().unwrap() < PACKETS && begin.elapsed() < LIMIT {}
    assert_eq!(other.seen().unwrap(), PACKETS);

    agent.terminate().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    installation.clean().unwrap();
    assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0]);
    let shown = filters(node, "eth0");
    assert!(shown.contains("onlooker") && !shown.contains("ingress_uplink"), "{shown}");
    assert!(!disciplines(node, "v-envoy").contains("clsact"), "it was made for our filters alone");
}

#[test]
fn a_change_from_clsact_to_tcx_and_back_leaves_one_program_on_every_hook() {
    let stage = stage(Cni::Routed);
    let node = node(&stage);
    let (to, client) = (stage.frontend("bypass nodePort", false), stage.network.host("unlisted"));
    let mut installation = auto(&stage);
    for (attach, tcx) in [("clsact", 0), ("tcx", 1), ("clsact", 0)] {
        installation.use_arguments(&["--attach", attach]);
        let agent = installation.start().unwrap();
        await_tcx_programs(node, "eth0", tcx).unwrap();
        assert_eq!(filters(node, "eth0").contains("ingress_uplink_ethernet"), tcx == 0);
        assert_eq!(denied(&agent, || syns(client, to)), PACKETS, "{attach}");
    }
}

/// A seed whose cluster admits the listed client, with a pod that belongs to no cluster.
fn stage(cni: Cni) -> Stage {
    let plan = Plan::default()
        .client("listed", enforcer_tests::addresses::LISTED)
        .client("unlisted", enforcer_tests::addresses::UNLISTED)
        .node(NODE, cni)
        .pod(NODE, "envoy")
        .pod(NODE, "apiserver")
        .pod(NODE, "stranger");
    let mut stage = Stage::on(plan).unwrap();
    stage.cluster = stage.cluster.allow(LISTED);
    stage.publish().unwrap();
    stage
}

fn node(stage: &Stage) -> &Netns {
    &stage.network.node(NODE).ns
}

fn auto(stage: &Stage) -> Installation {
    stage.installation().unwrap().interfaces("auto")
}

fn pair(name: &str, elsewhere: &Netns) -> String {
    format!("link add {name} type veth peer name far-{name} netns {}\n", elsewhere.name())
}

/// Sends SYNs from a host through its `eth0`.
fn syns(host: &Host, to: SocketAddr) {
    let port = RawPort::open(&host.ns, "eth0").unwrap();
    let from = SocketAddr::new(host.addresses.like(to.ip()), 40_000);
    send(&port, &Packet::tcp(from, to).frame(host.mac, host.gateway_mac));
}

fn send(port: &RawPort, frame: &[u8]) {
    for sent in 0..PACKETS {
        port.send(frame).unwrap();
        // Far fewer under way than a CPU's queue holds.
        if sent % 100 == 99 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How many packets to the cluster are denied because of what `send` sends.
fn denied(agent: &Agent, send: impl FnOnce()) -> u64 {
    let before = Counted::now(agent, "c1").unwrap();
    send();
    settled(agent, before, PACKETS)
}

/// Denied packets, when so many are reached and no more come.
fn settled(agent: &Agent, before: Counted, expected: u64) -> u64 {
    let now = || (Counted::now(agent, "c1").unwrap() - before).denied;
    let begin = Instant::now();
    while now() < expected && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(50));
    now()
}

fn guarded(node: &Netns, agent: &Agent, interface: &str) {
    await_tcx_programs(node, interface, 1).unwrap();
    wait_ready(agent);
    assert_eq!(tcx_programs(node, interface).unwrap(), 1, "{interface}");
    assert_eq!(tcx_egress_programs(node, interface).unwrap(), 1, "{interface}");
}

fn wait_ready(agent: &Agent) {
    let begin = Instant::now();
    while agent.get("/readyz").unwrap().0 != 200 {
        assert!(begin.elapsed() < LIMIT, "{:?}", agent.get("/readyz"));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn has_program(node: &Netns, attach: &str, interface: &str) -> bool {
    match attach {
        "clsact" => filters(node, interface).contains("ingress_"),
        _ => tcx_programs(node, interface).unwrap() > 0,
    }
}

fn filters(node: &Netns, interface: &str) -> String {
    node.run("tc", &["filter", "show", "dev", interface, "ingress"]).unwrap()
}

fn disciplines(node: &Netns, interface: &str) -> String {
    node.run("tc", &["qdisc", "show", "dev", interface]).unwrap()
}

fn index(node: &Netns, interface: &str) -> u32 {
    node.enter(|| nix::net::if_::if_nametoindex(interface)).unwrap()
}

/// The pins of links.
fn links(installation: &Installation) -> Vec<String> {
    let versions = std::fs::read_dir(installation.bpffs()).unwrap();
    let folders = versions.map(|entry| entry.unwrap().path().join("links"));
    // Beside them are files of the kernel's own.
    let names = folders
        .filter(|folder| folder.exists())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap());
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let max = times[times.len() - 1];
    format!("within {:.1?} (median), {max:.1?} (worst of {})", times[times.len() / 2], times.len())
}
