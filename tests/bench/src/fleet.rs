//! `--part agent`: the real agent at fleet scale.
//!
//! Input: arguments. Output: start, edits, memory and CPU at several numbers of clusters, with the
//! manifests source (a folder with one file per cluster), and what changes that mean nothing cost
//! with the seed's API as source.

mod churn;
mod objects;
mod process;
pub(crate) mod report;
mod scale;
mod stages;

use anyhow::Result;
use serde::Serialize;

pub(crate) use self::process::cpu_time;
use self::{churn::Churn, scale::Scale, stages::Stage};
use crate::Arguments;

/// Ranges of every cluster.
const RANGES: usize = 20;
/// The scale of the promises.
pub(crate) const PROMISED: usize = 5_000;

/// All that is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) scales: Vec<Scale>,
    /// Of one edit at the largest number of clusters up to that of the promises.
    pub(crate) stages: (usize, Vec<Stage>),
    /// Why changes were not measured, or what they cost.
    pub(crate) churn: Result<Churn, String>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Measured> {
    let most = arguments.clusters.iter().copied().filter(|clusters| *clusters <= PROMISED).max();
    let most = most.unwrap_or(PROMISED);
    eprintln!("agent: stages of an edit at {most} clusters");
    let stages = (most, stages::measure(most, RANGES, arguments.rounds)?);
    let mut scales = Vec::new();
    for clusters in &arguments.clusters {
        let edits = if *clusters == PROMISED { arguments.edits() } else { arguments.rounds };
        eprintln!("agent: {clusters} clusters of {RANGES} ranges");
        scales.push(scale::measure(*clusters, RANGES, edits)?);
    }
    if let Some(most) = arguments.ranges.iter().copied().max() {
        eprintln!("agent: one cluster of {most} ranges");
        scales.push(scale::measure(1, most, arguments.rounds)?);
    }
    let churn = match std::env::var_os("ENFORCER_CONTROL_PLANE") {
        Some(folder) if std::path::Path::new(&folder).join("kube-apiserver").exists() => {
            eprintln!("agent: changes that mean nothing");
            Ok(churn::measure()?)
        }
        Some(_) | None => Err("no API server here: cargo xtask control-plane builds it".to_owned()),
    };
    Ok(Measured { scales, stages, churn })
}
