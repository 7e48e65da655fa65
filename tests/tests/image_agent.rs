//! The image on a node, with the capabilities of deploy/ and no others. Needs root and podman.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use enforcer_tests::cleanup::Scratch;
use enforcer_tests::container::{CAPABILITIES, Container, Plan, Store};
use enforcer_tests::http;
use enforcer_tests::netns::Netns;
use enforcer_tests::stage::{NODE, Stage};

const LIMIT: Duration = Duration::from_secs(30);
const LISTEN: &str = "127.0.0.1:9464";
/// Those of [`CAPABILITIES`], by their numbers in capability.h.
const BITS: u64 = 1 << 39 | 1 << 12 | 1 << 38;
const RUN: [&str; 7] =
    ["run", "--source", "manifests=/etc/enforcer", "--node", NODE, "--interfaces", "eth0"];

/// What a node has for the agent.
struct Node {
    stage: Stage,
    store: Store,
    bpffs: PathBuf,
    state: PathBuf,
    _scratch: Scratch,
}

impl Node {
    fn new() -> Node {
        let mut stage = Stage::customary().unwrap();
        stage.cluster = stage.cluster.allow(&["198.51.100.0/24", "2001:db8:51::/64"]);
        stage.publish().unwrap();
        let mut scratch = Scratch::new("image").unwrap();
        let bpffs = scratch.bpffs("bpffs").unwrap();
        let state = scratch.folder("state").unwrap();
        Node { stage, store: Store::new().unwrap(), bpffs, state, _scratch: scratch }
    }

    fn ns(&self) -> &Netns {
        &self.stage.network.node(NODE).ns
    }

    /// A container with the folders that deploy/ mounts, and manifests.
    fn container(&self) -> Plan<'_> {
        self.store
            .container(self.ns())
            .mount(&self.bpffs, "/sys/fs/bpf", "rw")
            .mount(&self.state, "/var/lib/enforcer", "rw")
            .mount(self.stage.manifests.folder(), "/etc/enforcer", "ro")
    }

    fn wait_ready(&self, container: &Container<'_>) {
        let end = Instant::now() + LIMIT;
        while !http::get(self.ns(), LISTEN.parse().unwrap(), "/readyz").is_ok_and(|a| a.0 == 200) {
            assert!(
                container.runs().unwrap() && Instant::now() < end,
                "{}",
                container.log().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_image_attaches_enforces_stops_and_cleans_up_with_three_capabilities() {
    let node = Node::new();
    let (everybody, listed) = (["listed", "unlisted"], ["listed"]);
    assert!(node.stage.surprises(&everybody).is_empty());

    let mut container = node.container().run(&RUN).unwrap();
    node.wait_ready(&container);
    let status = status_of(container.pid().unwrap().unwrap());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
        let held = u64::from_str_radix(&status[set], 16).unwrap();
        assert_eq!(held & !BITS, 0, "{set} is {held:x}");
    }
    assert_eq!(u64::from_str_radix(&status["CapEff"], 16), Ok(BITS));
    assert_eq!(status["NoNewPrivs"], "1");
    assert!(node.stage.surprises(&listed).is_empty(), "{:?}", node.stage.surprises(&listed));

    assert_eq!(container.stop().unwrap(), 0, "{}", container.log().unwrap());
    drop(container);
    assert!(node.stage.surprises(&listed).is_empty(), "nothing opens with the agent's end");

    // The next one takes over what it finds.
    let container = node.container().run(&RUN).unwrap();
    node.wait_ready(&container);
    drop(container);
    assert!(node.stage.surprises(&listed).is_empty());

    let mut cleaner = node.container().run(&["clean", "--stay"]).unwrap();
    let end = Instant::now() + LIMIT;
    while !node.stage.surprises(&everybody).is_empty() {
        assert!(Instant::now() < end, "{}", cleaner.log().unwrap());
    }
    assert!(!node.bpffs.join("enforcer").exists());
    assert_eq!(fs::read_dir(&node.state).unwrap().count(), 0);
    assert!(cleaner.runs().unwrap(), "{}", cleaner.log().unwrap());
    assert_eq!(cleaner.stop().unwrap(), 0);
}

#[test]
fn without_any_one_of_its_capabilities_the_agent_says_so_and_opens_nothing() {
    let node = Node::new();
    for capability in CAPABILITIES {
        let mut container = node.container().without(capability).run(&RUN).unwrap();
        assert_eq!(container.ended(LIMIT).unwrap(), 1, "without {capability}");
        let log = container.log().unwrap();
        assert!(log.contains("cannot go on"), "without {capability}: {log}");
    }
}

#[test]
fn the_image_holds_one_program_and_nothing_else() {
    let store = Store::new().unwrap();
    let image = store.inspect_image().unwrap();
    assert_eq!(image["Config"]["Entrypoint"], serde_json::json!(["/enforcer"]));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let ns = Netns::new("image").unwrap();
    let mut container = store.container(&ns).run(&["--version"]).unwrap();
    assert_eq!(container.ended(LIMIT).unwrap(), 0);
    let version = container.log().unwrap();
    assert_eq!(version.trim(), concat!("enforcer ", env!("CARGO_PKG_VERSION")));
}

/// The fields of `/proc/PID/status`.
fn status_of(pid: i32) -> std::collections::HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(":"));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}
