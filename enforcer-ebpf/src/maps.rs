//! BPF only: the maps, and the image in force as the data path's [`Image`].

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, LruHashMap, PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
#[cfg(not(feature = "parts"))]
use enforcer_ebpf::abi::Images;
#[cfg(feature = "parts")]
use enforcer_ebpf::abi::{PARTS, Part};
use enforcer_ebpf::{
    abi::{
        ASKED as ASKED_RESOLVERS, Asked, CLUSTERS, Counters, DropEvent, EVENTS_BYTES, Image,
        LISTENED as LISTENED_PORTS, Listened, OPENED as CONNECTIONS, Opened, Pace,
        RECENT as RECENT_SOURCES, Recent, SAMPLE, Scratch,
    },
    bpf::lowest_bit,
    tables::{self, Tables},
    verdict::Reason,
};

use crate::program::Decided;

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h): the agent writes images through a mapping.
const MMAPABLE: usize = 1 << 10;

/// Both images, and which is in force.
#[cfg(not(feature = "parts"))]
#[btf_map]
static IMAGES: Array<Images, 1, MMAPABLE> = Array::new();

/// The same in parts.
#[cfg(feature = "parts")]
#[btf_map]
static IMAGES: Array<Part, PARTS, MMAPABLE> = Array::new();

/// No program reads it: the kernel waits for all running programs when user space updates it
/// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), after which the former image may be written.
#[btf_map]
static GRACE: ArrayOfMaps<Array<u32, 1>, 1> = ArrayOfMaps::new();

/// Packets and bytes by counter slot.
#[btf_map]
static COUNTERS: PerCpuArray<Counters, { CLUSTERS as usize }> = PerCpuArray::new();

/// Packets by [`Reason`], except [`Reason::Unguarded`] and [`Reason::Listed`].
#[btf_map]
static REASONS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

/// Connections that the node opened from guarded port numbers. Only what leaves the node writes here.
#[btf_map]
static OPENED: LruHashMap<Opened, u32, { CONNECTIONS as usize }> = LruHashMap::new();

/// Denied packets ([`DropEvent`]), for whoever listens. A ring buffer has no type of value for the kernel.
#[btf_map]
static EVENTS: RingBuf<(), EVENTS_BYTES> = RingBuf::new();

/// How many events each CPU wrote lately, and how many it did not.
#[btf_map]
static SUPPRESSED: PerCpuArray<Pace, 1> = PerCpuArray::new();

/// How many denied packets each CPU answered lately, and how many resets of pods it let go.
#[btf_map]
static ANSWERED: PerCpuArray<Pace, 2> = PerCpuArray::new();

/// Where each CPU writes an answer.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// A sample of admitted sources. No verdict reads it.
#[btf_map]
static RECENT: LruHashMap<Recent, u64, { RECENT_SOURCES as usize }> = LruHashMap::new();

/// Ports that gated pods listen on. Only what they send writes here.
#[btf_map]
static LISTENED: LruHashMap<Listened, u32, { LISTENED_PORTS as usize }> = LruHashMap::new();

/// Whom gated pods ask for names. No verdict reads it.
#[btf_map]
static ASKED: LruHashMap<Asked, u64, { ASKED_RESOLVERS as usize }> = LruHashMap::new();

/// The image that was in force when this packet came.
pub(crate) struct CurrentImage {
    image: Held,
    bank: u64,
}

#[cfg(not(feature = "parts"))]
type Held = &'static Image;
#[cfg(feature = "parts")]
type Held = Image;

impl CurrentImage {
    /// Always there: arrays have all their values.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        let images = IMAGES.get_ptr(0)?;
        // SAFETY: user space changes the number, the first word, with one store, and never writes the image
        // whose number a running program may have read; read once, so that one packet is judged by one image.
        let active = unsafe { core::ptr::read_volatile(images.cast::<u64>()) };
        Self::of_bank(active)
    }

    #[cfg(feature = "parts")]
    #[inline(always)]
    fn of_bank(bank: u64) -> Option<Self> {
        let bank = lowest_bit(bank);
        let first = 1 + bank as u32 * (PARTS as u32 / 2);
        let base = IMAGES.get_ptr(first)?;
        // SAFETY: the map of images, whose values stay as long as programs run.
        let image = unsafe { Image::of((&raw const IMAGES).cast(), base.cast(), first) };
        Some(Self { image, bank })
    }

    #[cfg(not(feature = "parts"))]
    #[inline(always)]
    fn of_bank(bank: u64) -> Option<Self> {
        let images = IMAGES.get_ptr(0)?;
        // SAFETY: as in `get`.
        let images = unsafe { &*images };
        let bank = lowest_bit(bank);
        // SAFETY: 0 or 1.
        Some(Self { image: unsafe { &*images.banks.as_ptr().add(bank as usize) }, bank })
    }
}

/// A global function: the verifier walks it once, not once for every list that may hold a source.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn holds_partly(bank: u64, list_at: u64, high: u64, low: u64) -> u64 {
    match CurrentImage::of_bank(bank) {
        Some(current) => tables::contains128(current.image(), list_at as u32, high, low).into(),
        None => 0,
    }
}

/// See [`holds_partly`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn holds4(bank: u64, policy: u64, address: u64) -> u64 {
    match CurrentImage::of_bank(bank) {
        Some(current) => {
            let policy = tables::policy(current.image(), policy as u32);
            tables::contains32(current.image(), &policy.v4, address as u32).into()
        }
        None => 0,
    }
}

/// See [`holds_partly`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn holds6(bank: u64, policy: u64, high: u64, low: u64) -> u64 {
    match CurrentImage::of_bank(bank) {
        Some(current) => {
            current.admits6(tables::policy(current.image(), policy as u32), high, low).into()
        }
        None => 0,
    }
}

impl Tables for CurrentImage {
    #[cfg(not(feature = "parts"))]
    #[inline(always)]
    fn image(&self) -> &Image {
        self.image
    }

    #[cfg(feature = "parts")]
    #[inline(always)]
    fn image(&self) -> &Image {
        &self.image
    }

    #[inline(always)]
    fn holds_partly(&self, list_at: u32, high: u64, low: u64) -> bool {
        holds_partly(self.bank, list_at.into(), high, low) != 0
    }

    #[inline(always)]
    fn holds4(&self, policy: u32, address: u32) -> bool {
        holds4(self.bank, policy.into(), address.into()) != 0
    }

    #[inline(always)]
    fn holds6(&self, policy: u32, high: u64, low: u64) -> bool {
        holds6(self.bank, policy.into(), high, low) != 0
    }

    #[inline(always)]
    fn opened(&self, connection: &Opened) -> bool {
        OPENED.get_ptr(connection).is_some()
    }
}

/// Remembers a connection that the node opens.
#[inline(always)]
pub(crate) fn remember(connection: &Opened) {
    // Without room its replies are not told from clients: nothing that could be done here.
    let _ = OPENED.insert(connection, 0, 0);
}

/// Remembers that a pod listens on a port.
#[inline(always)]
pub(crate) fn remember_listened(listened: &Listened) {
    // Without room it is asked again.
    let _ = LISTENED.insert(listened, 0, 0);
}

/// Whether a pod is remembered to listen on a port.
#[inline(always)]
pub(crate) fn is_listened(listened: &Listened) -> bool {
    LISTENED.get_ptr(listened).is_some()
}

/// The pace of this CPU's events.
#[inline(always)]
pub(crate) fn suppressed() -> Option<&'static mut Pace> {
    // SAFETY: the slot of this CPU, written by programs on this CPU only.
    SUPPRESSED.get_ptr_mut(0).map(|pace| unsafe { &mut *pace })
}

/// Answers to denied packets, see [`answered`].
pub(crate) const ANSWERS: u32 = 0;
/// Resets of gated pods, see [`answered`].
pub(crate) const RESETS: u32 = 1;

/// The pace of this CPU's answers, or of the resets that it let go.
#[inline(always)]
pub(crate) fn answered(what: u32) -> Option<&'static mut Pace> {
    // SAFETY: as above.
    ANSWERED.get_ptr_mut(what).map(|pace| unsafe { &mut *pace })
}

/// Room of this CPU for an answer.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: as above.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Room for an event in the ring; none if nobody reads it.
#[inline(always)]
pub(crate) fn event() -> Option<RingBufEntry<DropEvent>> {
    EVENTS.reserve_untyped::<DropEvent>(0)
}

/// Notes when somebody was asked for names.
#[inline(always)]
pub(crate) fn note_asked(asked: &Asked) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let _ = ASKED.insert(asked, time, 0);
}

/// Notes when an admitted source was seen.
#[inline(always)]
pub(crate) fn note(recent: &Recent, time: u64) {
    let _ = RECENT.insert(recent, time, 0);
}

/// What becomes of a counted packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It passes.
    Passes,
    /// It is dropped.
    Drops,
    /// It would be dropped, and passes.
    WouldDrop,
}

/// Counts a verdict, and says whether the packet is one for the sample. `bytes` is its length from the
/// network header on.
#[inline(always)]
pub(crate) fn count(decided: &Decided, fate: Fate, bytes: u32) -> bool {
    // Listed packets are what a cluster's counters show: one counter is enough for the common case.
    if decided.reason != Reason::Listed as u32
        && let Some(counter) = REASONS.get_ptr_mut(decided.reason)
    {
        // SAFETY: the slot of this CPU, written by programs on this CPU only.
        unsafe { *counter += 1 };
    }
    let Some(counters) = COUNTERS.get_ptr_mut(decided.cluster) else { return false };
    // SAFETY: as above.
    let counters = unsafe { &mut *counters };
    match fate {
        Fate::Passes => {
            let before = counters.allowed_packets;
            counters.allowed_packets = before + 1;
            counters.allowed_bytes += u64::from(bytes);
            before % SAMPLE == 0
        }
        Fate::Drops => {
            counters.denied_packets += 1;
            counters.denied_bytes += u64::from(bytes);
            false
        }
        Fate::WouldDrop => {
            counters.would_deny_packets += 1;
            false
        }
    }
}
