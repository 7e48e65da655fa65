//! What of the former snapshot stays while something cannot be read.
//!
//! Input: objects and what was known before. Output: whether that still holds. Invariant: what can be
//! read is never replaced by what is remembered.

use enforcer_policy::model::Frontend;

use super::guard_pods::Guard;
use crate::source::{
    objects::Kind,
    store::{Key, Objects},
};

/// Whether a former frontend may still be there: its Service cannot be read, or, for a pod, some
/// EndpointSlice.
pub(super) fn is_kept(frontend: &Frontend, objects: &Objects, guard: &Guard) -> bool {
    let Frontend { service, kind, .. } = frontend;
    let read = objects.services.get(&Key::new(&service.namespace, &service.name));
    match (read, kind.is_pod()) {
        (None, true) => guard.holds_some() && objects.may_exist(service),
        (None, false) => objects.may_exist(service),
        (Some(stored), true) => {
            guard.holds_pods(&stored.object) && pods(objects, &service.namespace)
        }
        (Some(_), false) => false,
    }
}

/// Whether pods of a namespace may be there that no table holds.
pub(super) fn pods(objects: &Objects, namespace: &str) -> bool {
    let (pod, slice) = (Kind::Pod.to_string(), Kind::EndpointSlice.to_string());
    objects.incomplete
        || objects.failed.iter().filter(|object| object.namespace == namespace).any(|object| {
            let key = Key::new(namespace, &object.name);
            (object.kind == pod && !objects.pods.contains_key(&key))
                || (object.kind == slice && !objects.endpoint_slices.contains_key(&key))
        })
}
