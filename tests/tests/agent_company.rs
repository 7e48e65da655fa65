//! Others on the same interface: programs and rules behind ours see every packet that we pass, and
//! none that we drop. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_tests::agent::Agent;
use enforcer_tests::cleanup::Scratch;
use enforcer_tests::counted::Counted;
use enforcer_tests::nat;
use enforcer_tests::netns::Netns;
use enforcer_tests::onlooker::{Onlooker, await_tcx_programs, tcx_programs};
use enforcer_tests::packets::Packet;
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::{NODE, Stage};

const LIMIT: Duration = Duration::from_secs(30);
/// The TCP window that marks this file's packets.
const WINDOW: u16 = 31_007;
/// Packets to each frontend from each client.
const PACKETS: u64 = 300;
/// A port of the node that belongs to no cluster.
const UNRELATED: u16 = 9_090;

#[test]
fn a_tcx_program_a_clsact_program_and_nftables_see_what_passes_and_nothing_else() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let company = Company::join(node);
    assert_eq!(tcx_programs(node, "eth0").unwrap(), 2);
    assert_seen(&stage, &agent, &company);
}

#[test]
fn those_who_were_there_first_see_the_same() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let company = Company::join(node);
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    assert_eq!(tcx_programs(node, "eth0").unwrap(), 2);
    assert_seen(&stage, &agent, &company);
}

#[test]
fn they_miss_nothing_while_the_agent_is_replaced_and_stay_when_it_is_cleaned_away() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let company = Company::join(node);
    agent.kill().unwrap();
    let agent = installation.start().unwrap();
    assert_seen(&stage, &agent, &company);
    agent.terminate().unwrap();
    installation.clean().unwrap();
    await_tcx_programs(node, "eth0", 1).unwrap();
    let before = company.seen();
    let sent = send(&stage, "unlisted");
    wait_for(sent.guarded + sent.unrelated, || company.seen()[0] - before[0]);
    assert_eq!(company.seen(), before.map(|seen| seen + sent.guarded + sent.unrelated));
}

/// Counting programs and rules of others on a node's `eth0`.
struct Company {
    tcx: Onlooker,
    clsact: Onlooker,
    node: Netns,
}

impl Company {
    fn join(node: &Netns) -> Company {
        let mut scratch = Scratch::new("company").unwrap();
        let pin = scratch.bpffs("bpffs").unwrap().join("onlooker");
        let [mut tcx, clsact] = [(); 2].map(|()| Onlooker::of_window(WINDOW).unwrap());
        tcx.attach_tcx(node, "eth0").unwrap();
        clsact.attach_clsact(node, "eth0", &pin).unwrap();
        let rule = format!("tcp flags syn tcp window {WINDOW} counter");
        node.nft(&nat::filter("onlooker", "prerouting", -310, &[&rule])).unwrap();
        Company { tcx, clsact, node: node.clone() }
    }

    /// Packets counted by the TCX program, the clsact program and nftables.
    fn seen(&self) -> [u64; 3] {
        let table = self.node.run("nft", &["list", "table", "inet", "onlooker"]).unwrap();
        let count = table.split_once("counter packets ").unwrap().1.split(' ').next().unwrap();
        [self.tcx.seen().unwrap(), self.clsact.seen().unwrap(), count.parse().unwrap()]
    }
}

/// A stage that admits the listed client only, and whose pods answer none of this file's packets.
fn restricted() -> Stage {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&["198.51.100.0/24", "2001:db8:51::/64"]);
    stage.publish().unwrap();
    for pod in ["apiserver", "envoy"] {
        let rule = format!("tcp flags syn tcp window {WINDOW} drop");
        let quiet = nat::filter("quiet", "prerouting", -310, &[&rule]);
        stage.network.pod(pod).ns.nft(&quiet).unwrap();
    }
    stage
}

fn assert_seen(stage: &Stage, agent: &Agent, company: &Company) {
    let before = (company.seen(), Counted::now(agent, "c1").unwrap());
    let (listed, unlisted) = (send(stage, "listed"), send(stage, "unlisted"));
    let passed = listed.guarded + listed.unrelated + unlisted.unrelated;
    wait_for(passed, || company.seen()[2] - before.0[2]);
    let counted = || Counted::now(agent, "c1").unwrap() - before.1;
    wait_for(unlisted.guarded, || counted().denied);
    assert_eq!(company.seen(), before.0.map(|seen| seen + passed));
    let expected = Counted {
        allowed: listed.guarded,
        denied: unlisted.guarded,
        not_listed: unlisted.guarded,
        ..Counted::default()
    };
    assert_eq!(counted(), expected);
}

/// Packets that one client has sent.
struct Sent {
    guarded: u64,
    unrelated: u64,
}

/// Sends marked SYNs to every guarded frontend and to an unrelated port of the node.
fn send(stage: &Stage, client: &str) -> Sent {
    let host = stage.network.host(client);
    let port = RawPort::open(&host.ns, "eth0").unwrap();
    let guarded: Vec<SocketAddr> =
        stage.frontends().iter().filter(|f| f.guarded).map(|f| f.address).collect();
    let unrelated = stage.network.node(NODE).addresses.at(UNRELATED);
    let mut source_port = 20_000;
    for to in guarded.iter().chain(&unrelated) {
        source_port += 1;
        let from = SocketAddr::new(host.addresses.like(to.ip()), source_port);
        let frame = Packet::tcp(from, *to).window(WINDOW, 0).frame(host.mac, host.gateway_mac);
        for sent in 0..PACKETS {
            port.send(&frame).unwrap();
            // Far fewer under way than a CPU's queue holds.
            if sent % 100 == 99 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Sent { guarded: PACKETS * guarded.len() as u64, unrelated: PACKETS * unrelated.len() as u64 }
}

fn wait_for(expected: u64, now: impl Fn() -> u64) {
    let start = Instant::now();
    while now() < expected && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(2));
    }
}
