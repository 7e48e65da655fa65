//! Figures as Markdown, and which budgets they miss.

use std::fmt::Write as _;

use enforcer_ebpf::abi::{Counters, Policy};

use crate::{
    case::{Case, Family, Sources, Traffic},
    micro::{Measured, Row},
    target::Target,
};

/// Denied packets may cost this much more than admitted ones.
const DENIED: f64 = 1.4;
/// Hot packets may cost this much more at any scale than at the smallest.
const FLAT: f64 = 1.15;

pub(crate) fn markdown(measured: &Measured) -> String {
    let Measured { rows, verified } = measured;
    let mut text = String::from(
        "| API servers | ranges | packets | floor ns | product ns | ratio (quartiles) | LPM ratio | budget | |\n\
         |---:|---:|---|---:|---:|---:|---:|---:|---|\n",
    );
    for row in rows {
        let Case { servers, ranges, family, traffic, sources } = row.case;
        let lpm = row.lpm_ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| {servers} | {ranges} | {family:?} {traffic:?} {sources:?} | {:.1} | {:.1} | {:.2} ({:.2} to {:.2}) | {lpm} | {:.2} | {} |",
            row.floor_ns,
            row.product_ns,
            row.ratio,
            row.spread.0,
            row.spread.1,
            row.budget,
            if row.ratio <= row.budget { "met" } else { "**over**" },
        );
    }
    text.push('\n');
    for (name, worst, budget) in relations(rows) {
        let met = if worst <= budget { "met" } else { "**over**" };
        let _ = writeln!(text, "- {name}: {worst:.2}, budget {budget:.2}, {met}");
    }
    stages(&mut text, rows);
    memory(&mut text, rows);
    for (program, count) in verified {
        let _ = writeln!(text, "- verified instructions of {program}: {count}");
    }
    text
}

/// Every budget, with the worst figure of all scales.
pub(crate) fn targets(rows: &[Row]) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for row in rows {
        let Case { family, traffic, sources, servers, ranges } = row.case;
        let line = format!("{family:?} {traffic:?} {sources:?}, to an empty program");
        let worst = Target::most(&line, row.budget, Some(row.ratio), "")
            .note(format!("{ranges} ranges, {servers} API servers, the worst of all scales"));
        let same = |target: &&mut Target| target.line == line && target.is_for(row.budget);
        match targets.iter_mut().find(same) {
            Some(known) if known.measured < worst.measured => *known = worst,
            Some(_) => {}
            None => targets.push(worst),
        }
    }
    let relations = relations(rows).into_iter();
    targets.extend(relations.map(|(name, worst, budget)| {
        Target::most(name, budget, Some(worst), "").note("ratios of one run")
    }));
    targets
}

/// Budgets that the figures miss by more than the margin.
pub(crate) fn missed(rows: &[Row], margin: f64) -> Vec<String> {
    let cases = rows
        .iter()
        .filter(|row| row.ratio > row.budget * margin)
        .map(|row| format!("{}: {:.2} > {:.2}", row.case, row.ratio, row.budget));
    let relations = relations(rows)
        .into_iter()
        .filter(|(_, worst, budget)| *worst > budget * margin)
        .map(|(name, worst, budget)| format!("{name}: {worst:.2} > {budget:.2}"));
    cases.chain(relations).collect()
}

/// Budgets between cases: name, worst figure, budget.
fn relations(rows: &[Row]) -> Vec<(&'static str, f64, f64)> {
    let like = |row: &Row, change: &dyn Fn(&mut Case)| {
        let mut case = row.case;
        change(&mut case);
        rows.iter().find(|other| other.case == case)
    };
    let denied = rows.iter().filter(|row| row.case.traffic == Traffic::Denied).filter_map(|row| {
        let admitted = like(row, &|case| case.traffic = Traffic::Admitted)?;
        Some(row.product_ns / admitted.product_ns)
    });
    let hot = |row: &&Row| row.case.sources == Sources::Hot;
    let flat = rows.iter().filter(hot).filter_map(|row| {
        let smallest = like(row, &|case| (case.servers, case.ranges) = (1, 10))?;
        Some(row.ratio / smallest.ratio)
    });
    let denied = ("denied to admitted, worst", denied.reduce(f64::max), DENIED);
    let flat = (
        "hot at any scale to hot at 10 ranges and 1 API server, worst",
        flat.reduce(f64::max),
        FLAT,
    );
    // Without the other case there is nothing to compare, and nothing that is met.
    [denied, flat]
        .into_iter()
        .filter_map(|(name, worst, budget)| Some((name, worst?, budget)))
        .collect()
}

/// What each stage of a packet's way adds, as the difference between packets that leave before and
/// after it, at the smallest scale.
fn stages(text: &mut String, rows: &[Row]) {
    for family in [Family::V4, Family::V6] {
        let over = |traffic| {
            let row = rows.iter().find(|row| {
                let Case { family: of, traffic: is, sources, .. } = row.case;
                of == family && is == traffic && sources == Sources::Hot
            })?;
            Some(row.product_ns - row.floor_ns)
        };
        let ways = [Traffic::Unguarded, Traffic::OtherAddress, Traffic::Admitted, Traffic::Denied];
        let [Some(parse), Some(frontend), Some(admitted), Some(denied)] = ways.map(over) else {
            continue;
        };
        let _ = writeln!(
            text,
            "- stages, {family:?}, ns: parser and port {parse:.1}, frontend and node address {:+.1}, \
             policy, list and counters {:+.1}, exemptions and a second counter {:+.1}",
            frontend - parse,
            admitted - frontend,
            denied - admitted,
        );
    }
}

fn memory(text: &mut String, rows: &[Row]) {
    let at = |servers, ranges| {
        let row = rows.iter().find(|row| row.case.servers == servers && row.case.ranges == ranges);
        row.map(|row| row.region_bytes as f64)
    };
    if let (Some(few), Some(many)) = (at(1, 10), at(1, 100_000)) {
        let _ = writeln!(
            text,
            "- memory per pair of ranges, one IPv4 and one IPv6: {:.1} bytes",
            (many - few) / 99_990.0
        );
    }
    if let (Some(one), Some(many)) = (at(1, 10), at(10_000, 10)) {
        let _ = writeln!(
            text,
            "- memory per API server with 20 ranges of each family: {:.0} bytes of lists, {} of policy, {} per CPU of counters, 8 per frontend",
            (many - one) / 9_999.0,
            size_of::<Policy>(),
            size_of::<Counters>(),
        );
    }
}
