//! What fuzzing asks of the program.
//!
//! Each target takes any bytes and panics where something is wrong: with an invariant, or with
//! another opinion on the same question (the oracle's, another parser's). cargo-fuzz runs them from
//! `tests/fuzz`; ordinary tests run them on the corpus there, and on mutants of it.

mod bytes;
pub mod compile;
pub mod decide;
pub mod leave;
pub mod parse;
pub mod plan;
pub mod translate;
pub mod world;

#[cfg(test)]
mod corpus;

/// Takes any bytes; panics where something is wrong.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("parse", parse::run),
    ("decide", decide::run),
    ("translate", translate::run),
    ("compile", compile::run),
    ("plan", plan::run),
    ("leave", leave::run),
];
