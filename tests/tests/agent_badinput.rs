//! Bad input: one clear message, the valid rest enforced, and nobody let in by an error. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::fs;
use std::net::Ipv4Addr;

use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::seed::UserCluster;
use enforcer_tests::stage::{MANIFEST, Stage};
use enforcer_tests::survey::surprises;
use serde_json::{Value, json};

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];
/// The file that holds the Cluster object of `c1`, and nothing else.
const CLUSTER: &str = "cluster.yaml";

#[test]
fn an_invalid_range_is_left_out_and_the_valid_ones_are_enforced() {
    let scene = Scene::new();
    let agent = scene.start();
    let ranges = [LISTED[0], "10.1.2.3/33", LISTED[1]];
    agent
        .after("WARN", || scene.put_cluster(&cluster(&scene.stage).allow(&ranges).cluster()))
        .unwrap();
    let field = "spec.apiServerAllowedIPRanges.cidrBlocks[1]";
    assert_one_problem(&agent, &[CLUSTER, "Cluster c1", field, "10.1.2.3/33"]);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    scene.mend(&agent);
}

#[test]
fn a_list_without_one_valid_entry_admits_exemptions_only() {
    let scene = Scene::new();
    let agent = scene.start();
    let cluster = cluster(&scene.stage).allow(&["everybody"]).cluster();
    agent.after("WARN", || scene.put_cluster(&cluster)).unwrap();
    assert_one_problem(&agent, &[CLUSTER, "Cluster c1", "cidrBlocks[0]", "everybody"]);
    assert_eq!(scene.stage.surprises(&[]), [""; 0]);
}

#[test]
fn a_cluster_without_a_namespace_is_named_and_enforced_once_it_has_one() {
    let mut scene = Scene::new();
    let agent = scene.start();
    let mut without = UserCluster::new("c3", 3).allow(&LISTED).cluster();
    without.as_object_mut().unwrap().remove("status");
    agent.after("WARN", || scene.stage.manifests.put("c3.yaml", &[without])).unwrap();
    assert_one_problem(&agent, &["c3.yaml", "Cluster c3", "status.namespaceName"]);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    assert_eq!(agent.metric("enforcer_guarded_clusters", &[]).unwrap(), 1.0);

    // Its control plane appears in the namespace that KKP gives it; the Cluster still says nothing.
    let tenant = scene.stage.add_tenant("c3", 3).unwrap();
    let objects = &tenant.cluster.objects()[1..];
    agent.after("mended", || scene.stage.manifests.put("c3-below.yaml", objects)).unwrap();
    assert_eq!(agent.metric("enforcer_guarded_clusters", &[]).unwrap(), 2.0);
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);
}

#[test]
fn a_service_without_ports_is_named_and_the_other_services_stay_guarded() {
    let scene = Scene::new();
    let agent = scene.start();
    let mut objects = scene.rest();
    service(&mut objects, "front-loadbalancer")["spec"]["ports"] = json!([]);
    agent.after("WARN", || scene.stage.manifests.put(MANIFEST, &objects)).unwrap();
    let named = "Service cluster-c1/front-loadbalancer";
    assert_one_problem(&agent, &[MANIFEST, named, "spec.ports"]);
    let mut questions = scene.stage.questions(&["listed"]);
    questions.retain(|question| question.frontend.label.starts_with("bypass"));
    assert_eq!(questions.len(), 8);
    assert_eq!(surprises(&questions), [""; 0]);
}

#[test]
fn a_file_that_is_not_yaml_is_named_and_the_other_files_count() {
    let scene = Scene::new();
    let agent = scene.start();
    let texts = ["{{{ this is not YAML", "kind: Cluster\n  metadata: [", "\u{0}\u{1}\u{2}"];
    for (number, text) in texts.iter().enumerate() {
        let file = format!("junk-{number}.yaml");
        let before = agent.said("WARN");
        agent.after("WARN", || scene.stage.manifests.put_text(&file, text)).unwrap();
        let log = agent.log();
        let new: Vec<&str> = log.lines().filter(|l| l.contains("WARN")).skip(before).collect();
        assert!(matches!(&new[..], [one] if one.contains(&file)), "{text:?}: {new:?}");
        assert!(new[0].len() < 500, "{}", new[0]);
    }
    // Bytes that are no text at all.
    let path = scene.stage.manifests.folder().join("junk.yaml");
    agent.after("junk.yaml", || Ok(fs::write(&path, [0xff, 0xfe, 0x80])?)).unwrap();
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    // An edit of a good file is enforced beside them, and a new agent says the same.
    agent
        .enforces(|| scene.put_cluster(&cluster(&scene.stage).allow(&UNLISTED).cluster()))
        .unwrap();
    assert_eq!(scene.stage.surprises(&["unlisted"]), [""; 0]);
    assert_eq!(agent.said("WARN"), texts.len() + 1, "{}", agent.log());
    agent.kill().unwrap();
    let agent = scene.start();
    assert_eq!(scene.stage.surprises(&["unlisted"]), [""; 0]);
    assert_eq!(agent.said("WARN"), 2 * (texts.len() + 1), "{}", agent.log());
}

#[test]
fn ten_megabytes_of_junk_give_one_short_message_and_hold_nobody_up() {
    let scene = Scene::new();
    let agent = scene.start();
    for (file, text) in [
        ("letters.yaml", "x".repeat(10 << 20)),
        ("lines.yaml", "- [not, closed\n".repeat((10 << 20) / 15)),
    ] {
        agent.after(file, || scene.stage.manifests.put_text(file, &text)).unwrap();
        let log = agent.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(file)).collect();
        assert!(matches!(&lines[..], [one] if one.len() < 500), "{lines:?}");
    }
    // Documents of foreign kinds are no problem, however many.
    let foreign = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let many = foreign.repeat((10 << 20) / foreign.len());
    scene.stage.manifests.put_text("many.yaml", &many).unwrap();
    agent
        .enforces(|| scene.put_cluster(&cluster(&scene.stage).allow(&UNLISTED).cluster()))
        .unwrap();
    assert_eq!(scene.stage.surprises(&["unlisted"]), [""; 0]);
    assert_eq!(agent.said("WARN"), 2, "{}", agent.log());
}

#[test]
fn what_does_not_fit_into_the_kernel_leaves_the_former_policy_in_force() {
    let mut scene = Scene::new();
    // The quota of one cluster would not let it come to that.
    scene.installation.use_arguments(&["--max-addresses-per-cluster", "1000000"]);
    let agent = scene.start();
    let mut objects = scene.rest();
    let addresses = (0..200_000u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n).to_string());
    service(&mut objects, "apiserver-external")["spec"]["externalIPs"] = addresses.collect();
    agent.after("WARN", || scene.stage.manifests.put(MANIFEST, &objects)).unwrap();
    assert_one_problem(&agent, &["does not fit", "the former image stays in force"]);
    assert_eq!(agent.get("/readyz").unwrap().0, 503);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    agent.after("mended", || scene.stage.manifests.put(MANIFEST, &scene.rest())).unwrap();
    scene.mend(&agent);
}

#[test]
fn a_cluster_of_the_wrong_shape_keeps_its_last_policy_even_when_the_agent_is_new() {
    let wrong_shapes: [(Value, &[&str]); 4] = [
        (
            json!({"apiServerAllowedIPRanges": "0.0.0.0/0"}),
            &["spec.apiServerAllowedIPRanges", "0.0.0.0/0"],
        ),
        (
            json!({"apiServerAllowedIPRanges": {"cidrBlocks": "0.0.0.0/0"}}),
            &["spec.apiServerAllowedIPRanges.cidrBlocks", "0.0.0.0/0"],
        ),
        (
            json!({"apiServerAllowedIPRanges": {"cidrBlocks": ["0.0.0.0/0", {"a": 1}]}}),
            &["spec.apiServerAllowedIPRanges.cidrBlocks[1]", "a"],
        ),
        (json!([1, 2, 3]), &["spec"]),
    ];
    for (spec, named) in wrong_shapes {
        let scene = Scene::new();
        let agent = scene.start();
        let mut object = cluster(&scene.stage).cluster();
        object["spec"] = spec;
        agent.after("WARN", || scene.put_cluster(&object)).unwrap();
        assert_one_problem(&agent, &[&[CLUSTER, "Cluster c1"], named].concat());
        assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);

        // A new agent knows the last policy from the state folder, even if the kernel forgot it.
        agent.kill().unwrap();
        scene.installation.empty_bpffs().unwrap();
        let agent = scene.start();
        assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
        assert_eq!(agent.said("WARN"), 2, "{}", agent.log());
        scene.mend(&agent);
    }
}

#[test]
fn a_cluster_that_was_never_readable_admits_exemptions_only() {
    let mut scene = Scene::new();
    // Its egress is limited too, which takes its pod's interface.
    scene.installation = scene.stage.installation().unwrap().interfaces("auto");
    let mut object = cluster(&scene.stage).cluster();
    object["spec"]["apiServerAllowedIPRanges"] = json!({"cidrBlocks": "0.0.0.0/0"});
    scene.put_cluster(&object).unwrap();
    let agent = scene.start();
    assert_eq!(scene.stage.surprises(&[]), [""; 0]);
    assert_one_problem(&agent, &[CLUSTER, "Cluster c1"]);
}

#[test]
fn a_file_that_breaks_keeps_its_cluster_even_when_the_agent_is_new() {
    let scene = Scene::new();
    let agent = scene.start();
    agent.after("WARN", || scene.stage.manifests.put_text(CLUSTER, "kind: [Cluster")).unwrap();
    assert_one_problem(&agent, &[CLUSTER]);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    agent.terminate().unwrap();
    scene.installation.empty_bpffs().unwrap();
    let agent = scene.start();
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    scene.mend(&agent);
}

#[test]
fn a_folder_that_goes_away_changes_nothing() {
    let scene = Scene::new();
    let agent = scene.start();
    let folder = scene.stage.manifests.folder();
    let aside = folder.with_extension("aside");
    agent.after("WARN", || Ok(fs::rename(folder, &aside)?)).unwrap();
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
    agent.after("is back", || Ok(fs::rename(&aside, folder)?)).unwrap();
    scene.mend(&agent);
}

/// A seed whose files hold different objects, and an agent's installation.
struct Scene {
    installation: Installation,
    stage: Stage,
}

impl Scene {
    /// Cluster `c1` admits the listed client.
    fn new() -> Scene {
        let mut stage = Stage::customary().unwrap();
        stage.cluster = stage.cluster.allow(&LISTED);
        let scene = Scene { installation: stage.installation().unwrap(), stage };
        scene.stage.manifests.put(MANIFEST, &scene.rest()).unwrap();
        scene.put_cluster(&scene.stage.cluster.cluster()).unwrap();
        scene
    }

    fn start(&self) -> Agent {
        self.installation.start().unwrap()
    }

    /// All objects but the Cluster.
    fn rest(&self) -> Vec<Value> {
        let mut objects = self.stage.objects();
        objects.retain(|object| object["kind"] != "Cluster");
        objects
    }

    fn put_cluster(&self, object: &Value) -> anyhow::Result<()> {
        self.stage.manifests.put(CLUSTER, std::slice::from_ref(object))
    }

    /// A good Cluster again: it is enforced, and nothing is wrong any more.
    fn mend(&self, agent: &Agent) {
        let good = cluster(&self.stage).allow(&UNLISTED).cluster();
        agent.enforces(|| self.put_cluster(&good)).unwrap();
        assert_eq!(self.stage.surprises(&["unlisted"]), [""; 0]);
        assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);
        assert_eq!(agent.get("/readyz").unwrap().0, 200);
    }
}

/// Exactly one line warns, and it says all these words; the agent stays ready.
fn assert_one_problem(agent: &Agent, words: &[&str]) {
    let log = agent.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [line] = lines[..] else { panic!("{lines:#?}") };
    for word in words {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    assert!(line.len() < 500, "{line}");
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 1.0);
}

fn cluster(stage: &Stage) -> UserCluster {
    stage.cluster.clone()
}

/// The Service of that name among `objects`.
fn service<'a>(objects: &'a mut [Value], name: &str) -> &'a mut Value {
    let wanted =
        |object: &&mut Value| object["kind"] == "Service" && object["metadata"]["name"] == name;
    objects.iter_mut().find(wanted).unwrap()
}
