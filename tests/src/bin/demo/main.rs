//! The demo: the real agent on the YAML of `deploy/demo`, real connections, and a table of who got
//! through.
//!
//! Input: the agent's binary, named by `ENFORCER_BIN`. Output: the table, and exit code 0 if every
//! row is as expected. Needs root; takes everything away that it made, also on Ctrl-C.

#![allow(clippy::print_stderr, reason = "errors of a program that people run")]

mod run;
mod steps;
mod table;

use std::process::ExitCode;

use enforcer_tests::cleanup;

use crate::table::Folding;

const USAGE: &str = "usage: demo [--all-rows]    one row for every connection";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folding = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Folding::Folded,
        ["--all-rows"] => Folding::EachByItself,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match cleanup::prepare().and_then(|()| run::run(folding)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo cannot go on: {error:#}");
            ExitCode::FAILURE
        }
    }
}
