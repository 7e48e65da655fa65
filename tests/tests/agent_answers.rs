//! Every command of `enforcer debug` as a script meets it: text, JSON, exit code; with an agent, without
//! one, without privilege, and asked wrongly. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

mod compared;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use enforcer_tests::agent::Answered;
use enforcer_tests::exec;
use enforcer_tests::manifests::Manifests;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::scene::Scene;
use serde_json::Value;

use compared::compare;

const LIMIT: Duration = Duration::from_secs(20);
/// Questions at once.
const MANY: usize = 10_000;

/// Client `unlisted` knocks in vain, once for IPv4 and once for IPv6.
fn knock(scene: &Scene) {
    let unlisted = scene.stage.network.host("unlisted");
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    for v6 in [false, true] {
        let to = scene.stage.frontend("VIP", v6);
        let from = SocketAddr::new(unlisted.addresses.like(to.ip()), 40_001);
        let packet = Packet::tcp(from, to).flags(flags::SYN);
        port.send(&packet.frame(unlisted.mac, unlisted.gateway_mac)).unwrap();
    }
}

/// A file with `c1` as it would be with another list.
fn narrower(scene: &Scene, folder: &Manifests) -> PathBuf {
    let narrower = scene.stage.cluster.clone().allow(&["198.51.100.0/25", "rubbish"]);
    folder.put("cluster.yaml", &[narrower.cluster()]).unwrap();
    folder.folder().join("cluster.yaml")
}

/// Compares text and JSON, which have one exit code.
fn snapshot(scene: &Scene, name: &str, arguments: &[&str], code: i32) {
    let (text, json) = scene.both(arguments).unwrap();
    assert_eq!(text.code, Some(code), "{arguments:?}: {}", text.text);
    compare(name, &text.text);
    assert_eq!(json["version"], 1, "{arguments:?}");
    assert_eq!(json["command"], arguments[0], "{arguments:?}");
    compare(&format!("{name}-json"), &format!("{json:#}"));
}

#[test]
fn with_an_agent() {
    let mut scene = Scene::new().unwrap();
    scene.stage.cluster.gate = Some(true);
    scene.stage.publish().unwrap();
    scene.installation = scene.stage.installation().unwrap().interfaces("auto");
    let _agent = scene.start().unwrap();
    knock(&scene);
    let end = Instant::now() + LIMIT;
    let drops = || scene.ask(&["drops", "--output", "json"]).unwrap().json().unwrap();
    while drops()["drops"].as_array().unwrap().len() < 2 {
        assert!(Instant::now() < end, "{:#}", drops());
        std::thread::sleep(Duration::from_millis(20));
    }
    let (v4, v6) = (scene.stage.frontend("VIP", false), scene.stage.frontend("VIP", true));
    let (v4, v6) = (v4.to_string(), v6.to_string());
    snapshot(&scene, "drops", &["drops", "--cluster", "c1"], 0);
    snapshot(&scene, "list-drops", &["list"], 0);
    snapshot(&scene, "show-gated", &["show", "c1"], 0);
    snapshot(&scene, "explain-allowed", &["explain", "198.51.100.7", "->", &v4], 0);
    snapshot(&scene, "explain-denied", &["explain", "2001:db8:113::7", &v6], 3);
    snapshot(&scene, "explain-handshake", &["explain", "192.0.2.77", &v4], 3);
    snapshot(&scene, "explain-exempt", &["explain", "192.0.2.11", &v4], 0);
    snapshot(&scene, "explain-unguarded", &["explain", "192.0.2.77", "192.0.2.11:22"], 0);
    snapshot(&scene, "explain-egress", &["explain", "c1", "192.0.2.77:53/udp", "--egress"], 0);
    snapshot(&scene, "explain-egress-denied", &["explain", "c1", "192.0.2.77:22", "--egress"], 3);
    snapshot(&scene, "ready-to-enforce", &["status", "--ready-to-enforce"], 0);
    let changed = Manifests::new().unwrap();
    let file = narrower(&scene, &changed);
    snapshot(&scene, "diff", &["diff", "--with", file.to_str().unwrap()], 0);
    snapshot(&scene, "diff-nothing", &["diff"], 0);
}

#[test]
fn many_questions() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    let (vip, vip_v4) = (scene.stage.frontend("VIP", true), scene.stage.frontend("VIP", false));
    let ask = |questions: &str, more: &[&str]| -> Answered {
        let arguments = [&["explain", "--questions", "-"], more].concat();
        let output =
            exec::output(scene.installation.debugging(&arguments), questions, LIMIT).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code();
        Answered { code, text: text(output.stdout), error: text(output.stderr) }
    };
    let questions = format!(
        "# source and target\n198.51.100.7 -> c1\n\n203.0.113.7 c2   # not restricted\n2001:db8:113::7 {vip}\n"
    );
    let text = ask(&questions, &[]);
    assert_eq!((text.code, text.error.as_str()), (Some(3), ""));
    compare("questions", &text.text);
    let json = ask(&questions, &["--output", "json"]);
    assert_eq!(json.code, Some(3));
    let lines: Vec<Value> =
        json.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<&Value> = lines.iter().map(|line| &line["line"]).collect();
    assert_eq!(numbers, [2, 4, 5]);
    compare("questions-json", &format!("{:#}", lines[2]));
    // A single question has the same answer.
    let alone = scene.both(&["explain", "2001:db8:113::7", &vip.to_string()]).unwrap().1;
    for (field, value) in lines[2]["answer"].as_object().unwrap() {
        assert_eq!(&alone[field], value, "{field}");
    }

    // A list of addresses for one cluster. What is no question does not hide the others.
    assert_eq!(ask("198.51.100.7\n198.51.100.200\n", &["c1"]).code, Some(0));
    let wrong =
        ask("198.51.100.7\nsomebody\n2001:db8::1 192.0.2.1:1\n203.0.113.7\na b c\n", &["c1"]);
    assert_eq!((wrong.code, wrong.error.as_str()), (Some(1), ""));
    compare("questions-wrong", &wrong.text);
    let json = ask("somebody\n", &["c1", "--output", "json"]);
    assert_eq!(json.code, Some(1));
    compare("questions-wrong-json", &json.text);
    // Thousands are no matter.
    let address =
        |number: usize| format!("198.51.{}.{} {vip_v4}\n", 80 + number / 250, number % 250);
    let thousands: String = (0..MANY).map(address).collect();
    let begin = Instant::now();
    let answers = ask(&thousands, &["--output", "json"]);
    println!("{MANY} questions in {:?}", begin.elapsed());
    assert_eq!((answers.code, answers.text.lines().count()), (Some(3), MANY));
    let allowed = answers.text.lines().filter(|it| it.contains(r#""verdict":"allowed""#)).count();
    assert_eq!(allowed, 250, "those of 198.51.100.0/24");
    // From a file as well.
    let folder = Manifests::new().unwrap();
    let file = folder.folder().join("questions");
    std::fs::write(&file, &questions).unwrap();
    let from_file = scene.ask(&["explain", "--questions", file.to_str().unwrap()]).unwrap();
    assert_eq!((from_file.code, from_file.text), (Some(3), text.text));
    for (questions, arguments, words) in [
        ("\n# nothing\n", &[][..], "there are no questions in -"),
        ("", &["--questions", "/nowhere"], "cannot read questions from /nowhere: No such file"),
    ] {
        let arguments = match arguments {
            [] => vec!["explain", "--questions", "-"],
            given => [&["explain"], given].concat(),
        };
        let command = scene.installation.debugging(&arguments);
        let output = exec::output(command, questions, LIMIT).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.starts_with(&format!("enforcer: {words}")), "{error}");
    }
}

#[test]
fn without_an_agent() {
    let scene = Scene::new().unwrap();
    scene.installation.start_and_kill().unwrap();
    let vip = scene.stage.frontend("VIP", false).to_string();
    knock(&scene);
    for (name, arguments, code) in [
        ("list", &["list"][..], 0),
        ("show", &["show", "c1"], 0),
        ("explain", &["explain", "198.51.100.7", &vip], 0),
        ("drops", &["drops"], 0),
        ("diff", &["diff"], 0),
        ("ready", &["status", "--ready-to-enforce"], 4),
    ] {
        let answer = scene.ask(arguments).unwrap();
        assert_eq!((answer.code, answer.error.as_str()), (Some(code), ""), "{name}");
        compare(&format!("{name}-without-an-agent"), &answer.text);
    }
    // Nor in the kernel: what the objects said is known, and that nothing of it is enforced.
    scene.installation.empty_bpffs().unwrap();
    let mut told = String::new();
    for (arguments, code) in [
        (&["status"][..], 4),
        (&["list"], 4),
        (&["show", "c1"], 4),
        (&["explain", "198.51.100.7", &vip], 1),
        (&["drops"], 1),
        (&["drops", "--follow"], 1),
        (&["diff"], 0),
    ] {
        let answer = scene.ask(arguments).unwrap();
        assert_eq!(answer.code, Some(code), "{arguments:?} {}", answer.error);
        let last = answer.text.lines().last().unwrap_or_default();
        told += &format!("{} ends with {code}: {last}{}\n", arguments[0], answer.error.trim_end());
    }
    compare(
        "without-anything-enforced",
        &told.replace(scene.installation.bpffs().to_str().unwrap(), "[BPFFS]"),
    );
}

#[test]
fn without_privilege() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    for arguments in [
        &["status"][..],
        &["list"],
        &["show", "c1"],
        &["explain", "198.51.100.7", "c1"],
        &["explain", "--questions", "/dev/null"],
        &["drops"],
        &["drops", "--follow"],
        &["diff"],
    ] {
        // Nobody, and not in the node's namespace: that would need the privilege.
        let privileged = scene.installation.debugging(arguments);
        let mut command = Command::new(privileged.get_program());
        command.args(privileged.get_args()).uid(65_534).gid(65_534);
        let output = exec::output(command, "", LIMIT).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let expected = match arguments[..] {
            ["explain", "--questions", ..] => "enforcer: there are no questions in /dev/null\n",
            _ => "is for root alone: run this as root\n",
        };
        assert!(error.ends_with(expected) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
}

#[test]
fn asked_wrongly_or_for_help() {
    let scene = Scene::new().unwrap();
    for arguments in [
        &[][..],
        &["stauts"],
        &["show"],
        &["explain", "198.51.100.7"],
        &["explain", "198.51.100.7", "c1", "--questions", "-"],
        &["explain", "198.51.100.7", "c1", "--side", "left"],
        &["explain", "c1", "192.0.2.1:53", "--egress", "--side", "pod"],
        &["status", "--namespace", "n"],
        &["list", "--output", "yaml"],
        &["drops", "--tail", "3"],
    ] {
        let answer = scene.ask(arguments).unwrap();
        assert_eq!((answer.code, answer.text.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(answer.error.contains("--help"), "{arguments:?} {}", answer.error);
    }
    let help = |arguments: &[&str]| {
        let output = scene.installation.enforcer(arguments).unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut all = help(&["debug", "--help"]);
    for command in ["status", "list", "show", "explain", "drops", "diff"] {
        assert!(all.contains(&format!("\n  {command} ")), "{command}: {all}");
        all += &format!("\n# {command}\n\n{}", help(&["debug", command, "--help"]));
    }
    compare("help", &all);
}
