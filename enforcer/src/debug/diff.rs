//! `enforcer debug diff`: what objects would change that are not enforced yet, and whom they would cut.
//!
//! Input: the snapshot in force, and a source: the agent's own one as it is now, another one, or either with
//! single files in place of the objects of the same names. Output: the changes, problems that are new, and
//! recently admitted sources that would be denied. Invariant: nothing is written, and the text says that
//! only recent traffic is known.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use enforcer_policy::{
    changes::{Change, Kind, changes},
    image::{Counted, Direction},
    model::{ClusterId, Frontend, FrontendAddress, Protocol, Snapshot},
    oracle::{self, Packet, Segment},
    problem::Problem,
};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    DebugError, Outcome, View, explain, runtime,
    screen::{Screen, Tone, plain, toned},
    sight::{Known, Sight},
    words,
};
use crate::{
    args::Source as Named,
    kernel::RecentSources,
    observe::{
        Agent,
        sources::{RECENTLY, Seen, seen},
    },
    source::{
        Choice, EgressDns, EgressSettings, Limits, Objects, OpenError, Settings, Source,
        Translated,
        kubernetes::{self, Access, Hold},
        manifests, translate,
    },
};

/// A source that has not said everything within this time is not compared.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `diff`.
#[derive(Debug, Args)]
pub struct Options {
    /// Compare with this source, as `enforcer run` takes one; else with the agent's own as it is now.
    #[arg(long, value_name = "SOURCE")]
    source: Option<Named>,
    /// A file with objects that take the place of those with the same names; may be repeated.
    #[arg(long = "with", value_name = "FILE")]
    with: Vec<PathBuf>,
}

/// Why nothing can be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The agent's own source is not known.
    #[error("which source the agent reads is not known; name one with --source")]
    NoSource,
    /// The source cannot be opened.
    #[error("the source cannot be read")]
    Open(#[from] OpenError),
    /// The source does not say everything.
    #[error("the source has not said everything within {} s", PATIENCE.as_secs())]
    Slow,
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{}: {reason}", path.display())]
    Objects {
        /// The file.
        path: PathBuf,
        /// The reader's words.
        reason: String,
    },
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Diff {
    source: String,
    changes: Vec<Change>,
    /// Problems that are not there now.
    new_problems: Vec<String>,
    /// Sources of recent, sampled, admitted packets that would be denied.
    cut: Vec<Cut>,
    /// How many recent sources were looked at; `null` where the sample cannot be read.
    sampled: Option<usize>,
    #[serde(skip)]
    caveat: Option<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Cut {
    cluster: String,
    source: IpAddr,
    /// `PORT/tcp` or `PORT/udp`
    port: String,
    /// How long ago it was seen last.
    seconds_ago: u64,
}

/// Answers.
pub(super) fn view(sight: &Sight, options: &Options) -> Result<Diff, DebugError> {
    let known = sight.known()?;
    let before = known.snapshot;
    let agent = sight.account.as_ref().map(|account| &account.agent);
    let source = match (&options.source, agent) {
        (Some(source), _) => source.clone(),
        (None, Some(agent)) => agent.source.parse().map_err(|_| DiffError::NoSource)?,
        (None, None) => return Err(DiffError::NoSource.into()),
    };
    let mut objects = (*read(&source, before, agent)?).clone();
    for path in &options.with {
        replace(&mut objects, path)?;
    }
    let settings = Settings {
        options: before.options.clone(),
        seed_name: agent.and_then(|agent| agent.seed.clone()),
        kubermatic_namespace: kubermatic_namespace(agent),
        guard_pods: agent.map(|agent| agent.guard_pods.choice()).unwrap_or_default(),
        egress: egress(agent),
        limits: Limits {
            ranges: agent.map_or(Limits::default().ranges, |it| it.max_ranges_per_cluster),
            addresses: agent.map_or(Limits::default().addresses, |it| it.max_addresses_per_cluster),
            ..Limits::default()
        },
    };
    let learned = sight.account.as_ref().map(|account| account.learned.clone()).unwrap_or_default();
    let Translated { snapshot: after, problems, names: _ } =
        translate(&objects, &settings, &before.this_node, &learned, Some(before));
    let present = sight.account.iter().flat_map(|account| &account.problems);
    let present: BTreeSet<String> = present.map(told).collect();
    let recent = RecentSources::open(&sight.places.bpffs).ok();
    let recent = recent.map(|recent| seen(&recent.all(), &counters(&known)));
    Ok(Diff {
        source: source.to_string(),
        changes: changes(before, &after),
        new_problems: problems.iter().map(told).filter(|it| !present.contains(it)).collect(),
        cut: recent.iter().flatten().filter_map(|seen| cut(before, &after, seen)).collect(),
        sampled: recent.as_ref().map(Vec::len),
        caveat: sight.caveat(),
    })
}

/// A problem without the file that it was read from.
fn told(problem: &Problem) -> String {
    Problem { file: String::new(), ..problem.clone() }.to_string()
}

fn kubermatic_namespace(agent: Option<&Agent>) -> String {
    agent.map_or("kubermatic", |agent| &agent.kubermatic_namespace).to_owned()
}

fn egress(agent: Option<&Agent>) -> EgressSettings {
    let Some(agent) = agent else { return EgressSettings::default() };
    let allow = agent.egress_allow.iter().filter_map(|text| text.parse().ok()).collect();
    EgressSettings { dns: agent.egress_dns.choice(), allow }
}

fn counters(known: &Known<'_>) -> Vec<(Counted, u32)> {
    let owner = |(slot, name): (u32, String)| {
        (Counted { cluster: ClusterId(name), direction: Direction::Ingress }, slot)
    };
    known.owners().into_iter().map(owner).collect()
}

/// What a source says.
fn read(
    source: &Named,
    before: &Snapshot,
    agent: Option<&Agent>,
) -> Result<Arc<Objects>, DebugError> {
    let choice = match source {
        Named::Manifests(folder) => Choice::Manifests(folder.clone()),
        Named::Kubernetes(file) => Choice::Kubernetes(kubernetes::Options {
            access: Access::find(file.clone()).map_err(OpenError::from).map_err(DiffError::from)?,
            node: before.this_node.name.clone(),
            kubermatic_namespace: kubermatic_namespace(agent),
            dns: egress(agent).dns == EgressDns::Derived,
            namespace: kubernetes::own_namespace(),
            // What is missing is what is to be shown.
            hold: Hold { percent: 0 },
        }),
    };
    let whole = async {
        let mut source = Source::open(choice, None).await?;
        let mut objects = source.current();
        while objects.unread {
            objects = source.changed().await;
        }
        Ok::<_, DiffError>(objects)
    };
    let whole = async { timeout(PATIENCE, whole).await.map_err(|_| DiffError::Slow)? };
    Ok(runtime()?.block_on(whole)?)
}

/// Puts the objects of a file in place of those with the same names.
fn replace(objects: &mut Objects, path: &PathBuf) -> Result<(), DiffError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| DiffError::File { path: path.clone(), source })?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let read = manifests::objects_of(&text, is_json)
        .map_err(|reason| DiffError::Objects { path: path.clone(), reason })?;
    let file: Arc<str> = path.display().to_string().into();
    for object in &read {
        objects.replace(object, &file);
    }
    Ok(())
}

/// A source that gets in now and would not.
fn cut(before: &Snapshot, after: &Snapshot, seen: &Seen) -> Option<Cut> {
    let protocol = if seen.protocol == 0 { Protocol::Tcp } else { Protocol::Udp };
    let frontends = before.clusters.get(&seen.cluster).map(|cluster| &cluster.frontends);
    let mut frontends = frontends.into_iter().flatten().chain(&before.shared_proxy);
    let is_cut = frontends.any(|frontend| {
        let Some(to) = place(before, frontend, seen.source) else { return false };
        let packet = Packet {
            source: seen.source,
            destination: to.ip(),
            protocol,
            port: to.port(),
            side: explain::usual_side(before, seen.source),
            // Whoever only shakes hands is no client.
            segment: Segment::Data,
            answers_node: false,
        };
        frontend.protocol == protocol
            && to.port() == seen.port
            && oracle::admit(before, &packet).passes()
            && !oracle::admit(after, &packet).passes()
    });
    is_cut.then(|| Cut {
        cluster: seen.cluster.to_string(),
        source: seen.source,
        port: format!("{}/{}", seen.port, words::protocol(protocol)),
        seconds_ago: seen.age.as_secs(),
    })
}

fn place(snapshot: &Snapshot, frontend: &Frontend, source: IpAddr) -> Option<SocketAddr> {
    let to = match frontend.at {
        FrontendAddress::Address { address, port } => SocketAddr::new(address, port),
        FrontendAddress::Node { port } => {
            SocketAddr::new(explain::node_address(snapshot, source)?, port)
        }
    };
    (to.is_ipv4() == source.is_ipv4()).then_some(to)
}

impl View for Diff {
    const COMMAND: &'static str = "diff";

    fn text(&self, screen: &Screen) -> String {
        let Self { source, changes, new_problems, cut, sampled, caveat } = self;
        let mut text = screen.title(&format!("What {source} would change"));
        if changes.is_empty() {
            text.push_str("nothing\n");
        }
        let rows = changes.iter().map(|change| {
            let Change { cluster, object, field, change, value } = change;
            let (sign, tone) = match change {
                Kind::Added => ("+", Tone::Good),
                Kind::Removed => ("-", Tone::Bad),
                Kind::Changed => ("~", Tone::Worth),
            };
            let cluster = cluster.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string);
            let from = format!("{object} {field}");
            [plain(cluster), toned(format!("{sign}{value}"), tone), plain(from.trim_end())]
        });
        text.push_str(&screen.table(["CLUSTER", "CHANGE", "BY"], rows));
        if !new_problems.is_empty() {
            text.push('\n');
            text.push_str(&screen.title("Problems that are new"));
            new_problems.iter().for_each(|problem| text.push_str(&format!("  {problem}\n")));
        }
        text.push('\n');
        let minutes = RECENTLY.as_secs() / 60;
        text.push_str(&match (sampled, cut.len()) {
            (None, _) => "recent sources are not known here\n".to_owned(),
            (Some(sampled), 0) => format!(
                "none of {} of the last {minutes} minutes would be cut; this is a sample of recent \
                 traffic: who was silent is not in it\n",
                words::count(*sampled, "admitted source", "admitted sources")
            ),
            (Some(sampled), cut) => format!(
                "{cut} of {} of the last {minutes} minutes would be cut; this is a sample of recent \
                 traffic: who was silent is not in it\n",
                words::count(*sampled, "admitted source", "admitted sources")
            ),
        });
        let rows = cut.iter().map(|cut| {
            let Cut { cluster, source, port, seconds_ago } = cut;
            let ago = format!("{seconds_ago} s ago");
            [
                plain(cluster.clone()),
                toned(source.to_string(), Tone::Bad),
                plain(port.clone()),
                plain(ago),
            ]
        });
        text.push_str(&screen.table(["CLUSTER", "SOURCE", "PORT", "LAST SEEN"], rows));
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        text
    }

    fn outcome(&self) -> Outcome {
        if self.cut.is_empty() { Outcome::Fine } else { Outcome::Denied }
    }
}
