//! What all watches know together, and when that is worth publishing.
//!
//! Input: what the watches hear, how the connection is, and the time. Output: [`Objects`], at most
//! once in [`GATHER`] and only when something that is read has changed. Pure. Invariants: nothing is
//! published as read before every watch has finished a list; what cannot be reached is marked stale
//! and stays; what is held stays until it is back or an operator lets it go.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use enforcer_policy::{
    model::{ObjectRef, Snapshot},
    problem::{Problem, ProblemKind},
};

use super::{
    reference,
    table::{Hold, Table},
    watches::{Heard, Watch},
};
use crate::source::{
    objects::{Kind, Object},
    store::{Key, Objects},
};

/// Changes this close together are one.
pub(super) const QUIET: Duration = Duration::from_millis(10);

/// Time between two publications, so that what changes all the time is gathered.
const GATHER: Duration = Duration::from_millis(30);

/// Annotation of the agent's Namespace: a new value lets go what is held, on every node.
pub const RELEASE: &str = "enforcer.k8c.io/release-hold";

/// All tables.
#[derive(Debug)]
pub(super) struct Tables {
    watched: Vec<Watched>,
    hold: Hold,
    /// The Namespace that the agent runs in.
    home: Option<String>,
    /// The value of [`RELEASE`] while nothing was held; `None` until Namespaces have been read.
    unheld: Option<Option<String>>,
    /// Why the API server cannot be reached.
    lost: Option<String>,
    /// When the first change came that is not published yet.
    changed: Option<Instant>,
    published: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    watch: Watch,
    table: Table,
    /// Since when it may have missed something.
    behind: Option<SystemTime>,
    /// What the API server has against it.
    refusal: Option<String>,
}

impl Tables {
    /// Of watches that have not heard anything.
    pub(super) fn new(
        watches: &[Watch],
        hold: Hold,
        home: Option<String>,
        former: Option<&Snapshot>,
        now: SystemTime,
    ) -> Self {
        let watched = watches.iter().map(|watch| {
            let reference = former.map(|former| reference::of(former, watch)).unwrap_or_default();
            let table = Table::new(watch.kind, reference);
            Watched { watch: watch.clone(), table, behind: Some(now), refusal: None }
        });
        Self {
            watched: watched.collect(),
            hold,
            home,
            unheld: None,
            lost: None,
            changed: None,
            published: None,
        }
    }

    /// Whether every watch has finished a list.
    pub(super) fn is_complete(&self) -> bool {
        self.watched.iter().all(|watched| watched.table.is_complete())
    }

    /// A watch has heard something.
    pub(super) fn hear(&mut self, number: usize, heard: Heard, now: Instant, clock: SystemTime) {
        let Some(Watched { watch, table, behind, refusal }) = self.watched.get_mut(number) else {
            return;
        };
        let changed = match heard {
            Heard::Begin => {
                table.begin();
                false
            }
            Heard::Listed(item) => {
                table.list(item);
                false
            }
            Heard::Finished => {
                let changed = table.finish(self.hold, now);
                let was_behind = behind.take().is_some();
                refusal.take().is_some() | was_behind | changed
            }
            Heard::Changed(item) => table.apply(item),
            Heard::Deleted(key) => table.delete(&key, now),
            Heard::UnknownKind => {
                // As good as a list without any: the API server knows that there are none.
                table.begin();
                let changed = table.finish(self.hold, now);
                let was_behind = behind.take().is_some();
                let reason = "the API server does not know this kind; are KKP's CRDs installed?";
                refuse(watch, refusal, reason.to_owned()) | was_behind | changed
            }
            Heard::Failed { reason, answered } => {
                let is_new = behind.replace(behind.unwrap_or(clock)).is_none();
                if answered { refuse(watch, refusal, reason) | is_new } else { is_new }
            }
        };
        if changed {
            self.note_change(now);
        }
        self.look_for_release(now);
    }

    /// The API server cannot be reached, or what it holds is no longer what it was: every watch must
    /// list anew.
    pub(super) fn disconnected(&mut self, reason: &str, now: Instant, clock: SystemTime) {
        if self.lost.as_deref() != Some(reason) {
            tracing::warn!(reason, "the API server is lost; what was read before stays in force");
            self.lost = Some(reason.to_owned());
            self.note_change(now);
        }
        for Watched { behind, .. } in &mut self.watched {
            behind.get_or_insert(clock);
        }
    }

    /// The API server answers.
    pub(super) fn connected(&mut self, now: Instant) {
        if self.lost.take().is_some() {
            tracing::info!("the API server answers again");
            self.note_change(now);
        }
    }

    /// When [`Self::take`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let expiry = self.watched.iter().filter_map(|watched| watched.table.next_expiry()).min();
        expiry.into_iter().chain(self.publication()).min()
    }

    /// When the changes that came are to be published.
    fn publication(&self) -> Option<Instant> {
        let gathered = self.published.map(|published| published + GATHER);
        let settled = self.changed? + QUIET;
        Some(gathered.map_or(settled, |gathered| gathered.max(settled)))
    }

    /// What is to be published now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Objects> {
        let mut expired = false;
        for Watched { table, .. } in &mut self.watched {
            expired |= table.expire(now);
        }
        if expired {
            self.note_change(now);
        }
        self.publication().filter(|at| *at <= now)?;
        (self.changed, self.published) = (None, Some(now));
        Some(self.objects())
    }

    /// Everything that is in force.
    pub(super) fn objects(&self) -> Objects {
        let mut objects = Objects {
            stale_since: self.watched.iter().filter_map(|watched| watched.behind).min(),
            problems: self.problems(),
            ..Objects::default()
        };
        if !self.is_complete() {
            (objects.unread, objects.incomplete) = (true, true);
            return objects;
        }
        for Watched { table, .. } in &self.watched {
            table.add_to(&mut objects);
        }
        objects
    }

    fn problems(&self) -> BTreeSet<Problem> {
        let lost = self.lost.iter().map(|reason| unread("API server", reason.clone()));
        let refused = self.watched.iter().filter_map(|Watched { watch, refusal, .. }| {
            refusal.as_ref().map(|reason| unread(&watch.name, reason.clone()))
        });
        let held = self.watched.iter().filter_map(|Watched { watch, table, .. }| {
            let (lacking, number) = table.held()?;
            let way = match &self.home {
                Some(home) => format!("give Namespace {home} a new annotation {RELEASE}"),
                None => "restart the agent without its state".to_owned(),
            };
            let reason = format!(
                "the list suddenly lacks {lacking} of {number}, which are held; if they are to go, {way}"
            );
            Some(unread(&watch.name, reason))
        });
        lost.chain(refused).chain(held).collect()
    }

    fn note_change(&mut self, now: Instant) {
        self.changed.get_or_insert(now);
    }

    fn look_for_release(&mut self, now: Instant) {
        let Some(value) = self.release_value() else { return };
        let is_held = self.watched.iter().any(|watched| watched.table.held().is_some());
        let unheld = self.unheld.get_or_insert_with(|| value.clone());
        if !is_held {
            *unheld = value;
            return;
        }
        if value.is_none() || *unheld == value || !self.is_complete() {
            return;
        }
        self.unheld = Some(value);
        for Watched { watch, table, .. } in &mut self.watched {
            if table.release() {
                tracing::warn!(
                    watch = watch.name,
                    "what was held is let go, as the Namespace says"
                );
            }
        }
        self.note_change(now);
    }

    /// The value of [`RELEASE`]; `None` until Namespaces have been read.
    fn release_value(&self) -> Option<Option<String>> {
        let home = self.home.as_ref()?;
        let is_namespaces = |watched: &&Watched| watched.watch.kind == Kind::Namespace;
        let table = &self.watched.iter().find(is_namespaces)?.table;
        if !table.is_complete() {
            return None;
        }
        let namespace = table.get(&Key::new("", home)).map(Object::metadata);
        Some(namespace.and_then(|metadata| metadata.annotations.get(RELEASE).cloned()))
    }
}

/// Notes what the API server has against a watch. Whether that is new.
fn refuse(watch: &Watch, refusal: &mut Option<String>, reason: String) -> bool {
    if refusal.as_ref() == Some(&reason) {
        return false;
    }
    tracing::warn!(watch = watch.name, reason, "cannot be read");
    *refusal = Some(reason);
    true
}

fn unread(name: &str, reason: String) -> Problem {
    Problem {
        cluster: None,
        object: ObjectRef {
            kind: "watch".to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
        },
        file: String::new(),
        field: String::new(),
        value: String::new(),
        kind: ProblemKind::UnreadableFile { reason },
    }
}

#[cfg(test)]
mod tests;
