//! `enforcer debug`: what is enforced here and why, for people and for programs.
//!
//! Input: pinned maps, the agent's socket, and what an agent kept where none runs ([`sight`]); for other
//! nodes their Leases ([`nodes`]). Output: one view per command, as text or as JSON, and an exit code.
//! Nothing here changes anything; a question that cannot be answered is one sentence on standard error.

mod diff;
mod drops;
mod explain;
mod list;
mod nodes;
mod screen;
mod show;
mod sight;
mod status;
mod words;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use self::{
    screen::Screen,
    sight::{Sight, SightError},
};
use crate::{
    args::{COMMON, Places},
    kernel::KernelError,
};

/// Version of the shape of `--output json`: a field is never renamed or removed without a new one.
const SHAPE: u32 = 1;

/// Options of `enforcer debug`.
#[derive(Debug, Args)]
pub struct Debug {
    /// Where things are kept.
    #[command(flatten)]
    pub places: Places,
    /// Form of the answer.
    #[arg(
        long,
        value_enum,
        default_value = "text",
        value_name = "FORM",
        global = true,
        help_heading = COMMON
    )]
    pub output: Output,
    /// What to say.
    #[command(subcommand)]
    pub question: Question,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables, as wide as the terminal.
    Text,
    /// One JSON object, or one per line where the answer does not end or has many parts.
    Json,
}

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Whether everything is enforced here, and what is not, and why.
    Status(status::Options),
    /// Every API server: how it is reached, whom it admits, what was dropped.
    List,
    /// One API server: all its frontends, and every range with the object and field it came from.
    Show(show::Options),
    /// What would become of a connection from SRC to a cluster or an address, and which range of which
    /// object decides that. Asks the programs in force; nothing is counted.
    #[command(override_usage = explain::USAGE)]
    Explain(explain::Options),
    /// Denied packets with time, interface, source, destination, cluster and reason.
    Drops(drops::Options),
    /// What the source as it is now, or a changed manifest, would change, and which recently admitted
    /// sources that would cut. Ends with 3 if it would cut any.
    Diff(diff::Options),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// Nothing to read from.
    #[error(transparent)]
    Sight(#[from] SightError),
    /// The kernel's side cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The question is not understood.
    #[error(transparent)]
    Explain(#[from] explain::ExplainError),
    /// The objects cannot be compared.
    #[error(transparent)]
    Diff(#[from] diff::DiffError),
    /// The Leases cannot be read.
    #[error(transparent)]
    Nodes(#[from] nodes::NodesError),
    /// There is no such cluster.
    #[error("there is no cluster {cluster}{}", others(.known))]
    UnknownCluster {
        /// As asked.
        cluster: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Write(#[source] io::Error),
    /// There is no runtime for it.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

/// What an answer comes to, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for is so: 0.
    Fine,
    /// It would be denied: 3.
    Denied,
    /// Something that was asked for is not enforced: 4.
    NotEnforced,
}

impl Outcome {
    fn code(self) -> ExitCode {
        match self {
            Self::Fine => ExitCode::SUCCESS,
            Self::Denied => ExitCode::from(3),
            Self::NotEnforced => ExitCode::from(4),
        }
    }

    /// Fine if so, else not enforced.
    fn enforced_if(enforced: bool) -> Self {
        if enforced { Self::Fine } else { Self::NotEnforced }
    }
}

/// An answer: serialised it is the JSON.
trait View: Serialize {
    /// Name of the command.
    const COMMAND: &'static str;

    /// The answer for people.
    fn text(&self, screen: &Screen) -> String;

    /// What it comes to.
    fn outcome(&self) -> Outcome;
}

/// Answers, and says with which exit code to end.
pub fn run(debug: Debug) -> Result<ExitCode, DebugError> {
    let Debug { places, output, question } = debug;
    match question {
        Question::Status(options) if options.all_nodes => {
            let namespace = options.namespace.clone();
            tell(&nodes::view(options.kubeconfig, namespace)?, output)
        }
        Question::Status(options) => tell(&status::view(&Sight::look(&places)?, &options)?, output),
        Question::List => tell(&list::view(&Sight::look(&places)?)?, output),
        Question::Drops(options) if options.follow => {
            Ok(drops::follow(&Sight::look(&places)?, &options, output)?.code())
        }
        Question::Drops(options) => tell(&drops::view(&Sight::look(&places)?, &options)?, output),
        Question::Explain(options) if options.questions.is_some() => {
            let from = options.questions.clone().unwrap_or_default();
            explain::answer(|| Ok(Sight::look(&places)?), &options, &from, output)
        }
        Question::Explain(options) => {
            tell(&explain::view(&Sight::look(&places)?, &options)?, output)
        }
        Question::Diff(options) => tell(&diff::view(&Sight::look(&places)?, &options)?, output),
        Question::Show(options) => tell(&show::view(&Sight::look(&places)?, &options)?, output),
    }
}

#[derive(Serialize)]
struct Envelope<'a, V> {
    version: u32,
    command: &'static str,
    #[serde(flatten)]
    view: &'a V,
}

fn tell<V: View>(view: &V, output: Output) -> Result<ExitCode, DebugError> {
    let text = match output {
        Output::Text => view.text(&Screen::of_stdout()),
        Output::Json => json(view)?,
    };
    write(&text)?;
    Ok(view.outcome().code())
}

fn json<V: View>(view: &V) -> Result<String, DebugError> {
    let envelope = Envelope { version: SHAPE, command: V::COMMAND, view };
    let text = serde_json::to_string_pretty(&envelope);
    text.map(|text| text + "\n").map_err(|error| DebugError::Write(error.into()))
}

/// One of the lines of an answer that does not end.
fn json_line(value: &impl Serialize) -> Result<String, DebugError> {
    let text = serde_json::to_string(value);
    text.map(|text| text + "\n").map_err(|error| DebugError::Write(error.into()))
}

/// Who reads may stop reading at any time: says whether anybody does.
fn write(text: &str) -> Result<bool, DebugError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(DebugError::Write(error)),
    }
}

fn others(clusters: &[String]) -> String {
    match clusters {
        [] => ": no cluster is known here".to_owned(),
        [some @ .., last] if some.len() < 10 => {
            let some: String = some.iter().map(|name| format!("{name}, ")).collect();
            format!("; there are {some}{last}")
        }
        all => format!("; `enforcer debug list` names the {} that there are", all.len()),
    }
}

/// A runtime for what has to ask an API server.
fn runtime() -> Result<tokio::runtime::Runtime, DebugError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DebugError::Start)
}

/// A kubeconfig, where the answer comes from the seed's API.
type Kubeconfig = Option<PathBuf>;
