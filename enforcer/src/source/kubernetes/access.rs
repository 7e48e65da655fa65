//! The way to the API server, and whether it still holds what it held.
//!
//! Input: the pod's service account, or a kubeconfig. Output: a client that answers, and the
//! [`Holdings`] behind it. Invariant: both are read anew for every client, so that a new address, a new
//! certificate authority or a new token is found without a restart.

use std::{path::PathBuf, time::Duration};

use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::time::timeout;

use super::seen::Seen;
use crate::chain::chain;
use crate::source::objects::Namespace;

/// An API server that does not answer a small question in this time does not answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Where to find the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// What Kubernetes gives every pod.
    Pod,
    /// A kubeconfig.
    Kubeconfig(PathBuf),
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither is there.
    #[error("not in a pod, and neither KUBECONFIG nor --source kubernetes=FILE names a kubeconfig")]
    Nowhere,
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// What a pod has cannot be used.
    #[error("cannot use the pod's service account")]
    Pod(#[source] Box<InClusterError>),
    /// No client can be made of it.
    #[error("cannot make a client for the API server")]
    Client(#[source] Box<kube::Error>),
}

/// What the API server holds, as far as it takes to know it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings {
    /// Of Namespace `kube-system`: as long as the seed is the same one, so is this.
    uid: Option<String>,
    /// Resource version; only ever greater.
    version: Option<u128>,
}

/// How the API server did not answer.
#[derive(Debug)]
pub(super) struct Silence {
    /// In words.
    pub(super) reason: String,
    /// Whether it was slow, or said no, rather than not there.
    pub(super) may_be_busy: bool,
}

impl Access {
    /// `--source kubernetes[=FILE]`: the file, `KUBECONFIG`, or what the pod has.
    ///
    /// # Errors
    /// Where neither is there.
    pub fn find(file: Option<PathBuf>) -> Result<Self, AccessError> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        match file.or_else(|| named("KUBECONFIG").map(PathBuf::from)) {
            Some(path) => Ok(Self::Kubeconfig(path)),
            None if named("KUBERNETES_SERVICE_HOST").is_some() => Ok(Self::Pod),
            None => Err(AccessError::Nowhere),
        }
    }

    /// Makes a client of what is written now.
    pub(crate) async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match self {
            Self::Pod => {
                Config::incluster().map_err(|source| AccessError::Pod(Box::new(source)))?
            }
            Self::Kubeconfig(path) => {
                let unusable = |source| {
                    let (path, source) = (path.clone(), Box::new(source));
                    AccessError::Kubeconfig { path, source }
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(unusable)?
            }
        };
        config.connect_timeout = Some(ANSWER);
        Client::try_from(config).map_err(|source| AccessError::Client(Box::new(source)))
    }
}

/// Asks for what is held, with one small request.
pub(super) async fn holdings(client: &Client) -> Result<Holdings, Silence> {
    let api: Api<Seen<Namespace>> = Api::all_with(client.clone(), &());
    let parameters = ListParams::default().fields("metadata.name=kube-system");
    match timeout(ANSWER, api.list(&parameters)).await {
        Ok(Ok(list)) => {
            let version = list.metadata.resource_version.and_then(|text| text.parse().ok());
            let found =
                list.items.into_iter().next().and_then(|seen| seen.into_item().decoded.ok());
            let uid = found.and_then(|namespace| namespace.metadata().uid.clone());
            Ok(Holdings { uid, version })
        }
        // It answers; what it refuses is the business of the watches.
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Ok(Holdings::default()),
        // Another token may be there by now.
        Ok(Err(kube::Error::Api(status))) if status.code == 401 => {
            let reason = format!("the API server says 401: {}", status.message);
            Err(Silence { reason, may_be_busy: false })
        }
        Ok(Err(error @ kube::Error::Api(_))) => {
            Err(Silence { reason: chain(&error), may_be_busy: true })
        }
        Ok(Err(error)) => Err(Silence { reason: chain(&error), may_be_busy: false }),
        Err(_) => {
            let reason = format!("no answer within {ANSWER:?}");
            Err(Silence { reason, may_be_busy: true })
        }
    }
}

impl Holdings {
    /// Whether these are what has become of former ones by ordinary changes.
    pub(super) fn continue_from(&self, former: &Self) -> bool {
        let differ = |(now, then)| now != then;
        let other = self.uid.as_ref().zip(former.uid.as_ref()).is_some_and(differ);
        let back = self.version.zip(former.version).is_some_and(|(now, then)| now < then);
        !other && !back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holdings(uid: &str, version: u128) -> Holdings {
        Holdings { uid: Some(uid.to_owned()), version: Some(version) }
    }

    #[test]
    fn another_seed_and_an_older_backup_are_no_continuation() {
        let former = holdings("a", 100);
        assert!(holdings("a", 100).continue_from(&former));
        assert!(holdings("a", 101).continue_from(&former));
        assert!(!holdings("a", 99).continue_from(&former));
        assert!(!holdings("b", 101).continue_from(&former));
        assert!(Holdings::default().continue_from(&former));
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_an_error_that_names_it() {
        let access = Access::Kubeconfig("/nowhere/kubeconfig".into());
        let Err(error) = access.client().await else { panic!("there is no such file") };
        assert!(error.to_string().contains("/nowhere/kubeconfig"), "{error}");
    }
}
