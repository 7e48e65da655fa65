//! The agent's command. Exit codes: 0 clean stop, 2 wrong usage or unreadable source at start, 1 else.

use std::process::ExitCode;

use clap::Parser as _;
use enforcer::{
    agent::{self, AgentError},
    args::{Arguments, Command, LogFormat},
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = match &arguments.command {
        Command::Run(run) => run.log_format,
        Command::Clean(_) => LogFormat::Text,
    };
    start_logging(format);
    match execute(arguments.command) {
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

fn execute(command: Command) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match command {
        Command::Run(run) => {
            let runtime = runtime()?;
            let result = runtime.block_on(agent::run(*run));
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
            Ok(result?)
        }
        Command::Clean(clean) => {
            agent::clean(&clean.places)?;
            if clean.stay {
                runtime()?.block_on(agent::stopped())?;
            }
            Ok(())
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
