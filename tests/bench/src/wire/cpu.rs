//! One CPU for everything that is measured, and the clock of what it works.
//!
//! Client, node and server of a bed share one CPU, and time is the CPU time of this process and of
//! the kernel's thread for packets that are put off. So a figure has no waiting in it, does not depend
//! on which CPUs the scheduler chose, nor on what else the machine does; and no second CPU hides what a
//! filter costs.

use std::{fs, sync::OnceLock, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// This thread, and those that it starts meanwhile, on the one CPU; until dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    /// Moves there.
    pub(crate) fn new() -> Result<Self> {
        let before = sched_getaffinity(THIS_THREAD)?;
        let mut one = CpuSet::new();
        one.set(the_cpu(&before)?)?;
        sched_setaffinity(THIS_THREAD, &one)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Fails only for CPUs that are gone.
        sched_setaffinity(THIS_THREAD, &self.before).ok();
    }
}

const THIS_THREAD: Pid = Pid::from_raw(0);

static THE_CPU: OnceLock<usize> = OnceLock::new();

/// The last one, which interrupts find last; the same as before once it was chosen.
fn the_cpu(allowed: &CpuSet) -> Result<usize> {
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let last = cpus.next_back().context("no CPU")?;
    Ok(*THE_CPU.get_or_init(|| last))
}

/// A clock that goes while we work.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Scheduler statistics of the kernel's thread.
    put_off: String,
}

impl Clock {
    /// Finds the kernel's thread; this thread must be pinned.
    pub(crate) fn new() -> Result<Self> {
        let name = format!("ksoftirqd/{}", the_cpu(&sched_getaffinity(THIS_THREAD)?)?);
        for entry in fs::read_dir("/proc")?.flatten() {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if comm.trim_end() == name {
                let put_off = entry.path().join("schedstat").to_string_lossy().into_owned();
                return Ok(Self { put_off });
            }
        }
        bail!("no thread {name}")
    }

    /// What it shows.
    pub(crate) fn now(&self) -> Result<Duration> {
        let mine: Duration = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into();
        let text = fs::read_to_string(&self.put_off)?;
        let kernels = text.split_whitespace().next().and_then(|first| first.parse().ok());
        Ok(mine + Duration::from_nanos(kernels.context("no scheduler statistics")?))
    }
}
