//! Problems become Events, once in the whole fleet; each node's Lease says what it enforces. Needs
//! root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::time::{Duration, Instant};

use enforcer_tests::stage::Stage;
use enforcer_tests::topology::{Cni, Plan};
use enforcer_tests::watched::{NAMESPACE, Watched};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
/// A turn of the reporter, and some more.
const TURN: Duration = Duration::from_secs(15);

fn events(watched: &Watched) -> Vec<(String, String)> {
    let all = watched.admin().unwrap().list("Event", "default").unwrap();
    let ours = all.iter().filter(|event| event["regarding"]["kind"] == "Cluster");
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let mut events: Vec<_> =
        ours.map(|event| (text(event, "type"), text(event, "reason"))).collect();
    events.sort();
    events
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not so after {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn pairs(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, reason)| ((*kind).to_owned(), (*reason).to_owned())).collect()
}

#[test]
fn a_problem_is_one_event_in_the_whole_fleet_and_another_when_it_is_mended() {
    let plan = Plan::customary().node("seed-2", Cni::Routed);
    let mut watched = Watched::on(Stage::on(plan).unwrap()).unwrap();
    let installations = ["seed-1", "seed-2"].map(|node| watched.installation_on(node).unwrap());
    let mut agents = installations.each_ref().map(|at| Some(at.start().unwrap()));

    watched.stage.cluster = watched.stage.cluster.clone().allow(&["198.51.100.0/24", "anywhere"]);
    watched.admin().unwrap().put(&watched.stage.cluster.cluster()).unwrap();
    wait("an Event", || !events(&watched).is_empty());
    std::thread::sleep(TURN);
    assert_eq!(events(&watched), pairs(&[("Warning", "InvalidRange")]));
    let all = watched.admin().unwrap().list("Event", "default").unwrap();
    let event = all.iter().find(|event| event["reason"] == "InvalidRange").unwrap();
    assert!(event["note"].as_str().unwrap().contains("anywhere"), "{event}");
    let uid = watched.admin().unwrap().get("Cluster", "", "c1").unwrap().unwrap();
    assert_eq!(event["regarding"]["uid"], uid["metadata"]["uid"]);

    // Each node's Lease says what it enforces, which is the same.
    let lease = |node: &str| {
        let lease = watched.admin().unwrap().get("Lease", NAMESPACE, &format!("enforcer-{node}"));
        lease.unwrap().unwrap()["metadata"]["annotations"].clone()
    };
    let annotation =
        |node: &str, name: &str| lease(node)[format!("enforcer.k8c.io/{name}")].clone();
    for node in ["seed-1", "seed-2"] {
        assert_eq!(annotation(node, "interfaces"), "eth0", "{node}");
        assert_eq!(annotation(node, "enforced"), annotation("seed-1", "wanted"), "{node}");
        assert_eq!(annotation(node, "problems"), "1", "{node}");
        assert_eq!(annotation(node, "stale-since"), Value::Null, "{node}");
    }

    // The reporter dies; the other one knows what was reported, and says that it is mended.
    let reporter = watched.admin().unwrap().get("Lease", NAMESPACE, "enforcer-events");
    let reporter = reporter.unwrap().unwrap()["spec"]["holderIdentity"].clone();
    let number = usize::from(reporter == "seed-2");
    agents[number].take().unwrap().kill().unwrap();
    watched.stage.cluster = watched.stage.cluster.clone().allow(&["198.51.100.0/24"]);
    watched.admin().unwrap().put(&watched.stage.cluster.cluster()).unwrap();
    let mended = pairs(&[("Normal", "Mended"), ("Warning", "InvalidRange")]);
    wait("an Event that it is mended", || events(&watched) == mended);
    std::thread::sleep(TURN);
    assert_eq!(events(&watched), mended);
}
