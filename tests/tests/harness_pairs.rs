//! Streams of numbered SYNs count exactly what rules of ours let pass. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::time::Duration;

use enforcer_tests::nat;
use enforcer_tests::pairs::{Lane, PairStream, Pairs};
use enforcer_tests::stage::{NODE, Stage};

/// Sends `pairs` pairs to two frontends under the node's `rules`, put in while it runs.
fn stream(stage: &Stage, v6: bool, pairs: u64, rules: &str) -> Pairs {
    let bypass = stage.frontend("bypass nodePort", v6);
    let vip = stage.frontend("VIP", v6);
    let network = &stage.network;
    stage.network.node(NODE).ns.nft(rules).unwrap();
    let stream = PairStream::start(
        Lane::new(network.host("listed"), bypass),
        Lane::new(network.host("unlisted"), vip),
        &[network.pod("apiserver"), network.pod("envoy")],
        50_000,
    )
    .unwrap();
    stream.wait_for(pairs, Duration::from_secs(30)).unwrap();
    let result = stream.stop().unwrap();
    println!("{result}, {:.0} pairs/s", result.rate());
    result
}

/// A chain before NAT and conntrack, where the enforcer's verdicts fall too.
fn before_nat(rule: &str) -> String {
    nat::filter("test", "prerouting", -310, &[rule])
}

#[test]
fn without_rules_all_arrive_and_none_is_counted_twice() {
    let stage = Stage::customary().unwrap();
    for v6 in [false, true] {
        let result = stream(&stage, v6, 50_000, "");
        assert!(result.sent >= 50_000);
        assert_eq!((result.lost, result.let_through), (0, result.sent), "{result:?}");
        assert_eq!((result.duplicates, result.sniffer_drops), (0, 0), "{result:?}");
    }
}

#[test]
fn a_rule_against_the_denied_source_lets_none_through_and_loses_none() {
    let stage = Stage::customary().unwrap();
    for (v6, rule) in [
        (false, "ip saddr 203.0.113.0/24 tcp flags syn drop"),
        (true, "ip6 saddr 2001:db8:113::/64 tcp flags syn drop"),
    ] {
        let result = stream(&stage, v6, 100_000, &before_nat(rule));
        assert!(result.clean(), "{result:?}");
    }
}

#[test]
fn exactly_those_that_a_rule_drops_are_lost() {
    let stage = Stage::customary().unwrap();
    // Bit 1 of the sequence number is bit 0 of the pair's: every second pair of the allowed lane.
    let rule = "ip saddr 198.51.100.0/24 tcp sequence & 2 == 2 drop";
    let result = stream(&stage, false, 4_000, &before_nat(rule));
    assert_eq!(result.lost, result.sent / 2, "{result:?}");
    assert_eq!(result.let_through, result.sent, "{result:?}");
}

#[test]
fn one_lost_packet_among_many_is_found() {
    let stage = Stage::customary().unwrap();
    // Pair 10,000 after 1,024 of warm-up: sequence number 2 × 11,024.
    let rule = "ip saddr 198.51.100.0/24 tcp sequence 22048 drop";
    let result = stream(&stage, false, 20_000, &before_nat(rule));
    assert_eq!(result.lost, 1, "{result:?}");
}

#[test]
fn a_stream_whose_allowed_side_is_blocked_never_starts() {
    let stage = Stage::customary().unwrap();
    stage.network.node(NODE).ns.nft(&before_nat("ip saddr 198.51.100.0/24 drop")).unwrap();
    let to = stage.frontend("bypass nodePort", false);
    let network = &stage.network;
    let lane = |client| Lane::new(network.host(client), to);
    let pods = [network.pod("apiserver")];
    let error = PairStream::start(lane("listed"), lane("unlisted"), &pods, 1000).unwrap_err();
    assert!(format!("{error:#}").contains("no allowed SYN arrived"), "{error:#}");
}

#[test]
fn the_pod_answers_again_after_the_stream() {
    use enforcer_tests::talk::{Outcome, connect};
    let stage = Stage::customary().unwrap();
    stream(&stage, false, 1_000, "");
    let to = stage.frontend("bypass nodePort", false);
    let listed = &stage.network.host("listed").ns;
    assert_eq!(connect(listed, None, to, Duration::from_secs(2)), Outcome::Answered);
    let rules = stage.network.pod("apiserver").ns.run("nft", &["list", "ruleset"]).unwrap();
    assert_eq!(rules, "");
}
