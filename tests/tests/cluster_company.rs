//! What keeps a node's programs from judging every packet is an Event on that Node. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::time::{Duration, Instant};

use enforcer_tests::onlooker::Onlooker;
use enforcer_tests::stage::NODE;
use enforcer_tests::watched::Watched;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_foreign_xdp_program_and_a_place_that_was_taken_are_events_on_the_node() {
    let watched = Watched::customary().unwrap();
    let node = &watched.stage.network.node(NODE).ns;
    let installation = watched.installation().unwrap();
    let _agent = installation.start().unwrap();
    let mut xdp = Onlooker::of_xdp().unwrap();
    xdp.attach_xdp(node, "eth0").unwrap();
    wait_for(&watched, "NotEnforceable", "xdp off");
    xdp.detach();
    wait_for(&watched, "Enforceable", "eth0");
    let mut other = Onlooker::of_window(1).unwrap();
    other.attach_tcx_first(node, "eth0").unwrap();
    wait_for(&watched, "PlaceRetaken", "taken back");
}

fn wait_for(watched: &Watched, reason: &str, words: &str) {
    let start = Instant::now();
    loop {
        let all = watched.admin().unwrap().list("Event", "default").unwrap();
        let found = all.iter().any(|event| {
            event["reason"] == reason
                && event["regarding"]["kind"] == "Node"
                && event["regarding"]["name"] == NODE
                && event["note"].as_str().is_some_and(|note| note.contains(words))
        });
        if found {
            return;
        }
        assert!(start.elapsed() < LIMIT, "no Event {reason} on the Node: {all:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
