//! The agent's command. Exit codes: 0 clean stop, 2 wrong usage or unreadable source at start, 1 else;
//! of `enforcer debug` see [`enforcer::debug`].

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use enforcer::{
    agent::{self, AgentError},
    args::{Arguments, Clean, Command, LogFormat, Run},
    debug::{self, Debug},
    memory,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // An arrow between source and target is for people.
    let is_arrow = |word: &std::ffi::OsString| word == "->" || word == "→";
    let arguments = Arguments::parse_from(std::env::args_os().filter(|word| !is_arrow(word)));
    match arguments.command {
        Command::Debug(debug) => answer(debug),
        Command::Completion { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "enforcer", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Run(run) => {
            start_logging(run.log_format);
            end(watch(*run))
        }
        Command::Restore(restore) => {
            start_logging(LogFormat::Text);
            end(agent::restore(&restore).map_err(Into::into))
        }
        Command::Clean(clean) => {
            start_logging(LogFormat::Text);
            end(remove(&clean))
        }
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn end(ended: Ended) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = enforcer::chain::chain(&*error), "cannot go on");
            match error.downcast_ref::<AgentError>() {
                Some(AgentError::Source(_)) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn watch(run: Run) -> Ended {
    memory::keep_little();
    let runtime = runtime()?;
    let result = runtime.block_on(agent::run(run));
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    Ok(result?)
}

fn remove(clean: &Clean) -> Ended {
    agent::clean(&clean.places)?;
    if clean.stay {
        runtime()?.block_on(agent::stopped())?;
    }
    Ok(())
}

/// A question that cannot be answered is one sentence.
fn answer(debug: Debug) -> ExitCode {
    match debug::run(debug) {
        Ok(code) => code,
        Err(error) => {
            let line = format!("enforcer: {}\n", enforcer::chain::chain(&error));
            let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// One thread: work comes in bursts of milliseconds, and a DaemonSet's memory counts on every node.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// `RUST_LOG` chooses what is logged, `info` without it.
fn start_logging(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init()
        }
        LogFormat::Json => lines.json().init(),
    }
}
