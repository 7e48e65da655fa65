//! What is wrong with the input, in a form that people, Events and metrics can use.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, ObjectRef};

/// One thing that is wrong and that does not stop the rest from being enforced.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// Cluster that it concerns, if it is one.
    pub cluster: Option<ClusterId>,
    /// The object that is wrong.
    pub object: ObjectRef,
    /// File that it was read from; empty for the Kubernetes API.
    pub file: String,
    /// Path of the field, empty where the object as a whole is meant.
    pub field: String,
    /// The value as written, shortened to [`Problem::VALUE_CHARACTERS`].
    pub value: String,
    /// What is wrong and what is done about it.
    pub kind: ProblemKind,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProblemKind {
    /// An entry that is neither an address range nor an address: left out.
    InvalidRange,
    /// A file that cannot be read or is not YAML: what it said before is kept.
    UnreadableFile {
        /// The reader's words.
        reason: String,
    },
    /// A document or object of the wrong shape: the last good one is kept.
    WrongShape {
        /// The parser's words.
        reason: String,
    },
    /// Nothing says in which namespace the control plane runs: not enforced until then.
    NoNamespace,
    /// A Service without the ports that make it a frontend.
    NoPorts,
    /// Several Seeds are visible and none was named: the one that was used before stays in use, and
    /// without one their fields count as not set.
    AmbiguousSeed,
    /// The Seed that was named is not visible.
    UnknownSeed,
    /// Two objects of one kind and name: the first is used.
    Duplicate,
    /// Something that is written, or asked for, and has no effect, or not everywhere.
    NotEnforced {
        /// Why.
        reason: String,
    },
    /// Two clusters claim one frontend: the sources that both admit are admitted.
    Conflict {
        /// The other cluster.
        other: ClusterId,
    },
    /// Whom an API server pod of this node may connect to is not simply what its cluster says. Each
    /// node sees its own.
    Egress {
        /// What is the matter, and what is done about it.
        reason: String,
    },
    /// More than one cluster may have: of its list, what was in force before is kept, and without that
    /// nothing but exemptions is admitted.
    OverLimit {
        /// What there is too much of.
        reason: String,
    },
    /// More addresses than one cluster may have, of frontends, pods or peers: those beyond do not count.
    /// Each node sees its own.
    OverQuota {
        /// How many there are, and how many may be.
        reason: String,
        /// What that means for the others.
        beyond: String,
    },
    /// Further problems of one cluster, which are not told one by one.
    More {
        /// How many.
        count: usize,
    },
    /// The image has no room: the former one stays in force.
    Capacity {
        /// What is full, and its limit.
        reason: String,
    },
    /// Recent sources are nearly all addresses of load balancers or nodes.
    ClientsHidden,
    /// Connections that are denied look like health checks of a load balancer.
    ProbesDenied {
        /// What would admit their handshakes.
        range: String,
    },
}

impl Problem {
    /// Characters of a value that are shown.
    pub const VALUE_CHARACTERS: usize = 64;

    /// Shortens a value for [`Problem::value`].
    #[must_use]
    pub fn shorten(value: &str) -> String {
        if value.chars().count() <= Self::VALUE_CHARACTERS {
            return value.to_owned();
        }
        value.chars().take(Self::VALUE_CHARACTERS).chain(['…']).collect()
    }
}

/// Tells at most so many problems of each cluster, and how many more there are: their number is up to
/// the cluster's owner. Input and output are in order.
#[must_use]
pub fn at_most(problems: Vec<Problem>, per_cluster: usize) -> Vec<Problem> {
    let (told, others): (Vec<_>, _) = problems.into_iter().partition(|it| it.cluster.is_none());
    let mut told = told;
    let mut of_clusters: BTreeMap<ClusterId, Vec<Problem>> = BTreeMap::new();
    for problem in others {
        let Some(cluster) = problem.cluster.clone() else { continue };
        of_clusters.entry(cluster).or_default().push(problem);
    }
    for (cluster, mut problems) in of_clusters {
        let more = problems.len().saturating_sub(per_cluster);
        // One more is told as itself.
        if more > 1 {
            problems.truncate(per_cluster);
            let object = ObjectRef {
                kind: "Cluster".to_owned(),
                namespace: String::new(),
                name: cluster.0.clone(),
            };
            problems.push(Problem {
                cluster: Some(cluster),
                object,
                file: String::new(),
                field: String::new(),
                value: String::new(),
                kind: ProblemKind::More { count: more },
            });
        }
        told.extend(problems);
    }
    told.sort();
    told
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster: _, object, file, field, value, kind } = self;
        if !file.is_empty() {
            write!(f, "{file}: ")?;
        }
        write!(f, "{object}")?;
        if !field.is_empty() {
            write!(f, " {field}")?;
        }
        // An empty entry is a value too.
        if !value.is_empty() || *kind == ProblemKind::InvalidRange {
            write!(f, " = {value:?}")?;
        }
        write!(f, ": {kind}")
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidRange => f.write_str("not an address range; left out"),
            Self::UnreadableFile { reason } => {
                write!(f, "cannot be read ({reason}); what it said before is kept")
            }
            Self::WrongShape { reason } => {
                write!(f, "cannot be understood ({reason}); the last good version is kept")
            }
            Self::NoNamespace => f.write_str("names no control-plane namespace; not enforced yet"),
            Self::NoPorts => f.write_str("has no port that leads to an API server"),
            Self::AmbiguousSeed => f.write_str(
                "several Seeds are visible; choose one with --seed, only one used before counts",
            ),
            Self::UnknownSeed => f.write_str("is not there; its defaults are not used"),
            Self::Duplicate => f.write_str("is defined twice; the first is used"),
            Self::NotEnforced { reason } => write!(f, "not enforced: {reason}"),
            Self::Conflict { other } => {
                write!(f, "is claimed by cluster {other} too; only sources that both admit pass")
            }
            Self::Egress { reason } => write!(f, "egress: {reason}"),
            Self::OverLimit { reason } => {
                write!(
                    f,
                    "is over a limit ({reason}); its last list is kept, else it admits nobody"
                )
            }
            Self::OverQuota { reason, beyond } => {
                write!(f, "are over a limit ({reason}); those beyond {beyond}")
            }
            Self::More { count } => write!(f, "has {count} more problems"),
            Self::Capacity { reason } => {
                write!(f, "does not fit ({reason}); the former image stays in force")
            }
            Self::ClientsHidden => f.write_str(
                "recent sources are nearly all addresses of nodes or load balancers: something rewrites \
                 them on their way, and no list can tell clients apart there (README, Hidden clients)",
            ),
            Self::ProbesDenied { range } => write!(
                f,
                "denied connections come in the rhythm of a load balancer's health checks; \
                 --probe-ranges {range} would admit their handshakes"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(cluster: Option<&str>, number: usize) -> Problem {
        let (namespace, name) = (String::new(), cluster.unwrap_or_default().to_owned());
        Problem {
            cluster: cluster.map(|name| ClusterId(name.to_owned())),
            object: ObjectRef { kind: "Cluster".to_owned(), namespace, name },
            file: String::new(),
            field: format!("list[{number:05}]"),
            value: "rubbish".to_owned(),
            kind: ProblemKind::InvalidRange,
        }
    }

    #[test]
    fn a_cluster_with_many_problems_is_told_in_few_and_hides_no_other_ones() {
        let many = (0..20_000).map(|number| problem(Some("noisy"), number));
        let others = [problem(Some("quiet"), 1), problem(None, 1), problem(None, 2)];
        let mut all: Vec<Problem> = many.chain(others.clone()).collect();
        all.sort();
        let told = at_most(all.clone(), 20);
        assert_eq!(told.len(), 20 + 1 + others.len());
        assert!(others.iter().all(|problem| told.contains(problem)));
        let more = told.iter().find(|it| matches!(it.kind, ProblemKind::More { .. })).unwrap();
        assert_eq!(more.to_string(), "Cluster noisy: has 19980 more problems");
        assert_eq!(at_most(all[..21].to_vec(), 20), all[..21], "one more is told as itself");
        assert_eq!(at_most(told.clone(), 21), told);
    }
}
