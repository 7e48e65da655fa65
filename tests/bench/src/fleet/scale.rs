//! One scale: a folder of manifests, a cold start, edits of one cluster among all, rest.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use enforcer_tests::{
    agent::{Agent, Installation},
    kube,
    latency::{first_arrival, last_arrival},
    pairs::{Lane, PairStream},
    stage::{MANIFEST, Stage},
};
use serde::Serialize;

use super::{
    objects,
    process::{KernelMemory, Resident, cpu_time},
};

/// The measured cluster's own file.
const EDITED: &str = "c1.yaml";
const LIMIT: Duration = Duration::from_secs(120);
/// Pairs of SYNs a second while edits are made.
const RATE: u32 = 4_000;
/// Until buffers of the start are given back.
const SETTLE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(5);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const UNLISTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:113::/64"];

/// What was measured at one scale; times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Scale {
    pub(crate) clusters: usize,
    /// Of each cluster.
    pub(crate) ranges: usize,
    /// From the process's start to readiness, reading all files included.
    pub(crate) ready: f64,
    /// From the finished list to the last interface guarded, as the log says.
    pub(crate) enforced: f64,
    /// From the write of the file to the first packet that is judged by it, each.
    pub(crate) edits: Vec<f64>,
    /// The agent's own part of the last edit: from the objects to the kernel.
    pub(crate) edit_inside: f64,
    pub(crate) resident: Resident,
    pub(crate) kernel: KernelMemory,
    /// Share of one CPU while nothing happens.
    pub(crate) idle: f64,
}

pub(crate) fn measure(clusters: usize, ranges: usize, edits: usize) -> Result<Scale> {
    let mut stage = Stage::customary()?;
    fill(&stage, clusters, ranges)?;
    publish(&mut stage, &LISTED)?;
    // The pods of the fleet lie in no Node's range.
    let installation = stage.installation()?.arguments(&[
        "--exempt",
        "10.201.0.0/16",
        "--max-ranges-per-cluster",
        "200000",
    ]);
    let mut agent = installation.launch()?;
    let ready = agent.wait_ready(LIMIT)?;
    let enforced = from_list_to_enforced(&agent)?;
    let guarded = agent.metric("enforcer_guarded_clusters", &[])?;
    anyhow::ensure!(guarded > clusters as f64, "{guarded} of {clusters} clusters are guarded");

    let took = edit(&mut stage, edits)?;
    let edit_inside = agent.metric("enforcer_last_change_duration_seconds", &[])? * 1e3;
    let pid = agent.pid().context("the agent has ended")?;
    std::thread::sleep(SETTLE);
    let before = cpu_time(pid)?;
    std::thread::sleep(IDLE);
    let idle = (cpu_time(pid)? - before).as_secs_f64() / IDLE.as_secs_f64();
    Ok(Scale {
        clusters,
        ranges,
        ready: milliseconds(ready),
        enforced: milliseconds(enforced),
        edits: took.into_iter().map(milliseconds).collect(),
        edit_inside,
        resident: Resident::of(pid)?,
        kernel: memory(&installation)?,
        idle,
    })
}

fn memory(installation: &Installation) -> Result<KernelMemory> {
    KernelMemory::below(installation.bpffs())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// One file per cluster; nodes and seed in one of their own.
fn fill(stage: &Stage, clusters: usize, ranges: usize) -> Result<()> {
    let nodes = stage.network.nodes().map(|(name, node)| kube::node(name, node));
    let mut common: Vec<_> = nodes.collect();
    common.push(stage.seed.object());
    stage.manifests.put(MANIFEST, &common)?;
    for number in 0..clusters {
        let file = format!("{}.yaml", objects::name(number));
        stage.manifests.put(&file, &objects::all(number, ranges))?;
    }
    Ok(())
}

fn publish(stage: &mut Stage, ranges: &[&str]) -> Result<()> {
    stage.cluster = stage.cluster.clone().allow(ranges);
    stage.manifests.put(EDITED, &stage.cluster.objects())
}

/// Edits c1 again and again: a client is admitted, and no longer, in turn.
fn edit(stage: &mut Stage, edits: usize) -> Result<Vec<Duration>> {
    let network = &stage.network;
    let stream = PairStream::start(
        Lane::new(network.host("listed"), stage.frontend("VIP", false)),
        Lane::new(network.host("unlisted"), stage.frontend("bypass nodePort", true)),
        &[network.pod("apiserver"), network.pod("envoy")],
        RATE,
    )?;
    let mut took = Vec::new();
    for number in 0..edits {
        let admit = number % 2 == 0;
        let ranges = if admit { [LISTED, UNLISTED].concat() } else { LISTED.to_vec() };
        let before = stream.progress().1;
        let written = Instant::now();
        publish(stage, &ranges)?;
        took.push(if admit {
            first_arrival(&stream, before, written, LIMIT)
        } else {
            last_arrival(&stream, written, LIMIT)
        });
    }
    let pairs = stream.stop()?;
    anyhow::ensure!(pairs.sniffer_drops == 0, "the harness lost packets: {pairs}");
    Ok(took)
}

/// The time between two lines of the log.
fn from_list_to_enforced(agent: &Agent) -> Result<Duration> {
    let log = agent.log();
    let at = |words: &[&str]| -> Result<jiff::Timestamp> {
        let line = log.lines().rfind(|line| words.iter().any(|words| line.contains(words)));
        let line = line.with_context(|| format!("the agent has not said {words:?}"))?;
        let stamp = line.split_whitespace().next().unwrap_or_default();
        stamp.parse().with_context(|| format!("no time in {line:?}"))
    };
    // Few interfaces are guarded at once, and nothing is said of it.
    let done = at(&["image in force", "programs are attached"])?;
    let took = done.duration_since(at(&["the source is open"])?);
    Ok(took.unsigned_abs())
}
