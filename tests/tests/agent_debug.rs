//! `enforcer debug` against a live agent, and after its end. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod compared;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use enforcer_tests::counted::Counted;
use enforcer_tests::listen::Server;
use enforcer_tests::manifests::Manifests;
use enforcer_tests::nat::Protocol;
use enforcer_tests::packets::{Packet, flags};
use enforcer_tests::raw::RawPort;
use enforcer_tests::scene::{LISTED, Scene};
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::talk::{Outcome, connect};
use enforcer_tests::{exec, nat, survey};
use serde_json::Value;

use compared::compare;

/// The TCP window that marks this file's packets.
const WINDOW: u16 = 31_021;

#[test]
fn status_list_and_show_say_what_is_enforced_and_where_it_comes_from() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    let (status, json) = scene.both(&["status"]).unwrap();
    assert_eq!(status.code, Some(0));
    compare("status", &status.text);
    assert_eq!(json["version"], 1);
    assert_eq!(json["is_enforced"], true);
    assert_eq!(json["enforced"], json["wanted"]);
    assert_eq!(json["interfaces"][0]["hooks"][0]["position"], 1);
    compare("status-json", &format!("{json:#}"));

    let (list, json) = scene.both(&["list"]).unwrap();
    assert_eq!(list.code, Some(0));
    compare("list", &list.text);
    compare("list-json", &format!("{json:#}"));

    let (show, json) = scene.both(&["show", "c1"]).unwrap();
    assert_eq!(show.code, Some(0));
    compare("show", &show.text);
    let ranges: Vec<&str> =
        json["ranges"].as_array().unwrap().iter().map(|it| it["range"].as_str().unwrap()).collect();
    assert_eq!(ranges, ["198.51.100.0/24", "2001:db8:51::/64"]);
    compare("show-json", &format!("{json:#}"));

    let unknown = scene.ask(&["show", "c9"]).unwrap();
    assert_eq!(unknown.code, Some(1));
    assert_eq!(unknown.error, "enforcer: there is no cluster c9; there are c1, c2\n");
}

#[test]
fn everything_is_told_alike_when_the_agent_is_gone() {
    let scene = Scene::new().unwrap();
    let agent = scene.start().unwrap();
    let with: Vec<Value> =
        [&["status"][..], &["list"], &["show", "c1"]].map(|it| scene.both(it).unwrap().1).into();
    agent.kill().unwrap();
    let (status, json) = scene.both(&["status"]).unwrap();
    assert_eq!(status.code, Some(0));
    compare("status-without-an-agent", &status.text);
    assert_eq!(json["agent"]["is_running"], false);
    for same in ["enforced", "wanted", "interfaces", "problems", "fill"] {
        assert_eq!(json[same], with[0][same], "{same}");
    }
    let mut list = with[1].clone();
    for cluster in list["clusters"].as_array_mut().unwrap() {
        // Only an agent keeps events.
        assert_eq!(cluster["recent_drops"], serde_json::json!([]));
        cluster["recent_drops"] = Value::Null;
    }
    assert_eq!(scene.both(&["list"]).unwrap().1, list);
    assert_eq!(scene.both(&["show", "c1"]).unwrap().1, with[2]);

    // After a reboot nothing is enforced, and what was is still known.
    scene.installation.empty_bpffs().unwrap();
    let (status, json) = scene.both(&["status"]).unwrap();
    assert_eq!(status.code, Some(4));
    assert_eq!(json["is_enforced"], false);
    assert_eq!(json["enforced"], Value::Null);
    assert!(status.text.contains("nothing is enforced"), "{}", status.text);
    assert_eq!(scene.ask(&["show", "c1"]).unwrap().code, Some(4));
}

#[test]
fn explain_says_what_real_connections_get_and_by_which_range() {
    let mut scene = Scene::new().unwrap();
    let agent = scene.start().unwrap();
    let lists: [&[&str]; 3] =
        [LISTED, &["203.0.113.0/24", "2001:db8:113::/64"], &["198.51.100.0/24", "203.0.113.0/25"]];
    let mut asked = 0;
    for (number, list) in lists.into_iter().enumerate() {
        scene.stage.cluster = scene.stage.cluster.clone().allow(list);
        if number > 0 {
            agent.enforces(|| scene.stage.publish()).unwrap();
        }
        let questions = scene.stage.questions(&["listed", "unlisted"]);
        for answer in survey::ask(&questions) {
            let survey::Question { client, frontend, .. } = answer.question;
            let to = frontend.address;
            let from = scene.stage.network.host(client).addresses.like(to.ip()).to_string();
            let to = match frontend.protocol {
                Protocol::Tcp => to.to_string(),
                Protocol::Udp => format!("{to}/udp"),
            };
            let explained = scene.ask(&["explain", &from, "->", &to, "--output", "json"]).unwrap();
            let json = explained.json().unwrap();
            let said = &json["verdicts"][0];
            let gets_in = answer.observed == Outcome::Answered;
            let expected: (&[&str], i32) =
                if gets_in { (&["allowed", "unguarded"], 0) } else { (&["denied"], 3) };
            assert!(expected.0.contains(&said["verdict"].as_str().unwrap()), "{answer}: {json:#}");
            assert_eq!(explained.code, Some(expected.1), "{answer}: {json:#}");
            if said["verdict"] == "allowed" {
                let range: ipnet::IpNet = said["range"].as_str().unwrap().parse().unwrap();
                assert!(range.contains(&from.parse::<std::net::IpAddr>().unwrap()), "{json:#}");
                assert_eq!(said["object"], "Cluster c1", "{json:#}");
            }
            asked += 1;
        }
    }
    assert!(asked >= 60, "{asked}");
    // Nothing of it was counted.
    let counted = Counted::now(&agent, "c1").unwrap();
    let answer = scene.ask(&["explain", "203.0.113.200", "c1"]).unwrap();
    assert_eq!(answer.code, Some(3));
    compare("explain", &answer.text);
    let json = scene.both(&["explain", "10.244.0.11", "c1"]).unwrap().1;
    assert_eq!(json["side"], "pod");
    assert_eq!(json["verdicts"][0]["reason"], "own_pod");
    assert_eq!(Counted::now(&agent, "c1").unwrap(), counted);
    assert_eq!(scene.ask(&["explain", "203.0.113.200", "c2"]).unwrap().code, Some(0));
    for (arguments, words) in [
        (&["explain", "somebody", "c1"][..], "somebody is no address"),
        (&["explain", "192.0.2.1", "c7"], "there is no cluster c7; there are c1, c2"),
        (&["explain", "192.0.2.1", "192.0.2.9"], "is neither ADDRESS:PORT nor a cluster"),
        (&["explain", "192.0.2.1", "[2001:db8::1]:6443"], "are not of one family"),
        (&["explain", "192.0.2.1", "-"], "leave out the arrow, or quote it"),
        (&["explain", "c9", "192.0.2.1:53", "--egress"], "is neither a cluster with"),
    ] {
        let answer = scene.ask(arguments).unwrap();
        assert_eq!(answer.code, Some(1), "{}", answer.text);
        assert!(answer.error.contains(words), "{}", answer.error);
        assert_eq!(answer.error.lines().count(), 1);
    }
}

#[test]
fn explain_says_what_an_api_server_gets_that_opens_a_connection_and_by_which_peer() {
    let mut scene = Scene::new().unwrap();
    scene.stage.cluster.gate = Some(true);
    scene.stage.publish().unwrap();
    scene.installation = scene.stage.installation().unwrap().interfaces("auto");
    let agent = scene.start().unwrap();
    let outside = scene.stage.network.host("unlisted");
    let api_server = scene.stage.network.pod("apiserver");
    let show = scene.both(&["show", "c1"]).unwrap().1;
    assert_eq!(show["egress"]["gate"], true);
    let mut verdicts = BTreeSet::new();
    let mut servers = Vec::new();
    for port in [53, 443] {
        for at in outside.addresses.at(port) {
            servers.push(Server::echo(&outside.ns, at, "outside").unwrap());
            let observed = connect(&api_server.ns, None, at, Duration::from_millis(700));
            let to = at.to_string();
            let by_cluster = scene.both(&["explain", "c1", &to, "--egress"]).unwrap();
            let own = api_server.addresses.like(at.ip()).to_string();
            let by_pod = scene.both(&["explain", &own, &to, "--egress"]).unwrap();
            for (answer, json) in [by_cluster, by_pod] {
                let said = &json["verdicts"][0];
                let gets_out = observed == Outcome::Answered;
                let (verdict, code) = if gets_out { ("allowed", 0) } else { ("denied", 3) };
                assert_eq!(said["verdict"], verdict, "{to}: {observed}: {json:#}");
                assert_eq!(answer.code, Some(code), "{json:#}");
                assert_eq!(said["range"].is_string(), verdict == "allowed", "{json:#}");
                verdicts.insert((port, verdict));
            }
        }
    }
    assert_eq!(verdicts, BTreeSet::from([(53, "allowed"), (443, "denied")]));
    // What it tried in vain is told, with its direction.
    let drops = scene.both(&["drops", "--cluster", "c1"]).unwrap().1;
    assert_eq!(drops["drops"][0]["direction"], "egress");
    assert_eq!(drops["drops"][0]["reason"], "not_peer");
    let denied = [("cluster", "c1"), ("direction", "egress"), ("verdict", "denied")];
    assert!(agent.count("enforcer_packets_total", &denied).unwrap() > 0);
    let open = scene.both(&["explain", "c2", "192.0.2.9:443", "--egress"]).unwrap();
    assert_eq!((open.0.code, &open.1["verdicts"][0]["verdict"]), (Some(0), &"unguarded".into()));
    // Nothing keeps c2's API server from leaving; where it arrives, the list of c1 counts.
    let vip = scene.stage.frontend("VIP", false);
    let other = scene.stage.network.pod("apiserver-c2");
    assert_eq!(connect(&other.ns, None, vip, Duration::from_millis(700)), Outcome::TimedOut);
    let (answer, json) = scene.both(&["explain", "c2", &vip.to_string(), "--egress"]).unwrap();
    let said = &json["verdicts"][0];
    assert_eq!((answer.code, &said["reason"]), (Some(3), &"not_listed".into()), "{json:#}");
    assert_eq!(said["source"], other.addresses.v4.to_string());
}

#[test]
fn a_cluster_whose_namespace_says_audit_is_counted_and_cut_by_nothing_while_others_are() {
    let mut scene = Scene::new().unwrap();
    scene.stage.tenants[0].cluster = scene.stage.tenants[0].cluster.clone().allow(LISTED);
    scene.stage.tenants[0].cluster.namespace_annotations =
        vec![("enforcer.k8c.io/mode".to_owned(), "audit".to_owned())];
    scene.stage.publish().unwrap();
    let agent = scene.start().unwrap();
    let unlisted = scene.stage.network.host("unlisted");
    let c2 = scene.stage.frontends_of(&scene.stage.tenants[0].cluster);
    let vip = c2.iter().find(|it| it.label == "VIP" && it.address.is_ipv4()).unwrap().address;
    let give_up = Duration::from_secs(5);
    assert_eq!(connect(&unlisted.ns, None, vip, give_up), Outcome::Answered);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0], "c1 is enforced");

    let list = scene.both(&["list"]).unwrap().1;
    let c2 = &list["clusters"][1];
    assert_eq!((c2["cluster"].as_str(), c2["mode"].as_str()), (Some("c2"), Some("audit")));
    assert!(c2["packets"]["would_deny"].as_u64().unwrap() > 0, "{c2:#}");
    assert_eq!(c2["packets"]["denied"], 0);
    assert_eq!(c2["recent_drops"][0]["reason"], "not_listed");
    let drops = scene.both(&["drops", "--cluster", "c2"]).unwrap().1;
    assert_eq!(drops["drops"][0]["audited"], true);
    let from = unlisted.addresses.v4.to_string();
    let (explained, json) = scene.both(&["explain", &from, &vip.to_string()]).unwrap();
    assert_eq!(explained.code, Some(4));
    assert_eq!(json["verdicts"][0]["verdict"], "would-deny");
    let labels = [("cluster", "c2"), ("direction", "ingress"), ("verdict", "would_deny")];
    assert!(agent.metric("enforcer_packets_total", &labels).unwrap() > 0.0);

    // From audit to enforcing, somebody who keeps sending is cut at once and for good: of numbered packets
    // all arrive up to one, and none after it.
    let pods = ["apiserver-c2", "envoy-c2"].map(|pod| {
        let pod = &scene.stage.network.pod(pod).ns;
        let rule = format!("tcp flags syn tcp window {WINDOW} drop");
        pod.nft(&nat::filter("quiet", "prerouting", -310, &[&rule])).unwrap();
        RawPort::open(pod, "eth0").unwrap()
    });
    let port = RawPort::open(&unlisted.ns, "eth0").unwrap();
    let (mac, gateway, source) = (unlisted.mac, unlisted.gateway_mac, unlisted.addresses.v4);
    let (stopping, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let (stopping, sent) = (&stopping, &sent);
        scope.spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                let number = sent.load(Ordering::Relaxed);
                let from = SocketAddr::new(source.into(), 20_000);
                let packet = Packet::tcp(from, vip).numbers(number, 0).window(WINDOW, 0);
                port.send(&packet.frame(mac, gateway)).unwrap();
                sent.store(number + 1, Ordering::Release);
                thread::sleep(Duration::from_micros(200));
            }
        });
        let wait = |more: u32| {
            let goal = sent.load(Ordering::Acquire) + more;
            while sent.load(Ordering::Acquire) < goal {
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait(300);
        scene.stage.tenants[0].cluster.namespace_annotations.clear();
        agent.enforces(|| scene.stage.publish()).unwrap();
        wait(300);
        stopping.store(true, Ordering::Release);
    });
    let seen = pods.map(|pod| pod.collect(Duration::from_millis(300), |it| it.window == WINDOW));
    let arrived: BTreeSet<u32> =
        seen.into_iter().flat_map(|seen| seen.unwrap()).map(|seen| seen.seq).collect();
    let last = *arrived.last().unwrap();
    assert_eq!(arrived.len() as u32, last + 1, "there is a gap before {last}");
    assert!(last >= 300 && last < sent.into_inner() - 200, "{last}");
}

#[test]
fn diff_says_what_a_changed_manifest_changes_and_which_recent_clients_it_cuts() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    // Of a cluster's admitted packets one in 256 on each CPU leaves its source: enough of IPv4 that it does.
    let knock = Knocking::new(&scene.stage);
    let listed = scene.stage.network.host("listed").addresses;
    for port in 0..2_000 {
        knock.from(&listed.v4.to_string(), 40_000 + port);
    }
    let (same, json) = scene.both(&["diff"]).unwrap();
    assert_eq!(same.code, Some(0), "{}", same.text);
    assert_eq!(json["changes"], serde_json::json!([]));
    assert!(json["sampled"].as_u64().unwrap() > 0, "{json:#}");

    let changed = Manifests::new().unwrap();
    let narrower = scene.stage.cluster.clone().allow(&["203.0.113.0/24", "2001:db8:51::/64"]);
    changed.put("cluster.yaml", &[narrower.cluster()]).unwrap();
    let file = changed.folder().join("cluster.yaml");
    let (diff, json) = scene.both(&["diff", "--with", file.to_str().unwrap()]).unwrap();
    assert_eq!(diff.code, Some(3), "{}", diff.text);
    let changes: Vec<String> = json["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{} {}", it["change"].as_str().unwrap(), it["value"].as_str().unwrap()))
        .collect();
    assert_eq!(changes, ["removed 198.51.100.0/24", "added 203.0.113.0/24"], "{}", diff.text);
    let cut: BTreeSet<&str> =
        json["cut"].as_array().unwrap().iter().map(|it| it["source"].as_str().unwrap()).collect();
    assert_eq!(cut, BTreeSet::from([listed.v4.to_string().as_str()]), "{}", diff.text);
    assert!(diff.text.contains("recent traffic"), "{}", diff.text);

    // A whole folder in place of the agent's: everything that is not in it goes.
    let folder = format!("manifests={}", changed.folder().display());
    let (_, json) = scene.both(&["diff", "--source", &folder]).unwrap();
    let values = json["changes"].as_array().unwrap();
    let gone = |it: &Value| it["object"] == "Cluster c2" && it["change"] == "removed";
    assert!(values.iter().any(gone), "{json:#}");
    let nonsense = scene.ask(&["diff", "--with", "/nowhere/cluster.yaml"]).unwrap();
    assert_eq!(nonsense.code, Some(1));
    assert!(nonsense.error.starts_with("enforcer: cannot read /nowhere/cluster.yaml"));
    // Nothing of it is in force.
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn hidden_clients_and_denied_health_checks_are_said_with_what_to_do() {
    let scene = Scene::new().unwrap();
    let balancer = serde_json::json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "seed-9"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.99"}]},
    });
    scene.stage.manifests.put("node.yaml", &[balancer]).unwrap();
    let agent = scene.start().unwrap();
    let knock = Knocking::new(&scene.stage);
    // All that comes has been given the address of a node on its way.
    for port in 0..8 {
        knock.from("192.0.2.99", 40_000 + port);
    }
    let status = until(&scene, |status| status["observed"] != serde_json::json!([]));
    let text = status["observed"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("Cluster c1 = \"port 31001/tcp\": recent sources are nearly all"));
    let ready = scene.both(&["status", "--ready-to-enforce"]).unwrap();
    assert_eq!(ready.0.code, Some(4));
    assert_eq!(ready.1["is_enforced"], true);
    assert_eq!(ready.1["ready_to_enforce"]["is_ready"], false);
    compare("not-ready-to-enforce", &ready.0.text);
    assert_eq!(agent.metric("enforcer_hidden_client_ports", &[]).unwrap(), 1.0);

    // A stranger in a rhythm; besides, it shows that clients can be told apart.
    for beat in 0..6 {
        knock.from("198.18.7.5", 41_000 + beat);
        thread::sleep(Duration::from_millis(1_100));
    }
    let probes = |status: &Value| {
        let observed = status["observed"].as_array().unwrap();
        observed.len() == 1
            && observed[0]["text"].to_string().contains("--probe-ranges 198.18.7.5/32")
    };
    until(&scene, probes);
    assert_eq!(agent.metric("enforcer_denied_probe_subnets", &[]).unwrap(), 1.0);
    assert_eq!(agent.metric("enforcer_hidden_client_ports", &[]).unwrap(), 0.0);
}

/// SYNs to the API server's nodePort from any source, sent on the nodes' network.
struct Knocking<'a> {
    stage: &'a Stage,
    port: RawPort,
}

impl<'a> Knocking<'a> {
    fn new(stage: &'a Stage) -> Knocking<'a> {
        let port = RawPort::open(stage.network.router(), "nodes").unwrap();
        Knocking { stage, port }
    }

    fn from(&self, source: &str, source_port: u16) {
        let to = self.stage.frontend("bypass nodePort", false);
        let from = SocketAddr::new(source.parse().unwrap(), source_port);
        let router = [0x02, 0xee, 0, 0, 0, 1];
        let packet = Packet::tcp(from, to).flags(flags::SYN);
        self.port.send(&packet.frame(router, self.stage.network.node(NODE).mac)).unwrap();
    }
}

/// Asks for the status until it is so, at most 20 s.
fn until(scene: &Scene, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let status = scene.ask(&["status", "--output", "json"]).unwrap().json().unwrap();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{status:#}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_program_that_is_taken_away_or_pushed_back_is_drift() {
    let scene = Scene::new().unwrap();
    let _agent = scene.start().unwrap();
    let interfaces = scene.both(&["status"]).unwrap().1["interfaces"].clone();
    let states: Vec<&Value> =
        interfaces.as_array().unwrap().iter().map(|interface| &interface["state"]).collect();
    assert_eq!(states, ["guarded"]);
    let links = scene.installation.bpffs().read_dir().unwrap().next().unwrap().unwrap().path();
    for pin in links.join("links").read_dir().unwrap() {
        std::fs::remove_file(pin.unwrap().path()).unwrap();
    }
    let status = scene.ask(&["status"]).unwrap();
    // An agent that looks after its links may be quicker than the question.
    if status.code != Some(0) {
        assert_eq!(status.code, Some(4));
        assert!(status.text.contains("not attached"), "{}", status.text);
    }
}

#[test]
fn without_anything_to_read_the_answer_is_one_sentence() {
    let scene = Scene::new().unwrap();
    for arguments in [&["status"][..], &["list"], &["show", "c1"]] {
        let answer = scene.ask(arguments).unwrap();
        assert_eq!(answer.code, Some(1), "{}", answer.text);
        assert_eq!(answer.text, "");
        assert!(answer.error.starts_with("enforcer: nothing is known of this node: no agent runs"));
        assert_eq!(answer.error.lines().count(), 1);
    }
    let _agent = scene.start().unwrap();
    let mut unprivileged = scene.installation.debugging(&["status"]);
    unprivileged.uid(65_534).gid(65_534);
    // Without a namespace of its own: that would need the privilege.
    let mut command = std::process::Command::new(unprivileged.get_program());
    command.args(unprivileged.get_args()).uid(65_534).gid(65_534);
    let output = exec::output(command, "", Duration::from_secs(20)).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.ends_with("is for root alone: run this as root\n"), "{error}");
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn a_change_is_logged_with_what_it_changes_by_which_object_and_how_long_it_took() {
    let mut scene = Scene::new().unwrap();
    let agent = scene.start().unwrap();
    scene.stage.cluster = scene.stage.cluster.clone().allow(&["198.51.100.0/24", "203.0.113.7"]);
    agent.enforces(|| scene.stage.publish()).unwrap();
    let log = agent.log();
    let line = log.lines().rfind(|line| line.contains("image in force")).unwrap();
    for words in ["Cluster c1", "+203.0.113.7/32", "-2001:db8:51::/64", "took", "changed"] {
        assert!(line.contains(words), "{words}: {line}");
    }
}

#[test]
fn every_shell_gets_a_completion_with_every_command() {
    let scene = Scene::new().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = scene.installation.enforcer(&["completion", shell]).unwrap();
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let words: BTreeSet<&str> = text
            .split(|character: char| !character.is_alphanumeric() && character != '-')
            .collect();
        for word in ["debug", "status", "list", "show", "explain", "drops", "diff"] {
            assert!(words.contains(word), "{shell}: {word}");
        }
    }
}
