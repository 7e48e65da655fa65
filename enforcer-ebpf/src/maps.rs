//! BPF only: the maps, and the image in force as the data path's [`Image`].

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use enforcer_ebpf::{
    abi::{CLUSTERS, Counters, Image, Images, OPENED as CONNECTIONS, Opened},
    bpf::lowest_bit,
    decide::{Reason, Verdict},
    tables::{self, Tables},
};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h): the agent writes images through a mapping.
const MMAPABLE: usize = 1 << 10;

/// Both images, and which is in force.
#[btf_map]
static IMAGES: Array<Images, 1, MMAPABLE> = Array::new();

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

/// The image that was in force when this packet came.
pub(crate) struct CurrentImage {
    image: &'static Image,
    bank: u64,
}

impl CurrentImage {
    /// Always there: arrays have all their values.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        let images = IMAGES.get_ptr(0)?;
        // SAFETY: user space changes the number with one store, and never writes the image whose
        // number a running program may have read; read once, so that one packet is judged by one image.
        let active = unsafe { core::ptr::read_volatile(&raw const (*images).active) };
        Self::of_bank(active)
    }

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
        Some(current) => tables::contains128(current.image, list_at as u32, high, low).into(),
        None => 0,
    }
}

/// See [`holds_partly`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn holds4(bank: u64, policy: u64, address: u64) -> u64 {
    match CurrentImage::of_bank(bank) {
        Some(current) => {
            let policy = tables::policy(current.image, policy as u32);
            tables::contains32(current.image, &policy.v4, address as u32).into()
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
            current.admits6(tables::policy(current.image, policy as u32), high, low).into()
        }
        None => 0,
    }
}

impl Tables for CurrentImage {
    #[inline(always)]
    fn image(&self) -> &Image {
        self.image
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

/// Counts a verdict. `bytes` is the packet's length from the network header on.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, pass: bool, bytes: u32) {
    // Listed packets are what a cluster's counters show: one counter is enough for the common case.
    if verdict.reason as u32 != Reason::Listed as u32
        && let Some(counter) = REASONS.get_ptr_mut(verdict.reason as u32)
    {
        // SAFETY: the slot of this CPU, written by programs on this CPU only.
        unsafe { *counter += 1 };
    }
    if let Some(counters) = COUNTERS.get_ptr_mut(verdict.cluster) {
        // SAFETY: as above.
        let counters = unsafe { &mut *counters };
        if pass {
            counters.allowed_packets += 1;
            counters.allowed_bytes += u64::from(bytes);
        } else {
            counters.denied_packets += 1;
            counters.denied_bytes += u64::from(bytes);
        }
    }
}
