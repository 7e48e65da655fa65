//! The image as the pod of deploy/base that it is on a node: its arguments, its folders, its
//! ServiceAccount's token, a real API server. Needs root and podman.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use enforcer_tests::addresses::CONTROL_PLANE;
use enforcer_tests::cleanup::Scratch;
use enforcer_tests::container::{Container, Store};
use enforcer_tests::control_plane::{NAME, NAMESPACE, PORT};
use enforcer_tests::http;
use enforcer_tests::stage::NODE;
use enforcer_tests::watched::Watched;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const TOKENS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What a kubelet does with the DaemonSet's pod on node `seed-1`.
struct Kubelet {
    store: Store,
    /// By the names of the pod's volumes.
    volumes: BTreeMap<&'static str, PathBuf>,
    token: PathBuf,
    _scratch: Scratch,
}

impl Kubelet {
    fn new(watched: &Watched) -> Kubelet {
        let mut scratch = Scratch::new("kubelet").unwrap();
        let bpffs = scratch.bpffs("bpffs").unwrap();
        let state = scratch.folder("state").unwrap();
        let token = scratch.folder("token").unwrap();
        fs::write(token.join("token"), watched.api.token(NAMESPACE, NAME).unwrap()).unwrap();
        fs::write(token.join("namespace"), NAMESPACE).unwrap();
        fs::copy(watched.api.authority(), token.join("ca.crt")).unwrap();
        let volumes = BTreeMap::from([("bpffs", bpffs), ("state", state)]);
        Kubelet { store: Store::new().unwrap(), volumes, token, _scratch: scratch }
    }

    /// Starts the one container of the DaemonSet as it is in the API server now.
    fn start(&self, watched: &Watched) -> Container<'_> {
        let daemon_set = watched.admin().unwrap().get("DaemonSet", NAMESPACE, NAME);
        let daemon_set = daemon_set.unwrap().unwrap();
        let spec = &daemon_set["spec"]["template"]["spec"]["containers"][0];
        let node = &watched.stage.network.node(NODE).ns;
        let mut plan = self.store.container(node).mount(&self.token, TOKENS, "ro");
        for mount in list(&spec["volumeMounts"]) {
            let folder = &self.volumes[mount["name"].as_str().unwrap()];
            plan = plan.mount(folder, mount["mountPath"].as_str().unwrap(), "rw");
        }
        let field = |path: &str| match path {
            "spec.nodeName" => NODE.to_owned(),
            "metadata.namespace" => NAMESPACE.to_owned(),
            other => panic!("{other}"),
        };
        let mut arguments: Vec<String> = list(&spec["args"]).iter().map(text).collect();
        for variable in list(&spec["env"]) {
            let name = text(&variable["name"]);
            let value = field(&text(&variable["valueFrom"]["fieldRef"]["fieldPath"]));
            for argument in &mut arguments {
                *argument = argument.replace(&format!("$({name})"), &value);
            }
            plan = plan.variable(&name, &value);
        }
        plan.variable("KUBERNETES_SERVICE_HOST", &CONTROL_PLANE.v4.to_string())
            .variable("KUBERNETES_SERVICE_PORT", &PORT.to_string())
            .run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
            .unwrap()
    }
}

#[test]
fn the_pod_of_the_base_enforces_what_the_api_says_and_the_uninstalling_one_ends_that() {
    let mut watched = Watched::customary().unwrap();
    let listed = ["198.51.100.0/24", "2001:db8:51::/64"];
    watched.stage.cluster = watched.stage.cluster.clone().allow(&listed);
    watched.publish().unwrap();
    let kubelet = Kubelet::new(&watched);
    let mut agent = kubelet.start(&watched);
    let ns = watched.stage.network.node(NODE).ns.clone();
    let ready = || http::get(&ns, "127.0.0.1:9464".parse().unwrap(), "/readyz");
    wait(&agent, || ready().is_ok_and(|(status, _)| status == 200));
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0]);
    let lease = watched.admin().unwrap().get("Lease", NAMESPACE, &format!("enforcer-{NODE}"));
    assert!(lease.unwrap().is_some(), "{}", agent.log().unwrap());

    let both = [&listed[..], &["203.0.113.0/24", "2001:db8:113::/64"]].concat();
    watched.stage.cluster = watched.stage.cluster.clone().allow(&both);
    watched.admin().unwrap().put(&watched.stage.cluster.cluster()).unwrap();
    let everybody = ["listed", "unlisted"];
    wait(&agent, || watched.stage.surprises(&everybody).is_empty());
    watched.stage.cluster = watched.stage.cluster.clone().allow(&listed);
    watched.admin().unwrap().put(&watched.stage.cluster.cluster()).unwrap();
    wait(&agent, || watched.stage.surprises(&["listed"]).is_empty());
    assert_eq!(agent.stop().unwrap(), 0, "{}", agent.log().unwrap());
    drop(agent);
    assert_eq!(watched.stage.surprises(&["listed"]), [""; 0], "without an agent");

    watched.api.deploy("overlays/uninstall").unwrap();
    let mut cleaner = kubelet.start(&watched);
    wait(&cleaner, || watched.stage.surprises(&everybody).is_empty());
    assert!(cleaner.runs().unwrap());
    assert_eq!(cleaner.stop().unwrap(), 0);
    assert!(!kubelet.volumes["bpffs"].join("enforcer").exists());
    assert_eq!(fs::read_dir(&kubelet.volumes["state"]).unwrap().count(), 0);
}

fn wait(container: &Container<'_>, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(container.runs().unwrap() && Instant::now() < end, "{}", container.log().unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
