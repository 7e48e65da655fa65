//! `--part macro`: whole connections through a node, beside what users would otherwise run.
//!
//! Input: arguments. Output: throughput, connection rate and the cost of a denied SYN, for every
//! filter at every number of ranges. Each filter has a bed of its own (client host, node, server
//! behind it, in namespaces) and all beds exist at once, so that rounds alternate between them without
//! loading anything; ratios are made within a round. A second bed without a filter shows what
//! a difference of no filter at all looks like on this machine.

mod bed;
mod cpu;
mod filter;
mod flood;
mod kube_proxy;
mod load;
mod ranges;
pub(crate) mod report;
pub(crate) mod told;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::Serialize;

use self::{
    bed::Bed,
    cpu::{Clock, Pinned},
    filter::{FILTERS, Filter},
    flood::Flood,
    ranges::Ranges,
};
use crate::{Arguments, target::Spread};

/// What is measured in every bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Figure {
    /// Bytes of one connection, large segments, for a second of CPU.
    Throughput,
    /// The same with one packet per segment.
    ThroughputWithoutGso,
    /// Connections for a second of CPU, one after the other: handshake, a byte each way, end.
    Connections,
    /// Nanoseconds of CPU per denied SYN, without the sender's part.
    DeniedSyn,
}

const FIGURES: [Figure; 4] =
    [Figure::Throughput, Figure::ThroughputWithoutGso, Figure::Connections, Figure::DeniedSyn];

/// All figures of one filter at one number of ranges.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) filter: Filter,
    pub(crate) ranges: usize,
    /// Why this filter is not there.
    pub(crate) left_out: Option<String>,
    /// Absolute figures.
    pub(crate) figures: BTreeMap<Figure, Spread>,
    /// To no filter in the same round; of a denied SYN: to a TC program that drops everything.
    pub(crate) ratios: BTreeMap<Figure, Spread>,
    /// Of a denied SYN: to the set of kube-proxy in the same round.
    pub(crate) to_kube_proxy: Option<Spread>,
    /// Seconds that loading the ranges took.
    pub(crate) loaded_in: f64,
}

/// All that is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: usize,
}

/// One figure of one bed in one round; NaN where it is not measured.
type Samples = BTreeMap<(Figure, Filter), Vec<f64>>;

/// How long one figure is taken.
const SPAN: Duration = Duration::from_millis(150);

pub(crate) fn measure(programs: &[u8], arguments: &Arguments) -> Result<Measured> {
    let rounds = arguments.wire_rounds();
    let mut beds = Vec::new();
    for filter in FILTERS {
        beds.push(Bed::new(filter, programs)?);
    }
    let mut rows = Vec::new();
    for count in arguments.wire_ranges() {
        let ranges = Ranges::new(count);
        eprintln!("macro: {count} ranges");
        for bed in &mut beds {
            bed.load(&ranges)?;
        }
        let samples = rounds_of(&mut beds, &ranges, rounds)?;
        rows.extend(beds.iter().map(|bed| row(bed, count, &samples)));
    }
    Ok(Measured { rows, rounds })
}

fn rounds_of(beds: &mut [Bed], ranges: &Ranges, rounds: usize) -> Result<Samples> {
    let mut samples = Samples::new();
    let mut floods = Vec::new();
    for bed in beds.iter() {
        floods.push(Flood::new(bed, ranges)?);
    }
    let _pinned = Pinned::new()?;
    let clock = Clock::new()?;
    for round in 0..rounds {
        // One figure of all beds, then the next: what is compared is measured within a second.
        for figure in FIGURES {
            for turn in 0..beds.len() {
                // Whoever comes first is another one each time.
                let at = (round + turn) % beds.len();
                let (Some(bed), Some(flood)) = (beds.get(at), floods.get_mut(at)) else { continue };
                if let Some(value) = once(bed, flood, figure, &clock)? {
                    samples.entry((figure, bed.filter)).or_default().push(value);
                }
            }
        }
    }
    Ok(samples)
}

fn once(bed: &Bed, flood: &mut Flood, figure: Figure, clock: &Clock) -> Result<Option<f64>> {
    let has = match figure {
        Figure::Throughput | Figure::ThroughputWithoutGso | Figure::Connections => {
            bed.filter.admits()
        }
        Figure::DeniedSyn => bed.filter.denies(),
    };
    if bed.left_out.is_some() || !has {
        return Ok(None);
    }
    Ok(Some(match figure {
        Figure::Throughput => load::throughput(bed, clock, true, SPAN)?,
        Figure::ThroughputWithoutGso => load::throughput(bed, clock, false, SPAN)?,
        Figure::Connections => load::connections(bed, clock, SPAN)?,
        Figure::DeniedSyn => flood.nanoseconds(clock, SPAN)?,
    }))
}

fn row(bed: &Bed, ranges: usize, samples: &Samples) -> Row {
    let filter = bed.filter;
    let (mut figures, mut ratios) = (BTreeMap::new(), BTreeMap::new());
    let of = |figure, filter| samples.get(&(figure, filter));
    for figure in FIGURES {
        let base = if figure == Figure::DeniedSyn { Filter::DropAll } else { Filter::None };
        let Some(mine) = of(figure, filter) else { continue };
        figures.insert(figure, Spread::of(mine));
        if let Some(base) = of(figure, base) {
            ratios.insert(figure, quotient(mine, base));
        }
    }
    let denied = of(Figure::DeniedSyn, filter).zip(of(Figure::DeniedSyn, Filter::KubeProxy));
    Row {
        filter,
        ranges,
        left_out: bed.left_out.clone(),
        figures,
        ratios,
        to_kube_proxy: denied.map(|(mine, base)| quotient(mine, base)),
        loaded_in: bed.loaded_in.as_secs_f64(),
    }
}

/// Round by round.
fn quotient(mine: &[f64], base: &[f64]) -> Spread {
    Spread::of(&mine.iter().zip(base).map(|(mine, base)| mine / base).collect::<Vec<_>>())
}
