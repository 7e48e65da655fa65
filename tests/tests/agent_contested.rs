//! Frontends that two clusters claim, as `enforcer debug` tells it and as connections fare. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod compared;

use std::collections::BTreeSet;

use enforcer_tests::kube::Pod;
use enforcer_tests::scene::Scene;
use enforcer_tests::seed::UserCluster;
use enforcer_tests::stage::{NODE, Stage, Tenant};
use serde_json::{Value, json};

use compared::compare;

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

/// Cluster `c1` admits clients `listed` and `unlisted`; `rival` has the same number, so that the ports and
/// addresses of its services are those of `c1`, and admits `listed` alone.
fn contested() -> Scene {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&[LISTED, UNLISTED].concat());
    let addresses = stage.network.add_pod(NODE, "apiserver-rival").unwrap().addresses;
    let pod = Pod { name: "apiserver-rival".into(), node: NODE.into(), addresses };
    let number = stage.cluster.number;
    let mut rival = UserCluster::new("rival", number).allow(&LISTED);
    rival.api_servers = vec![pod];
    stage.tenants.push(Tenant { cluster: rival, servers: [].into() });
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    Scene { stage, installation }
}

#[test]
fn who_contests_which_frontend_with_whom_is_told_and_the_narrower_list_applies() {
    let mut scene = contested();
    let agent = scene.start().unwrap();
    compare("list-contested", &scene.ask(&["list"]).unwrap().text);
    // Only what both lists admit gets in, and what `explain` says is that.
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    let vip = scene.stage.frontend("VIP", false).to_string();
    let (denied, json) = scene.both(&["explain", "203.0.113.10", &vip]).unwrap();
    assert_eq!(denied.code, Some(3));
    assert_eq!(json["verdicts"][0]["why"], "in no list of rival");

    let (status, json) = scene.both(&["status"]).unwrap();
    assert_eq!(status.code, Some(0), "a conflict is decided, and enforced as decided");
    compare("status-contested", &status.text);
    let frontends = contested_of(&json);
    assert!(frontends.contains(&(vip.clone(), "tcp".to_owned())), "{frontends:?}");
    assert!(frontends.contains(&("31001".to_owned(), "tcp".to_owned())), "{frontends:?}");
    for frontend in json["contested"].as_array().unwrap() {
        assert_eq!(frontend["claimed_by"], json!(["c1", "rival"]));
    }

    let json = scene.both(&["list"]).unwrap().1;
    let number = frontends.len();
    for (cluster, other) in [("c1", "rival"), ("rival", "c1")] {
        let rows = json["clusters"].as_array().unwrap();
        let row = rows.iter().find(|row| row["cluster"] == cluster).unwrap();
        assert_eq!(row["frontends"]["contested"], number, "{row:#}");
        assert_eq!(row["frontends"]["contested_by"], json!([other]));
        let (_, json) = scene.both(&["show", cluster]).unwrap();
        let shared = json["frontends"].as_array().unwrap().iter();
        let shared: Vec<&Value> = shared.filter(|it| it["shared_with"] == json!([other])).collect();
        assert_eq!(shared.len(), number, "{json:#}");
    }
    compare("show-contested", &scene.ask(&["show", "rival"]).unwrap().text);

    // All of it is known without an agent too, and gone with the claim.
    let with = scene.both(&["status"]).unwrap().1["contested"].clone();
    agent.kill().unwrap();
    assert_eq!(scene.both(&["status"]).unwrap().1["contested"], with);
    let agent = scene.start().unwrap();
    scene.stage.tenants.clear();
    agent.enforces(|| scene.stage.publish()).unwrap();
    assert_eq!(scene.both(&["status"]).unwrap().1["contested"], json!([]));
    assert_eq!(scene.stage.surprises(&["listed", "unlisted"]), [""; 0]);
}

/// Address and port, a nodePort's port alone, and the protocol.
fn contested_of(status: &Value) -> BTreeSet<(String, String)> {
    let text = |frontend: &Value| match frontend["address"].as_str() {
        Some(address) if address.contains(':') => format!("[{address}]:{}", frontend["port"]),
        Some(address) => format!("{address}:{}", frontend["port"]),
        None => frontend["port"].to_string(),
    };
    let contested = status["contested"].as_array().unwrap().iter();
    contested.map(|it| (text(it), it["protocol"].as_str().unwrap().to_owned())).collect()
}
