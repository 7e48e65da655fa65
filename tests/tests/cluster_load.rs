//! What one agent costs the API of a seed with 2,000 clusters, and what one edit costs there. Needs
//! root; takes some minutes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use enforcer_tests::addresses::CONTROL_PLANE;
use enforcer_tests::control_plane::PORT;
use enforcer_tests::fleet;
use enforcer_tests::http::samples;
use enforcer_tests::stage::NODE;
use enforcer_tests::watched::{Flow, Meter, Watched};
use serde_json::{Value, json};

const CLUSTERS: usize = 2_000;
const WRITERS: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes that a Cluster of a real seed has besides what the stage writes, most of it conditions and
/// what kubectl applied last.
const REAL_SIZE: usize = 7_000;
/// Status updates of which the cost of one is measured.
const UPDATES: usize = 300;
/// Without any change.
const IDLE: Duration = Duration::from_secs(60);
/// Status updates of one Cluster in an ordinary hour.
const UPDATES_AN_HOUR: u64 = 6;
const AGENTS: u64 = 100;
/// Everything that an agent lists.
const RESOURCES: [&str; 8] = [
    "clusters",
    "clustertemplates",
    "endpointslices",
    "namespaces",
    "nodes",
    "pods",
    "seeds",
    "services",
];

#[test]
fn two_thousand_clusters_are_read_once_and_an_edit_of_one_of_them_is_enforced_soon() {
    let watched = Watched::customary().unwrap();
    let begin = Instant::now();
    load(&watched);
    println!("{CLUSTERS} clusters written in {:?}", begin.elapsed());

    let node = &watched.stage.network.node(NODE).ns;
    let meter = Meter::start(node, SocketAddr::new(CONTROL_PLANE.v4.into(), PORT)).unwrap();
    let kubeconfig = watched.write_kubeconfig().unwrap();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let through = text.replace(&watched.api.url(), &format!("https://{}", Meter::AT));
    assert_ne!(text, through);
    std::fs::write(&kubeconfig, through).unwrap();
    let installation = watched.installation_with(NODE, &kubeconfig).unwrap();
    // The pods of the clusters that are loaded lie in no Node's range.
    let installation = installation.arguments(&["--exempt", "10.201.0.0/16"]);

    let lists = requests(&watched, "LIST");
    let mut agent = installation.launch().unwrap();
    let took = agent.wait_ready(LIMIT).unwrap();
    let start = meter.flow();
    let lists = requests(&watched, "LIST") - lists;
    println!("start: ready after {took:?}, {lists} lists, {start:?}");
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0, "{}", agent.log());
    assert!(agent.metric("enforcer_guarded_clusters", &[]).unwrap() >= CLUSTERS as f64);
    assert!(lists < 60.0, "{lists} lists");

    let before = meter.flow();
    std::thread::sleep(IDLE);
    let idle = meter.flow() - before;
    println!("idle: {idle:?} in {IDLE:?}");

    let said = agent.said("image in force");
    let before = meter.flow();
    let admin = watched.admin().unwrap();
    for number in 0..UPDATES {
        let mut cluster = cluster(number);
        cluster["status"]["phase"] = if number % 2 == 0 { "Updating" } else { "Running" }.into();
        admin.put(&cluster).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    let churn = meter.flow() - before;
    println!("{UPDATES} updates of Clusters: {churn:?}");
    assert_eq!(agent.said("image in force"), said, "an update of a status is no new image");

    // Of the two writes that `put` makes, the first changes nothing and is no event.
    let an_event = churn.down / UPDATES as u64;
    let hour = idle.down * 3600 / IDLE.as_secs() + an_event * CLUSTERS as u64 * UPDATES_AN_HOUR;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "one agent: {:.1} MiB at start, {:.1} MiB an hour; {AGENTS} agents: {:.0} MiB, {:.0} MiB an hour",
        mib(start.down),
        mib(hour),
        mib(start.down * AGENTS),
        mib(hour * AGENTS),
    );
    let Flow { connections, .. } = start;
    assert!(connections <= 26, "{connections} connections");

    let mut took = Vec::new();
    for number in 0..20 {
        let mut cluster = cluster(number);
        let range = format!("100.64.{number}.0/24");
        cluster["spec"]["apiServerAllowedIPRanges"]["cidrBlocks"] = json!([range]);
        took.push(agent.enforces(|| admin.put(&cluster)).unwrap());
    }
    took.sort();
    println!(
        "one edit among {CLUSTERS}, from before the write to the image in force: p50 {:?}, max {:?}; \
         the agent's part {:.1} ms",
        took[took.len() / 2],
        took[took.len() - 1],
        agent.metric("enforcer_last_change_duration_seconds", &[]).unwrap() * 1e3,
    );
    assert!(took[took.len() / 2] < Duration::from_secs(1), "{took:?}");
    let resident = resident(agent.pid().unwrap());
    println!("resident memory: {:.0} MiB", mib(resident));
}

/// Requests that the API server has answered for what an agent reads.
fn requests(watched: &Watched, verb: &str) -> f64 {
    let page = watched.api.kubectl(&["get", "--raw=/metrics"]).unwrap();
    let of = |resource: &&str| {
        samples(&page, "apiserver_request_total", &[("verb", verb), ("resource", *resource)])
    };
    RESOURCES.iter().flat_map(of).sum()
}

fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Writes all clusters, with several connections at once.
fn load(watched: &Watched) {
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let admin = watched.admin().unwrap();
                for number in (writer..CLUSTERS).step_by(WRITERS) {
                    for object in objects(number) {
                        admin.put(&object).unwrap();
                    }
                }
            });
        }
    });
}

fn name(number: usize) -> String {
    format!("load{number:04}")
}

fn objects(number: usize) -> Vec<Value> {
    fleet::objects(&name(number), number, &ranges(number), REAL_SIZE)
}

fn cluster(number: usize) -> Value {
    fleet::cluster(&name(number), number, &ranges(number), REAL_SIZE)
}

fn ranges(number: usize) -> [String; 2] {
    let (high, low) = (number / 250, number % 250);
    ["198.51.100.0/24".to_owned(), format!("172.{}.{low}.0/24", 16 + high)]
}
