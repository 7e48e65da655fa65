//! The seed's API as a source, watched.
//!
//! Input: the API server ([`Access`]). Output: [`Objects`], anew after every change of what is read
//! of an object. Invariant: what cannot be reached, or suddenly is not there, changes nothing; see
//! `table` for what counts as being there.
//!
//! One task does the work: it makes a client (`access`), follows the watches with it (`watches`, whose
//! objects are decoded by `seen`), notes what they hear (`tables`, `table`), and publishes the result.
//! Every [`LOOK`] it asks whether the API server still holds what it held. When that is not so, or
//! when it cannot be reached, everything begins anew: configuration, client, lists. Lists after the
//! first are spread over [`SPREAD`], since every node's agent makes them at the same time.

mod access;
mod reference;
mod seen;
mod table;
mod tables;
mod watches;

use std::{
    hash::{BuildHasher as _, RandomState},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use enforcer_policy::model::Snapshot;
use kube::Client;
use tokio::{
    sync::{mpsc, watch as channel},
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

pub use self::{
    access::{Access, AccessError},
    table::Hold,
    tables::RELEASE,
};
use self::{
    access::{Holdings, Silence, holdings},
    tables::Tables,
    watches::{Heard, Watch},
};
use super::store::Objects;
use crate::chain::chain;

/// How often to ask whether the API server still holds what it held.
const LOOK: Duration = Duration::from_secs(10);

/// Answers that must fail to come before a busy API server counts as lost.
const STRIKES: u32 = 3;

/// Longest pause between two attempts to reach the API server.
const RETRY: Duration = Duration::from_secs(3);

/// Lists after a loss are spread over this time.
const SPREAD: Duration = Duration::from_secs(2);

/// What watches have heard and what is not noted yet: then they wait.
const UNNOTED: usize = 256;

/// Where a pod finds the name of its Namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The Namespace of the pod that this runs in.
#[must_use]
pub fn own_namespace() -> Option<String> {
    let text = std::fs::read_to_string(OWN_NAMESPACE).ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// What to watch and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to find the API server.
    pub access: Access,
    /// Name of this machine's Node object.
    pub node: String,
    /// `--kubermatic-namespace`
    pub kubermatic_namespace: String,
    /// Whether the seed's own DNS matters (`--egress-dns=derived`).
    pub dns: bool,
    /// Namespace that the agent runs in, if it is known.
    pub namespace: Option<String>,
    /// `--hold-below`
    pub hold: Hold,
}

/// The seed's API that is being watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Kubernetes {
    objects: channel::Receiver<Arc<Objects>>,
    client: channel::Receiver<Option<Connected>>,
    task: AbortHandle,
}

/// A client that was answered.
#[derive(Clone)]
pub struct Connected(pub Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connected")
    }
}

impl Kubernetes {
    /// Starts to watch. `former` is the snapshot that was enforced last: first lists are compared
    /// with it. What is read of it is read later; see [`Objects::unread`].
    ///
    /// # Errors
    /// Where the configuration cannot be used. An API server that cannot be reached is no error: it
    /// is tried again without end.
    pub async fn open(options: Options, former: Option<&Snapshot>) -> Result<Self, AccessError> {
        options.access.client().await?;
        let watches = watches::all(&options.node, &options.kubermatic_namespace, options.dns);
        let Options { access, namespace, hold, .. } = options;
        let tables = Tables::new(&watches, hold, namespace, former, SystemTime::now());
        let (say, objects) = channel::channel(Arc::new(tables.objects()));
        let (tell, client) = channel::channel(None);
        let follower = Follower { access, watches, tables, objects: say, client: tell };
        let task = tokio::spawn(follower.run()).abort_handle();
        Ok(Self { objects, client, task })
    }

    /// What the API says now.
    #[must_use]
    pub fn current(&mut self) -> Arc<Objects> {
        Arc::clone(&self.objects.borrow_and_update())
    }

    /// Waits until the API says something else than what was last returned, here or by
    /// [`Self::current`]; changes in between are one. Cancel-safe.
    pub async fn changed(&mut self) -> Arc<Objects> {
        if self.objects.changed().await.is_err() {
            // Its task ends with the process only.
            std::future::pending::<()>().await;
        }
        self.current()
    }

    /// The client of the present connection, for those who write to the API.
    #[must_use]
    pub fn clients(&self) -> channel::Receiver<Option<Connected>> {
        self.client.clone()
    }

    /// What the API says, for another reader.
    #[must_use]
    pub fn reader(&self) -> channel::Receiver<Arc<Objects>> {
        self.objects.clone()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task.
struct Follower {
    access: Access,
    watches: Vec<Watch>,
    tables: Tables,
    objects: channel::Sender<Arc<Objects>>,
    client: channel::Sender<Option<Connected>>,
}

impl Follower {
    async fn run(mut self) {
        let mut spread = Duration::ZERO;
        let mut known = Holdings::default();
        loop {
            let (client, held) = self.connect().await;
            if !held.continue_from(&known) {
                tracing::warn!("the API server does not hold what it held before");
            }
            known = held;
            self.client.send_replace(Some(Connected(client.clone())));
            let reason = self.follow(&client, &mut known, spread).await;
            self.client.send_replace(None);
            self.lose(&reason).await;
            spread = SPREAD;
        }
    }

    /// Tries until the API server answers.
    async fn connect(&mut self) -> (Client, Holdings) {
        loop {
            let reason = match self.access.client().await {
                Ok(client) => match holdings(&client).await {
                    Ok(held) => {
                        self.tables.connected(Instant::now());
                        return (client, held);
                    }
                    Err(Silence { reason, .. }) => reason,
                },
                Err(error) => chain(&error),
            };
            self.lose(&reason).await;
            tokio::time::sleep(RETRY / 3 + random(RETRY / 3 * 2)).await;
        }
    }

    async fn lose(&mut self, reason: &str) {
        self.tables.disconnected(reason, Instant::now(), SystemTime::now());
        tokio::time::sleep(tables::QUIET).await;
        self.publish();
    }

    /// Follows the watches until the connection is lost; says why it is.
    async fn follow(&mut self, client: &Client, known: &mut Holdings, spread: Duration) -> String {
        let (say, mut heard) = mpsc::channel(UNNOTED);
        let mut tasks = JoinSet::new();
        for (number, watch) in self.watches.iter().enumerate() {
            let (client, say) = (client.clone(), say.clone());
            tasks.spawn(watch.clone().follow(number, client, random(spread), say));
        }
        let (mut strikes, mut hastened) = (0, false);
        // The look under way, or the pause before it.
        let mut look = pin!(look(client.clone(), LOOK));
        loop {
            tokio::select! {
                Some((number, said)) = heard.recv() => {
                    let unreachable = matches!(said, Heard::Failed { answered: false, .. });
                    self.hear(number, said);
                    while let Ok((number, said)) = heard.try_recv() {
                        self.hear(number, said);
                    }
                    if unreachable && !hastened {
                        hastened = true;
                        look.set(self::look(client.clone(), Duration::ZERO));
                    }
                }
                () = wait_until(self.tables.due()) => {}
                seen = &mut look => {
                    match seen {
                        Ok(held) if held.continue_from(known) => {
                            (*known, strikes) = (held, 0);
                        }
                        Ok(_) => return "it does not hold what it held before".to_owned(),
                        Err(Silence { reason, may_be_busy }) => {
                            strikes += 1;
                            if !may_be_busy || strikes == STRIKES {
                                return reason;
                            }
                        }
                    }
                    hastened = false;
                    look.set(self::look(client.clone(), LOOK));
                }
            }
            self.publish();
        }
    }

    fn hear(&mut self, number: usize, said: Heard) {
        self.tables.hear(number, said, Instant::now(), SystemTime::now());
    }

    fn publish(&mut self) {
        if let Some(objects) = self.tables.take(Instant::now()) {
            self.objects.send_replace(Arc::new(objects));
        }
    }
}

async fn look(client: Client, pause: Duration) -> Result<Holdings, Silence> {
    tokio::time::sleep(pause).await;
    holdings(&client).await
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Some time up to this one, another one in every process.
fn random(most: Duration) -> Duration {
    let part = RandomState::new().hash_one(0u8) % 1024;
    most * u32::try_from(part).unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests;
