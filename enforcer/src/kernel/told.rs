//! What the data path tells besides counters: events of denied packets, recently admitted sources, and
//! whom gated pods ask for names.
//!
//! Input: pinned maps. Output: [`DropEvent`]s one by one, [`Recent`] and [`Asked`] as they are. An event
//! is read once, by whoever reads first: the agent, or where none runs, `enforcer debug drops`.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsRawFd, RawFd},
    path::Path,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use enforcer_ebpf::abi::{
    Asked, DropEvent, MAP_ASKED, MAP_EVENTS, MAP_RECENT, MAP_SUPPRESSED, Pace, Recent,
};
use nix::time::{ClockId, clock_gettime};
use zerocopy::FromBytes as _;

use super::{KernelError, Pins};

/// The events that nobody has read yet.
pub struct EventRing {
    ring: RingBuf<MapData>,
}

impl EventRing {
    /// Opens the pinned ring.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let map = Map::RingBuf(pinned(bpffs, MAP_EVENTS)?);
        let ring = RingBuf::try_from(map).map_err(|source| error("open", MAP_EVENTS, source))?;
        Ok(Self { ring })
    }

    /// Takes the oldest event.
    pub fn take(&mut self) -> Option<DropEvent> {
        while let Some(item) = self.ring.next() {
            if let Ok((event, _)) = DropEvent::read_from_prefix(&item) {
                return Some(event);
            }
        }
        None
    }
}

/// Readable while there are events.
impl AsRawFd for EventRing {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// How many denied packets have no event.
pub struct Suppressed {
    paces: PerCpuArray<MapData, PacePod>,
}

/// [`Pace`] as aya reads it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PacePod(Pace);

// SAFETY: words without padding.
unsafe impl aya::Pod for PacePod {}

impl std::fmt::Debug for Suppressed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suppressed").finish_non_exhaustive()
    }
}

impl Suppressed {
    /// Opens the pinned map.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let map = Map::PerCpuArray(pinned(bpffs, MAP_SUPPRESSED)?);
        let paces =
            PerCpuArray::try_from(map).map_err(|source| error("open", MAP_SUPPRESSED, source))?;
        Ok(Self { paces })
    }

    /// Those that no event has told of yet.
    pub fn untold(&self) -> Result<u64, KernelError> {
        self.sum(|pace| pace.left_out)
    }

    /// All of them since the map was made.
    pub fn ever(&self) -> Result<u64, KernelError> {
        self.sum(|pace| pace.left_out_ever)
    }

    fn sum(&self, of: impl Fn(&Pace) -> u64) -> Result<u64, KernelError> {
        let paces =
            self.paces.get(&0, 0).map_err(|source| error("read", MAP_SUPPRESSED, source))?;
        Ok(paces.iter().map(|PacePod(pace)| of(pace)).sum())
    }
}

/// Sources of admitted packets, a sample of them.
pub struct RecentSources {
    map: HashMap<MapData, RecentPod, u64>,
}

/// [`Recent`] as aya reads it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RecentPod(Recent);

// SAFETY: words without padding.
unsafe impl aya::Pod for RecentPod {}

impl RecentSources {
    /// Opens the pinned map.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let map = Map::LruHashMap(pinned(bpffs, MAP_RECENT)?);
        let map = HashMap::try_from(map).map_err(|source| error("open", MAP_RECENT, source))?;
        Ok(Self { map })
    }

    /// All of them, each with when it was last seen, in nanoseconds of `CLOCK_MONOTONIC`. One that comes or
    /// goes meanwhile may be missing.
    #[must_use]
    pub fn all(&self) -> Vec<(Recent, u64)> {
        let entries = self.map.iter().filter_map(Result::ok);
        entries.map(|(RecentPod(recent), time)| (recent, time)).collect()
    }
}

/// [`Asked`] as aya reads it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct AskedPod(Asked);

// SAFETY: words without padding.
unsafe impl aya::Pod for AskedPod {}

/// Whom gated pods asked for names within the last time of this length, each with the counter slot of
/// the cluster.
pub(super) fn asked(pins: &Pins, within: Duration) -> Result<Vec<(u32, IpAddr)>, KernelError> {
    let map = MapData::from_pin(pins.map(MAP_ASKED)).map(Map::LruHashMap);
    let map: HashMap<MapData, AskedPod, u64> =
        map.and_then(HashMap::try_from).map_err(|source| error("open", MAP_ASKED, source))?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .map_err(|errno| error("read the age of", MAP_ASKED, MapError::IoError(errno.into())))?;
    let oldest = now.saturating_sub(within);
    let mut asked = Vec::new();
    for entry in map.iter() {
        let (AskedPod(Asked { resolver, cluster, reserved: _ }), last) =
            entry.map_err(|source| error("read", MAP_ASKED, source))?;
        if Duration::from_nanos(last) >= oldest {
            asked.push((cluster, address(resolver)));
        }
    }
    Ok(asked)
}

/// An address as maps hold it: IPv4 is mapped.
#[must_use]
pub fn address([high, low]: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(u128::from(high) << 64 | u128::from(low))).to_canonical()
}

fn pinned(bpffs: &Path, name: &'static str) -> Result<MapData, KernelError> {
    let path = Pins::map_below(bpffs, name);
    MapData::from_pin(path).map_err(|source| error("open", name, source))
}

fn error(action: &'static str, name: &'static str, source: MapError) -> KernelError {
    KernelError::Map { action, name, source: Box::new(source) }
}
