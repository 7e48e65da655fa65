//! What the project has promised, line by line, and what was measured.
//!
//! Input: figures of the parts. Output: the table that a run ends with. Invariant: a line that was
//! not measured is not met.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One promise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// What is promised.
    pub(crate) line: String,
    /// The bound.
    pub(crate) bound: Bound,
    /// What was measured; `None` where the machine lacks what measuring it takes.
    pub(crate) measured: Option<f64>,
    /// Unit, or nothing for a ratio.
    pub(crate) unit: String,
    /// Where and how, in a few words.
    pub(crate) note: String,
}

/// A bound.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// At most.
    Most(f64),
    /// At least.
    Least(f64),
}

impl Target {
    /// At most `bound`.
    pub(crate) fn most(line: &str, bound: f64, measured: Option<f64>, unit: &str) -> Self {
        Self::new(line, Bound::Most(bound), measured, unit)
    }

    /// At least `bound`.
    pub(crate) fn least(line: &str, bound: f64, measured: Option<f64>, unit: &str) -> Self {
        Self::new(line, Bound::Least(bound), measured, unit)
    }

    fn new(line: &str, bound: Bound, measured: Option<f64>, unit: &str) -> Self {
        // NaN is what a median of nothing is.
        let measured = measured.filter(|figure| figure.is_finite());
        Self { line: line.into(), bound, measured, unit: unit.into(), note: String::new() }
    }

    /// Says where and how.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether this is its bound.
    pub(crate) fn is_for(&self, wanted: f64) -> bool {
        let (Bound::Most(bound) | Bound::Least(bound)) = self.bound;
        (bound - wanted).abs() < f64::EPSILON
    }

    /// Whether it holds, if it was measured.
    pub(crate) fn met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.bound {
            Bound::Most(bound) => measured <= bound,
            Bound::Least(bound) => measured >= bound,
        })
    }
}

/// The table of all promises.
pub(crate) fn table(targets: &[Target]) -> String {
    let mut text = String::from(
        "| promise | target | measured | | how |\n\
         |---|---:|---:|---|---|\n",
    );
    for target in targets {
        let Target { line, bound, measured, unit, note } = target;
        let (sign, bound) = match bound {
            Bound::Most(bound) => ("≤", bound),
            Bound::Least(bound) => ("≥", bound),
        };
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let figure = measured.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}{unit}"));
        let met = match target.met() {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "**not measured**",
        };
        let _ = writeln!(text, "| {line} | {sign} {bound}{unit} | {figure} | {met} | {note} |");
    }
    text
}

/// A value of a list, sorted on the way: 0.5 is the median, 0 the least.
pub(crate) fn quantile(values: &[f64], at: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = (values.len().saturating_sub(1) as f64 * at).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

/// Median and quartiles.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) quartiles: (f64, f64),
}

impl Spread {
    /// Of a list that may be in any order; NaN of an empty one.
    pub(crate) fn of(values: &[f64]) -> Self {
        let quartiles = (quantile(values, 0.25), quantile(values, 0.75));
        Self { median: quantile(values, 0.5), quartiles }
    }
}
