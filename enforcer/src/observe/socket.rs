//! The agent's socket, where `enforcer debug` asks what is only in the agent's memory.
//!
//! Input: one line of JSON per connection, a [`Question`]. Output: lines of JSON. The socket lies in the
//! folder of `--state`, which only root may enter. An agent that cannot make it works all the same: the
//! kernel's side does not depend on it.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use enforcer_policy::model::Snapshot;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    account::{Account, Agent},
    drops::{Dropped, Drops},
};
use crate::agent::Status;

/// A question that does not come within this time is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    /// One line: the [`Account`].
    Account,
    /// One line: the [`Snapshot`] of the image in force, or `null`.
    Snapshot,
    /// Lines of [`Told`]: the events that the agent keeps, then, where asked for, those that come.
    Drops {
        /// Whether to go on until the asker goes away.
        follow: bool,
    },
}

/// One line of the answer to [`Question::Drops`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// A denied packet.
    Drop(Arc<Dropped>),
    /// So many events were not sent, since the asker does not read fast enough.
    Missed(u64),
    /// All that was kept has been sent.
    Kept,
}

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Who the agent is.
    pub agent: Arc<Agent>,
    /// Its last report.
    pub statuses: watch::Receiver<Arc<Status>>,
    /// The snapshot of the image in force.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Denied packets.
    pub drops: Drops,
}

/// Makes the socket, in place of one that an agent left.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until it is cancelled.
pub async fn serve(listener: UnixListener, answers: Answers, cancelled: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        tokio::select! {
            () = cancelled.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (answers, cancelled) = (answers.clone(), cancelled.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = cancelled.cancelled() => {}
                            // Who asks and goes away before the answer has nobody to complain to.
                            _ = answer(stream, &answers) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection at the agent's socket");
                    tokio::time::sleep(PATIENCE).await;
                }
            },
        }
    }
    connections.close();
    connections.wait().await;
}

async fn answer(stream: UnixStream, answers: &Answers) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reader).read_line(&mut line)).await??;
    let question: Question = serde_json::from_str(&line)?;
    match question {
        Question::Account => {
            let status = Arc::clone(&answers.statuses.borrow());
            send(&mut writer, &Account::of(&answers.agent, &status)).await
        }
        Question::Snapshot => {
            let snapshot = answers.snapshots.borrow().clone();
            send(&mut writer, &snapshot.as_deref()).await
        }
        Question::Drops { follow } => {
            let (kept, new) = answers.drops.subscribe();
            for dropped in kept {
                send(&mut writer, &Told::Drop(dropped)).await?;
            }
            send(&mut writer, &Told::Kept).await?;
            if follow { tell(&mut writer, new).await } else { Ok(()) }
        }
    }
}

/// Sends what comes until the asker goes away.
async fn tell(
    writer: &mut (impl AsyncWrite + Unpin),
    mut new: broadcast::Receiver<Arc<Dropped>>,
) -> io::Result<()> {
    loop {
        match new.recv().await {
            Ok(dropped) => send(writer, &Told::Drop(dropped)).await?,
            Err(RecvError::Lagged(missed)) => send(writer, &Told::Missed(missed)).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
