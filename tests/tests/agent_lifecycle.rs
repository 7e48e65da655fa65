//! Agents come and go; what they enforced stays until it is cleaned away. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use enforcer_tests::agent::{Installation, Stopped};
use enforcer_tests::counted::Counted;
use enforcer_tests::listen::Server;
use enforcer_tests::onlooker::{await_tcx_programs, tcx_programs};
use enforcer_tests::pairs::{Lane, PairStream, Pairs};
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::talk::{Conversation, Exchange};

const LIMIT: Duration = Duration::from_secs(60);
const LISTED: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64"];
const PAIRS: u64 = 100_000;

#[test]
fn sigterm_ends_the_agent_within_a_second_and_changes_no_verdict() {
    let stage = restricted();
    let installation = stage.installation().unwrap();
    let took = quickest_end(&installation, || ());
    println!("SIGTERM to end: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn a_client_that_holds_its_metrics_connection_open_does_not_hold_up_the_end() {
    let stage = restricted();
    let installation = stage.installation().unwrap();
    let node = &stage.network.node(NODE).ns;
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9464);
    let took = quickest_end(&installation, || node.enter(|| TcpStream::connect(at)).unwrap());
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// The shortest of three times from SIGTERM to the end, with exit code 0 each time: how long the
/// kernel takes to clean up behind a process is not the agent's doing.
fn quickest_end<T>(installation: &Installation, hold: impl Fn() -> T) -> Duration {
    let end = || {
        let agent = installation.start().unwrap();
        let held = hold();
        let Stopped { status, took } = agent.terminate().unwrap();
        drop(held);
        assert_eq!(status.code(), Some(0), "{}", installation.log());
        took
    };
    [end(), end(), end()].into_iter().min().unwrap()
}

#[test]
fn kill_9_under_traffic_loses_no_allowed_packet_and_lets_no_denied_one_through() {
    for v6 in [false, true] {
        let stage = restricted();
        let installation = stage.installation().unwrap();
        let agent = installation.start().unwrap();
        let mut talk = conversation(&stage, v6);
        let stream = traffic(&stage, v6);
        stream.wait_for(PAIRS / 4, LIMIT).unwrap();
        assert_eq!(agent.kill().unwrap().status.signal(), Some(9));
        stream.wait_for(stream.progress().0 + PAIRS, LIMIT).unwrap();
        assert_nothing_changed(stream.stop().unwrap());
        assert_eq!(talk.exchange(10_000, LIMIT), Exchange::Completed);
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    }
}

#[test]
fn restarts_under_traffic_lose_no_allowed_packet_and_let_no_denied_one_through() {
    for v6 in [false, true] {
        restart_under_traffic("auto", v6);
    }
}

#[test]
fn restarts_under_traffic_lose_and_let_through_nothing_where_the_kernel_has_clsact_only() {
    for v6 in [false, true] {
        restart_under_traffic("clsact", v6);
    }
}

fn restart_under_traffic(attach: &str, v6: bool) {
    let stage = restricted();
    let installation = stage.installation().unwrap().arguments(&["--attach", attach]);
    let mut agent = installation.start().unwrap();
    let mut talk = conversation(&stage, v6);
    let before = Counted::now(&agent, "c1").unwrap();
    let stream = traffic(&stage, v6);
    let mut restarts = 0;
    while restarts < 6 || stream.progress().0 < PAIRS {
        let stopped = if restarts % 2 == 0 { agent.kill() } else { agent.terminate() };
        stopped.unwrap();
        agent = installation.start().unwrap();
        restarts += 1;
    }
    let pairs = stream.stop().unwrap();
    println!("{restarts} restarts");
    let counted = Counted::now(&agent, "c1").unwrap() - before;
    // Every pair was counted, by whichever agent's program; the allowed lane warms up besides.
    assert_eq!(counted.denied, pairs.sent, "{counted:?}");
    assert!(counted.allowed >= pairs.sent, "{counted:?}");
    assert_nothing_changed(pairs);
    assert_eq!(talk.exchange(10_000, LIMIT), Exchange::Completed);
    let tcx = usize::from(attach != "clsact");
    assert_eq!(tcx_programs(&stage.network.node(NODE).ns, "eth0").unwrap(), tcx);
}

#[test]
fn what_changed_while_no_agent_ran_is_enforced_by_the_next_one() {
    let mut stage = restricted();
    let installation = stage.installation().unwrap();
    installation.start().unwrap().kill().unwrap();
    stage.cluster = stage.cluster.clone().allow(&["203.0.113.0/24", "2001:db8:113::/64"]);
    stage.publish().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    let _agent = installation.start().unwrap();
    assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
}

#[test]
fn a_second_agent_on_the_same_pins_refuses_and_the_first_goes_on() {
    let stage = restricted();
    let installation = stage.installation().unwrap();
    let first = installation.start().unwrap();
    let mut second = installation.launch().unwrap();
    assert_eq!(second.wait(LIMIT).unwrap().code(), Some(1));
    assert_said_once(&installation, "another enforcer runs on this node");
    let clean = clean(&installation);
    assert_eq!(clean.0, Some(1));
    assert!(clean.1.contains("another enforcer runs on this node"), "{}", clean.1);
    assert_eq!(first.get("/readyz").unwrap().0, 200);
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn clean_opens_everything_and_leaves_no_trace() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap();
    let untouched = entries(installation.bpffs());
    installation.start().unwrap().terminate().unwrap();
    assert_eq!(tcx_programs(node, "eth0").unwrap(), 1);
    assert_ne!(entries(installation.bpffs()), untouched);
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);

    assert_eq!(clean(&installation).0, Some(0));
    assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0]);
    await_tcx_programs(node, "eth0", 0).unwrap();
    assert_eq!(entries(installation.bpffs()), untouched);
    assert!(!installation.state().exists());

    assert_eq!(clean(&installation).0, Some(0), "nothing to clean is no error");
    let _agent = installation.start().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn an_unreadable_source_at_the_start_ends_with_2_and_names_the_folder() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let missing = stage.manifests.folder().join("missing");
    let installation = Installation::new(node, NODE, &missing).unwrap();
    let mut agent = installation.launch().unwrap();
    assert_eq!(agent.wait(LIMIT).unwrap().code(), Some(2));
    assert_said_once(&installation, &missing.display().to_string());
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let stage = restricted();
    let installation = stage.installation().unwrap();
    let run = ["run", "--source", "manifests=/etc/kkp", "--node", "n1"];
    for (wrong, said) in [
        (vec![], "Usage"),
        (vec!["serve"], "serve"),
        (vec!["run", "--node", "n1"], "--source"),
        (vec!["run", "--source", "somewhere", "--node", "n1"], "manifests=DIR"),
        ([&run[..], &["--exempt", "10.0.0.0/33"]].concat(), "10.0.0.0/33"),
        ([&run[..], &["--reject", "politely"]].concat(), "--reject"),
        (vec!["clean", "--node", "n1"], "--node"),
    ] {
        let output = installation.enforcer(&wrong).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {error}");
        assert!(error.contains(said), "{wrong:?}: {error}");
    }
}

#[test]
fn an_occupied_listen_address_ends_with_1_and_changes_no_verdict() {
    let stage = restricted();
    let node = &stage.network.node(NODE).ns;
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9464);
    let occupant = Server::echo(node, address, "somebody else").unwrap();
    let installation = stage.installation().unwrap();
    let mut agent = installation.launch().unwrap();
    assert_eq!(agent.wait(LIMIT).unwrap().code(), Some(1));
    assert_said_once(&installation, "cannot listen on 127.0.0.1:9464");
    assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0]);
    drop(occupant);
    let _agent = installation.start().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

fn restricted() -> Stage {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(LISTED);
    stage.publish().unwrap();
    stage
}

fn traffic(stage: &Stage, v6: bool) -> PairStream {
    let network = &stage.network;
    PairStream::start(
        Lane::new(network.host("listed"), stage.frontend("VIP", v6)),
        Lane::new(network.host("unlisted"), stage.frontend("bypass nodePort", v6)),
        &[network.pod("apiserver"), network.pod("envoy")],
        50_000,
    )
    .unwrap()
}

fn conversation(stage: &Stage, v6: bool) -> Conversation {
    let listed = &stage.network.host("listed").ns;
    Conversation::open(listed, None, stage.frontend("nodePort", v6), LIMIT).unwrap()
}

fn assert_nothing_changed(pairs: Pairs) {
    println!("{pairs}, {:.0} pairs/s", pairs.rate());
    assert!(pairs.sent >= PAIRS && pairs.clean(), "{pairs:?}");
}

fn assert_said_once(installation: &Installation, words: &str) {
    let log = installation.log();
    assert_eq!(log.lines().filter(|line| line.contains(words)).count(), 1, "{log}");
}

/// Runs `enforcer clean`: exit code and what it said.
fn clean(installation: &Installation) -> (Option<i32>, String) {
    let folder = |path: &Path| path.to_str().unwrap().to_owned();
    let (bpffs, state) = (folder(installation.bpffs()), folder(installation.state()));
    let output = installation.enforcer(&["clean", "--bpffs", &bpffs, "--state", &state]).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn entries(folder: &Path) -> BTreeSet<OsString> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}
