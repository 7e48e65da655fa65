//! When to look at the folder again, and which files someone is writing.
//!
//! Input: the kernel's file events (inotify). Output: [`Watch::wait`] returns once events have been
//! quiet for a moment, or have gone on for too long; [`Watch::start_look`] says what they named,
//! [`Watch::writing`] who writes now. Invariants: events only hasten a look, they are never the only
//! reason for one, so that a lost event delays and never hides a change. What [`Watch::writing`] says counts every event that the
//! kernel had queued when it was asked: the queue is read right then, by the thread that asks. (A
//! watcher with a thread of its own is late when the machine is busy, and a file that was truncated
//! and not written yet then looks like an empty one.)

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, Metadata},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::listing::is_manifest;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
    },
};

/// Events this close together are one change.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// The same where every file came whole, renamed into its place, and none shortly before: there is nobody to
/// wait for but others that are replaced together with it.
pub(super) const WHOLE: Duration = Duration::from_millis(5);

/// Changes that follow each other this closely are gathered.
const CLOSE: Duration = Duration::from_millis(30);

/// Events that do not end are looked at this often.
const PATIENCE: Duration = Duration::from_millis(100);

/// A writer that neither writes nor closes the file for this long has gone, or will not close it.
const WRITER_GONE: Duration = Duration::from_secs(5);

/// Reads that empty the kernel's queue of 16,384 events, at more than 16 events each.
const QUEUE_READS: usize = 1024;

/// What happens to files in a folder.
const FILES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB);

/// What happens to the folder itself: afterwards its path leads elsewhere.
const FOLDER: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT);

/// After these nobody is writing the file of that name any more.
const WRITTEN: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO);

/// Why [`Watch::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// Something has changed.
    Changed,
    /// The deadline has passed.
    Deadline,
    /// Nobody wants to know any more.
    Stopped,
}

/// Which folder or file it is: device, inode, and time of birth where the file system knows it,
/// since inodes are used again.
pub(super) type Inode = (u64, u64, Option<SystemTime>);

/// A watch of folders.
pub(super) struct Watch {
    /// `None` where the kernel gives none: then only looking helps.
    inotify: Option<Inotify>,
    stop: Arc<EventFd>,
    folders: BTreeMap<WatchDescriptor, (PathBuf, Inode)>,
    news: News,
}

/// Ends the [`Watch`] that it was made from when dropped.
#[derive(Debug)]
pub(super) struct Stop(Arc<EventFd>);

/// What the events have said. Its size is bounded by the number of files, not of events.
#[derive(Debug, Default)]
struct News {
    /// First and last event since the last look.
    events: Option<(Instant, Instant)>,
    /// Files that were written to and not closed since, with the time of the last write.
    writing: HashMap<PathBuf, Instant>,
    /// Whether some manifest did not come whole since the last wait ended.
    in_parts: bool,
    /// When the last wait ended with news.
    told: Option<Instant>,
    heard: Heard,
}

/// What events have said since the last look.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Files that something happened to.
    pub(super) named: BTreeSet<PathBuf>,
    /// Those of them that have come, gone again or not.
    pub(super) came: BTreeSet<PathBuf>,
    /// Those of them that were renamed into their places, and not written to since.
    pub(super) renamed: BTreeSet<PathBuf>,
    /// Whether something happened to a folder itself, or events were lost.
    pub(super) elsewhere: bool,
}

impl Watch {
    /// A watch of nothing yet. Without inotify it still works as a clock.
    pub(super) fn new() -> io::Result<Self> {
        let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "no file events; looking for changes by the clock only");
        }
        let (inotify, stop) = (inotify.ok(), Arc::new(stop));
        Ok(Self { inotify, stop, folders: BTreeMap::new(), news: News::default() })
    }

    /// The means to end it.
    pub(super) fn stop(&self) -> Stop {
        Stop(Arc::clone(&self.stop))
    }

    /// Whether every folder that was asked for sends events.
    pub(super) fn sees(&self, wanted: &BTreeSet<PathBuf>) -> bool {
        wanted.iter().all(|folder| self.is_watched(folder))
    }

    /// Watches these folders and no others; returns those that were not watched before, or not as
    /// the folders that they are now. Their paths hold no symlinks.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        self.drain();
        let is_stale = |(folder, inode): &(PathBuf, Inode)| {
            !wanted.contains(folder) || inode_of(folder).ok() != Some(*inode)
        };
        let stale: Vec<WatchDescriptor> = self
            .folders
            .iter()
            .filter(|(_, watched)| is_stale(watched))
            .map(|(at, _)| *at)
            .collect();
        for descriptor in stale {
            self.forget(descriptor);
        }
        let missing = wanted.iter().filter(|folder| !self.is_watched(folder)).cloned();
        let missing: Vec<PathBuf> = missing.collect();
        missing.into_iter().filter(|folder| self.add(folder)).collect()
    }

    /// Waits until something has changed and has been quiet for a moment, at most until `deadline`.
    pub(super) fn wait(&mut self, deadline: Instant) -> Woken {
        loop {
            self.drain();
            let now = Instant::now();
            let due = self.news.due();
            if due.is_some_and(|due| due <= now) {
                (self.news.events, self.news.in_parts) = (None, false);
                self.news.told = Some(now);
                return Woken::Changed;
            }
            if deadline <= now {
                return Woken::Deadline;
            }
            let until = due.map_or(deadline, |due| due.min(deadline));
            if self.is_stopped_within(until.saturating_duration_since(now)) {
                return Woken::Stopped;
            }
        }
    }

    /// How long to leave a file alone, because someone is writing it. The path holds no symlinks.
    pub(super) fn writing(&mut self, path: &Path) -> Option<Duration> {
        self.drain();
        let last = self.news.writing.get(path)?;
        WRITER_GONE.checked_sub(last.elapsed()).filter(|left| !left.is_zero())
    }

    /// Starts a look: returns what was heard since the last one.
    pub(super) fn start_look(&mut self) -> Heard {
        self.drain();
        self.news.writing.retain(|_, last| last.elapsed() < WRITER_GONE);
        std::mem::take(&mut self.news.heard)
    }

    fn is_watched(&self, folder: &Path) -> bool {
        self.folders.values().any(|(watched, _)| watched == folder)
    }

    fn add(&mut self, folder: &Path) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let Ok(inode) = inode_of(folder) else { return false };
        match inotify.add_watch(folder, FILES | FOLDER | AddWatchFlags::IN_ONLYDIR) {
            Ok(descriptor) => {
                self.folders.insert(descriptor, (folder.to_owned(), inode));
                true
            }
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "cannot watch");
                false
            }
        }
    }

    fn forget(&mut self, descriptor: WatchDescriptor) {
        self.folders.remove(&descriptor);
        if let Some(inotify) = &self.inotify {
            // The kernel has dropped it already where the folder was removed.
            let _ = inotify.rm_watch(descriptor);
        }
    }

    /// Reads the events that the kernel has queued, and not without end those that still come.
    fn drain(&mut self) {
        for _ in 0..QUEUE_READS {
            let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) else { return };
            let now = Instant::now();
            for InotifyEvent { wd, mask, name, .. } in events {
                let folder = self.folders.get(&wd).map(|(folder, _)| folder);
                let path = folder.zip(name).map(|(folder, name)| folder.join(name));
                self.news.note(mask, path, now);
                if mask.intersects(FOLDER) {
                    self.forget(wd);
                }
            }
        }
    }

    /// Waits for an event, for the end or for the time to pass; true for the end.
    fn is_stopped_within(&self, time: Duration) -> bool {
        // Rounded up: too early a return would have the caller come back again and again.
        let milliseconds = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        let mut files = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        files.extend(self.inotify.iter().map(|at| PollFd::new(at.as_fd(), PollFlags::POLLIN)));
        match poll(&mut files, timeout) {
            Ok(_) => files.first().and_then(PollFd::any).unwrap_or(false),
            Err(Errno::EINTR) => false,
            Err(error) => {
                tracing::error!(%error, "cannot wait for file events");
                true
            }
        }
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        // Fails only on a counter that is full, and then it says so already.
        let _ = self.0.write(1);
    }
}

impl News {
    /// When to tell of the events.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.events?;
        let is_close = self.told.is_some_and(|told| first < told + CLOSE);
        let quiet = if self.in_parts || is_close { QUIET } else { WHOLE };
        Some((last + quiet).min(first + PATIENCE))
    }

    fn note(&mut self, mask: AddWatchFlags, path: Option<PathBuf>, now: Instant) {
        // Our own end of a watch.
        if mask == AddWatchFlags::IN_IGNORED {
            return;
        }
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.writing.clear();
        }
        match path {
            Some(path) => self.note_file(mask, path, now),
            None => self.heard.elsewhere = true,
        }
        let first = self.events.map_or(now, |(first, _)| first);
        self.events = Some((first, now));
    }

    fn note_file(&mut self, mask: AddWatchFlags, path: PathBuf, now: Instant) {
        let Heard { named, came, renamed, elsewhere: _ } = &mut self.heard;
        named.insert(path.clone());
        if mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            came.insert(path.clone());
        }
        if mask.contains(AddWatchFlags::IN_MOVED_TO) {
            renamed.insert(path.clone());
        } else {
            renamed.remove(&path);
        }
        let leaves = AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        self.in_parts |= !mask.intersects(leaves) && path.file_name().is_some_and(is_manifest);
        if mask.intersects(WRITTEN) {
            self.writing.remove(&path);
        } else if mask.contains(AddWatchFlags::IN_MODIFY) {
            self.writing.insert(path, now);
        }
    }
}

/// Which inode a path leads to.
pub(super) fn inode_of(path: &Path) -> io::Result<Inode> {
    Ok(inode(&fs::metadata(path)?))
}

/// Which inode it is that has this metadata.
pub(super) fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino(), metadata.created().ok())
}

#[cfg(test)]
mod tests;
