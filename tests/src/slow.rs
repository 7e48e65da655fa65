//! Tests where everything takes ten times as long: in virtual machines that are emulated (tier `kernels`).
//!
//! Input: two variables of the environment. Output: counts and limits of tests, as usual without them.

use std::time::Duration;

/// Divides how many cases are generated.
const FEWER: &str = "ENFORCER_TESTS_FEWER";
/// Multiplies how long the agent may take.
const PATIENCE: &str = "ENFORCER_TESTS_PATIENCE";

/// That many cases, or a part of them; at least one.
#[must_use]
pub fn fewer(usual: u32) -> u32 {
    (usual / factor(FEWER)).max(1)
}

/// That often; where there are fewer cases, at all.
#[must_use]
pub fn at_least(usual: u64) -> u64 {
    if factor(FEWER) == 1 { usual } else { 1 }
}

/// That long, or a multiple.
#[must_use]
pub fn patience(usual: Duration) -> Duration {
    usual * factor(PATIENCE)
}

fn factor(name: &str) -> u32 {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    given.filter(|factor| *factor > 0).unwrap_or(1)
}
