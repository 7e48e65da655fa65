//! The agent on another kernel, from its start to its clean end: who gets in, what is counted, what is said
//! of it, and that none of it needs the agent. Runs in virtual machines only (tier `kernels`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use enforcer_tests::agent::Installation;
use enforcer_tests::stage::{NODE, Stage};
use serde_json::Value;

#[test]
fn listed_clients_get_in_and_unlisted_do_not_with_the_agent_and_without_until_it_is_cleaned_away() {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&["198.51.100.0/24", "2001:db8:51::/64"]);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();

    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    let (allowed, denied) = counted(&installation);
    assert!(allowed > 0 && denied > 0, "{allowed} allowed, {denied} denied");
    let status = said(&installation, &["status"], 0);
    assert_eq!(status["is_enforced"], true, "{status:#}");
    assert_eq!(status["enforced"], status["wanted"], "{status:#}");
    println!("attached: {}", status["interfaces"]);
    explain_agrees(&stage, &installation);
    assert_eq!(counted(&installation), (allowed, denied), "a dry run counts nothing");

    agent.kill().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    let (allowed_since, denied_since) = counted(&installation);
    assert!(allowed_since > allowed && denied_since > denied, "{allowed_since} {denied_since}");

    installation.clean().unwrap();
    assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0]);
    let disciplines =
        stage.network.node(NODE).ns.run("tc", &["qdisc", "show", "dev", "eth0"]).unwrap();
    assert!(!disciplines.contains("clsact"), "{disciplines}");
}

/// What is said of a client at a frontend is what it gets there, one frontend of each address family.
fn explain_agrees(stage: &Stage, installation: &Installation) {
    for (client, code, verdict) in [("listed", 0, "allowed"), ("unlisted", 3, "denied")] {
        for v6 in [false, true] {
            let to = stage.frontend("bypass nodePort", v6);
            let from = stage.network.host(client).addresses.like(to.ip()).to_string();
            let json = said(installation, &["explain", &from, "->", &to.to_string()], code);
            assert_eq!(json["verdicts"][0]["verdict"], verdict, "{json:#}");
        }
    }
}

/// Packets to `c1` that were allowed and denied, as anybody on the node may read.
fn counted(installation: &Installation) -> (u64, u64) {
    let list = said(installation, &["list"], 0);
    let packets = &list["clusters"][0]["packets"];
    (packets["allowed"].as_u64().unwrap(), packets["denied"].as_u64().unwrap())
}

fn said(installation: &Installation, arguments: &[&str], code: i32) -> Value {
    let answer = installation.debug(&[arguments, &["--output", "json"]].concat()).unwrap();
    assert_eq!(answer.code, Some(code), "{} {}", answer.text, answer.error);
    answer.json().unwrap()
}
