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
    listing::{self, Entry, Listing, Stamp, is_manifest},
    reading::{self, Reading, SETTLED},
    watch::{Heard, Inode, QUIET, WHOLE, Watch, inode_of},
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
    /// Whether there are symlinks: then any event may concern any file.
    has_links: bool,
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

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every file.
    All,
    /// The files that events have named, where these tell enough.
    Named,
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
            has_links: false,
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
    pub(super) fn look(&mut self, watch: &mut Watch, scope: Scope) -> io::Result<Looked> {
        let heard = watch.start_look();
        let (rewatched, listing) = match self.list(watch, &heard, scope) {
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
        let former = self.inode.replace(listing.inode);
        let replaced = former.is_some_and(|former| rewatched || former != listing.inode);
        if (came_back || replaced) && listing.entries.is_empty() {
            self.refill = Some(now + REFILL);
        }
        if listing.only.is_none() {
            self.targets.clear();
            self.has_links = false;
        }
        self.targets.extend(listing.targets.iter().cloned());
        self.has_links |= listing.has_links;
        // What changed in a folder before its events were asked for shows at the next look.
        let newly_watched = !watch.follow(&self.watched()).is_empty();

        let mut looked = Looked { changed: came_back, again: newly_watched.then_some(QUIET) };
        self.drop_missing(&listing, &heard.came, now, &mut looked);
        for (name, entry) in listing.entries {
            self.look_at(name, entry, watch, &heard, &mut looked);
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
    fn list(
        &mut self,
        watch: &mut Watch,
        heard: &Heard,
        scope: Scope,
    ) -> io::Result<(bool, Listing)> {
        self.real = self.path.canonicalize()?;
        let rewatched = watch.follow(&self.watched()).contains(&self.real);
        let is_known = !rewatched && self.inode == Some(inode_of(&self.real)?);
        let listing = match (scope, self.named(heard)) {
            (Scope::Named, Some(names)) if is_known => listing::look_at(&self.real, names)?,
            (Scope::Named | Scope::All, _) => listing::list(&self.real)?,
        };
        Ok((rewatched, listing))
    }

    /// The files that events have named, and those that are waited for; `None` where others may have
    /// changed too.
    fn named(&self, heard: &Heard) -> Option<BTreeSet<OsString>> {
        if self.has_links || self.gone.is_some() || heard.elsewhere {
            return None;
        }
        let waiting = |slot: &Slot| slot.waiting.is_some() || slot.missing.is_some();
        let waiting = self.slots.iter().filter(|(_, slot)| waiting(slot));
        let mut names: BTreeSet<OsString> = waiting.map(|(name, _)| name.clone()).collect();
        for path in &heard.named {
            if path.parent() != Some(&self.real) {
                return None;
            }
            names.extend(path.file_name().filter(|name| is_manifest(name)).map(ToOwned::to_owned));
        }
        Some(names)
    }

    fn drop_missing(
        &mut self,
        listing: &Listing,
        came: &BTreeSet<PathBuf>,
        now: Instant,
        looked: &mut Looked,
    ) {
        self.refill = self.refill.filter(|until| now < *until);
        let (refill, real) = (self.refill, &self.real);
        self.slots.retain(|name, slot| {
            if listing.only.as_ref().is_some_and(|only| !only.contains(name)) {
                return true;
            }
            let is_here = listing.entries.contains_key(name);
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

    fn look_at(
        &mut self,
        name: OsString,
        entry: Entry,
        watch: &mut Watch,
        heard: &Heard,
        looked: &mut Looked,
    ) {
        let path = self.path.join(&name);
        let slot = self.slots.entry(name).or_insert_with(|| Slot::new(&path));
        match entry {
            Entry::Unreadable { reason } => slot.miss(reason, looked),
            Entry::File { stamp, .. } if slot.taken == Some(stamp) => slot.waiting = None,
            Entry::File { stamp: _, real } => {
                let settled = if heard.renamed.contains(&real) { WHOLE } else { SETTLED };
                slot.read(&real, watch, settled, &self.hasher, looked);
            }
        }
    }
}

impl Slot {
    fn new(path: &Path) -> Self {
        let file = File::new(&path.display().to_string(), listing::notation(path));
        Self { file, taken: None, waiting: None, missing: None }
    }

    /// Reads a version that is not the one that was taken.
    fn read(
        &mut self,
        path: &Path,
        watch: &mut Watch,
        settled: Duration,
        hasher: &RandomState,
        looked: &mut Looked,
    ) {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let refill = if self.file.says_nothing() { Duration::ZERO } else { REFILL };
        let (text, stamp) = match reading::read(path, watch, settled, refill) {
            Reading::Settled { text, stamp } => (text, Some(stamp)),
            Reading::Unsettled { text } => (text, None),
            Reading::Busy { again } => return looked.again_after(Some(again)),
            Reading::Failed { reason, stamp } => return self.fail(stamp, reason, looked),
        };
        if stamp.is_none() {
            looked.again_after(Some(SETTLED));
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
