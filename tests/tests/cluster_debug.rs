//! `enforcer debug` where the seed's API is the source: all nodes at once, and what a change in the API would
//! do. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod compared;

use std::time::{Duration, Instant};

use enforcer_tests::agent::{Answered, Installation};
use enforcer_tests::watched::{NAMESPACE, Watched};
use serde_json::Value;

use compared::compare;

const LIMIT: Duration = Duration::from_secs(60);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];

#[test]
fn all_nodes_are_compared_by_their_leases_with_the_rights_of_an_agents_pod() {
    let mut watched = Watched::customary().unwrap();
    watched.stage.cluster = watched.stage.cluster.clone().allow(&LISTED);
    watched.publish().unwrap();
    let kubeconfig = watched.write_kubeconfig().unwrap();
    let installation = watched.installation().unwrap();
    let ask = |installation: &Installation| -> Answered {
        let (file, all) = (kubeconfig.to_str().unwrap(), "--all-nodes");
        let how = ["status", all, "--namespace", NAMESPACE, "--kubeconfig", file, "--output=json"];
        installation.debug(&how).unwrap()
    };
    let state = |answer: &Answered, node: &str| -> String {
        let json = answer.json().unwrap();
        let nodes = json["nodes"].as_array().unwrap();
        let found = nodes.iter().find(|it| it["node"] == node);
        found.unwrap_or_else(|| panic!("{json:#}"))["state"].as_str().unwrap().to_owned()
    };
    let before = ask(&installation);
    assert_eq!((before.code, state(&before, "seed-1").as_str()), (Some(4), "absent"));

    let agent = installation.start().unwrap();
    let end = Instant::now() + LIMIT;
    while state(&ask(&installation), "seed-1") != "enforcing" {
        assert!(Instant::now() < end, "{}", ask(&installation).text);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(ask(&installation).code, Some(0));
    let (file, namespace) = (kubeconfig.to_str().unwrap(), ["--namespace", NAMESPACE]);
    let how = [&["status", "--all-nodes", "--kubeconfig", file], &namespace[..]].concat();
    let text = installation.debug(&how).unwrap();
    assert_eq!((text.code, text.error.as_str()), (Some(0), ""));
    compare("all-nodes", &text.text);
    compare("all-nodes-json", &format!("{:#}", ask(&installation).json().unwrap()));
    let own = installation.debug(&["status", "--output", "json"]).unwrap().json().unwrap();
    let all = ask(&installation).json().unwrap();
    assert_eq!(all["wanted"], own["enforced"]);
    assert_eq!(own["agent"]["source"].as_str().unwrap().split('=').next(), Some("kubernetes"));

    // What the API says now is what is enforced; what a file would change in it is said, and not written.
    let diff = installation.debug(&["diff", "--output", "json"]).unwrap();
    assert_eq!(diff.code, Some(0), "{}", diff.error);
    assert_eq!(diff.json().unwrap()["changes"], Value::Array(Vec::new()), "{}", diff.text);
    agent.terminate().unwrap();
    let wider = watched.stage.cluster.clone().allow(&[&LISTED[..], &["203.0.113.0/24"]].concat());
    watched.admin().unwrap().put(&wider.cluster()).unwrap();
    let diff = installation.debug(&["diff", "--output", "json"]).unwrap().json().unwrap();
    let changes = diff["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{diff:#}");
    assert_eq!(changes[0]["value"], "203.0.113.0/24");
    assert_eq!(changes[0]["object"], "Cluster c1");
}
