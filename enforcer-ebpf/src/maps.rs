//! BPF only: the maps, and the image in force as the data path's [`Image`].

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, PerCpuArray},
    macros::btf_map,
};
use enforcer_ebpf::{
    abi::{CLUSTERS, Chunk, Counters, IMAGE_CHUNKS},
    decide::{Reason, Verdict},
    tables::Image,
};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h): the agent writes an image through a mapping.
const MMAPABLE: usize = 1 << 10;

type ImageMap = Array<Chunk, { IMAGE_CHUNKS as usize }, MMAPABLE>;

/// The image in force; the kernel waits for running programs when this entry changes
/// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c), so the former image may be written then.
#[btf_map]
static IMAGE: ArrayOfMaps<ImageMap, 1> = ArrayOfMaps::new();

/// Packets and bytes by counter slot.
#[btf_map]
static COUNTERS: PerCpuArray<Counters, { CLUSTERS as usize }> = PerCpuArray::new();

/// Packets by [`Reason`], except [`Reason::Unguarded`].
#[btf_map]
static REASONS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

/// The image that was in force when this packet came.
pub(crate) struct CurrentImage(&'static ImageMap);

impl CurrentImage {
    /// `None` before the agent has written the first image.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        IMAGE.get(0).map(Self)
    }
}

impl Image for CurrentImage {
    #[inline(always)]
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        self.0.get(number)
    }
}

/// Counts a verdict. `bytes` is the packet's length from the network header on.
#[inline(always)]
pub(crate) fn count(verdict: Verdict, pass: bool, bytes: u32) {
    if let Some(counter) = REASONS.get_ptr_mut(verdict.reason as u32) {
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
