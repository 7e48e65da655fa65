//! The folder as it was last seen, and what its files say.
//!
//! Input: looks at the folder ([`Folder::look`]). Output: [`Objects`]. Invariant: a file counts with
//! a content that nobody was writing while it was read; a folder that cannot be read, or that was
//! replaced by an empty one, changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    hash::RandomState,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use super::{
    file::{File, unreadable_problem},
    listing::{self, Entry, Listing, Stamp},
    reading::{self, Reading},
    watch::{Inode, QUIET, Watch, inode_of},
};
use crate::source::store::Objects;

/// A file that is removed, or leads nowhere, counts for this long: that is more often one half of a
/// replacement.
pub(super) const REMOVED: Duration = Duration::from_millis(120);

/// A file that held something and is empty, and a folder that came back or was replaced without any
/// file, are given this long to be filled.
const REFILL: Duration = Duration::from_secs(2);

/// A file that is rewritten again and again is read after this long, if that loses nothing.
const IMPATIENT: Duration = Duration::from_millis(100);

/// The folder of manifests.
pub(super) struct Folder {
    path: PathBuf,
    /// Where its path led at the last look, without symlinks.
    real: PathBuf,
    slots: BTreeMap<OsString, Slot>,
    inode: Option<Inode>,
    /// Since when and why the folder cannot be read.
    gone: Option<(SystemTime, String)>,
    /// Until when a missing file may still come back.
    refill: Option<Instant>,
    /// Folders that hold the targets of symlinks.
    targets: BTreeSet<PathBuf>,
    hasher: RandomState,
}

/// What is known of one file.
struct Slot {
    file: File,
    /// The version that `file` holds, or that could not be read.
    taken: Option<Stamp>,
    /// Since when there is a newer version that was not taken.
    waiting: Option<Instant>,
    missing: Option<Instant>,
}

/// Result of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    /// What the files say may have changed.
    pub(super) changed: bool,
    /// Look again after this long, whatever events say.
    pub(super) again: Option<Duration>,
}

impl Folder {
    /// A folder that has not been looked at. `path` is absolute.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            real: path.clone(),
            path,
            slots: BTreeMap::new(),
            inode: None,
            gone: None,
            refill: None,
            targets: BTreeSet::new(),
            hasher: RandomState::new(),
        }
    }

    /// Whether its path leads elsewhere than at the last look: a change that sends no event.
    pub(super) fn was_replaced(&self) -> bool {
        inode_of(&self.path).ok() != self.inode
    }

    /// Whether only looking tells that it was replaced: no event says that a folder is back, nor
    /// that a symlink on the way to it has changed.
    pub(super) fn can_be_replaced_unseen(&self) -> bool {
        self.gone.is_some() || self.real != self.path
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it could not be read at the last look.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// The folders whose events matter.
    pub(super) fn watched(&self) -> BTreeSet<PathBuf> {
        self.targets.iter().chain([&self.real]).cloned().collect()
    }

    /// Looks at the folder and reads what is new in it.
    ///
    /// # Errors
    /// Where the folder cannot be read; what its files said stays.
    pub(super) fn look(&mut self, watch: &mut Watch) -> io::Result<Looked> {
        let came = watch.start_look();
        let (rewatched, Listing { inode, entries, targets }) = match self.list(watch) {
            Ok(listed) => listed,
            Err(error) => {
                let since = self.gone.take().map_or_else(SystemTime::now, |(since, _)| since);
                self.gone = Some((since, error.to_string()));
                self.inode = None;
                return Err(error);
            }
        };
        let now = Instant::now();
        let came_back = self.gone.take().is_some();
        let former = self.inode.replace(inode);
        let replaced = former.is_some_and(|former| rewatched || former != inode);
        if (came_back || replaced) && entries.is_empty() {
            self.refill = Some(now + REFILL);
        }
        self.targets = targets;
        // What changed in a folder before its events were asked for shows at the next look.
        let newly_watched = !watch.follow(&self.watched()).is_empty();

        let mut looked = Looked { changed: came_back, again: newly_watched.then_some(QUIET) };
        self.drop_missing(&entries, &came, now, &mut looked);
        for (name, entry) in entries {
            self.look_at(name, entry, watch, &mut looked);
        }
        Ok(looked)
    }

    /// What the files say.
    pub(super) fn objects(&self) -> Objects {
        let Self { path, slots, gone, .. } = self;
        let mut objects = Objects::default();
        objects.add_all(slots.values().flat_map(|slot| slot.file.present()));
        for slot in slots.values() {
            slot.file.add_failures(&mut objects);
        }
        objects.keep_all(slots.values().flat_map(|slot| slot.file.kept()));
        if let Some((since, reason)) = gone {
            objects.stale_since = Some(*since);
            let path = path.display().to_string();
            objects.problems.insert(unreadable_problem("Folder", &path, reason));
        }
        objects
    }

    /// Lists the folder; the events of the folder that its path leads to now are asked for before.
    /// True if they were not before.
    fn list(&mut self, watch: &mut Watch) -> io::Result<(bool, Listing)> {
        self.real = self.path.canonicalize()?;
        let rewatched = watch.follow(&self.watched()).contains(&self.real);
        Ok((rewatched, listing::list(&self.real)?))
    }

    fn drop_missing(
        &mut self,
        entries: &BTreeMap<OsString, Entry>,
        came: &BTreeSet<PathBuf>,
        now: Instant,
        looked: &mut Looked,
    ) {
        self.refill = self.refill.filter(|until| now < *until);
        let (refill, real) = (self.refill, &self.real);
        self.slots.retain(|name, slot| {
            let is_here = entries.contains_key(name);
            // Gone again since it came back in between.
            if is_here || came.contains(&real.join(name)) {
                slot.missing = None;
            }
            if is_here {
                return true;
            }
            let gone_at = *slot.missing.get_or_insert(now) + REMOVED;
            let left =
                refill.map_or(gone_at, |until| until.max(gone_at)).checked_duration_since(now);
            let stays = left.is_some_and(|left| !left.is_zero());
            looked.again_after(left.filter(|_| stays));
            looked.changed |= !stays;
            stays
        });
    }

    fn look_at(&mut self, name: OsString, entry: Entry, watch: &mut Watch, looked: &mut Looked) {
        let path = self.path.join(&name);
        let slot = self.slots.entry(name).or_insert_with(|| Slot::new(&path));
        match entry {
            Entry::Unreadable { reason } => slot.miss(reason, looked),
            Entry::File { stamp, .. } if slot.taken == Some(stamp) => slot.waiting = None,
            Entry::File { stamp: _, real } => slot.read(&real, watch, &self.hasher, looked),
        }
    }
}

impl Slot {
    fn new(path: &Path) -> Self {
        let file = File::new(&path.display().to_string(), listing::notation(path));
        Self { file, taken: None, waiting: None, missing: None }
    }

    /// Reads a version that is not the one that was taken.
    fn read(&mut self, path: &Path, watch: &mut Watch, hasher: &RandomState, looked: &mut Looked) {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let refill = if self.file.says_nothing() { Duration::ZERO } else { REFILL };
        let (text, stamp) = match reading::read(path, watch, refill) {
            Reading::Settled { text, stamp } => (text, Some(stamp)),
            Reading::Unsettled { text } => (text, None),
            Reading::Busy { again } => return looked.again_after(Some(again)),
            Reading::Failed { reason, stamp } => return self.fail(stamp, reason, looked),
        };
        if stamp.is_none() {
            looked.again_after(Some(reading::SETTLED));
            if since.elapsed() < IMPATIENT {
                return;
            }
        }
        let started = Instant::now();
        let next = self.file.parse(&text, hasher);
        if stamp.is_none() && (next.is_empty() || !self.file.would_lose_nothing(&next)) {
            return;
        }
        tracing::debug!(
            file = %path.display(), bytes = text.len(), elapsed = ?started.elapsed(), "manifest read"
        );
        self.file.take(next);
        self.taken = stamp;
        self.waiting = None;
        looked.changed = true;
    }

    /// Something is there by its name that cannot be opened, a symlink to nowhere for one.
    fn miss(&mut self, reason: String, looked: &mut Looked) {
        let since = self.waiting.get_or_insert_with(Instant::now);
        match REMOVED.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => looked.again_after(Some(left)),
            None => {
                self.file.fail(reason);
                self.taken = None;
                looked.changed = true;
            }
        }
    }

    fn fail(&mut self, stamp: Option<Stamp>, reason: String, looked: &mut Looked) {
        self.taken = stamp;
        self.waiting = None;
        self.file.fail(reason);
        looked.changed = true;
    }
}

impl Looked {
    fn again_after(&mut self, wait: Option<Duration>) {
        self.again = match (self.again, wait) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        };
    }
}
