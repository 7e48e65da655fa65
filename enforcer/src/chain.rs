//! An error and all its causes as one line.
//!
//! Input: an error. Output: text for logs, `/readyz` and problems; tracing's JSON shows only the
//! topmost one by itself.

use std::error::Error;

/// The error, then its causes; one whose words are there already (kube repeats some) is left out.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
