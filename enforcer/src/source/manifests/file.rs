//! What one file of the folder says, and what it said before.
//!
//! Input: the successive contents of the file. Output: its contribution to [`Objects`]. Invariant:
//! an object disappears only with a content that can be read and does not hold it; what may be
//! meant by something unreadable is kept from the former content.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use enforcer_policy::{
    model::ObjectRef,
    problem::{Problem, ProblemKind},
};

use super::documents::{self, Document, Notation};
use crate::source::{objects::Object, store::Objects};

/// One file.
#[derive(Debug)]
pub(super) struct File {
    /// Path as shown to people.
    path: Arc<str>,
    notation: Notation,
    content: Content,
    /// Objects of former contents that may be meant by what cannot be read now.
    kept: BTreeMap<ObjectRef, Object>,
    /// Why the file as a whole cannot be read.
    unreadable: Option<String>,
    /// Set once a content could be read as a whole.
    complete: bool,
}

/// A content of a file: its documents with a hash of their text.
#[derive(Clone, Debug, Default)]
pub(super) struct Content(Vec<(u64, Arc<Document>)>);

impl File {
    /// A file that has not been read yet.
    pub(super) fn new(path: &str, notation: Notation) -> Self {
        Self {
            path: path.into(),
            notation,
            content: Content::default(),
            kept: BTreeMap::new(),
            unreadable: None,
            complete: false,
        }
    }

    /// Reads a content. Documents that stand in the present content too are not parsed again.
    pub(super) fn parse(&self, text: &str, hasher: &RandomState) -> Content {
        let known: HashMap<u64, &Arc<Document>> =
            self.content.0.iter().map(|(hash, document)| (*hash, document)).collect();
        let read = |section: documents::Section<'_>| {
            let hash = hasher.hash_one(section.text);
            // Failures name lines of the file, which move with what stands before them.
            let known = known.get(&hash).filter(|document| document.failures.is_empty());
            let document = known.map_or_else(
                || Arc::new(Document::read(section, self.notation)),
                |document| Arc::clone(document),
            );
            (hash, document)
        };
        Content(documents::split(text, self.notation).into_iter().map(read).collect())
    }

    /// Whether there is nothing that an empty content would take away.
    pub(super) fn says_nothing(&self) -> bool {
        self.content.is_empty() && self.kept.is_empty()
    }

    /// Whether a content can be read as a whole and holds all that the present one holds.
    pub(super) fn would_lose_nothing(&self, next: &Content) -> bool {
        let next_objects: BTreeSet<ObjectRef> = next.objects().map(Object::reference).collect();
        let kept = self.kept.keys().cloned();
        next.0.iter().all(|(_, document)| document.failures.is_empty())
            && self
                .content
                .objects()
                .map(Object::reference)
                .chain(kept)
                .all(|object| next_objects.contains(&object))
    }

    /// Takes a content in place of the present one.
    pub(super) fn take(&mut self, next: Content) {
        let former = std::mem::replace(&mut self.content, next);
        let documents = || self.content.0.iter().map(|(_, document)| document);
        let opaque = documents().any(|document| document.opaque);
        let failed: BTreeSet<&ObjectRef> = documents()
            .flat_map(|document| &document.failures)
            .filter_map(|failure| failure.object.as_ref())
            .collect();
        let mut kept = std::mem::take(&mut self.kept);
        if opaque || !failed.is_empty() {
            kept.extend(former.objects().map(|object| (object.reference(), object.clone())));
            kept.retain(|object, _| opaque || failed.contains(object));
            for object in self.content.objects() {
                kept.remove(&object.reference());
            }
            self.kept = kept;
        }
        self.complete |= !opaque;
        self.unreadable = None;
    }

    /// Notes that the file cannot be read now; its present content stays.
    pub(super) fn fail(&mut self, reason: String) {
        self.unreadable = Some(reason);
    }

    /// The objects of the present content.
    pub(super) fn present(&self) -> impl Iterator<Item = (&Object, &Arc<str>)> {
        self.content.objects().map(|object| (object, &self.path))
    }

    /// Adds what is wrong with the present content.
    pub(super) fn add_failures(&self, objects: &mut Objects) {
        let Self { path, notation: _, content, kept: _, unreadable, complete } = self;
        for (position, (_, document)) in (1..).zip(&content.0) {
            let Document { objects: _, failures, opaque } = &**document;
            for failure in failures {
                objects.fail(failure, unnamed_document(position), path);
            }
            objects.incomplete |= *opaque && !complete;
        }
        if let Some(reason) = unreadable {
            objects.incomplete |= !complete;
            objects.problems.insert(unreadable_problem("File", path, reason));
        }
    }

    /// What a former content said of the objects that may be meant by what cannot be read.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&Object, &Arc<str>)> {
        self.kept.values().map(|object| (object, &self.path))
    }
}

impl Content {
    /// Whether it says nothing at all, not even something wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn objects(&self) -> impl Iterator<Item = &Object> {
        self.0.iter().flat_map(|(_, document)| &document.objects)
    }
}

/// Says that a file or folder cannot be read.
pub(super) fn unreadable_problem(kind: &str, path: &str, reason: &str) -> Problem {
    let object =
        ObjectRef { kind: kind.to_owned(), namespace: String::new(), name: path.to_owned() };
    Problem {
        cluster: None,
        object,
        file: String::new(),
        field: String::new(),
        value: String::new(),
        kind: ProblemKind::UnreadableFile { reason: reason.to_owned() },
    }
}

fn unnamed_document(position: usize) -> ObjectRef {
    ObjectRef { kind: "Document".to_owned(), namespace: String::new(), name: position.to_string() }
}

#[cfg(test)]
mod tests;
