//! An API server that is gone, elsewhere, or suddenly empty opens nothing and locks nobody out.
//! Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::time::{Duration, Instant};

use enforcer_tests::agent::Agent;
use enforcer_tests::control_plane::PORT;
use enforcer_tests::pairs::{Lane, PairStream};
use enforcer_tests::watched::{NAMESPACE, Watched, staleness};

const LIMIT: Duration = Duration::from_secs(60);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];
/// Shorter than an outage in real life; traffic runs all the time, so that a changed verdict shows.
const OUTAGE: Duration = Duration::from_secs(60);

fn restricted() -> Watched {
    let mut watched = Watched::customary().unwrap();
    watched.stage.cluster = watched.stage.cluster.clone().allow(&LISTED);
    watched.publish().unwrap();
    watched
}

fn traffic(watched: &Watched) -> PairStream {
    let network = &watched.stage.network;
    PairStream::start(
        Lane::new(network.host("listed"), watched.stage.frontend("VIP", false)),
        Lane::new(network.host("unlisted"), watched.stage.frontend("bypass nodePort", true)),
        &[network.pod("apiserver"), network.pod("envoy")],
        1_000,
    )
    .unwrap()
}

fn wait(what: &str, agent: &Agent, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not so after {LIMIT:?}: {what}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wait_stale(agent: &Agent) {
    wait("stale", agent, || staleness(agent).unwrap().is_some());
}

fn wait_fresh(agent: &Agent) {
    wait("fresh", agent, || staleness(agent).unwrap().is_none());
}

#[test]
fn an_api_server_that_is_killed_changes_no_verdict_and_is_found_again_also_elsewhere() {
    let mut watched = restricted();
    let installation = watched.installation().unwrap();
    let agent = installation.start().unwrap();
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);
    let stream = traffic(&watched);

    watched.api.kill_api_server().unwrap();
    wait_stale(&agent);
    let since = agent.metric("enforcer_source_stale_since_seconds", &[]).unwrap();
    std::thread::sleep(OUTAGE);
    let (status, page) = agent.get("/readyz").unwrap();
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("stale since"), "{page}");
    assert_eq!(agent.metric("enforcer_source_stale_since_seconds", &[]).unwrap(), since);
    watched.api.start_api_server().unwrap();
    let back = Instant::now();
    wait_fresh(&agent);
    println!("the API server is ready, then fresh after {:?}", back.elapsed());

    // Another address, which the kubeconfig says.
    watched.api.kill_api_server().unwrap();
    wait_stale(&agent);
    watched.api.start_api_server_at(PORT + 1000).unwrap();
    watched.write_kubeconfig().unwrap();
    wait_fresh(&agent);
    let pairs = stream.stop().unwrap();
    println!("{pairs}");
    assert!(pairs.clean(), "{pairs:?}");

    watched.stage.cluster = watched.stage.cluster.clone().allow(&UNLISTED);
    let cluster = watched.stage.cluster.cluster();
    agent.enforces(|| watched.admin()?.put(&cluster)).unwrap();
    assert_eq!(watched.stage.surprises(&["unlisted"]), [""; 0]);
    assert!(page.starts_with("ok"), "{page}");
}

#[test]
fn an_emptied_etcd_opens_nothing_also_after_a_restart_until_everything_is_back() {
    let mut watched = restricted();
    let installation = watched.installation().unwrap();
    let agent = installation.start().unwrap();
    let stream = traffic(&watched);

    watched.api.wipe().unwrap();
    watched.api.start_api_server().unwrap();
    watched.api.install_crds().unwrap();
    watched.grant().unwrap();
    // Clusters, Namespaces, Nodes, Seeds, EndpointSlices, three Services, Pods.
    wait("nine lists are held", &agent, || problems(&agent) == 9.0);
    wait_fresh(&agent);
    let (status, page) = agent.get("/readyz").unwrap();
    assert_eq!(status, 200, "{page}");
    let pairs = stream.stop().unwrap();
    println!("{pairs}");
    assert!(pairs.clean(), "{pairs:?}");
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);

    // A new process knows what was there from what it enforced last.
    agent.terminate().unwrap();
    installation.empty_bpffs().unwrap();
    let agent = installation.start().unwrap();
    wait("all of them but Pods are held", &agent, || problems(&agent) == 8.0);
    wait_fresh(&agent);
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);

    // Objects return with other ranges: those count, and nothing is held any more.
    watched.stage.cluster = watched.stage.cluster.clone().allow(&UNLISTED);
    watched.publish().unwrap();
    wait("nothing is held", &agent, || problems(&agent) == 0.0);
    assert_eq!(watched.stage.surprises(&["unlisted"]), [""; 0]);
}

fn problems(agent: &Agent) -> f64 {
    agent.metric("enforcer_problems", &[]).unwrap()
}

#[test]
fn what_is_held_goes_when_the_namespace_says_so() {
    let mut watched = restricted();
    let installation = watched.installation().unwrap();
    let agent = installation.start().unwrap();
    watched.api.wipe().unwrap();
    watched.api.start_api_server().unwrap();
    watched.api.install_crds().unwrap();
    watched.grant().unwrap();
    wait("nine lists are held", &agent, || problems(&agent) == 9.0);
    wait_fresh(&agent);
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);
    let release = "enforcer.k8c.io/release-hold=2026-11-25T10:00:00Z";
    agent
        .enforces(|| {
            watched.api.kubectl(&["annotate", "namespace", NAMESPACE, release])?;
            Ok(())
        })
        .unwrap();
    assert_eq!(watched.stage.surprises(&["listed", "unlisted"]), [""; 0]);
    assert_eq!(problems(&agent), 0.0, "{}", agent.log());
}

#[test]
fn an_agent_that_finds_no_api_server_enforces_what_it_knows_and_without_that_waits() {
    let mut watched = restricted();
    let installation = watched.installation().unwrap();
    installation.start().unwrap().terminate().unwrap();
    // As after a reboot.
    installation.empty_bpffs().unwrap();
    watched.api.kill_api_server().unwrap();
    let agent = installation.start().unwrap();
    assert!(staleness(&agent).unwrap().is_some());
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);
    agent.terminate().unwrap();
    installation.clean().unwrap();

    let agent = installation.launch().unwrap();
    wait("it says that it is lost", &agent, || agent.said("the API server is lost") >= 2);
    let (status, page) = agent.get("/readyz").unwrap();
    assert_eq!(status, 503, "{page}");
    watched.api.start_api_server().unwrap();
    let mut agent = agent;
    agent.wait_ready(LIMIT).unwrap();
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);
    agent.terminate().unwrap();

    let nowhere = watched.installation_with("seed-1", "/nowhere/kubeconfig".as_ref()).unwrap();
    let status = nowhere.launch().unwrap().wait(LIMIT).unwrap();
    assert_eq!(status.code(), Some(2), "{}", nowhere.log());
}
