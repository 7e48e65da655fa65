//! What one watch knows: the objects that are there, and those that are kept although they are gone.
//!
//! Input: what the watch hears, in order, and the time. Output: the objects in force. Pure.
//! Invariants: a list that is not finished changes nothing; a finished one replaces the former list
//! at once; an object that can no longer be read keeps its last good version; what a list suddenly
//! lacks is kept until someone lets it go, if it is most of what was there ([`Hold`]), and for a
//! moment ([`GRACE`]) if it is where clients or peers of a control plane are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::seen::Item;
use crate::source::{
    objects::{Kind, Object, Undecodable},
    store::{Key, Objects},
};

/// Time that a Service, EndpointSlice or Pod outlives its end: whoever replaces one by deleting it
/// first must neither open nor lock out anything.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Namespaces that Kubernetes makes by itself: they come back in an emptied etcd.
const SELF_MADE: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// `--hold-below`: a finished list is held if it has less than this share of what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// From 0, never, to 100, whenever anything is lacking.
    pub percent: u8,
}

impl Hold {
    fn applies(self, before: usize, lacking: usize) -> bool {
        lacking > 0 && before.saturating_sub(lacking) * 100 < before * usize::from(self.percent)
    }
}

/// The objects of one watch.
#[derive(Debug)]
pub(super) struct Table {
    kind: Kind,
    /// What was there before this process, until a first list is finished. A name that is empty
    /// stands for any object of the namespace.
    reference: BTreeSet<Key>,
    there: BTreeMap<Key, Entry>,
    listing: Option<BTreeMap<Key, Entry>>,
    kept: BTreeMap<Key, Kept>,
    complete: bool,
    /// How much was lacking of how much when what is held was held.
    lacked: Option<(usize, usize)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// The last version that could be read.
    object: Option<Object>,
    /// Why the present one cannot be.
    failure: Option<Undecodable>,
}

#[derive(Debug)]
struct Kept {
    /// `None` for one that is known by the former snapshot only.
    entry: Option<Entry>,
    until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Deadline(Instant),
    Released,
}

impl Table {
    /// Of a watch that has not heard anything. `reference` is what was there before.
    pub(super) fn new(kind: Kind, reference: BTreeSet<Key>) -> Self {
        let (there, kept) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, reference, there, listing: None, kept, complete: false, lacked: None }
    }

    /// Whether a list was finished since the process started.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Number of objects that are held, and how much was lacking of how much when they were.
    pub(super) fn held(&self) -> Option<(usize, usize)> {
        self.lacked
    }

    /// The object of that name, if it is there.
    pub(super) fn get(&self, key: &Key) -> Option<&Object> {
        self.there.get(key)?.object.as_ref()
    }

    /// A list begins; one that was not finished is forgotten.
    pub(super) fn begin(&mut self) {
        self.listing = Some(BTreeMap::new());
    }

    /// The list has this object.
    pub(super) fn list(&mut self, item: Item) {
        let (key, entry) = self.entry(item);
        self.listing.get_or_insert_default().insert(key, entry);
    }

    /// The list is finished. Whether anything has changed.
    pub(super) fn finish(&mut self, hold: Hold, now: Instant) -> bool {
        let listed = self.listing.take().unwrap_or_default();
        let was_complete = std::mem::replace(&mut self.complete, true);
        let reference = std::mem::take(&mut self.reference);
        let before: Vec<&Key> =
            if was_complete { self.there.keys().collect() } else { reference.iter().collect() };
        let counted = |key: &&&Key| self.counts(key);
        let lacking = |key: &&Key| !is_in(key, &listed);
        let number = before.iter().filter(counted).count();
        let missing = before.iter().filter(counted).filter(|key| lacking(key)).count();
        let held = hold.applies(number, missing);
        let gone: Vec<Key> = before.into_iter().filter(lacking).cloned().collect();
        let mut changed = !was_complete;
        for key in gone {
            let entry = self.there.remove(&key);
            changed |= entry.is_some();
            self.keep(key, entry, held, now);
        }
        if held {
            self.lacked = Some((missing, number));
        }
        for key in listed.keys() {
            changed |= self.take_back(key);
        }
        changed |= self.there != listed;
        self.there = listed;
        changed
    }

    /// An object was made or changed. Whether that changes anything that is read of it.
    pub(super) fn apply(&mut self, item: Item) -> bool {
        let (key, entry) = self.entry(item);
        let was_kept = self.take_back(&key);
        let former = self.there.insert(key.clone(), entry);
        was_kept || former.as_ref() != self.there.get(&key)
    }

    /// An object was deleted. Whether that changes anything.
    pub(super) fn delete(&mut self, key: &Key, now: Instant) -> bool {
        let Some(entry) = self.there.remove(key) else { return false };
        self.keep(key.clone(), Some(entry), false, now);
        true
    }

    /// Lets go what has been kept long enough. Whether there was any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.kept.len();
        self.kept.retain(|_, kept| match kept.until {
            Until::Deadline(deadline) => deadline > now,
            Until::Released => true,
        });
        before != self.kept.len()
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let deadlines = self.kept.values().filter_map(|kept| match kept.until {
            Until::Deadline(deadline) => Some(deadline),
            Until::Released => None,
        });
        deadlines.min()
    }

    /// Lets go what is held. Whether there was any.
    pub(super) fn release(&mut self) -> bool {
        self.kept.retain(|_, kept| kept.until != Until::Released);
        self.lacked.take().is_some()
    }

    /// Adds the objects in force.
    pub(super) fn add_to(&self, objects: &mut Objects) {
        let file: Arc<str> = Arc::from("");
        let entries =
            self.there.values().chain(self.kept.values().filter_map(|kept| kept.entry.as_ref()));
        objects.keep_all(
            entries.filter_map(|entry| entry.object.as_ref()).map(|object| (object, &file)),
        );
        let kept = self.kept.iter().map(|(key, kept)| (key, kept.entry.as_ref()));
        let there = self.there.iter().map(|(key, entry)| (key, Some(entry)));
        for (Key { namespace, name }, entry) in there.chain(kept) {
            let reference = || self.kind.reference(namespace, name);
            match entry {
                Some(Entry { object: _, failure: None }) => {}
                Some(Entry { object: _, failure: Some(failure) }) => {
                    objects.fail(failure, reference(), &file);
                }
                // Only the former snapshot knows what it says.
                None => {
                    objects.failed.insert(reference());
                }
            }
        }
    }

    fn entry(&self, item: Item) -> (Key, Entry) {
        let Item { key, decoded } = item;
        let entry = match decoded {
            Ok(object) => Entry { object: Some(object), failure: None },
            Err(failure) => {
                let kept = self.kept.get(&key).and_then(|kept| kept.entry.as_ref());
                let former = self.there.get(&key).or(kept);
                let object = former.and_then(|entry| entry.object.clone());
                Entry { object, failure: Some(*failure) }
            }
        };
        (key, entry)
    }

    fn keep(&mut self, key: Key, entry: Option<Entry>, held: bool, now: Instant) {
        let graced = matches!(self.kind, Kind::Service | Kind::EndpointSlice | Kind::Pod);
        let until = match (held, graced && entry.is_some()) {
            (true, _) => Until::Released,
            (false, true) => Until::Deadline(now + GRACE),
            (false, false) => return,
        };
        self.kept.insert(key, Kept { entry, until });
    }

    /// An object is there: what was kept in its place goes. Whether there was any.
    fn take_back(&mut self, key: &Key) -> bool {
        let of_namespace = self.kept.remove(&Key::new(&key.namespace, "")).is_some();
        let was_kept = self.kept.remove(key).is_some() || of_namespace;
        if was_kept && !self.kept.values().any(|kept| kept.until == Until::Released) {
            self.lacked = None;
        }
        was_kept
    }

    fn counts(&self, key: &Key) -> bool {
        self.kind != Kind::Namespace || !SELF_MADE.contains(&&*key.name)
    }
}

fn is_in(key: &Key, listed: &BTreeMap<Key, Entry>) -> bool {
    if !key.name.is_empty() {
        return listed.contains_key(key);
    }
    let first = listed.range(key..).next();
    first.is_some_and(|(first, _)| first.namespace == key.namespace)
}

#[cfg(test)]
mod tests;
