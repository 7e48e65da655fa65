//! A folder of manifests as a source, watched.
//!
//! Input: the `*.yaml`, `*.yml` and `*.json` files of one folder (not of the folders in it).
//! Output: [`Objects`], anew after every change. Invariant: what cannot be read changes nothing; see
//! `folder` for what counts as being there, `file` for what an unreadable file leaves in force.
//!
//! One thread does the work: it waits for events (`watch`), looks at the files that they name, or at all
//! (`listing`), reads what is new (`reading`), parses it (`documents`, `yaml`, `outline`) and publishes
//! the result. A file that is renamed into its place is published 5 ms later, any other change 20 ms
//! after its last event; with events that never end, every 100 ms. What is more often one half of a
//! replacement counts later: a file that is removed after 120 ms, one that is emptied after two seconds.
//! Where events fail to come, the thread finds a change within two seconds, in a folder of thousands of
//! files within a minute: looking at all of them must not take a thousandth of the time.
//!
//! To replace a file that the agent reads, write another one and rename it; a file that is rewritten
//! in place is read once its writer has closed it, or has been idle for five seconds.

mod documents;
mod file;
mod folder;
mod listing;
mod outline;
mod reading;
mod watch;
mod yaml;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{oneshot, watch as channel};

use self::{
    documents::{Document, Notation, split},
    file::unreadable_problem,
    folder::{Folder, Looked, Scope},
    watch::{Stop, Watch, Woken},
};
use super::{
    objects::{Object, Undecodable},
    store::Objects,
};

/// Look at every file this often, whatever events say, and where that takes long, ...
const POLL: Duration = Duration::from_secs(2);

/// ... for one part in so many of the time.
const SHARE: u32 = 1000;

/// But at least this often.
const LONGEST_POLL: Duration = Duration::from_secs(60);

/// Where the kernel sends no events, look this often.
const BLIND_POLL: Duration = Duration::from_millis(500);

/// How often to ask whether the folder's path leads elsewhere, where no event would say so.
const REPLACED_POLL: Duration = Duration::from_millis(50);

/// At the start, wait this long for files that are being written.
const START: Duration = Duration::from_millis(200);

/// Stack of the thread; the depth of a document takes some of it.
const STACK: usize = 8 << 20;

/// Why a folder cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder cannot be read.
    #[error("cannot read the manifest folder {}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot start the thread that reads the manifest folder {}", folder.display())]
    Thread {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The objects of known kinds in a text of manifests; in words where something in it cannot be understood.
pub fn objects_of(text: &str, is_json: bool) -> Result<Vec<Object>, String> {
    let notation = if is_json { Notation::Json } else { Notation::Yaml };
    let mut objects = Vec::new();
    for section in split(text, notation) {
        let Document { objects: read, failures, opaque: _ } = Document::read(section, notation);
        if let Some(Undecodable { field, reason, .. }) = failures.first() {
            return Err(format!("{field}: {reason}").trim_start_matches(": ").to_owned());
        }
        objects.extend(read);
    }
    Ok(objects)
}

/// A folder of manifests that is being watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    objects: channel::Receiver<Arc<Objects>>,
    /// What was last said by a thread that has ended by itself, which is an error in it.
    last: Option<Arc<Objects>>,
    _stop: Stop,
}

impl Manifests {
    /// Reads the folder and starts to watch it.
    ///
    /// # Errors
    /// Where the folder cannot be listed. A file in it that cannot be read is a problem among the
    /// [`Objects`], not an error.
    pub async fn open(folder: PathBuf) -> Result<Self, SourceError> {
        Self::open_with(folder, POLL).await
    }

    async fn open_with(folder: PathBuf, poll: Duration) -> Result<Self, SourceError> {
        let unreadable = |source| SourceError::Folder { folder: folder.clone(), source };
        let path = std::path::absolute(&folder).map_err(unreadable)?;
        let watch = Watch::new().map_err(unreadable)?;
        let stop = watch.stop();
        let (opened, first) = oneshot::channel();
        thread::Builder::new()
            .name("manifests".to_owned())
            .stack_size(STACK)
            .spawn(move || run(Folder::new(path), watch, poll, opened))
            .map_err(|source| SourceError::Thread { folder: folder.clone(), source })?;
        let first = first.await.unwrap_or_else(|_| Err(io::Error::other("its reader has ended")));
        let objects = first.map_err(unreadable)?;
        Ok(Self { folder, objects, last: None, _stop: stop })
    }

    /// What the folder says now.
    #[must_use]
    pub fn current(&mut self) -> Arc<Objects> {
        match &self.last {
            Some(last) => Arc::clone(last),
            None => Arc::clone(&self.objects.borrow_and_update()),
        }
    }

    /// Waits until the folder says something else than what was last returned, here or by
    /// [`Self::current`]; changes in between are one. Cancel-safe.
    pub async fn changed(&mut self) -> Arc<Objects> {
        if self.last.is_some() {
            return std::future::pending().await;
        }
        if self.objects.changed().await.is_err() {
            let ended = Arc::new(self.ended());
            self.last = Some(ended);
        }
        self.current()
    }

    /// The last objects, marked stale.
    fn ended(&self) -> Objects {
        let mut objects = Objects::clone(&self.objects.borrow());
        let folder = self.folder.display().to_string();
        tracing::error!(folder, "nothing reads the manifest folder any more");
        objects.stale_since.get_or_insert_with(SystemTime::now);
        objects.problems.insert(unreadable_problem("Folder", &folder, "its reader has ended"));
        objects
    }
}

type Opened = oneshot::Sender<io::Result<channel::Receiver<Arc<Objects>>>>;

fn run(mut folder: Folder, mut watch: Watch, poll: Duration, opened: Opened) {
    let mut looked = match first_look(&mut folder, &mut watch) {
        Ok(looked) => looked,
        Err(error) => {
            // Nobody is there to be told once `open` was cancelled.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let (objects, receiver) = channel::channel(Arc::new(folder.objects()));
    if opened.send(Ok(receiver)).is_err() {
        return;
    }
    let mut look_at_all = Instant::now() + poll;
    loop {
        let now = Instant::now();
        let all = look_at_all.saturating_duration_since(now);
        if wait(&folder, &mut watch, looked.again.unwrap_or(all).min(all)) == Woken::Stopped {
            return;
        }
        let begin = Instant::now();
        let is_blind = !watch.sees(&folder.watched());
        let scope = if is_blind || begin >= look_at_all { Scope::All } else { Scope::Named };
        looked = look(&mut folder, &mut watch, scope);
        if scope == Scope::All {
            look_at_all = Instant::now() + poll.max((begin.elapsed() * SHARE).min(LONGEST_POLL));
        }
        if looked.changed {
            publish(&folder, &objects);
        }
    }
}

/// Looks until no file is being written any more, but not for long.
fn first_look(folder: &mut Folder, watch: &mut Watch) -> io::Result<Looked> {
    let end = Instant::now() + START;
    loop {
        let looked = folder.look(watch, Scope::All)?;
        let Some(again) = looked.again.filter(|_| Instant::now() < end) else { return Ok(looked) };
        thread::sleep(again.min(watch::QUIET));
    }
}

fn look(folder: &mut Folder, watch: &mut Watch, scope: Scope) -> Looked {
    let was_gone = folder.is_gone();
    match folder.look(watch, scope) {
        Ok(looked) => {
            if was_gone {
                tracing::info!(folder = %folder.path().display(), "the manifest folder is back");
            }
            looked
        }
        Err(error) => {
            if !was_gone {
                tracing::warn!(
                    folder = %folder.path().display(), %error,
                    "cannot read the manifest folder; what it said stays in force"
                );
            }
            Looked { changed: !was_gone, again: None }
        }
    }
}

/// Waits until it is time for another look, at most this long.
fn wait(folder: &Folder, watch: &mut Watch, most: Duration) -> Woken {
    let most = if watch.sees(&folder.watched()) { most } else { most.min(BLIND_POLL) };
    let deadline = Instant::now() + most;
    let by_hand = folder.can_be_replaced_unseen();
    loop {
        let now = Instant::now();
        let until = if by_hand { deadline.min(now + REPLACED_POLL) } else { deadline };
        let woken = watch.wait(until);
        let early = woken == Woken::Deadline && Instant::now() < deadline;
        if !early || folder.was_replaced() {
            return woken;
        }
    }
}

fn publish(folder: &Folder, objects: &channel::Sender<Arc<Objects>>) {
    let now = folder.objects();
    objects.send_if_modified(|last| {
        let changed = **last != now;
        if changed {
            *last = Arc::new(now);
        }
        changed
    });
}

#[cfg(test)]
mod tests;
