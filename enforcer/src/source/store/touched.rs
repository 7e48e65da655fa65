//! Which clusters a change of the objects may concern.
//!
//! Input: two states of the objects, one after the other. Output: [`Touched`]. Invariant: what is not
//! touched is the very same object in both, not an equal one: no text is compared, so that looking costs
//! next to nothing beside reading.

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use super::{Key, Objects, Stored, Table};

/// What of the objects differs between two states. Nodes, Seeds and templates are not among it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct Touched<'a> {
    /// Names of Clusters.
    pub(in crate::source) clusters: BTreeSet<&'a str>,
    /// Namespaces of which an object differs, or the Namespace itself.
    pub(in crate::source) namespaces: BTreeSet<&'a str>,
}

impl<'a> Touched<'a> {
    /// What differs.
    pub(in crate::source) fn between(before: &'a Objects, after: &'a Objects) -> Self {
        let mut touched = Self::default();
        differences(&before.clusters, &after.clusters, |key| {
            touched.clusters.insert(&key.name);
        });
        differences(&before.namespaces, &after.namespaces, |key| {
            touched.namespaces.insert(&key.name);
        });
        let mut lies_in = |key: &'a Key| {
            touched.namespaces.insert(&key.namespace);
        };
        differences(&before.services, &after.services, &mut lies_in);
        differences(&before.endpoint_slices, &after.endpoint_slices, &mut lies_in);
        differences(&before.pods, &after.pods, &mut lies_in);
        touched
    }
}

/// Names every key that is in one of the tables only, or has another object or file in each.
fn differences<'a, T>(before: &'a Table<T>, after: &'a Table<T>, mut differs: impl FnMut(&'a Key)) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((_, left)), Some((_, right))) if is_same(left, right) => {
                before.next();
                after.next();
                continue;
            }
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        let left = before.next_if(|_| order != Ordering::Greater);
        let right = after.next_if(|_| order != Ordering::Less);
        if let Some((key, _)) = left.or(right) {
            differs(key);
        }
    }
}

/// Whether it is one object: an object has one name.
fn is_same<T>(left: &Stored<T>, right: &Stored<T>) -> bool {
    Arc::ptr_eq(&left.object, &right.object)
        && (Arc::ptr_eq(&left.file, &right.file) || left.file == right.file)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::source::objects::{Object, decode};

    fn object(kind: &str, namespace: &str, name: &str) -> Object {
        let metadata = json!({"name": name, "namespace": namespace});
        let value = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
        decode(&value).unwrap().unwrap()
    }

    fn objects<'a>(all: impl IntoIterator<Item = &'a Object>) -> Objects {
        let file: Arc<str> = "a.yaml".into();
        let mut objects = Objects::default();
        objects.add_all(all.into_iter().map(|object| (object, &file)));
        objects
    }

    #[test]
    fn what_came_went_or_was_replaced_is_touched_and_nothing_else() {
        let all: Vec<Object> = ["a", "b", "c", "d"]
            .iter()
            .flat_map(|namespace| ["x", "y"].map(|name| object("Service", namespace, name)))
            .collect();
        let before = objects(&all);
        assert_eq!(Touched::between(&before, &objects(&all)), Touched::default());
        // a/y goes, b/y is replaced by an equal one, d/z comes.
        let mut next = all.clone();
        next[3] = object("Service", "b", "y");
        next.push(object("Service", "d", "z"));
        next.remove(1);
        let after = objects(&next);
        for (one, other) in [(&before, &after), (&after, &before)] {
            let touched = Touched::between(one, other);
            assert_eq!(touched.namespaces, ["a", "b", "d"].into());
            assert!(touched.clusters.is_empty());
        }
    }

    #[test]
    fn a_namespace_and_a_file_count_too() {
        let all = [object("Namespace", "", "n"), object("Pod", "m", "p")];
        let before = objects(&all[1..]);
        let after = objects(&all);
        assert_eq!(Touched::between(&before, &after).namespaces, ["n"].into());
        let mut moved = before.clone();
        moved.pods.values_mut().for_each(|stored| stored.file = "b.yaml".into());
        assert_eq!(Touched::between(&before, &moved).namespaces, ["m"].into());
    }
}
