//! Denied packets as `enforcer debug drops` shows them: none is lost from the sum. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::counted::Counted;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::Stage;
use enforcer_tests::talk::{Outcome, connect};
use serde_json::Value;

const LISTED: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64"];
const FLOOD: u32 = 100_000;
const LIMIT: Duration = Duration::from_secs(20);

fn restricted() -> (Stage, Installation) {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(LISTED);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    (stage, installation)
}

/// `drops --follow --output json`, read as it writes.
struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(installation: &Installation, more: &[&str]) -> Follower {
        let arguments = [&["drops", "--follow", "--output", "json"], more].concat();
        let mut command = installation.debugging(&arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Follower { child, lines }
    }

    fn next(&self) -> Option<Value> {
        self.lines.recv_timeout(Duration::from_secs(3)).ok()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_denied_connection_is_told_with_its_cluster_and_reason_to_followers_and_later() {
    let (stage, installation) = restricted();
    let _agent = installation.start().unwrap();
    let follower = Follower::start(&installation, &["--cluster", "c1"]);
    let vip = stage.frontend("VIP", false);
    let unlisted = &stage.network.host("unlisted");
    let give_up = Duration::from_millis(300);
    // The follower may not be there yet: whoever is denied tries again.
    let told = (0..10).find_map(|_| {
        assert_eq!(connect(&unlisted.ns, None, vip, give_up), Outcome::TimedOut);
        follower.lines.recv_timeout(Duration::from_millis(500)).ok()
    });
    let told = &told.expect("a line")["drop"];
    assert_eq!(told["cluster"], "c1");
    assert_eq!(told["reason"], "not_listed");
    assert_eq!(told["interface"], "eth0");
    assert_eq!(told["direction"], "ingress");
    assert_eq!(told["protocol"], "tcp");
    assert_eq!(told["source"], unlisted.addresses.v4.to_string());
    assert_eq!(told["destination"], vip.ip().to_string());
    assert_eq!(told["port"], vip.port());
    assert_eq!(told["audited"], false);

    let later = installation.debug(&["drops", "--output", "json"]).unwrap();
    assert_eq!(later.code, Some(0), "{}", later.error);
    let later = later.json().unwrap();
    assert_eq!(later["version"], 1);
    assert_eq!(&later["drops"][0], told);
    let text = installation.debug(&["drops"]).unwrap().text;
    let line = text.lines().nth(1).unwrap();
    for words in ["eth0", "c1", "not_listed", &vip.to_string()] {
        assert!(line.contains(words), "{words}: {text}");
    }
    let none = installation.debug(&["drops", "--cluster", "c2"]).unwrap();
    assert_eq!(none.text, "0 denied packets shown, 0 more suppressed\n");
    // An ordinary pipe gets one line for each, and no escape sequences.
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn a_flood_loses_no_packet_from_the_sum_of_events_and_suppressed() {
    let (stage, installation) = restricted();
    let agent = installation.start().unwrap();
    let follower = Follower::start(&installation, &[]);
    let before = Counted::now(&agent, "c1").unwrap();
    let took = flood(&stage, FLOOD);
    settle(&agent, before.denied + u64::from(FLOOD));
    let denied = (Counted::now(&agent, "c1").unwrap() - before).denied;
    assert_eq!(denied, u64::from(FLOOD));
    // Whatever comes after the flood tells what was suppressed at its end, if its CPU is the same.
    let (mut events, mut suppressed, mut missed) = (0, 0, 0);
    while let Some(line) = follower.next() {
        match line.get("drop") {
            Some(drop) => {
                events += 1;
                suppressed += drop["suppressed"].as_u64().unwrap();
            }
            None => missed += line["missed"].as_u64().unwrap(),
        }
    }
    let answer = installation.debug(&["drops", "--output", "json"]).unwrap().json().unwrap();
    let untold = answer["suppressed_untold"].as_u64().unwrap();
    println!(
        "{denied} denied in {took:?}: {events} events, {suppressed} suppressed, {untold} not told yet"
    );
    assert_eq!(missed, 0);
    assert_eq!(events + suppressed + untold, denied);
    assert!(events < denied / 10, "events are rate limited");
    assert!(events > 10);
}

#[test]
fn without_an_agent_the_ring_is_read_once() {
    let (stage, installation) = restricted();
    installation.start().unwrap().kill().unwrap();
    flood(&stage, 3);
    let first = installation.debug(&["drops", "--output", "json"]).unwrap().json().unwrap();
    let drops = first["drops"].as_array().unwrap();
    assert_eq!(drops.len(), 3, "{first}");
    assert_eq!(drops[0]["cluster"], "c1");
    let again = installation.debug(&["drops"]).unwrap();
    assert!(again.text.contains("no agent runs here"), "{}", again.text);
    assert!(again.text.starts_with("0 denied packets shown"), "{}", again.text);
}

/// So many SYNs from a client that is in no list, each counted and dropped; how long that took.
fn flood(stage: &Stage, packets: u32) -> Duration {
    let unlisted = stage.network.host("unlisted");
    let to = stage.frontend("VIP", false);
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    let begin = Instant::now();
    for number in 0..packets {
        let from =
            SocketAddr::new(unlisted.addresses.like(to.ip()), 20_000 + (number % 9_000) as u16);
        let packet = Packet::tcp(from, to).flags(flags::SYN).numbers(number, 0);
        port.send(&packet.frame(unlisted.mac, unlisted.gateway_mac)).unwrap();
    }
    begin.elapsed()
}

/// Waits until everything that is under way has been counted.
fn settle(agent: &Agent, denied: u64) {
    let end = Instant::now() + LIMIT;
    while Counted::now(agent, "c1").unwrap().denied < denied && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
}
