//! One YAML document to a JSON value, within bounds.
//!
//! Input: text of any size and any content. Output: its value, or where and why it is wrong.
//! Invariant: time and memory stay in proportion to the length of the text, whatever aliases it
//! repeats; and the stack is bounded.

use serde_json::Value;
use serde_saphyr::{NonFiniteFloatPolicy, Options};

/// Levels of nesting; real objects have fewer than 20.
const DEPTH: usize = 64;

/// Nodes that aliases may add to a document.
const REPEATED_NODES: usize = 200_000;

/// Bytes of scalars that aliases may add to a document.
const SCALAR_BYTES: usize = 1 << 20;

/// Where and why a document is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub(super) struct YamlError {
    /// The parser's words.
    pub(super) reason: String,
    /// Line in the document, from 1.
    pub(super) line: u64,
    /// Column, from 1.
    pub(super) column: u64,
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Value, YamlError> {
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let reason = error.without_snippet().to_string();
        let position = format!(" at line {line}, column {column}");
        YamlError { reason: reason.replace(&position, ""), line, column }
    })
}

/// Every node takes at least one byte of text, so that the length bounds what the text itself
/// holds; only aliases can exceed it.
fn options(length: usize) -> Options {
    let nodes = length.saturating_mul(2).saturating_add(1000);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH,
            max_events: nodes.saturating_mul(2),
            max_nodes: nodes,
            max_total_scalar_bytes: length.saturating_mul(2).saturating_add(SCALAR_BYTES),
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_NODES,
        },
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
        emit_comments: false,
    }
}
