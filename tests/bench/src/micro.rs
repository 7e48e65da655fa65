//! The data path at several scales: product and LPM variant against the floor, in turn.

use anyhow::{Result, ensure};
use enforcer_tests::packets::Packet;
use serde::Serialize;

use crate::{
    Arguments,
    case::{Case, Sources, Traffic},
    rig::{Rig, Subject},
    world::World,
};

/// One measured case; all figures are medians over rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: Case,
    /// Nanoseconds per packet of the empty program.
    pub(crate) floor_ns: f64,
    /// Nanoseconds per packet of the product.
    pub(crate) product_ns: f64,
    /// Least of each over the rounds: what a quiet machine would show.
    pub(crate) least_ns: (f64, f64),
    /// Product to floor.
    pub(crate) ratio: f64,
    /// First and third quartile of the ratio.
    pub(crate) spread: (f64, f64),
    /// LPM variant to floor; `None` where it does the same as the product.
    pub(crate) lpm_ratio: Option<f64>,
    /// Most that the ratio may be.
    pub(crate) budget: f64,
    /// Bytes of regions per range of the measured API server and the others.
    pub(crate) region_bytes: u64,
}

/// All that is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    /// Instructions that the verifier looks at, by program: what loading costs.
    pub(crate) verified: Vec<(&'static str, u32)>,
}

pub(crate) fn measure(programs: &[u8], arguments: &Arguments) -> Result<Measured> {
    let Arguments { rounds, packets, servers, ranges, .. } = arguments;
    let (mut rows, mut verified) = (Vec::new(), Vec::new());
    for servers in servers.iter().copied() {
        for ranges in ranges.iter().copied() {
            let mut rig = Rig::new(programs)?;
            verified = rig.verified()?;
            let world = World::new(servers, ranges);
            let image = rig.enforce(&world)?;
            for case in Case::at(servers, ranges) {
                let region_bytes = image.header().region_words * 8;
                rows.push(row(&mut rig, &world, case, region_bytes, *rounds, *packets)?);
            }
        }
    }
    Ok(Measured { rows, verified })
}

fn row(
    rig: &mut Rig,
    world: &World,
    case: Case,
    region_bytes: u64,
    rounds: usize,
    packets: u32,
) -> Result<Row> {
    let expected = if case.traffic == Traffic::Denied { 2 } else { -1 };
    let cold = match case.sources {
        Sources::Hot => None,
        Sources::Cold => {
            rig.set_sources(&world.sources(case, 1 << 16))?;
            Some(case.family)
        }
    };
    let judged = matches!(case.traffic, Traffic::Admitted | Traffic::Denied);
    let (mut floors, mut products, mut ratios, mut lpms) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        // Hot is one source at a time, but not one for all: where in its list a source lies matters.
        let (from, to) = world.packet(case, round as u64);
        let packet = Packet::tcp(from, to).frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        ensure!(rig.verdict(&packet)? == expected, "{case}: not the verdict to be measured");
        let floor = rig.run(Subject::Floor, cold, &packet, packets)?;
        let product = rig.run(Subject::Product, cold, &packet, packets)?;
        floors.push(floor);
        products.push(product);
        ratios.push(product / floor);
        if judged {
            lpms.push(rig.run(Subject::Lpm, cold, &packet, packets)? / floor);
        }
    }
    Ok(Row {
        case,
        floor_ns: quantile(&mut floors, 0.5),
        product_ns: quantile(&mut products, 0.5),
        least_ns: (quantile(&mut floors, 0.0), quantile(&mut products, 0.0)),
        ratio: quantile(&mut ratios, 0.5),
        spread: (quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)),
        lpm_ratio: judged.then(|| quantile(&mut lpms, 0.5)),
        budget: case.budget(),
        region_bytes,
    })
}

fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() - 1) as f64 * at).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}
