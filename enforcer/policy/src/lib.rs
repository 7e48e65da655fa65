//! The pure core of the enforcer: a [`Snapshot`](model::Snapshot) of the seed in, the image that the
//! kernel is to hold out. No clock, no I/O, no kernel: what depends on them is an argument.
//!
//! Reading order: [`model`] (what is known, parsed and valid), [`compile`](mod@compile) (precedence
//! and ranges), [`image`] (the bytes of the maps), [`plan`] (steps from the observed to the desired
//! state). [`oracle`] answers the same question from the snapshot alone and never sees the others.

pub mod changes;
pub mod compile;
#[cfg(feature = "arbitrary")]
pub mod generate;
pub mod image;
pub mod model;
pub mod oracle;
pub mod plan;
pub mod problem;
pub mod ranges;
