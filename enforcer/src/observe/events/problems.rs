//! Which problems have an Event, what it is called and what it says. Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use enforcer_policy::{
    model::ClusterId,
    problem::{Problem, ProblemKind},
};
use sha2::{Digest as _, Sha256};

/// Longest note that Kubernetes takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// What tells one problem from another, in every agent and version alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) subject: Subject,
    pub(super) digest: String,
}

/// What a problem is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A Cluster of that name.
    Cluster(String),
    /// The image as a whole.
    Fleet,
}

/// The problems that every agent sees alike: those of a cluster, and an image that is too large.
pub(super) fn worth_an_event<'a>(
    problems: impl IntoIterator<Item = &'a Problem>,
) -> BTreeMap<Id, &'a Problem> {
    let subject = |problem: &Problem| match (&problem.cluster, &problem.kind) {
        (_, ProblemKind::Egress { .. } | ProblemKind::OverQuota { .. }) => None,
        (Some(ClusterId(name)), _) => Some(Subject::Cluster(name.clone())),
        (None, ProblemKind::Capacity { .. }) => Some(Subject::Fleet),
        (None, _) => None,
    };
    let worth = |problem: &'a Problem| {
        let subject = subject(problem)?;
        Some((Id { subject, digest: digest(problem) }, problem))
    };
    problems.into_iter().filter_map(worth).collect()
}

/// The reason that `kubectl get events` shows.
pub(super) fn reason(kind: &ProblemKind) -> &'static str {
    match kind {
        ProblemKind::InvalidRange => "InvalidRange",
        ProblemKind::UnreadableFile { .. } => "Unreadable",
        ProblemKind::WrongShape { .. } => "WrongShape",
        ProblemKind::NoNamespace => "NoNamespace",
        ProblemKind::NoPorts => "NoPorts",
        ProblemKind::AmbiguousSeed => "AmbiguousSeed",
        ProblemKind::UnknownSeed => "UnknownSeed",
        ProblemKind::Duplicate => "Duplicate",
        ProblemKind::NotEnforced { .. } => "NotEnforced",
        ProblemKind::Conflict { .. } => "Conflict",
        ProblemKind::Egress { .. } => "Egress",
        ProblemKind::OverLimit { .. } => "OverLimit",
        ProblemKind::OverQuota { .. } => "OverQuota",
        ProblemKind::More { .. } => "MoreProblems",
        ProblemKind::Capacity { .. } => "Capacity",
        ProblemKind::ClientsHidden => "ClientsHidden",
        ProblemKind::ProbesDenied { .. } => "ProbesDenied",
    }
}

/// What the Event says.
pub(super) fn note(problem: &Problem) -> String {
    let mut note = problem.to_string();
    let end = (0..=LONGEST_NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    note.truncate(end.unwrap_or_default());
    note
}

fn digest(problem: &Problem) -> String {
    let Problem { cluster: _, object, file: _, field, value, kind } = problem;
    let text = format!("{object}\n{field}\n{value}\n{kind}");
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// As it stands in the Lease.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Cluster(name) => write!(f, "{name}/{}", self.digest),
            Subject::Fleet => write!(f, "/{}", self.digest),
        }
    }
}

/// Not an [`Id`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoId;

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let (name, digest) = text.split_once('/').ok_or(NoId)?;
        let subject = match name {
            "" => Subject::Fleet,
            name => Subject::Cluster(name.to_owned()),
        };
        Ok(Self { subject, digest: digest.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use enforcer_policy::model::ObjectRef;

    use super::*;

    fn problem(cluster: Option<&str>, value: &str, kind: ProblemKind) -> Problem {
        let (namespace, name) = (String::new(), "c1".to_owned());
        Problem {
            cluster: cluster.map(|name| ClusterId(name.to_owned())),
            object: ObjectRef { kind: "Cluster".to_owned(), namespace, name },
            file: String::new(),
            field: "spec.x".to_owned(),
            value: value.to_owned(),
            kind,
        }
    }

    #[test]
    fn problems_of_clusters_and_capacity_have_events_and_each_its_own() {
        let capacity = ProblemKind::Capacity { reason: "frontends".to_owned() };
        let egress = ProblemKind::Egress { reason: "no interface".to_owned() };
        let (reason, beyond) = ("pods".to_owned(), "do not count".to_owned());
        let quota = ProblemKind::OverQuota { reason, beyond };
        let problems = [
            problem(Some("c1"), "a", ProblemKind::InvalidRange),
            problem(Some("c1"), "b", ProblemKind::InvalidRange),
            problem(None, "", capacity),
            problem(None, "", ProblemKind::UnknownSeed),
            // Of these each node sees its own.
            problem(Some("c1"), "", egress),
            problem(Some("c1"), "", quota),
        ];
        let worth = worth_an_event(&problems);
        assert_eq!(worth.len(), 3);
        for id in worth.keys() {
            assert_eq!(id.to_string().parse().as_ref(), Ok(id));
        }
    }

    #[test]
    fn a_note_is_cut_where_kubernetes_would_refuse_it() {
        let kind = ProblemKind::WrongShape { reason: "ü".repeat(2000) };
        let note = note(&problem(Some("c1"), "", kind));
        assert!((1000..=1024).contains(&note.len()), "{}", note.len());
    }
}
