//! The addresses of hosts that people name by URL.
//!
//! Input: which hosts, and the system's resolver. Output: their addresses, on a watch channel,
//! published only when they differ. Invariants: [`book`] says how long an answer counts; a lookup that
//! fails takes nothing away, nor does a restart, since the folder of `--state` holds the answers.
//!
//! One task. The system's resolver blocks, so that lookups are made on threads of the runtime; a slow
//! one delays none but those beyond [`AT_ONCE`].

mod book;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

use self::book::Book;
pub use self::book::Seen;
use crate::{
    chain::chain,
    state::{State, StateError},
};

/// Lookups under way together.
const AT_ONCE: usize = 8;

/// A lookup that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers that only confirm what is known are saved this often.
const SAVE: Duration = Duration::from_secs(600);

/// Addresses by host.
pub type Found = BTreeMap<String, BTreeSet<IpAddr>>;

/// Hosts being looked up, until this is dropped.
#[derive(Debug)]
pub struct Names {
    wanted: watch::Sender<BTreeSet<String>>,
    found: watch::Receiver<Arc<Found>>,
    task: AbortHandle,
}

impl Names {
    /// Starts with what the state knows and with no host to look up.
    #[must_use]
    pub fn start(state: State) -> Self {
        Self::start_with(state, look_up)
    }

    fn start_with<F>(state: State, look_up: fn(String) -> F) -> Self
    where
        F: Future<Output = io::Result<BTreeSet<IpAddr>>> + Send + 'static,
    {
        let book = Book::new(state.load_names());
        let (wanted, hosts) = watch::channel(BTreeSet::new());
        let (publish, found) = watch::channel(Arc::new(book.found()));
        let worker = Worker { book, state, hosts, publish, saved: Instant::now() };
        let task = tokio::spawn(worker.run(look_up)).abort_handle();
        Self { wanted, found, task }
    }

    /// Sets the hosts to look up. What is known of others is kept as long as it counts.
    pub fn want(&self, hosts: &BTreeSet<String>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted != hosts;
            if changed {
                wanted.clone_from(hosts);
            }
            changed
        });
    }

    /// What is known now.
    #[must_use]
    pub fn current(&mut self) -> Arc<Found> {
        Arc::clone(&self.found.borrow_and_update())
    }

    /// Waits until something else is known than what was last returned. Cancel-safe.
    pub async fn changed(&mut self) -> Arc<Found> {
        if self.found.changed().await.is_err() {
            // Its task ends with the process only.
            std::future::pending::<()>().await;
        }
        self.current()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As the processes of this machine resolve names.
async fn look_up(host: String) -> io::Result<BTreeSet<IpAddr>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip().to_canonical()).collect())
}

struct Worker {
    book: Book,
    state: State,
    hosts: watch::Receiver<BTreeSet<String>>,
    publish: watch::Sender<Arc<Found>>,
    saved: Instant,
}

/// A host and what became of asking for it.
type Answer = (String, io::Result<BTreeSet<IpAddr>>);

impl Worker {
    async fn run<F>(mut self, look_up: fn(String) -> F)
    where
        F: Future<Output = io::Result<BTreeSet<IpAddr>>> + Send + 'static,
    {
        let mut lookups: JoinSet<Answer> = JoinSet::new();
        loop {
            while lookups.len() < AT_ONCE
                && let Some(host) = self.book.take_due(Instant::now())
            {
                lookups.spawn(async move {
                    let answer = tokio::time::timeout(PATIENCE, look_up(host.clone())).await;
                    let slow = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
                    (host, answer.unwrap_or_else(slow))
                });
            }
            let due = self.book.next_due().filter(|_| lookups.len() < AT_ONCE);
            tokio::select! {
                changed = self.hosts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let hosts = self.hosts.borrow_and_update().clone();
                    self.book.want(&hosts, Instant::now(), SystemTime::now());
                }
                Some(answered) = lookups.join_next() => {
                    // One that was aborted is due again.
                    if let Ok((host, answer)) = answered {
                        self.note(&host, answer).await;
                    }
                }
                () = wait_until(due) => {}
            }
            self.tell();
        }
    }

    async fn note(&mut self, host: &str, answer: io::Result<BTreeSet<IpAddr>>) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let changed = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.book.answered(host, &addresses, now, clock)
            }
            Ok(_) => {
                self.failed(host, "the answer holds no address");
                false
            }
            Err(error) => {
                self.failed(host, &error.to_string());
                false
            }
        };
        if changed || self.saved.elapsed() >= SAVE {
            self.saved = now;
            let (state, seen) = (self.state.clone(), self.book.seen());
            let saved = tokio::task::spawn_blocking(move || state.save_names(&seen)).await;
            if let Ok(Err(error)) = saved {
                let error: StateError = error;
                tracing::warn!(error = chain(&error), "names are not saved");
            }
        }
    }

    fn failed(&mut self, host: &str, reason: &str) {
        if self.book.failed(host, Instant::now()) {
            tracing::warn!(host, reason, "a host in a URL cannot be resolved; what is known stays");
        }
    }

    fn tell(&self) {
        let found = self.book.found();
        self.publish.send_if_modified(|known| {
            let changed = **known != found;
            if changed {
                tracing::info!(hosts = found.len(), "addresses of hosts in URLs changed");
                *known = Arc::new(found);
            }
            changed
        });
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
