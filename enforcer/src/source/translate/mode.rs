//! Whether a cluster is enforced or audited.
//!
//! Input: the annotation of the control-plane Namespace, which seed operators alone write, and the former
//! mode. Output: the mode, and a report on what was written without effect. Invariant: a Cluster, which
//! its owner writes, never weakens itself, and what cannot be understood enforces.

use enforcer_policy::{
    model::{self, Mode},
    problem::ProblemKind,
};

use super::report::{Place, Report};
use crate::source::{
    objects::{Cluster, Kind},
    store::{Key, Objects},
};

const ANNOTATION: &str = "enforcer.k8c.io/mode";
const FIELD: &str = "metadata.annotations[enforcer.k8c.io/mode]";

/// The mode of the cluster whose control plane is in this namespace.
pub(super) fn of(
    objects: &Objects,
    namespace: &str,
    former: Option<&model::Cluster>,
    report: &mut Report,
) -> Mode {
    let object = Kind::Namespace.reference("", namespace);
    let Some(stored) = objects.namespaces.get(&Key::new("", namespace)) else {
        let former = former.filter(|_| objects.may_exist(&object));
        return former.map_or(Mode::Enforce, |former| former.mode);
    };
    match stored.object.metadata.annotation(ANNOTATION).trim() {
        "audit" => Mode::Audit,
        "" | "enforce" => Mode::Enforce,
        unknown => {
            let place = Place { object: &object, file: &stored.file, field: FIELD };
            let reason = "expected audit or enforce; this cluster is enforced".to_owned();
            report.add(place, unknown, ProblemKind::NotEnforced { reason });
            Mode::Enforce
        }
    }
}

/// Says where an annotation of the Cluster has no effect.
pub(super) fn report_annotated(cluster: &Cluster, whole: Place<'_>, report: &mut Report) {
    let text = cluster.metadata.annotation(ANNOTATION);
    if !text.is_empty() {
        let reason = "a mode counts on the control-plane Namespace alone, not on the Cluster, which its \
                      owner can write";
        let place = Place { field: FIELD, ..whole };
        report.add(place, text, ProblemKind::NotEnforced { reason: reason.to_owned() });
    }
}
