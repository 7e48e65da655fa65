//! Growth as SVG: one curve per name, both axes logarithmic.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// One picture.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Points by name of the curve; what is not positive has no place on such axes.
    pub(crate) curves: BTreeMap<String, Vec<(f64, f64)>>,
}

const SIZE: (u32, u32) = (840, 520);

impl Plot<'_> {
    /// Writes it; without a point there is no picture.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let points = || self.curves.values().flatten().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let (Some(x), Some(y)) =
            (around(points().map(|point| point.0)), around(points().map(|point| point.1)))
        else {
            return Ok(());
        };
        self.draw(path, x, y).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
    }

    fn draw(
        &self,
        path: &Path,
        (left, right): (f64, f64),
        (low, high): (f64, f64),
    ) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())?;
        chart.configure_mesh().x_desc(self.x).y_desc(self.y).draw()?;
        for (number, (name, points)) in self.curves.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let points = points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0);
            let curve = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
            chart.draw_series(curve)?.label(name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

/// Least and greatest, with room.
fn around(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) =
        values.fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    (high > 0.0).then_some((low * 0.7, high * 1.6))
}
