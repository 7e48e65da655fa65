//! The snapshot that was enforced last and the addresses of hosts, on disk: what an agent knows before
//! its source and its resolver speak, and what `enforcer debug` knows when no agent runs, together with
//! the last [`Account`].
//!
//! Root-only and replaced by rename, so that a reader finds a whole file or none.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use enforcer_policy::model::Snapshot;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::watch, task::JoinHandle};

use crate::{chain::chain, names::Seen, observe::Account};

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct StateError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The folder of `--state`.
#[derive(Clone, Debug)]
pub struct State {
    folder: PathBuf,
}

const SNAPSHOT: &str = "snapshot.json";
const ACCOUNT: &str = "account.json";
/// The agent's socket, see [`crate::observe::socket`].
const SOCKET: &str = "agent.sock";
const NAMES: &str = "names.json";

impl State {
    /// Opens or makes the folder.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Ok(()) => Ok(Self { folder: folder.into() }),
            Err(source) => Err(StateError { action: "create", path: folder.into(), source }),
        }
    }

    /// The folder of an agent, to read from; it need not be there.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// Where the agent answers questions.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// The snapshot that was saved last; `None` if there is none or a build wrote it whose model
    /// was another one.
    #[must_use]
    pub fn load(&self) -> Option<Snapshot> {
        self.read(SNAPSHOT)
    }

    /// The account that was saved last.
    #[must_use]
    pub fn load_account(&self) -> Option<Account> {
        self.read(ACCOUNT)
    }

    /// Saves a snapshot.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StateError> {
        self.write(SNAPSHOT, snapshot)
    }

    /// Saves an account.
    pub fn save_account(&self, account: &Account) -> Result<(), StateError> {
        self.write(ACCOUNT, account)
    }

    /// What was known of hosts in URLs; nothing if nothing was saved.
    #[must_use]
    pub fn load_names(&self) -> Seen {
        self.read(NAMES).unwrap_or_default()
    }

    /// Saves what is known of hosts in URLs.
    pub fn save_names(&self, seen: &Seen) -> Result<(), StateError> {
        self.write(NAMES, seen)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.folder.join(name);
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match read {
            Ok(value) => Some(value),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was saved is not used");
                None
            }
        }
    }

    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let path = self.folder.join(name);
        let beside = path.with_extension("new");
        let failed = |source| StateError { action: "write", path: path.clone(), source };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed)?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, value).map_err(|error| failed(error.into()))?;
        writer.flush().map_err(failed)?;
        writer.get_ref().sync_all().map_err(failed)?;
        fs::rename(&beside, &path).map_err(failed)
    }

    /// Forgets everything.
    pub fn clean(folder: &Path) -> Result<(), StateError> {
        let files = [SNAPSHOT, ACCOUNT, NAMES, "snapshot.new", "account.new", "names.new", SOCKET];
        for name in files {
            match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(StateError { action: "remove", path: folder.join(name), source });
                }
                Ok(()) => {}
            }
        }
        // A folder that holds something else stays.
        let _ = fs::remove_dir(folder);
        Ok(())
    }
}

/// Saves the latest snapshot, away from the reconciler; a failure is logged, since what the kernel
/// enforces does not depend on it.
///
/// A snapshot of thousands of clusters is tens of megabytes: after each save comes a pause of
/// [`PAUSE`] times as long, in which changes are gathered. The end of the reconciler ends the pause.
pub fn keep_saved(
    state: State,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
) -> JoinHandle<()> {
    let mut saved = snapshots.borrow().clone();
    tokio::spawn(async move {
        loop {
            let is_new = |snapshot: &Option<Arc<Snapshot>>| match (&saved, snapshot) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some(saved), Some(snapshot)) => !Arc::ptr_eq(saved, snapshot),
            };
            let next = snapshots.wait_for(is_new).await.map(|next| next.clone());
            let Ok(Some(snapshot)) = next else { return };
            saved = Some(Arc::clone(&snapshot));
            let (state, begin) = (state.clone(), Instant::now());
            let written = tokio::task::spawn_blocking(move || state.save(&snapshot)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(error = chain(&error), "state is not saved");
            }
            let pause = begin.elapsed() * PAUSE;
            let _ = tokio::time::timeout(pause, snapshots.wait_for(|_| false)).await;
        }
    })
}

/// Saving takes at most one part in so many, and one, of the time.
const PAUSE: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_in_a_row_are_saved_together_and_the_last_one_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let (say, snapshots) = watch::channel(None);
        let saver = keep_saved(state.clone(), snapshots);
        let snapshot = |number: usize| {
            let mut snapshot = Snapshot::default();
            snapshot.this_node.name = format!("n{number}");
            snapshot
        };
        for number in 0..100 {
            say.send_replace(Some(Arc::new(snapshot(number))));
            tokio::task::yield_now().await;
        }
        drop(say);
        saver.await.unwrap();
        assert_eq!(state.load(), Some(snapshot(99)));
    }

    #[test]
    fn what_was_saved_is_loaded_and_clean_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let state = State::open(&path).unwrap();
        assert_eq!(state.load(), None);
        let mut snapshot = Snapshot::default();
        snapshot.this_node.name = "n1".to_owned();
        state.save(&snapshot).unwrap();
        assert_eq!(state.load(), Some(snapshot));
        let seen = Seen::from([("host".to_owned(), [([192, 0, 2, 1].into(), 7)].into())]);
        assert_eq!(state.load_names(), Seen::new());
        state.save_names(&seen).unwrap();
        assert_eq!(state.load_names(), seen);
        fs::write(path.join(SNAPSHOT), "{half").unwrap();
        assert_eq!(state.load(), None);
        State::clean(&path).unwrap();
        assert!(!path.exists());
        State::clean(&path).unwrap();
    }
}
