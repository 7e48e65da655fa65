//! The agent part as Markdown, plots and promises.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Measured, PROMISED, scale::Scale, stages::Stage};
use crate::{
    plot::Plot,
    target::{Target, quantile},
};

/// A table of the scales, and a line for changes without a meaning.
pub(crate) fn markdown(measured: &Measured) -> String {
    let Measured { scales, stages, churn } = measured;
    let mut text = String::from(
        "| clusters | ranges each | start to ready | list to enforced | edit to packet p50 | p99 | agent's part | \
         resident (own, program, mapped) | kernel at 64 CPUs (here) | idle |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for scale in scales {
        let Scale { clusters, ranges, ready, enforced, edits, edit_inside, resident, kernel, idle } =
            scale;
        let _ = writeln!(
            text,
            "| {clusters} | {ranges} | {ready:.0} ms | {enforced:.0} ms | {:.1} ms | {:.1} ms | {edit_inside:.1} ms | \
             {:.1} MiB ({:.1}, {:.1}, {:.1}) | {:.1} MiB ({:.1}) | {:.3} % |",
            quantile(edits, 0.5),
            quantile(edits, 0.99),
            resident.total,
            resident.anonymous,
            resident.file,
            resident.mapped,
            kernel.at_64_cpus,
            kernel.here,
            idle * 100.0,
        );
    }
    let (clusters, stages) = stages;
    let _ = writeln!(
        text,
        "\nStages of one edit among {clusters} clusters:\n\n| stage | ms |\n|---|---:|"
    );
    for Stage { name, took } in stages {
        let _ = writeln!(text, "| {name} | {took:.2} |");
    }
    text.push('\n');
    match churn {
        Ok(churn) => {
            let _ = writeln!(
                text,
                "- statuses of Clusters that change: {:.0} a second here, {:.1} µs of the agent's CPU time \
                 each, {:.2} % of a core at 1,000 a second; {:.3} % while nothing changes (API source)",
                churn.rate,
                churn.per_change,
                churn.at_1000 * 100.0,
                churn.idle * 100.0
            );
        }
        Err(why) => {
            let _ = writeln!(text, "- changes without a meaning are not measured: {why}");
        }
    }
    text
}

/// What is promised, at the scale that it is promised for.
pub(crate) fn targets(measured: &Measured) -> Vec<Target> {
    let Measured { scales, stages: _, churn } = measured;
    let at = scales.iter().find(|scale| scale.clusters == PROMISED);
    let most = |figure: &dyn Fn(&Scale) -> f64| scales.iter().map(figure).reduce(f64::max);
    let churn = churn.as_ref().ok();
    let idle = most(&|scale| scale.idle * 100.0);
    let edits = at.map(|scale| scale.edits.len()).unwrap_or_default();
    vec![
        Target::most(
            "cold start, from a finished list to enforced, 5,000 clusters",
            2_000.0,
            at.map(|scale| scale.enforced),
            "ms",
        )
        .note("from files read to the last interface guarded, loading programs included"),
        Target::most(
            "edit of one Cluster of 5,000 to the first packet judged by it, p99",
            50.0,
            at.map(|scale| quantile(&scale.edits, 0.99)),
            "ms",
        )
        .note(format!(
            "{edits} edits of a file; a file that was renamed into its place waits 5 ms for others"
        )),
        Target::most(
            "resident memory of the agent, 5,000 clusters",
            64.0,
            at.map(|scale| scale.resident.without_maps()),
            "MiB",
        )
        .note("without the kernel's maps that are mapped into it, which the next line counts"),
        Target::most(
            "kernel memory at 64 CPUs, worst of all scales",
            64.0,
            most(&|scale| scale.kernel.at_64_cpus),
            "MiB",
        )
        .note("maps and programs, per-CPU maps for 64"),
        Target::most(
            "1,000 unrelated changes a second, share of a core",
            2.0,
            churn.map(|churn| churn.at_1000 * 100.0),
            "%",
        )
        .note("statuses of Clusters through a real API server, CPU time per change times 1,000"),
        Target::most("idle, share of a core, worst of all scales", 0.1, idle, "%")
            .note("0.1 % is what is taken for not measurable"),
    ]
}

/// How time and memory grow with the clusters.
pub(crate) fn plots(measured: &Measured, out: &Path) -> Result<()> {
    let fleet = || measured.scales.iter().filter(|scale| scale.clusters > 1);
    let curve = |figure: &dyn Fn(&Scale) -> f64| -> Vec<(f64, f64)> {
        fleet().map(|scale| (scale.clusters as f64, figure(scale))).collect()
    };
    let times = BTreeMap::from([
        ("start to ready".to_owned(), curve(&|scale| scale.ready)),
        ("list to enforced".to_owned(), curve(&|scale| scale.enforced)),
        ("edit to packet, p50".to_owned(), curve(&|scale| quantile(&scale.edits, 0.5))),
        ("edit to packet, p99".to_owned(), curve(&|scale| quantile(&scale.edits, 0.99))),
        ("the agent's part of an edit".to_owned(), curve(&|scale| scale.edit_inside)),
    ]);
    let memory = BTreeMap::from([
        ("resident, own".to_owned(), curve(&|scale| scale.resident.anonymous)),
        ("resident, own and program".to_owned(), curve(&|scale| scale.resident.without_maps())),
        ("kernel at 64 CPUs".to_owned(), curve(&|scale| scale.kernel.at_64_cpus)),
    ]);
    for (name, title, y, curves) in [
        ("agent-times", "Time at fleet scale, 20 ranges a cluster", "ms", times),
        ("agent-memory", "Memory at fleet scale, 20 ranges a cluster", "MiB", memory),
    ] {
        Plot { title, x: "clusters", y, curves }.write(&out.join(format!("{name}.svg")))?;
    }
    Ok(())
}
