//! `enforcer debug drops`: denied packets, one line each, as they were or as they come.
//!
//! Input: the agent's socket; where no agent runs, the pinned ring, of which each event is read once.
//! Output: a table; with `--follow` a table that is drawn anew in a terminal, and lines elsewhere.
//! What the data path suppressed is said with the event that tells it.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use super::{
    DebugError, Outcome, Output, View, json_line,
    screen::{Screen, Tone, plain, toned},
    sight::{self, Sight, SightError},
    write,
};
use crate::{
    kernel::{EventRing, Suppressed},
    observe::{
        drops::{Clock, Dropped, dropped},
        socket::{Question, Told},
    },
    state::State,
};

/// Events that a terminal shows while it follows.
const SHOWN: usize = 20;

/// How often a table is drawn anew, and a ring without an agent looked at.
const FRAME: Duration = Duration::from_millis(500);

/// Options of `drops`.
#[derive(Debug, Args)]
pub struct Options {
    /// Go on until interrupted.
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

/// One line of the answer with `--follow`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<'a> {
    Drop(&'a Dropped),
    /// Events that this command did not read fast enough.
    Missed(u64),
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
            left(&mut EventRing::open(&sight.places.bpffs)?, &owners)
        }
    })
}

/// Answers until interrupted, or until nobody reads any more.
pub(super) fn follow(
    sight: &Sight,
    options: &Options,
    output: Output,
) -> Result<Outcome, DebugError> {
    let (sender, receiver) = mpsc::channel();
    match ask(sight, true)? {
        Some(stream) => {
            stream.set_read_timeout(None).map_err(|error| failed(sight, error))?;
            let lines = lines(sight, stream);
            std::thread::spawn(move || lines.into_iter().try_for_each(|told| sender.send(told)));
        }
        None => {
            let mut ring = EventRing::open(&sight.places.bpffs)?;
            let owners = sight.known()?.owners();
            std::thread::spawn(move || {
                loop {
                    for dropped in left(&mut ring, &owners) {
                        if sender.send(Ok(Told::Drop(dropped))).is_err() {
                            return;
                        }
                    }
                    std::thread::sleep(FRAME);
                }
            });
        }
    }
    let mut shown = Shown::new(output);
    loop {
        match receiver.recv_timeout(FRAME) {
            Ok(told) => {
                if !shown.take(told?, options)? {
                    return Ok(Outcome::Fine);
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(failed(sight, io::ErrorKind::UnexpectedEof.into()));
            }
        }
        if !shown.draw()? {
            return Ok(Outcome::Fine);
        }
    }
}

/// What a follower has seen so far.
struct Shown {
    output: Output,
    /// Where a table is drawn anew; `None` where lines are written.
    screen: Option<Screen>,
    last: VecDeque<Arc<Dropped>>,
    events: u64,
    suppressed: u64,
    missed: u64,
    drawn: Option<Instant>,
}

impl Shown {
    fn new(output: Output) -> Self {
        let is_drawn = output == Output::Text && io::stdout().is_terminal();
        let (last, drawn) = (VecDeque::new(), None);
        let screen = is_drawn.then(Screen::of_stdout);
        Self { output, screen, last, events: 0, suppressed: 0, missed: 0, drawn }
    }

    /// Says whether anybody still reads.
    fn take(&mut self, told: Told, options: &Options) -> Result<bool, DebugError> {
        let line = match told {
            Told::Kept => return Ok(true),
            Told::Missed(missed) => {
                self.missed += missed;
                match self.output {
                    Output::Text => format!("{missed} events were missed\n"),
                    Output::Json => json_line(&Line::Missed(missed))?,
                }
            }
            Told::Drop(dropped) if !is_meant(&dropped, options) => return Ok(true),
            Told::Drop(dropped) => {
                self.events += 1;
                self.suppressed += dropped.suppressed;
                let line = match self.output {
                    Output::Text => line(&dropped),
                    Output::Json => json_line(&Line::Drop(&dropped))?,
                };
                if self.last.len() == SHOWN {
                    self.last.pop_front();
                }
                self.last.push_back(dropped);
                line
            }
        };
        if self.screen.is_some() { Ok(true) } else { write(&line) }
    }

    /// Draws the table anew where it is time to. Says whether anybody still reads.
    fn draw(&mut self) -> Result<bool, DebugError> {
        let Some(screen) = &self.screen else { return Ok(true) };
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < FRAME) {
            return Ok(true);
        }
        self.drawn = Some(Instant::now());
        // Home, and everything below is cleared.
        let mut text = "\u{1b}[H\u{1b}[J".to_owned();
        text.push_str(&table(screen, self.last.iter()));
        text.push_str(&format!("\n{}\n", sum(self.events, self.suppressed)));
        if self.missed > 0 {
            text.push_str(&format!("{} events were missed\n", self.missed));
        }
        write(&text)
    }
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

fn line(dropped: &Dropped) -> String {
    let Dropped {
        at, interface, protocol, cluster, direction, reason, audited, suppressed, ..
    } = dropped;
    let (from, to) = (dropped.from(), dropped.to());
    let cluster = cluster.as_deref().unwrap_or("-");
    let fate = if *audited { "would be denied" } else { "denied" };
    let mut line = format!(
        "{at} {interface} {direction} {from} -> {to}/{protocol} cluster {cluster} {fate} {reason}"
    );
    if *suppressed > 0 {
        line.push_str(&format!(" (and {suppressed} before it that are not shown)"));
    }
    line.push('\n');
    line
}

fn table<'a>(screen: &Screen, drops: impl Iterator<Item = &'a Arc<Dropped>>) -> String {
    let header = ["TIME", "INTERFACE", "SOURCE", "DESTINATION", "CLUSTER", "REASON", "NOT SHOWN"];
    let rows = drops.map(|dropped| {
        let reason = match dropped.audited {
            true => toned(format!("{} (audit: passed)", dropped.reason), Tone::Worth),
            false => toned(dropped.reason.clone(), Tone::Bad),
        };
        let suppressed = match dropped.suppressed {
            0 => String::new(),
            number => number.to_string(),
        };
        [
            plain(dropped.at.clone()),
            plain(dropped.interface.clone()),
            plain(dropped.from()),
            plain(format!("{}/{}", dropped.to(), dropped.protocol)),
            plain(dropped.cluster.clone().unwrap_or_else(|| "-".to_owned())),
            reason,
            plain(suppressed),
        ]
    });
    screen.table(header, rows)
}

fn sum(events: u64, suppressed: u64) -> String {
    format!("{events} denied packets shown, {suppressed} more suppressed")
}

impl View for Drops {
    const COMMAND: &'static str = "drops";

    fn text(&self, screen: &Screen) -> String {
        let Self { drops, suppressed_untold, caveat } = self;
        let mut text = table(screen, drops.iter());
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
