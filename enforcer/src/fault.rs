//! Places at which a test lets the agent die, and the ABI that it pretends to have.
//!
//! Input: the environment, read only in builds with the feature `faults`, which no release has: there
//! every function here is empty. `ENFORCER_FAULT=N` aborts at the Nth place that is passed, or
//! at the first of that name; `ENFORCER_ABI=N` pins under that ABI's number.

/// A step that a crash may come before; `name` says which.
#[cfg(feature = "faults")]
pub(crate) fn point(name: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    let Ok(fatal) = std::env::var("ENFORCER_FAULT") else { return };
    let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
    if fatal == name || fatal == passed.to_string() {
        tracing::error!(fault = passed, at = name, "dies here, as it was asked to");
        std::process::abort();
    }
}

/// The number of the ABI to pretend, if it is not the real one.
#[cfg(feature = "faults")]
pub(crate) fn abi() -> Option<u32> {
    number("ENFORCER_ABI").and_then(|number| number.try_into().ok())
}

#[cfg(feature = "faults")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Nothing in a release.
#[cfg(not(feature = "faults"))]
pub(crate) const fn point(_name: &str) {}

/// The real one in a release.
#[cfg(not(feature = "faults"))]
pub(crate) const fn abi() -> Option<u32> {
    None
}
