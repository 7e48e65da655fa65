//! `--part told`: what it costs that denied packets are told of.
//!
//! Three beds with the product: in two the agent reads the events and `enforcer debug drops --follow` shows
//! them, the second for the error of the measurement; in the third the agent is stopped and the ring is
//! full, so that every event is suppressed. Rounds alternate between them, ratios are made within a round.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use enforcer::kernel::{Pins, Suppressed};
use enforcer_ebpf::abi::{DropEvent, EVENTS_BYTES, EVENTS_PER_WINDOW, MAP_SUPPRESSED};
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{
    SPAN,
    bed::Bed,
    cpu::{Clock, Pinned},
    filter::Filter,
    flood::Flood,
    load, quotient,
    ranges::Ranges,
};
use crate::{
    Arguments,
    fleet::cpu_time,
    target::{Spread, Target},
};

/// Ranges of the one API server.
const RANGES: usize = 1_000;
/// Between two batches of the flood beside a transfer.
const PAUSE: Duration = Duration::from_micros(500);
const LIMIT: Duration = Duration::from_secs(1);

/// What becomes of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Events {
    /// The agent reads them, and a follower shows them.
    Followed,
    /// The same in another bed.
    FollowedAgain,
    /// The ring is full: all are suppressed.
    Suppressed,
}

const ALL: [Events; 3] = [Events::Followed, Events::FollowedAgain, Events::Suppressed];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Figure {
    /// Nanoseconds of CPU per denied SYN, without the sender's part.
    DeniedSyn,
    /// Connections for a second of CPU, each after a batch of denied SYNs, which are in the time.
    Connections,
    /// Bytes of one connection for a second of CPU, beside denied SYNs, which are in the time.
    Throughput,
}

const FIGURES: [Figure; 3] = [Figure::DeniedSyn, Figure::Connections, Figure::Throughput];

/// All that is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    rounds: usize,
    /// Absolute, where events are followed.
    figures: BTreeMap<Figure, Spread>,
    /// To the bed where all are suppressed, in the same round.
    ratios: BTreeMap<Figure, Spread>,
    /// Of the two beds where they are followed.
    error: BTreeMap<Figure, Spread>,
    /// CPU time of agent and follower for a second of flood.
    readers: f64,
    /// Denied packets meanwhile, and events of them.
    denied: u64,
    told: u64,
}

/// A bed with what reads its events.
struct Watched {
    events: Events,
    // Before the agent that it asks.
    follower: Option<Follower>,
    bed: Bed,
    flood: Flood,
}

/// `enforcer debug drops --follow`, whose lines nobody reads.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Watched {
    fn new(events: Events, ranges: &Ranges, programs: &[u8]) -> Result<Self> {
        let mut bed = Bed::new(Filter::Ours, programs)?;
        bed.load(ranges)?;
        let flood = Flood::new(&bed, ranges)?;
        let mut watched = Self { events, follower: None, bed, flood };
        match events {
            Events::Followed | Events::FollowedAgain => watched.follow()?,
            Events::Suppressed => watched.suppress()?,
        }
        Ok(watched)
    }

    fn follow(&mut self) -> Result<()> {
        let (_, installation) = self.bed.agent()?;
        let mut command = installation.debugging(&["drops", "--follow"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.follower = Some(Follower(command.spawn().context("cannot follow")?));
        Ok(())
    }

    /// Stops the agent, and fills the ring: the pace of events is set back so long as some are written.
    fn suppress(&mut self) -> Result<()> {
        let (agent, installation) = self.bed.agent()?;
        agent.signal(Signal::SIGSTOP)?;
        let pin = Pins::map_below(installation.bpffs(), MAP_SUPPRESSED);
        let mut paces = PerCpuArray::try_from(Map::PerCpuArray(MapData::from_pin(pin)?))?;
        let windows = EVENTS_BYTES / size_of::<DropEvent>() / EVENTS_PER_WINDOW as usize;
        for _ in 0..windows * 4 {
            paces.set(0, fresh()?, 0)?;
            self.flood.some()?;
        }
        paces.set(0, fresh()?, 0)?;
        let sent = self.flood.some()? as u64;
        let end = Instant::now() + LIMIT;
        while self.suppressed()? != sent {
            ensure!(Instant::now() < end, "the ring is not full");
        }
        Ok(())
    }

    /// Denied packets without an event, since the map was made or set back.
    fn suppressed(&self) -> Result<u64> {
        Ok(Suppressed::open(self.bed.agent()?.1.bpffs())?.ever()?)
    }

    fn once(&mut self, figure: Figure, clock: &Clock) -> Result<f64> {
        let Self { bed, flood, .. } = self;
        match figure {
            Figure::DeniedSyn => flood.nanoseconds(clock, SPAN),
            Figure::Connections => {
                load::connections_while(bed, clock, SPAN, || flood.some().map(drop))
            }
            Figure::Throughput => load::throughput_while(bed, clock, true, || {
                let begin = Instant::now();
                while begin.elapsed() < SPAN {
                    flood.some()?;
                    std::thread::sleep(PAUSE);
                }
                Ok(())
            }),
        }
    }

    /// CPU time of who reads its events.
    fn readers(&self) -> Result<Duration> {
        let agent = self.bed.agent()?.0.pid().context("the agent ended")?;
        let follower = self.follower.as_ref().context("nobody follows")?.0.id().cast_signed();
        Ok(cpu_time(agent)? + cpu_time(follower)?)
    }
}

fn fresh() -> Result<PerCpuValues<[u64; 4]>> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    Ok(PerCpuValues::try_from(vec![[0; 4]; cpus])?)
}

pub(crate) fn measure(programs: &[u8], arguments: &Arguments) -> Result<Measured> {
    let (ranges, rounds) = (Ranges::new(RANGES), arguments.wire_rounds());
    let mut beds = Vec::new();
    for events in ALL {
        eprintln!("told: {events:?}");
        beds.push(Watched::new(events, &ranges, programs)?);
    }
    let mut samples: BTreeMap<(Figure, Events), Vec<f64>> = BTreeMap::new();
    let before = counted(&beds[0])?;
    let (mut flooded, mut read) = (Duration::ZERO, Duration::ZERO);
    {
        let _pinned = Pinned::new()?;
        let clock = Clock::new()?;
        for round in 0..rounds {
            for figure in FIGURES {
                for turn in 0..beds.len() {
                    // Whoever comes first is another one each time.
                    let at = (round + turn) % beds.len();
                    let watched = &mut beds[at];
                    let begin = (Instant::now(), watched.readers().ok());
                    let value = watched.once(figure, &clock)?;
                    samples.entry((figure, watched.events)).or_default().push(value);
                    if let ((begin, Some(before)), Figure::DeniedSyn) = (begin, figure) {
                        flooded += begin.elapsed();
                        read += watched.readers()? - before;
                    }
                }
            }
        }
    }
    let after = counted(&beds[0])?;
    let (denied, suppressed) = (after.0 - before.0, after.1 - before.1);
    let of = |figure, events| samples.get(&(figure, events)).map_or(&[][..], Vec::as_slice);
    let to = |events, base| {
        let ratio = |figure| (figure, quotient(of(figure, events), of(figure, base)));
        FIGURES.into_iter().map(ratio).collect()
    };
    Ok(Measured {
        rounds,
        figures: FIGURES.map(|it| (it, Spread::of(of(it, Events::Followed)))).into(),
        ratios: to(Events::Followed, Events::Suppressed),
        error: to(Events::Followed, Events::FollowedAgain),
        readers: read.as_secs_f64() / flooded.as_secs_f64(),
        denied,
        told: denied.saturating_sub(suppressed),
    })
}

/// Denied packets of a bed, and those without an event.
fn counted(watched: &Watched) -> Result<(u64, u64)> {
    let (agent, _) = watched.bed.agent()?;
    let denied = agent.count("enforcer_packets_total", &[("verdict", "denied")])?;
    Ok((denied, watched.suppressed()?))
}

pub(crate) fn markdown(measured: &Measured) -> String {
    let Measured { rounds, figures, ratios, error, readers, denied, told } = measured;
    let mut text = format!(
        "Medians of {rounds} rounds with quartiles; {RANGES} ranges. To a bed where nobody reads and the ring \
         is full, and between two beds where events are read.\n\n\
         | figure | events followed | to all suppressed | two beds alike |\n|---|---:|---:|---:|\n"
    );
    for figure in FIGURES {
        let (name, scale, digits) = match figure {
            Figure::DeniedSyn => ("ns CPU per denied SYN", 1.0, 0),
            Figure::Connections => ("connections/s, 64 denied SYNs before each", 1.0, 0),
            Figure::Throughput => ("Gbit/s beside denied SYNs", 8e-9, 2),
        };
        let short = |spreads: &BTreeMap<Figure, Spread>| {
            let Spread { median, quartiles: (low, high) } = spreads[&figure];
            format!("{median:.3} ({low:.3} to {high:.3})")
        };
        let absolute = figures[&figure].median * scale;
        let _ = writeln!(
            text,
            "| {name} | {absolute:.digits$} | {} | {} |",
            short(ratios),
            short(error)
        );
    }
    let share = readers * 100.0;
    let _ = writeln!(
        text,
        "\nOf {denied} denied packets {told} had an event. While a CPU floods, agent and follower take \
         {share:.2} % of another one."
    );
    text
}

pub(crate) fn targets(measured: &Measured) -> Vec<Target> {
    let Measured { ratios, error, readers, .. } = measured;
    let of = |figure| Some(ratios[&figure].median);
    let note = |figure| format!("two beds alike: {:.3}", error[&figure].median);
    vec![
        Target::most(
            "CPU per denied SYN, events followed, to all suppressed",
            1.02,
            of(Figure::DeniedSyn),
            "",
        )
        .note(note(Figure::DeniedSyn)),
        Target::least(
            "connection rate during a flood, events followed, to all suppressed",
            0.98,
            of(Figure::Connections),
            "",
        )
        .note(note(Figure::Connections)),
        Target::least(
            "throughput during a flood, events followed, to all suppressed",
            0.98,
            of(Figure::Throughput),
            "",
        )
        .note(note(Figure::Throughput)),
        Target::most("agent and follower during a flood", 5.0, Some(readers * 100.0), "% of a CPU"),
    ]
}
