//! Counters as the data path keeps them, summed over CPUs when they are read.

use std::path::Path;

use aya::{
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use enforcer_ebpf::{
    abi::{Counters, MAP_COUNTERS, MAP_REASONS},
    verdict::Reason,
};

use super::{KernelError, Pins};

/// [`Counters`] as aya reads it.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(super) struct CountersPod(Counters);

// SAFETY: five words without padding.
unsafe impl aya::Pod for CountersPod {}

/// Counters of one cluster over all CPUs.
pub type ClusterCounters = Counters;

/// The counter maps.
pub struct CounterTable {
    clusters: PerCpuArray<MapData, CountersPod>,
    reasons: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for CounterTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CounterTable").finish_non_exhaustive()
    }
}

impl CounterTable {
    /// Opens the pinned counters a second time, for a reader of its own.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let open = |name| {
            MapData::from_pin(Pins::map_below(bpffs, name))
                .map(Map::PerCpuArray)
                .map_err(|source| error("open", name, source))
        };
        Ok(Self {
            clusters: PerCpuArray::try_from(open(MAP_COUNTERS)?)
                .map_err(|source| error("open", MAP_COUNTERS, source))?,
            reasons: PerCpuArray::try_from(open(MAP_REASONS)?)
                .map_err(|source| error("open", MAP_REASONS, source))?,
        })
    }

    pub(super) fn new(
        clusters: PerCpuArray<MapData, CountersPod>,
        reasons: PerCpuArray<MapData, u64>,
    ) -> Self {
        Self { clusters, reasons }
    }

    /// Counters of a slot.
    pub fn cluster(&self, slot: u32) -> Result<ClusterCounters, KernelError> {
        let values =
            self.clusters.get(&slot, 0).map_err(|source| error("read", MAP_COUNTERS, source))?;
        Ok(values.iter().fold(Counters::default(), |sum, CountersPod(cpu)| {
            let Counters {
                allowed_packets,
                allowed_bytes,
                denied_packets,
                denied_bytes,
                would_deny_packets,
            } = *cpu;
            Counters {
                would_deny_packets: sum.would_deny_packets.wrapping_add(would_deny_packets),
                allowed_packets: sum.allowed_packets.wrapping_add(allowed_packets),
                allowed_bytes: sum.allowed_bytes.wrapping_add(allowed_bytes),
                denied_packets: sum.denied_packets.wrapping_add(denied_packets),
                denied_bytes: sum.denied_bytes.wrapping_add(denied_bytes),
            }
        }))
    }

    /// Packets decided for a reason on this node; [`Reason::Unguarded`] and
    /// [`Reason::Listed`] are not counted.
    pub fn reason(&self, reason: Reason) -> Result<u64, KernelError> {
        let values = self
            .reasons
            .get(&(reason as u32), 0)
            .map_err(|source| error("read", MAP_REASONS, source))?;
        Ok(values.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)))
    }

    pub(super) fn reset(&mut self, slot: u32) -> Result<(), KernelError> {
        let zeroes = nr_cpus()
            .map_err(|(_, source)| MapError::IoError(source))
            .and_then(|cpus| Ok(PerCpuValues::try_from(vec![CountersPod::default(); cpus])?))
            .map_err(|source| error("reset", MAP_COUNTERS, source))?;
        self.clusters.set(slot, zeroes, 0).map_err(|source| error("reset", MAP_COUNTERS, source))
    }
}

fn error(action: &'static str, name: &'static str, source: MapError) -> KernelError {
    KernelError::Map { action, name, source: Box::new(source) }
}
