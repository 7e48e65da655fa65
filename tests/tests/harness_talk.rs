//! What clients of the harness report when rules of ours stand in for the enforcer. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::time::Duration;

use enforcer_tests::listen::UdpServer;
use enforcer_tests::nat;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::talk::{Conversation, Exchange, Outcome, ask_udp, connect};
use enforcer_tests::traffic::{Effort, Traffic};

const LIMIT: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// The node's rules against the unlisted client, with this verdict, before any NAT.
fn forbid(stage: &Stage, verdict: &str) {
    let rules = [
        format!("ip saddr 203.0.113.0/24 {verdict}"),
        format!("ip6 saddr 2001:db8:113::/64 {verdict}"),
    ];
    let rules = nat::filter("forbid", "prerouting", -310, &[&rules[0], &rules[1]]);
    stage.network.node(NODE).ns.nft(&rules).unwrap();
}

fn permit(stage: &Stage) {
    stage.network.node(NODE).ns.nft("delete table inet forbid\n").unwrap();
}

#[test]
fn outcomes_tell_drop_from_reset_from_unreachable() {
    let stage = Stage::customary().unwrap();
    let (listed, unlisted) = (stage.network.host("listed"), stage.network.host("unlisted"));
    for (verdict, expected) in [
        ("drop", Outcome::TimedOut),
        ("meta l4proto tcp reject with tcp reset", Outcome::Refused),
        ("reject with icmpx admin-prohibited", Outcome::Unreachable),
    ] {
        forbid(&stage, verdict);
        for v6 in [false, true] {
            let to = stage.frontend("bypass nodePort", v6);
            let limit = if expected == Outcome::TimedOut { SHORT } else { LIMIT };
            assert_eq!(connect(&unlisted.ns, None, to, limit), expected, "{verdict} to {to}");
            assert_eq!(connect(&listed.ns, None, to, LIMIT), Outcome::Answered, "{to}");
        }
    }
}

#[test]
fn an_address_that_the_client_does_not_have_is_the_tests_mistake() {
    let stage = Stage::customary().unwrap();
    let from = Some("192.0.2.99:0".parse().unwrap());
    let to = stage.frontend("VIP", false);
    let outcome = connect(&stage.network.host("listed").ns, from, to, LIMIT);
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome}");
}

#[test]
fn an_open_conversation_stalls_when_its_packets_are_dropped_and_goes_on_after() {
    let stage = Stage::customary().unwrap();
    for v6 in [false, true] {
        let to = stage.frontend("VIP", v6);
        let unlisted = &stage.network.host("unlisted").ns;
        let mut talk = Conversation::open(unlisted, None, to, LIMIT).unwrap();
        assert_eq!(talk.server(), "apiserver");
        assert_eq!(talk.exchange(200_000, LIMIT), Exchange::Completed);
        forbid(&stage, "drop");
        let before = stage.servers["apiserver"].payload();
        assert_eq!(talk.exchange(1000, SHORT), Exchange::Stalled);
        assert_eq!(stage.servers["apiserver"].payload(), before);
        permit(&stage);
        assert_eq!(talk.exchange(1000, Duration::from_secs(5)), Exchange::Completed);
        assert_eq!(stage.servers["apiserver"].payload(), before + 2000);
    }
}

#[test]
fn a_conversation_outlives_the_listener_but_not_the_server() {
    let mut stage = Stage::customary().unwrap();
    let to = stage.frontend("bypass nodePort", false);
    let listed = stage.network.host("listed").ns.clone();
    let mut talk = Conversation::open(&listed, None, to, LIMIT).unwrap();
    stage.servers.get_mut("apiserver").unwrap().close_listener();
    assert_eq!(connect(&listed, None, to, LIMIT), Outcome::Refused);
    assert_eq!(talk.exchange(5000, LIMIT), Exchange::Completed);
    stage.servers.remove("apiserver");
    assert_eq!(talk.exchange(10, LIMIT), Exchange::Broken);
}

#[test]
fn datagrams_are_answered_dropped_or_refused() {
    let stage = Stage::customary().unwrap();
    let pod = stage.network.pod("envoy");
    let (listed, unlisted) = (stage.network.host("listed"), stage.network.host("unlisted"));
    for to in pod.addresses.at(5353) {
        assert_eq!(ask_udp(&listed.ns, None, to, LIMIT), Outcome::Refused, "{to}");
        let server = UdpServer::echo(&pod.ns, to, "dns").unwrap();
        assert_eq!(ask_udp(&listed.ns, None, to, LIMIT), Outcome::Answered, "{to}");
        forbid(&stage, "drop");
        assert_eq!(ask_udp(&unlisted.ns, None, to, SHORT), Outcome::TimedOut, "{to}");
        assert_eq!(server.received(), 1);
        assert_eq!(server.peers()[0].ip(), listed.addresses.like(to.ip()));
    }
}

#[test]
fn traffic_counts_every_attempt_by_its_outcome() {
    let stage = Stage::customary().unwrap();
    forbid(&stage, "drop");
    let to = stage.frontend("bypass nodePort", false);
    let start =
        |client, effort| Traffic::start(&stage.network.host(client).ns, to, effort).unwrap();
    let allowed = start("listed", Effort::default());
    let denied =
        start("unlisted", Effort { timeout: Duration::from_millis(50), ..Effort::default() });
    std::thread::sleep(Duration::from_secs(1));
    let (allowed, denied) = (allowed.stop(), denied.stop());
    assert!(allowed.answered > 100 && allowed.answered == allowed.attempted, "{allowed:?}");
    assert!(denied.timed_out > 10 && denied.timed_out == denied.attempted, "{denied:?}");
    assert_eq!(stage.servers["apiserver"].accepted(), allowed.answered);
}

#[test]
fn a_handmade_syn_is_answered_by_the_real_api_server() {
    let stage = Stage::customary().unwrap();
    let listed = stage.network.host("listed");
    let port = RawPort::open(&listed.ns, "eth0").unwrap();
    let pod = RawPort::open(&stage.network.pod("apiserver").ns, "eth0").unwrap();
    for v6 in [false, true] {
        let to = stage.frontend("bypass nodePort", v6);
        let from = listed.addresses.at(4321)[usize::from(v6)];
        let syn = Packet::tcp(from, to).numbers(1000, 0).window(777, 0);
        port.send(&syn.frame(listed.mac, listed.gateway_mac)).unwrap();
        let arrived = pod.next(LIMIT, |seen| seen.seq == 1000).unwrap().expect("the SYN");
        assert_eq!((arrived.flags, arrived.window), (flags::SYN, 777));
        let answer = port.next(LIMIT, |seen| seen.from() == to).unwrap().expect("an answer");
        assert_eq!((answer.flags, answer.ack), (flags::SYN | flags::ACK, 1001));
        assert_eq!(answer.to(), from);
    }
    assert_eq!(port.next(Duration::ZERO, |_| false).unwrap(), None);
}
