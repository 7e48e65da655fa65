//! `enforcer debug drops`: denied packets, one line each, as they were or as they come.
//!
//! Input: the agent's socket; where no agent runs, the pinned ring, of which each event is read once.
//! Output: a table; what [`follow`] writes where it does not end. What the data path suppressed is said with
//! the event that tells it.

mod follow;

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader},
    os::unix::net::UnixStream,
    sync::Arc,
};

use clap::Args;
use serde::Serialize;

pub(super) use self::follow::follow;
use super::{
    DebugError, Outcome, View,
    screen::{Screen, Tone, plain, toned},
    sight::{self, Sight, SightError},
};
use crate::{
    kernel::{EventRing, Look, Suppressed},
    observe::{
        drops::{Clock, Dropped, dropped},
        socket::{Question, Told},
    },
    state::State,
};

/// Options of `drops`.
#[derive(Debug, Args)]
pub struct Options {
    /// Go on until interrupted, which ends it with 0; also until nobody reads.
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only those of this cluster.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// The answer without `--follow`.
#[derive(Debug, Serialize)]
pub(super) struct Drops {
    drops: Vec<Arc<Dropped>>,
    /// Denied packets without an event of which no event has told yet, of all clusters.
    suppressed_untold: Option<u64>,
    #[serde(skip)]
    caveat: Option<String>,
}

/// Answers without `--follow`.
pub(super) fn view(sight: &Sight, options: &Options) -> Result<Drops, DebugError> {
    let mut drops = events(sight)?;
    drops.retain(|dropped| is_meant(dropped, options));
    let suppressed = Suppressed::open(&sight.places.bpffs).and_then(|them| them.untold());
    let caveat = (!sight.is_running).then(|| {
        "no agent runs here: these are the events that nobody had read, and will not be shown again"
            .to_owned()
    });
    Ok(Drops { drops, suppressed_untold: suppressed.ok(), caveat })
}

/// The events that the agent keeps; where none runs, those that nobody has read.
pub(super) fn events(sight: &Sight) -> Result<Vec<Arc<Dropped>>, DebugError> {
    Ok(match ask(sight, false)? {
        Some(stream) => {
            let mut drops = Vec::new();
            for told in lines(sight, stream) {
                match told? {
                    Told::Drop(dropped) => drops.push(dropped),
                    Told::Missed(_) | Told::Kept => {}
                }
            }
            drops
        }
        None => {
            let owners = sight.known()?.owners();
            left(&mut ring(sight)?, &owners)
        }
    })
}

/// The kernel's ring; where there are no maps at all, that is said.
fn ring(sight: &Sight) -> Result<EventRing, DebugError> {
    if sight.kernel.is_err() {
        Look::open(&sight.places.bpffs)?;
    }
    Ok(EventRing::open(&sight.places.bpffs)?)
}

fn ask(sight: &Sight, follow: bool) -> Result<Option<UnixStream>, SightError> {
    let socket = State::of(&sight.places.state).socket();
    sight::open(&socket, Question::Drops { follow })
}

fn lines(
    sight: &Sight,
    stream: UnixStream,
) -> impl Iterator<Item = Result<Told, DebugError>> + Send + use<> {
    let path = State::of(&sight.places.state).socket();
    BufReader::new(stream).lines().map(move |line| {
        let told = line.and_then(|line| Ok(serde_json::from_str(&line)?));
        told.map_err(|source| SightError::Agent { path: path.clone(), source }.into())
    })
}

fn failed(sight: &Sight, source: io::Error) -> DebugError {
    SightError::Agent { path: State::of(&sight.places.state).socket(), source }.into()
}

/// Takes what is in the ring.
fn left(ring: &mut EventRing, owners: &BTreeMap<u32, String>) -> Vec<Arc<Dropped>> {
    let clock = Clock::now();
    let mut drops = Vec::new();
    while let Some(event) = ring.take() {
        drops.push(Arc::new(dropped(&event, &clock, |slot| owners.get(&slot).cloned())));
    }
    drops
}

fn is_meant(dropped: &Dropped, options: &Options) -> bool {
    options.cluster.is_none() || options.cluster == dropped.cluster
}

/// Columns of a terminal below which source and destination stand below each other.
const WIDE: u16 = 110;

fn table<'a>(
    screen: &Screen,
    drops: impl Iterator<Item = &'a Arc<Dropped>>,
    time: fn(&str) -> &str,
) -> String {
    let cells = |dropped: &Dropped| {
        let reason = match dropped.audited {
            true => toned(format!("{} (audit: passed)", dropped.reason), Tone::Worth),
            false => toned(dropped.reason.clone(), Tone::Bad),
        };
        let suppressed = match dropped.suppressed {
            0 => String::new(),
            number => number.to_string(),
        };
        (
            [plain(time(&dropped.at)), plain(dropped.interface.clone())],
            [dropped.from(), format!("{}/{}", dropped.to(), dropped.protocol)],
            [plain(dropped.cluster.clone().unwrap_or_else(|| "-".to_owned())), reason],
            plain(suppressed),
        )
    };
    if screen.is_narrower_than(WIDE) {
        let header = ["TIME", "INTERFACE", "CONNECTION", "CLUSTER", "REASON", "NOT SHOWN"];
        let rows = drops.map(|dropped| {
            let ([time, interface], [from, to], [cluster, reason], suppressed) = cells(dropped);
            [time, interface, plain(format!("{from}\n-> {to}")), cluster, reason, suppressed]
        });
        return screen.table(header, rows);
    }
    let header = ["TIME", "INTERFACE", "SOURCE", "DESTINATION", "CLUSTER", "REASON", "NOT SHOWN"];
    let rows = drops.map(|dropped| {
        let ([time, interface], [from, to], [cluster, reason], suppressed) = cells(dropped);
        [time, interface, plain(from), plain(to), cluster, reason, suppressed]
    });
    screen.table(header, rows)
}

fn sum(events: u64, suppressed: u64) -> String {
    let packets = if events == 1 { "packet" } else { "packets" };
    format!("{events} denied {packets} shown, {suppressed} more suppressed")
}

impl View for Drops {
    const COMMAND: &'static str = "drops";

    fn text(&self, screen: &Screen) -> String {
        let Self { drops, suppressed_untold, caveat } = self;
        let mut text = table(screen, drops.iter(), |at| at);
        if !drops.is_empty() {
            text.push('\n');
        }
        let suppressed: u64 = drops.iter().map(|dropped| dropped.suppressed).sum();
        let suppressed = suppressed + suppressed_untold.unwrap_or_default();
        text.push_str(&sum(drops.len() as u64, suppressed));
        text.push('\n');
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        text
    }

    fn outcome(&self) -> Outcome {
        Outcome::Fine
    }
}
