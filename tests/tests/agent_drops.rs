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

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use enforcer::kernel::Pins;
use enforcer_ebpf::abi::{DropEvent, EVENTS_BYTES, EVENTS_PER_WINDOW, MAP_SUPPRESSED};
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::counted::Counted;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::stage::Stage;
use enforcer_tests::talk::{Outcome, connect};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
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

/// What became of denied packets.
struct Sum {
    events: u64,
    suppressed: u64,
    untold: u64,
}

impl Sum {
    /// What was told to a follower, and what nobody was told of yet.
    fn of(installation: &Installation, follower: &Follower) -> Sum {
        let mut sum = Sum { events: 0, suppressed: 0, untold: 0 };
        while let Some(line) = follower.next() {
            let drop = line.get("drop").unwrap_or_else(|| panic!("events were missed: {line}"));
            sum.events += 1;
            sum.suppressed += drop["suppressed"].as_u64().unwrap();
        }
        let answer = installation.debug(&["drops", "--output", "json"]).unwrap().json().unwrap();
        sum.untold = answer["suppressed_untold"].as_u64().unwrap();
        sum
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
    let Sum { events, suppressed, untold } = Sum::of(&installation, &follower);
    println!(
        "{denied} denied in {took:?}: {events} events, {suppressed} suppressed, {untold} not told yet"
    );
    assert_eq!(events + suppressed + untold, denied);
    assert!(events < denied / 10, "events are rate limited");
    assert!(events > 10);
}

#[test]
fn a_ring_that_fills_up_loses_no_packet_from_the_sum_either() {
    let (stage, installation) = restricted();
    let agent = installation.start().unwrap();
    let follower = Follower::start(&installation, &[]);
    // Once the follower has the first event, it has an agent that tells it all others.
    flood(&stage, 1);
    assert!((0..5).any(|_| follower.next().is_some()));
    agent.signal(Signal::SIGSTOP).unwrap();
    let pin = Pins::map_below(installation.bpffs(), MAP_SUPPRESSED);
    let map = Map::PerCpuArray(MapData::from_pin(pin).unwrap());
    let mut paces: PerCpuArray<_, [u64; 4]> = PerCpuArray::try_from(map).unwrap();
    let room = EVENTS_BYTES / size_of::<DropEvent>();
    let batches = 2 * room / EVENTS_PER_WINDOW as usize;
    for _ in 0..batches {
        flood(&stage, BATCH);
        // As if the next window had begun: what was done in this one, and nothing else, is forgotten.
        let mut all = paces.get(&0, 0).unwrap().to_vec();
        all.iter_mut().for_each(|[_, done, _, _]| *done = 0);
        paces.set(0, PerCpuValues::try_from(all).unwrap(), 0).unwrap();
    }
    agent.signal(Signal::SIGCONT).unwrap();
    // Each CPU tells of what it suppressed with its next event.
    std::thread::sleep(Duration::from_secs(1));
    flood(&stage, 1);
    let denied = batches as u64 * u64::from(BATCH) + 1;
    settle(&agent, denied + 1);
    let Sum { events, suppressed, untold } = Sum::of(&installation, &follower);
    println!("{denied} denied: {events} events, {suppressed} suppressed, {untold} not told yet");
    assert_eq!(events + suppressed + untold, denied);
    // A few bytes of the ring are its own.
    assert!(events > room as u64 / 2 && events <= room as u64 + 1, "{events}, room for {room}");
}

/// Packets sent before the pace is set back: more than have events in a window.
const BATCH: u32 = 40;

/// The best of so many rounds each: what disturbs makes it slower, never faster.
const ROUNDS: usize = 11;
/// Generous: `cargo xtask bench --part told` says how it really is.
const MARGIN: f64 = 1.3;

#[test]
fn a_flood_costs_the_data_path_no_more_when_its_events_are_read_and_followed() {
    let (stage, installation) = restricted();
    let agent = installation.start().unwrap();
    let follower = Follower::start(&installation, &[]);
    let unlisted = stage.network.host("unlisted");
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    let frames = frames(&stage, 5_000);
    // On a veth the receiver's work is the sender's CPU time, up to where the packet is dropped.
    let clock = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let cost = || {
        let begin = clock();
        frames.chunks(64).for_each(|some| port.send_many(some).unwrap());
        (clock() - begin).as_nanos() as f64 / frames.len() as f64
    };
    cost();
    let (mut read, mut unread) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        read = read.min(cost());
        agent.signal(Signal::SIGSTOP).unwrap();
        unread = unread.min(cost());
        agent.signal(Signal::SIGCONT).unwrap();
    }
    println!("a denied SYN: {read:.0} ns with a reader, {unread:.0} ns without");
    assert!(read <= unread * MARGIN, "{read:.0} ns with a reader, {unread:.0} ns without");
    assert!(follower.next().is_some(), "there was no reader");
}

#[test]
fn without_an_agent_the_ring_is_read_once() {
    let (stage, installation) = restricted();
    installation.start_and_kill().unwrap();
    flood(&stage, 3);
    let first = installation.debug(&["drops", "--output", "json"]).unwrap().json().unwrap();
    let drops = first["drops"].as_array().unwrap();
    assert_eq!(drops.len(), 3, "{first}");
    assert_eq!(drops[0]["cluster"], "c1");
    let again = installation.debug(&["drops"]).unwrap();
    assert!(again.text.contains("no agent runs here"), "{}", again.text);
    assert!(again.text.starts_with("0 denied packets shown"), "{}", again.text);
}

/// So many SYNs from a client that is in no list.
fn frames(stage: &Stage, packets: u32) -> Vec<Vec<u8>> {
    let unlisted = stage.network.host("unlisted");
    let to = stage.frontend("VIP", false);
    let frame = |number| {
        let port = 20_000 + (number % 9_000) as u16;
        let from = SocketAddr::new(unlisted.addresses.like(to.ip()), port);
        let packet = Packet::tcp(from, to).flags(flags::SYN).numbers(number, 0);
        packet.frame(unlisted.mac, unlisted.gateway_mac)
    };
    (0..packets).map(frame).collect()
}

/// Sends so many, each counted and dropped; how long that took.
fn flood(stage: &Stage, packets: u32) -> Duration {
    let port = RawPort::open(&stage.network.host("unlisted").ns, "eth0").unwrap();
    let frames = frames(stage, packets);
    let begin = Instant::now();
    frames.iter().for_each(|frame| port.send(frame).unwrap());
    begin.elapsed()
}

/// Waits until everything that is under way has been counted.
fn settle(agent: &Agent, denied: u64) {
    let end = Instant::now() + LIMIT;
    while Counted::now(agent, "c1").unwrap().denied < denied && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
}
