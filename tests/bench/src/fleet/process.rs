//! What an agent takes of the machine: CPU time, resident memory, memory of the kernel.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

/// CPUs that kernel memory is promised for.
const CPUS: u64 = 64;
/// Types of maps with a value for every CPU: hash, array, LRU hash, storage of cgroups.
const PER_CPU: [u64; 4] = [5, 6, 10, 21];

/// CPU time of all threads of a process, since its start.
pub(crate) fn cpu_time(pid: i32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).context("no CPU clock of the agent")?;
    Ok(clock_gettime(clock)?.into())
}

/// Resident memory in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Resident {
    /// Its own.
    pub(crate) anonymous: f64,
    /// Of files: the program itself.
    pub(crate) file: f64,
    /// Maps of the kernel: these are kernel memory.
    pub(crate) mapped: f64,
    /// All of it.
    pub(crate) total: f64,
}

impl Resident {
    /// Of a process now.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let of = |key: &str| -> Result<f64> {
            let line = status.lines().find(|line| line.starts_with(key));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            Ok(kib.with_context(|| format!("no {key} of the agent"))? / 1024.0)
        };
        let mapped = mapped(pid)?;
        Ok(Self {
            anonymous: of("RssAnon:")?,
            file: of("RssFile:")? + of("RssShmem:")? - mapped,
            mapped,
            total: of("VmRSS:")?,
        })
    }

    /// Its own and the program.
    pub(crate) fn without_maps(&self) -> f64 {
        self.total - self.mapped
    }
}

/// MiB of the kernel's maps that are mapped into a process; its status counts them as files.
fn mapped(pid: i32) -> Result<f64> {
    let (mut is_map, mut kib) = (false, 0.0);
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Rss:"), Some(rss)) if is_map => kib += rss.parse::<f64>()?,
            // What has a colon describes the mapping whose line stood before.
            (Some(first), _) if !first.ends_with(':') => is_map = line.ends_with("bpf-map"),
            (_, _) => {}
        }
    }
    Ok(kib / 1024.0)
}

/// Memory of maps and programs in MiB.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct KernelMemory {
    /// As the kernel counts it on this machine.
    pub(crate) here: f64,
    /// The same with 64 CPUs.
    pub(crate) at_64_cpus: f64,
    /// Of programs.
    pub(crate) programs: f64,
}

impl KernelMemory {
    /// Of everything that is pinned below a folder.
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        let cpus =
            aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let (mut here, mut per_cpu, mut programs) = (0, 0, 0);
        for pin in pins(folder)? {
            // The kernel opens pins of every kind alike; what it is shows in what it says of it.
            let Ok(pinned) = MapData::from_pin(&pin) else { continue };
            let facts = Facts::of(pinned.fd().as_fd().as_raw_fd())?;
            if let Ok(kind) = facts.get("map_type") {
                here += facts.get("memlock")?;
                if PER_CPU.contains(&kind) {
                    let value = facts.get("value_size")?.next_multiple_of(8);
                    per_cpu += value * facts.get("max_entries")?;
                }
            } else if facts.get("prog_type").is_ok() {
                programs += facts.get("memlock")?;
            }
        }
        anyhow::ensure!(here > 0 && programs > 0, "no maps or programs below {}", folder.display());
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let more = CPUS.saturating_sub(cpus as u64) * per_cpu;
        Ok(Self {
            here: mib(here + programs),
            at_64_cpus: mib(here + programs + more),
            programs: mib(programs),
        })
    }
}

/// What the kernel says of a descriptor.
struct Facts(String);

impl Facts {
    fn of(fd: i32) -> Result<Self> {
        Ok(Self(fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?))
    }

    fn get(&self, key: &str) -> Result<u64> {
        let mut words = self.0.lines().filter_map(|line| line.split_once(":"));
        let value = words.find(|(name, _)| *name == key).map(|(_, value)| value.trim().parse());
        Ok(value.with_context(|| format!("the kernel says no {key}"))??)
    }
}

fn pins(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pins(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
