//! One cluster has more than there is room for: it is told, and everybody else's change of the same moment
//! is enforced. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::time::Duration;

use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::seed::UserCluster;
use enforcer_tests::stage::{MANIFEST, Stage};
use enforcer_tests::survey::{Access, Question, surprises};
use serde_json::{Value, json};

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const BOTH: [&str; 4] = [LISTED[0], LISTED[1], "203.0.113.0/24", "2001:db8:113::/64"];
/// More than the image has room for: single addresses of IPv6 with gaps between them.
const HUGE: usize = 400_000;
/// Reading so many takes seconds, on a busy machine many of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two clusters, both of which admit both clients.
struct Scene {
    installation: Installation,
    stage: Stage,
}

impl Scene {
    fn new(arguments: &[&str]) -> Scene {
        let mut stage = Stage::customary().unwrap();
        stage.add_tenant("c2", 2).unwrap();
        let installation = stage.installation().unwrap().arguments(arguments);
        let mut scene = Scene { installation, stage };
        scene.allow(&BOTH, strings(&LISTED));
        scene.stage.publish().unwrap();
        scene
    }

    /// The lists of `c1` and `c2`, as they are published next.
    fn allow(&mut self, first: &[&str], second: Vec<String>) {
        self.stage.cluster = self.stage.cluster.clone().allow(first);
        self.stage.tenants[0].cluster.allowed = Some(second);
    }

    /// What is not as it should be, where these clients are admitted by `c1` and by `c2`.
    fn surprises(&self, first: &[&str], second: &[&str]) -> Vec<String> {
        let of = |cluster: &UserCluster, admitted: &[&str]| -> Vec<Question<'_>> {
            let frontends = self.stage.frontends_of(cluster).into_iter();
            let guarded = frontends.filter(|frontend| frontend.guarded);
            let clients = ["listed", "unlisted"];
            guarded
                .flat_map(|frontend| clients.map(|client| (client, frontend)))
                .map(|(client, frontend)| Question {
                    client,
                    from: &self.stage.network.host(client).ns,
                    frontend,
                    expected: Access::of(client, admitted),
                })
                .collect()
        };
        let mut questions = of(&self.stage.cluster, first);
        questions.extend(of(&self.stage.tenants[0].cluster, second));
        assert!(questions.len() > 20);
        surprises(&questions)
    }

    /// The one problem of `c2`, in words.
    fn told(&self) -> String {
        let status = self.installation.debug(&["status", "--output", "json"]).unwrap();
        let status = status.json().unwrap();
        let problems = status["problems"].as_array().unwrap_or_else(|| panic!("{status}"));
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        problem.to_string()
    }
}

fn strings(ranges: &[&str]) -> Vec<String> {
    ranges.iter().map(|range| (*range).to_owned()).collect()
}

/// A list that would admit both clients, and more than fits.
fn huge() -> Vec<String> {
    let more = (0..HUGE).map(|number| {
        let low = number * 2 + 1;
        format!("2001:db8:f00d::{:x}:{:x}/128", low >> 16, low & 0xffff)
    });
    strings(&BOTH).into_iter().chain(more).collect()
}

fn publish(scene: &Scene, agent: &Agent) {
    agent.enforces_within(PATIENCE, || scene.stage.publish()).unwrap();
}

#[test]
fn a_list_without_room_gives_way_and_another_cluster_is_tightened_in_the_same_moment() {
    let mut scene = Scene::new(&["--max-ranges-per-cluster", "1000000"]);
    let agent = scene.installation.start().unwrap();
    assert_eq!(scene.surprises(&["listed", "unlisted"], &["listed"]), [""; 0]);

    scene.allow(&LISTED, huge());
    publish(&scene, &agent);
    let first = ["listed"];
    assert_eq!(scene.surprises(&first, &["listed"]), [""; 0], "c2 has the list of before");
    let told = scene.told();
    for word in ["c2", "apiServerAllowedIPRanges", "400004 ranges", "over a limit"] {
        assert!(told.contains(word), "{word} in {told}");
    }
    assert_eq!(agent.get("/readyz").unwrap().0, 200);

    // A change of somebody else while it stays too large.
    scene.allow(&BOTH, huge());
    publish(&scene, &agent);
    assert_eq!(scene.surprises(&["listed", "unlisted"], &["listed"]), [""; 0]);

    scene.allow(&BOTH, strings(&BOTH));
    publish(&scene, &agent);
    assert_eq!(scene.surprises(&["listed", "unlisted"], &["listed", "unlisted"]), [""; 0]);
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);
}

#[test]
fn a_list_without_room_after_none_admits_nobody_and_cuts_nobody_else() {
    let mut scene = Scene::new(&["--max-ranges-per-cluster", "1000000"]);
    scene.stage.tenants[0].cluster.allowed = None;
    scene.stage.publish().unwrap();
    let agent = scene.installation.start().unwrap();
    let all = ["listed", "unlisted"];
    assert_eq!(scene.surprises(&all, &all), [""; 0]);
    scene.allow(&LISTED, huge());
    publish(&scene, &agent);
    assert_eq!(scene.surprises(&["listed"], &[]), [""; 0]);
}

#[test]
fn a_cluster_with_too_many_frontends_keeps_those_in_force_and_cuts_nobody_else() {
    let mut scene = Scene::new(&["--max-addresses-per-cluster", "40"]);
    scene.stage.tenants[0].cluster = scene.stage.tenants[0].cluster.clone().allow(&LISTED);
    scene.stage.publish().unwrap();
    let agent = scene.installation.start().unwrap();
    assert_eq!(scene.surprises(&["listed", "unlisted"], &["listed"]), [""; 0]);

    scene.allow(&LISTED, strings(&LISTED));
    let mut objects = scene.stage.objects();
    let external: Vec<String> = (0..200).map(|number| format!("10.9.0.{number}")).collect();
    service(&mut objects, "cluster-c2", "apiserver-external")["spec"]["externalIPs"] =
        json!(external);
    agent.enforces(|| scene.stage.manifests.put(MANIFEST, &objects)).unwrap();
    assert_eq!(scene.surprises(&["listed"], &["listed"]), [""; 0]);
    let told = scene.told();
    for word in ["c2", "frontends", "and 40 are allowed", "not guarded"] {
        assert!(told.contains(word), "{word} in {told}");
    }
}

fn service<'a>(objects: &'a mut [Value], namespace: &str, name: &str) -> &'a mut Value {
    let is_it = |object: &&mut Value| {
        object["kind"] == "Service"
            && object["metadata"]["name"] == name
            && object["metadata"]["namespace"] == namespace
    };
    objects.iter_mut().find(is_it).unwrap()
}
