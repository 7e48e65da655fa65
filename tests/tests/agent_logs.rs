//! What an agent logs: a line for each change, as text or as JSON, as much as `RUST_LOG` asks for. Needs
//! root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::collections::BTreeSet;

use enforcer_tests::scene::Scene;
use serde_json::Value;

/// Starts an agent with these options and variables, changes the list of `c1`, ends the agent; its lines.
fn lines(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let mut scene = Scene::new().unwrap();
    scene.installation.use_arguments(arguments);
    scene.installation.use_environment(variables);
    let agent = scene.start().unwrap();
    let wider = scene.stage.cluster.clone().allow(&["198.51.100.0/24", "203.0.113.7"]);
    scene.stage.cluster = wider;
    scene.stage.publish().unwrap();
    // Whatever is logged, this is when it is.
    let to = scene.stage.frontend("VIP", false).to_string();
    while scene.ask(&["explain", "203.0.113.7", &to]).unwrap().code != Some(0) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    agent.terminate().unwrap();
    scene.installation.log().lines().map(str::to_owned).collect()
}

#[test]
fn json_logs_are_one_object_a_line_with_documented_fields() {
    let lines = lines(&["--log-format", "json"], &[]);
    let objects: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for object in &objects {
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{object}");
        assert!(["INFO", "WARN", "ERROR"].contains(&object["level"].as_str().unwrap()), "{object}");
        assert!(object["target"].as_str().unwrap().starts_with("enforcer"), "{object}");
        assert!(object["fields"]["message"].is_string(), "{object}");
    }
    let fields = |message: &str| {
        let of_message = objects.iter().filter(|it| it["fields"]["message"] == message);
        of_message.map(|it| it["fields"].clone()).collect::<Vec<_>>()
    };
    let images = fields("image in force");
    let [first, change] = &images[..] else { panic!("two images: {images:#?}") };
    let names: BTreeSet<&str> = change.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = [
        "by",
        "changed",
        "clusters",
        "frontends",
        "interfaces",
        "message",
        "mode",
        "revision",
        "took_ms",
        "what",
    ];
    assert_eq!(names, BTreeSet::from(documented));
    assert_eq!(first["mode"], "enforce");
    assert_ne!(first["revision"], change["revision"]);
    assert!(change["took_ms"].as_f64().unwrap() > 0.0, "{change}");
    assert_eq!(change["changed"], 2, "{change}");
    assert_eq!(change["by"], "Cluster c1");
    let what = change["what"].as_str().unwrap();
    for words in ["+203.0.113.7/32", "-2001:db8:51::/64"] {
        assert!(what.contains(words), "{what}");
    }
    // The invalid entry was there, and went with the change.
    for message in ["problem", "mended"] {
        let told = fields(message);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0]["problem"].as_str().unwrap().contains("\"nonsense\""), "{told:#?}");
    }
}

#[test]
fn text_logs_are_lines_without_colours_where_no_terminal_is() {
    let lines = lines(&[], &[]);
    for line in &lines {
        assert!(!line.contains('\u{1b}'), "{line:?}");
        let mut words = line.split_whitespace();
        assert!(words.next().unwrap().ends_with('Z'), "{line}");
        assert!(["INFO", "WARN", "ERROR"].contains(&words.next().unwrap()), "{line}");
    }
    let change = lines.iter().rfind(|line| line.contains("image in force")).unwrap();
    for words in ["took_ms=", "changed=2", "by=\"Cluster c1\"", "+203.0.113.7/32"] {
        assert!(change.contains(words), "{words}: {change}");
    }
}

#[test]
fn rust_log_chooses_what_is_logged() {
    let of_level = |lines: &[String], level: &str| {
        lines.iter().filter(|line| line.split_whitespace().nth(1) == Some(level)).count()
    };
    let quiet = lines(&[], &[("RUST_LOG", "warn")]);
    assert_eq!(of_level(&quiet, "INFO"), 0, "{quiet:#?}");
    assert_eq!(of_level(&quiet, "WARN"), quiet.len());
    assert!(quiet.iter().any(|line| line.contains("nonsense")), "{quiet:#?}");
    let one = lines(&["--log-format", "json"], &[("RUST_LOG", "off,enforcer::agent::log=info")]);
    assert!(one.len() >= 3, "{one:#?}");
    for line in &one {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["target"], "enforcer::agent::log", "{line}");
    }
    let none = lines(&[], &[("RUST_LOG", "off")]);
    assert_eq!(none, [""; 0]);
    let much = lines(&[], &[("RUST_LOG", "enforcer=debug")]);
    let all = ["DEBUG", "INFO", "WARN"].map(|level| of_level(&much, level));
    assert!(all.iter().sum::<usize>() == much.len() && all[0] > 0, "{all:?} {much:#?}");
}
