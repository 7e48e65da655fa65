//! The macro part as Markdown, plots and promises.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Figure, Measured, Row, filter::Filter};
use crate::{
    plot::Plot,
    target::{Spread, Target},
};

/// Tables, one for each number of ranges.
pub(crate) fn markdown(measured: &Measured) -> String {
    let Measured { rows, rounds } = measured;
    let mut text = format!(
        "Medians of {rounds} rounds. Ratios are made within a round and have their quartiles: of \
         throughput and connections to no filter, of a denied SYN to a TC program that drops everything.\n"
    );
    let mut last = None;
    for row in rows {
        if last.replace(row.ranges) != Some(row.ranges) {
            let _ = write!(
                text,
                "\n{} ranges:\n\n\
                 | filter | Gbit/s | ratio | Gbit/s without GSO | ratio | connections/s | ratio | ns CPU per denied SYN | ratio | to kube-proxy | loaded in |\n\
                 |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
                row.ranges
            );
        }
        line(&mut text, row);
    }
    text
}

fn line(text: &mut String, row: &Row) {
    let Row { filter, figures, ratios, left_out, loaded_in, to_kube_proxy, .. } = row;
    if let Some(why) = left_out {
        let _ = writeln!(text, "| {filter} | left out: {why} | | | | | | | | | |");
        return;
    }
    let figure = |which, scale: f64, digits: usize| {
        let figure: Option<&Spread> = figures.get(&which);
        figure.map_or_else(String::new, |spread| format!("{:.digits$}", spread.median * scale))
    };
    let ratio = |which| ratios.get(&which).map_or_else(String::new, short);
    let _ = writeln!(
        text,
        "| {filter} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {loaded_in:.2} s |",
        figure(Figure::Throughput, 8e-9, 2),
        ratio(Figure::Throughput),
        figure(Figure::ThroughputWithoutGso, 8e-9, 2),
        ratio(Figure::ThroughputWithoutGso),
        figure(Figure::Connections, 1.0, 0),
        ratio(Figure::Connections),
        figure(Figure::DeniedSyn, 1.0, 0),
        ratio(Figure::DeniedSyn),
        to_kube_proxy.as_ref().map_or_else(String::new, short),
    );
}

fn short(spread: &Spread) -> String {
    let Spread { median, quartiles: (low, high) } = spread;
    format!("{median:.3} ({low:.3} to {high:.3})")
}

/// What the issue promises, at the worst number of ranges.
pub(crate) fn targets(measured: &Measured) -> Vec<Target> {
    let ours: Vec<&Row> = measured.rows.iter().filter(|row| row.filter == Filter::Ours).collect();
    let ratios = |figure, at: &dyn Fn(usize) -> bool| -> Vec<f64> {
        let rows = ours.iter().filter(|row| at(row.ranges));
        rows.filter_map(|row| Some(row.ratios.get(&figure)?.median)).collect()
    };
    let least = |figure| ratios(figure, &|_| true).into_iter().reduce(f64::min);
    let most =
        |at: &dyn Fn(usize) -> bool| ratios(Figure::DeniedSyn, at).into_iter().reduce(f64::max);
    let to_kube_proxy = ours.iter().filter_map(|row| Some(row.to_kube_proxy?.median));
    let error = |figure| {
        let rows = measured.rows.iter().filter(|row| row.filter == Filter::NoneAgain);
        let least = rows.filter_map(|row| Some(row.ratios.get(&figure)?.median)).reduce(f64::min);
        let least = least.unwrap_or(f64::NAN);
        format!("worst of all range counts; no filter against itself: {least:.3}")
    };
    let mut targets = Vec::new();
    for (line, figure) in [
        ("throughput to no filter, with GSO", Figure::Throughput),
        ("throughput to no filter, without GSO", Figure::ThroughputWithoutGso),
        ("connection rate to no filter", Figure::Connections),
    ] {
        targets.push(Target::least(line, 0.98, least(figure), "").note(error(figure)));
    }
    let few = most(&|ranges| ranges < 100_000);
    let many = most(&|ranges| ranges >= 100_000);
    targets.extend([
        Target::most("CPU per denied SYN to a TC program that drops all", 1.1, few, "")
            .note("worst of all range counts below 100,000"),
        Target::most("the same at 100,000 ranges", 1.25, many, ""),
        Target::most(
            "CPU per denied SYN to kube-proxy's set",
            0.5,
            to_kube_proxy.reduce(f64::max),
            "",
        )
        .note("worst of all range counts"),
    ]);
    targets
}

/// How each figure grows with the ranges.
pub(crate) fn plots(measured: &Measured, out: &Path) -> Result<()> {
    for (name, title, y, figure, scale) in [
        ("macro-denied", "CPU per denied SYN", "ns", Figure::DeniedSyn, 1.0),
        (
            "macro-connections",
            "Connections, one after the other",
            "a second",
            Figure::Connections,
            1.0,
        ),
        (
            "macro-throughput",
            "One connection without GSO",
            "Gbit/s",
            Figure::ThroughputWithoutGso,
            8e-9,
        ),
    ] {
        let mut curves = BTreeMap::new();
        for row in measured.rows.iter().filter(|row| row.left_out.is_none()) {
            if let Some(spread) = row.figures.get(&figure) {
                let points: &mut Vec<_> = curves.entry(row.filter.to_string()).or_default();
                points.push((row.ranges as f64, spread.median * scale));
            }
        }
        Plot { title, x: "ranges of one API server", y, curves }
            .write(&out.join(format!("{name}.svg")))?;
    }
    Ok(())
}
