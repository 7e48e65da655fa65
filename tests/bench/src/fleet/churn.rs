//! Changes that mean nothing: what they cost an agent that reads a real API server.
//!
//! Statuses of Clusters change, the dearest of all changes without a meaning: a Cluster is watched
//! and large. The API server of this machine does not make 1,000 a second, so the figure is CPU time
//! per change, times 1,000.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use enforcer_tests::{stage::NODE, watched::Watched};
use serde::Serialize;

use super::{objects, process::cpu_time};

const CLUSTERS: usize = 200;
const WRITERS: usize = 4;
const SPAN: Duration = Duration::from_secs(6);
const IDLE: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);
/// Until the last event has come.
const DRAIN: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Churn {
    /// Changes a second that the API server made.
    pub(crate) rate: f64,
    /// CPU time of the agent per change, in microseconds, rest taken away.
    pub(crate) per_change: f64,
    /// Share of one CPU at 1,000 changes a second.
    pub(crate) at_1000: f64,
    /// Share of one CPU while nothing changes.
    pub(crate) idle: f64,
}

pub(crate) fn measure() -> Result<Churn> {
    let watched = Watched::customary()?;
    let admin = watched.admin()?;
    for number in 0..CLUSTERS {
        objects::all(number, super::RANGES).iter().try_for_each(|object| admin.put(object))?;
    }
    let installation = watched.installation_on(NODE)?;
    let installation = installation.arguments(&["--exempt", "10.201.0.0/16"]);
    let mut agent = installation.launch()?;
    agent.wait_ready(LIMIT)?;
    let pid = agent.pid().context("the agent has ended")?;
    thread::sleep(Duration::from_secs(2));
    let before = cpu_time(pid)?;
    thread::sleep(IDLE);
    let idle = (cpu_time(pid)? - before).as_secs_f64() / IDLE.as_secs_f64();

    let said = agent.said("image in force");
    let (before, begin) = (cpu_time(pid)?, Instant::now());
    let changes = write(&watched)?;
    let took = begin.elapsed().as_secs_f64();
    thread::sleep(DRAIN);
    let worked = (cpu_time(pid)? - before).as_secs_f64() - idle * begin.elapsed().as_secs_f64();
    ensure!(agent.said("image in force") == said, "a status is no new image");
    let per_change = worked.max(0.0) / changes as f64;
    Ok(Churn {
        rate: changes as f64 / took,
        per_change: per_change * 1e6,
        at_1000: per_change * 1e3,
        idle,
    })
}

/// Changes statuses from several connections; how many.
fn write(watched: &Watched) -> Result<u64> {
    let changes = AtomicU64::new(0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let changes = &changes;
                scope.spawn(move || -> Result<()> {
                    let (admin, begin) = (watched.admin()?, Instant::now());
                    for turn in 0_usize.. {
                        if begin.elapsed() > SPAN {
                            break;
                        }
                        let at = writer + turn * WRITERS;
                        let mut cluster = objects::cluster(at % CLUSTERS, super::RANGES);
                        // Different from the last of this cluster each time.
                        let phase = ["Updating", "Running"][at / CLUSTERS % 2];
                        cluster["status"]["phase"] = phase.into();
                        admin.put(&cluster)?;
                        changes.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().map_err(|_| anyhow!("a writer panicked"))?)
    })?;
    Ok(changes.into_inner())
}
