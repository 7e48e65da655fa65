//! What there is to see on this node: the kernel, the agent, and what an agent kept.
//!
//! Input: the folders of `--bpffs` and `--state`. Output: a [`Sight`]. What the agent says goes before
//! what it kept; that no agent runs is no error, since the kernel enforces without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use enforcer_policy::{
    compile::{FrontendKey, Rules, compile, contested, revision},
    image::{Counted, Image, counter_owners},
    model::{ClusterId, Frontend, Snapshot},
};
use serde::de::DeserializeOwned;

use crate::{
    args::Places,
    kernel::{ClusterCounters, CounterTable, KernelError, Look},
    observe::{Account, socket::Question},
    state::State,
};

/// An agent that does not answer within this time does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
pub enum SightError {
    /// What is there is for root alone.
    #[error("{path} is for root alone: run this as root")]
    Forbidden {
        /// What could not be read.
        path: PathBuf,
    },
    /// Something answers in the agent's place, or the agent breaks off.
    #[error("the agent at {path} does not answer")]
    Agent {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was ever enforced here.
    #[error(
        "nothing is known of this node: no agent runs here, none kept anything in {state}, and below \
         {bpffs} there are no maps of one"
    )]
    Nothing {
        /// `--state`
        state: PathBuf,
        /// `--bpffs`
        bpffs: PathBuf,
    },
    /// The objects are not known.
    #[error("what the objects said is not known: no agent runs here, and none kept it in {state}")]
    NoSnapshot {
        /// `--state`
        state: PathBuf,
    },
}

/// What there is to see on this node.
pub(super) struct Sight {
    /// The folders.
    pub(super) places: Places,
    /// The kernel's side, or why it is not to be seen.
    pub(super) kernel: Result<Look, KernelError>,
    /// The image in force.
    pub(super) image: Option<Image>,
    /// Whether an agent runs.
    pub(super) is_running: bool,
    /// What the agent says or, where none runs, said last.
    pub(super) account: Option<Account>,
    /// The objects behind the image in force.
    pub(super) snapshot: Option<Snapshot>,
}

impl Sight {
    /// Looks.
    pub(super) fn look(places: &Places) -> Result<Self, SightError> {
        let state = State::of(&places.state);
        is_readable(&places.state)?;
        let socket = state.socket();
        let (is_running, account, snapshot) = match ask::<Account>(&socket, Question::Account)? {
            Some(account) => {
                let snapshot = ask::<Option<Snapshot>>(&socket, Question::Snapshot)?.flatten();
                (true, Some(account), snapshot)
            }
            None => (false, state.load_account(), state.load()),
        };
        let kernel = match Look::open(&places.bpffs) {
            Err(KernelError::Forbidden { path }) => return Err(SightError::Forbidden { path }),
            looked => looked,
        };
        if account.is_none() && kernel.is_err() {
            let Places { bpffs, state } = places.clone();
            return Err(SightError::Nothing { state, bpffs });
        }
        let image = kernel.as_ref().ok().and_then(Look::image);
        Ok(Self { places: places.clone(), kernel, image, is_running, account, snapshot })
    }

    /// The objects behind the image in force, with what they come to.
    pub(super) fn known(&self) -> Result<Known<'_>, SightError> {
        let Some(snapshot) = &self.snapshot else {
            return Err(SightError::NoSnapshot { state: self.places.state.clone() });
        };
        let (rules, _) = compile(snapshot);
        let owners = self.image.as_ref().map(|image| counter_owners(image.words()));
        let slots = owners.into_iter().flatten().zip(0..).filter(|(owner, _)| **owner != 0);
        Ok(Known {
            snapshot,
            rules,
            contested: contested(snapshot),
            counters: self.kernel.as_ref().ok().map(Look::counters),
            slots: slots.map(|(owner, slot)| (*owner, slot)).collect(),
        })
    }

    /// Revision of the image in force, as the kernel has it.
    pub(super) fn enforced(&self) -> Option<String> {
        let header = self.image.as_ref()?.header();
        Some(enforcer_policy::compile::Revision(header.revision).to_string())
    }

    /// Whether the kernel enforces what the snapshot says.
    pub(super) fn snapshot_is_in_force(&self) -> bool {
        let known = self.snapshot.as_ref().map(|snapshot| revision(snapshot).to_string());
        known.is_some() && known == self.enforced()
    }

    /// A line that says where the answer comes from, if not from a running agent.
    pub(super) fn caveat(&self) -> Option<String> {
        if self.is_running {
            return None;
        }
        let at = self.account.as_ref().map(|account| format!(" at {}", account.at));
        Some(match (&self.kernel, self.snapshot_is_in_force()) {
            (Err(error), _) => format!("no agent runs here, and nothing is enforced: {error}"),
            (Ok(_), true) => format!(
                "no agent runs here; the kernel enforces what the last one said{}",
                at.unwrap_or_default()
            ),
            (Ok(_), false) => {
                "no agent runs here; the kernel enforces an image of which the objects \
                               were not kept"
                    .to_owned()
            }
        })
    }
}

/// The objects behind the image in force, and what they come to.
pub(super) struct Known<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) rules: Rules,
    /// Frontends that several claim, with all who do.
    pub(super) contested: BTreeMap<FrontendKey, BTreeSet<ClusterId>>,
    counters: Option<&'a CounterTable>,
    /// Counter slots by [`Counted::word`].
    slots: BTreeMap<u64, u32>,
}

impl Known<'_> {
    /// The clusters that counter slots belong to.
    pub(super) fn owners(&self) -> BTreeMap<u32, String> {
        let shared = self.snapshot.shared_proxy.iter().map(Frontend::shared_claimant);
        let all = self.snapshot.clusters.keys().cloned().chain(shared);
        let of_cluster = all.flat_map(|id| [Counted::ingress(id.clone()), Counted::egress(id)]);
        let slot = |counted: Counted| {
            Some((*self.slots.get(&counted.word())?, counted.cluster.to_string()))
        };
        of_cluster.filter_map(slot).collect()
    }

    /// Who else claims a frontend.
    pub(super) fn rivals(&self, frontend: &Frontend, of: &ClusterId) -> Vec<String> {
        let claimants = self.contested.get(&(frontend.protocol, frontend.at));
        let rivals = claimants.into_iter().flatten().filter(|claimant| *claimant != of);
        rivals.map(ToString::to_string).collect()
    }

    /// Counters of a cluster in one direction; zeroes where it has none, `None` where they cannot be
    /// read.
    pub(super) fn counters(
        &self,
        counted: &Counted,
    ) -> Result<Option<ClusterCounters>, KernelError> {
        let Some(counters) = self.counters else { return Ok(None) };
        match self.slots.get(&counted.word()) {
            Some(slot) => counters.cluster(*slot).map(Some),
            None => Ok(Some(ClusterCounters::default())),
        }
    }
}

/// Asks the agent; `None` where none runs.
fn ask<T: DeserializeOwned>(socket: &Path, question: Question) -> Result<Option<T>, SightError> {
    let Some(answers) = open(socket, question)? else { return Ok(None) };
    let mut line = String::new();
    let failed = |source| SightError::Agent { path: socket.into(), source };
    BufReader::new(answers).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line).map(Some).map_err(|error| failed(error.into()))
}

/// Asks the agent, which then sends lines; `None` where none runs.
pub(super) fn open(socket: &Path, question: Question) -> Result<Option<UnixStream>, SightError> {
    let failed = |source| SightError::Agent { path: socket.into(), source };
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if is(&error, &[io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused]) => {
            return Ok(None);
        }
        Err(error) if is(&error, &[io::ErrorKind::PermissionDenied]) => {
            return Err(SightError::Forbidden { path: socket.into() });
        }
        Err(error) => return Err(failed(error)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = serde_json::to_vec(&question).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    Ok(Some(stream))
}

fn is_readable(folder: &Path) -> Result<(), SightError> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(SightError::Forbidden { path: folder.into() })
        }
        _ => Ok(()),
    }
}

fn is(error: &io::Error, kinds: &[io::ErrorKind]) -> bool {
    kinds.contains(&error.kind())
}
