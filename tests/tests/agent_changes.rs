//! A change of the manifests is enforced soon, whole, and by the next packet. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use enforcer_tests::agent::Agent;
use enforcer_tests::latency::{first_arrival, last_arrival};
use enforcer_tests::pairs::{Lane, PairStream};
use enforcer_tests::stage::{MANIFEST, Stage};
use enforcer_tests::survey::{Access, Question, surprises};
use enforcer_tests::talk::{Conversation, Exchange};
use enforcer_tests::yaml;

const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

#[test]
fn an_edit_is_enforced_soon_and_costs_those_who_stay_admitted_no_packet() {
    let mut stage = restricted();
    let installation = stage.installation().unwrap();
    let _agent = installation.start().unwrap();
    let network = &stage.network;
    // Both of the pair's ways lead into c1; only the second client's verdict changes.
    let stream = PairStream::start(
        Lane::new(network.host("listed"), stage.frontend("VIP", false)),
        Lane::new(network.host("unlisted"), stage.frontend("bypass nodePort", true)),
        &[network.pod("apiserver"), network.pod("envoy")],
        10_000,
    )
    .unwrap();
    let mut took = Vec::new();
    for edit in 0..20 {
        let admit = edit % 2 == 0;
        let ranges = if admit { [LISTED, UNLISTED].concat() } else { LISTED.to_vec() };
        stage.cluster = stage.cluster.clone().allow(&ranges);
        let before = stream.progress().1;
        let written = Instant::now();
        stage.publish().unwrap();
        took.push(if admit {
            first_arrival(&stream, before, written, LIMIT)
        } else {
            last_arrival(&stream, written, LIMIT)
        });
    }
    let pairs = stream.stop().unwrap();
    assert_eq!((pairs.lost, pairs.sniffer_drops), (0, 0), "{pairs:?}");
    took.sort();
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{} edits, write to first changed verdict: p50 {p50:?}, max {max:?}", took.len());
    // What a quiet machine needs is printed above; a busy one is not the agent's doing.
    assert!(p50 < Duration::from_secs(1) && max < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_removed_range_stalls_an_open_connection_and_an_added_one_lets_it_go_on() {
    let mut stage = restricted();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let listed = stage.network.host("listed").ns.clone();
    let open =
        |(label, v6)| Conversation::open(&listed, None, stage.frontend(label, v6), LIMIT).unwrap();
    let ways = [("VIP", false), ("VIP", true), ("bypass nodePort", false), ("nodePort", true)];
    let mut talks = ways.map(open);
    assert_eq!(talks.each_mut().map(|talk| talk.exchange(50_000, LIMIT)), [Exchange::Completed; 4]);

    stage.cluster = stage.cluster.clone().allow(&UNLISTED);
    agent.enforces(|| stage.publish()).unwrap();
    let before = stage.servers["apiserver"].payload();
    assert_eq!(talks.each_mut().map(|talk| talk.exchange(1_000, SHORT)), [Exchange::Stalled; 4]);
    assert_eq!(stage.servers["apiserver"].payload(), before, "bytes reached the API server");

    stage.cluster = stage.cluster.clone().allow(&[UNLISTED, LISTED].concat());
    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(talks.each_mut().map(|talk| talk.exchange(1_000, LIMIT)), [Exchange::Completed; 4]);
}

#[test]
fn a_configmap_that_is_swapped_is_one_change() {
    let mut stage = restricted();
    stage.manifests.remove(MANIFEST).unwrap();
    swap(&stage).unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    for (ranges, admitted) in [(UNLISTED, "unlisted"), (LISTED, "listed")] {
        stage.cluster = stage.cluster.clone().allow(&ranges);
        let before = agent.said("image in force");
        agent.enforces(|| swap(&stage)).unwrap();
        assert_eq!(stage.surprises(&[admitted]), [""; 0]);
        assert_eq!(agent.said("image in force"), before + 1, "{}", agent.log());
    }
    assert_eq!(agent.said("problem"), 0, "{}", agent.log());
}

/// Writes the stage's objects as a ConfigMap of one file for each object.
fn swap(stage: &Stage) -> anyhow::Result<()> {
    let objects = stage.objects();
    let name = |number| format!("{number:02}.yaml");
    let files: Vec<(String, String)> =
        objects.iter().enumerate().map(|(i, o)| (name(i), yaml::document(o))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
    stage.manifests.swap(&files)
}

#[test]
fn a_file_that_is_being_written_changes_nothing_until_it_is_whole() {
    let mut stage = restricted();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let network = &stage.network;
    let stream = PairStream::start(
        Lane::new(network.host("listed"), stage.frontend("VIP", true)),
        Lane::new(network.host("unlisted"), stage.frontend("bypass nodePort", false)),
        &[network.pod("apiserver"), network.pod("envoy")],
        10_000,
    )
    .unwrap();
    stage.cluster = stage.cluster.clone().allow(&UNLISTED);
    let text = yaml::documents(&stage.objects());
    let path = stage.manifests.folder().join(MANIFEST);
    // In place, as an editor without care does: emptied, then bit by bit.
    let mut file = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    let (most, rest) = text.as_bytes().split_at(text.len() - 200);
    for part in most.chunks(text.len() / 20) {
        file.write_all(part).unwrap();
        let sent = stream.progress().0;
        stream.wait_for(sent + 500, LIMIT).unwrap();
    }
    let pairs = stream.stop().unwrap();
    assert!(pairs.clean(), "{pairs:?}");
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    agent
        .enforces(|| {
            file.write_all(rest)?;
            drop(file);
            Ok(())
        })
        .unwrap();
    assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
}

#[test]
fn a_file_that_was_cut_short_keeps_what_it_said_until_it_is_mended() {
    let mut stage = restricted();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    stage.cluster = stage.cluster.clone().allow(&UNLISTED);
    let text = yaml::documents(&stage.objects());
    // In the middle of the new list, in quotes: what is there of it is no YAML.
    let cut = text.find(UNLISTED[0]).unwrap() + 4;
    let path = stage.manifests.folder().join(MANIFEST);
    agent.after("problem", || Ok(fs::write(&path, &text[..cut])?)).unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    // Said after the image is in force.
    agent.after("mended", || Ok(fs::write(&path, &text)?)).unwrap();
    assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
}

#[test]
fn a_list_that_appears_and_disappears_closes_and_opens() {
    let mut stage = Stage::customary().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    for _ in 0..2 {
        assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0]);
        stage.cluster = stage.cluster.clone().allow(&LISTED);
        agent.enforces(|| stage.publish()).unwrap();
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
        stage.cluster.allowed = None;
        agent.enforces(|| stage.publish()).unwrap();
    }
    assert_eq!(gauge(&agent, "enforcer_guarded_frontends"), 0.0);
}

#[test]
fn a_cluster_that_is_removed_guards_nothing_and_others_stay_guarded() {
    let mut stage = restricted();
    let tenant = stage.add_tenant("c2", 2).unwrap();
    tenant.cluster = tenant.cluster.clone().allow(&LISTED);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    assert_eq!(gauge(&agent, "enforcer_guarded_clusters"), 2.0);
    let c2 = stage.tenants.pop().unwrap();
    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(gauge(&agent, "enforcer_guarded_clusters"), 1.0);
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    let from = &stage.network.host("unlisted").ns;
    let open = |frontend| Question { client: "unlisted", from, frontend, expected: Access::Open };
    let questions: Vec<_> = stage.frontends_of(&c2.cluster).into_iter().map(open).collect();
    assert_eq!(surprises(&questions), [""; 0]);
}

fn restricted() -> Stage {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&LISTED);
    stage.publish().unwrap();
    stage
}

fn gauge(agent: &Agent, name: &str) -> f64 {
    agent.metric(name, &[]).unwrap()
}
