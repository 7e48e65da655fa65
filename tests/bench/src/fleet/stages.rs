//! What each stage of one edit takes: the agent's own functions on a fleet, in this process.
//!
//! Input: how many clusters. Output: the median of each stage over some edits of one cluster, in the
//! order in which an edit passes them. Reading a file and writing to the kernel are not among them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use enforcer::source::{
    EgressSettings, GuardPods, Learned, Limits, Objects, Settings, Translator, objects::decode,
};
use enforcer_policy::{
    compile::Compiler,
    image::{IMAGE_WORDS, Image, assign, counter_owners},
    model::{Snapshot, ThisNode},
    plan::{Bank, Desired, Observed, plan},
};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::objects;
use crate::target::quantile;

/// One stage; milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) took: f64,
}

const NAMES: [&str; 6] = [
    "objects into tables",
    "translation into a snapshot",
    "compilation into rules",
    "counter slots",
    "lowering into an image",
    "plan: comparison with the kernel's image",
];

/// Measures `edits` edits.
pub(crate) fn measure(clusters: usize, ranges: usize, edits: usize) -> Result<Vec<Stage>> {
    let mut decoded = Vec::new();
    for number in 0..clusters {
        for value in objects::all(number, ranges) {
            decoded.push(decode(&value)?.context("an object of a kind that is read")?);
        }
    }
    let settings = Settings {
        options: enforcer_policy::model::Options::default(),
        seed_name: None,
        kubermatic_namespace: "kubermatic".to_owned(),
        guard_pods: GuardPods::Auto,
        egress: EgressSettings::default(),
        limits: Limits { ranges: usize::MAX, ..Limits::default() },
    };
    let this_node = ThisNode { name: "seed-1".to_owned(), ..ThisNode::default() };
    let learned = Learned::default();
    let file: Arc<str> = "fleet.yaml".into();
    let (mut translator, mut compiler) = (Translator::default(), Compiler::default());
    let mut former: Option<Snapshot> = None;
    let mut banks = [vec![0; IMAGE_WORDS], vec![0; IMAGE_WORDS]];
    let mut active = None;
    let mut took: [Vec<f64>; NAMES.len()] = std::array::from_fn(|_| Vec::new());
    for edit in 0..=edits {
        let edited = decode(&objects::cluster(0, ranges + edit))?.context("a Cluster")?;
        if let Some(first) = decoded.get_mut(1) {
            *first = edited;
        }
        let mut clock = Clock::start()?;
        let mut objects = Objects::default();
        objects.add_all(decoded.iter().map(|object| (object, &file)));
        clock.lap()?;
        let objects = Arc::new(objects);
        let translated =
            translator.translate(&objects, &settings, &this_node, &learned, former.as_ref());
        clock.lap()?;
        let (rules, _) = compiler.compile(&translated.snapshot);
        clock.lap()?;
        let owners = active.map_or(&[][..], |bank: Bank| counter_owners(of(&banks, bank)));
        let counters = assign(&rules, owners)?;
        clock.lap()?;
        let image = Image::lower(&rules, &counters)?;
        clock.lap()?;
        let [a, b] = &banks;
        let observed = Observed { active, banks: [a, b], links: Default::default() };
        let steps = plan(
            &observed,
            &Desired { words: image.words(), counters: &counters, interfaces: &[] },
        );
        clock.lap()?;
        anyhow::ensure!(!steps.is_empty(), "an edit changes nothing");
        let next = active.map_or(Bank::A, Bank::other);
        match next {
            Bank::A => banks[0].copy_from_slice(image.words()),
            Bank::B => banks[1].copy_from_slice(image.words()),
        }
        active = Some(next);
        former = Some(translated.snapshot);
        // The first is no edit.
        if edit > 0 {
            for (all, lap) in took.iter_mut().zip(clock.laps) {
                all.push(lap.as_secs_f64() * 1e3);
            }
        }
    }
    let stages = NAMES.into_iter().zip(&took);
    Ok(stages.map(|(name, took)| Stage { name, took: quantile(took, 0.5) }).collect())
}

fn of(banks: &[Vec<u64>; 2], bank: Bank) -> &[u64] {
    match bank {
        Bank::A => &banks[0],
        Bank::B => &banks[1],
    }
}

/// CPU time of this thread, so that what else the machine does counts little.
struct Clock {
    last: Duration,
    laps: Vec<Duration>,
}

impl Clock {
    fn start() -> Result<Self> {
        Ok(Self { last: now()?, laps: Vec::new() })
    }

    fn lap(&mut self) -> Result<()> {
        let now = now()?;
        self.laps.push(now - self.last);
        self.last = now;
        Ok(())
    }
}

fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
