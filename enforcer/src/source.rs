//! Where the objects come from, and what they mean.
//!
//! Input: [`Objects`], the seed's objects as far as they can be read, from a folder of manifests
//! ([`Manifests`]) or from the seed's API ([`Kubernetes`]). Output: the [`Snapshot`] that decisions are
//! made from, and what is wrong with the input ([`translate()`]). Invariant: an error in the input
//! never looks like a deletion, nor like the absence of a restriction.

pub mod kubernetes;
pub mod manifests;
pub mod objects;
pub mod store;
pub mod translate;

use std::{path::PathBuf, sync::Arc};

use enforcer_policy::model::Snapshot;

pub use self::{
    kubernetes::{AccessError, Kubernetes},
    manifests::{Manifests, SourceError},
    store::Objects,
    translate::{
        Destination, DestinationError, EgressDns, EgressSettings, GuardPods, Learned, Limits,
        Settings, Translated, Translator, translate,
    },
};

/// Where objects come from.
#[derive(Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(Manifests),
    /// The seed's API.
    Kubernetes(Kubernetes),
}

/// What to open.
#[derive(Clone, Debug)]
pub enum Choice {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The seed's API.
    Kubernetes(kubernetes::Options),
}

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder of manifests.
    #[error(transparent)]
    Manifests(#[from] SourceError),
    /// The way to the API server.
    #[error(transparent)]
    Kubernetes(#[from] AccessError),
}

impl Source {
    /// Opens a source. `former` is the snapshot that was enforced last.
    ///
    /// # Errors
    /// Where it cannot be read at all; an API server that does not answer is waited for.
    pub async fn open(choice: Choice, former: Option<&Snapshot>) -> Result<Self, OpenError> {
        Ok(match choice {
            Choice::Manifests(folder) => Self::Manifests(Manifests::open(folder).await?),
            Choice::Kubernetes(options) => {
                Self::Kubernetes(Kubernetes::open(options, former).await?)
            }
        })
    }

    /// What it says now.
    #[must_use]
    pub fn current(&mut self) -> Arc<Objects> {
        match self {
            Self::Manifests(manifests) => manifests.current(),
            Self::Kubernetes(kubernetes) => kubernetes.current(),
        }
    }

    /// Waits until it says something else. Cancel-safe.
    pub async fn changed(&mut self) -> Arc<Objects> {
        match self {
            Self::Manifests(manifests) => manifests.changed().await,
            Self::Kubernetes(kubernetes) => kubernetes.changed().await,
        }
    }
}
