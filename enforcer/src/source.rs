//! Where the objects come from, and what they mean.
//!
//! Input: [`Objects`], the seed's objects as far as they can be read; today from a folder of
//! manifests ([`Manifests`]). Output: the [`Snapshot`](enforcer_policy::model::Snapshot) that
//! decisions are made from, and what is wrong with the input ([`translate()`]). Invariant: an error
//! in the input never looks like a deletion, nor like the absence of a restriction.

pub mod manifests;
pub mod objects;
pub mod store;
pub mod translate;

pub use self::{
    manifests::{Manifests, SourceError},
    store::Objects,
    translate::{GuardPods, Settings, Translated, translate},
};
