//! What the agent writes and the data path reads: words only, sizes asserted.
//!
//! An *image* is everything one verdict depends on: 16 MiB of tables and lists. The map `IMAGES` is
//! an array with one value, [`Images`], that holds two images and the number of the one in force. A
//! change is written into the other one and becomes visible by one store to that number; one value
//! means one lookup per packet, after which every load is an offset.
//!
//! ```text
//! Header | guarded ports | IPv4 addresses | IPv6 addresses | frontends | policies
//!        | cluster of each counter | regions: the policies' interval lists
//! ```
//!
//! Everything is in the machine's byte order; addresses and ports are numbers (1.2.3.4 is
//! `0x01020304`), so that their order is the order of the ranges.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::bpf;

/// Changes whenever a type, an offset or a meaning in this file changes; part of the pin path.
pub const ABI_VERSION: u32 = 1;

/// Marks a finished image: `b"apiguard"` as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"apiguard");

/// Bytes of an image, a power of two; regions may use 12 MiB of them.
pub const IMAGE_BYTES: usize = 16 << 20;

/// Names of the maps in the BPF object and of their pins.
pub const MAP_IMAGES: &str = "IMAGES";
/// See [`MAP_IMAGES`].
pub const MAP_GRACE: &str = "GRACE";
/// See [`MAP_IMAGES`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// See [`MAP_IMAGES`].
pub const MAP_REASONS: &str = "REASONS";

/// The value of the map `IMAGES`.
#[repr(C, align(8))]
pub struct Images {
    /// Which image is in force: 0 or 1.
    pub active: u64,
    /// Fills a memory page.
    pub reserved: [u64; 511],
    /// The images; zeroes guard nothing.
    pub banks: [Image; 2],
}

/// One image.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
pub struct Image {
    bytes: [u8; IMAGE_BYTES],
}

impl Image {
    /// The head of the image.
    #[inline(always)]
    #[must_use]
    pub fn header(&self) -> &Header {
        // SAFETY: the first bytes, aligned like the image; every bit pattern is a header.
        unsafe { &*self.bytes.as_ptr().cast::<Header>() }
    }

    /// The `index`-th `T` of the image seen as an array of `T`; the index wraps at the end.
    #[inline(always)]
    #[must_use]
    pub fn at<T: FromBytes + Immutable>(&self, index: u32) -> &T {
        const { assert!(size_of::<T>().is_power_of_two() && align_of::<T>() <= 8) };
        let offset = bpf::masked::<T>(u64::from(index).wrapping_mul(size_of::<T>() as u64));
        // SAFETY: the mask leaves room for a `T` at the offset, a multiple of its size, in an image
        // aligned to 8; every bit pattern is a `T` because it is `FromBytes`.
        unsafe { &*self.bytes.as_ptr().add(offset as usize).cast::<T>() }
    }
}

/// First bytes of an image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// Counter slots in use: one more than the highest.
    pub clusters: u32,
    /// Odd multipliers of the two hash functions of all tables in this image.
    pub multipliers: [u64; 2],
    /// Digest of the node-independent policy (SHA-256).
    pub revision: [u64; 4],
    /// Words (8 bytes) used by regions, for the fill metric.
    pub region_words: u64,
    /// Keeps the size a power of two.
    pub reserved: [u64; 7],
}

/// A header of zeroes: no image.
pub const EMPTY_HEADER: Header = Header {
    magic: 0,
    abi: 0,
    clusters: 0,
    multipliers: [0; 2],
    revision: [0; 4],
    region_words: 0,
    reserved: [0; 7],
};

/// Counter slots, one per cluster with at least one guarded frontend.
pub const CLUSTERS: u32 = 10 << 10;
/// Policies of an image, the reserved ones included: more than one per cluster only in conflicts.
pub const POLICIES: u32 = 12 << 10;

/// Bytes before the port bitmaps.
const HEADER_BYTES: u32 = 4096;
/// Guarded destination ports: one bit each, 65,536 for TCP, then 65,536 for UDP; index in u64.
pub const PORTS_AT: u32 = HEADER_BYTES / 8;
const PORTS_BYTES: u32 = 2 * 65_536 / 8;
/// Slots of each address table.
pub const ADDRESS_SLOTS: u32 = 1 << 15;
/// IPv4 address table; index in [`Address4`].
pub const ADDRESSES4_AT: u32 = (HEADER_BYTES + PORTS_BYTES) / size_of::<Address4>() as u32;
const ADDRESSES4_END: u32 = (ADDRESSES4_AT + ADDRESS_SLOTS) * size_of::<Address4>() as u32;
/// IPv6 address table; index in [`Address6`].
pub const ADDRESSES6_AT: u32 = ADDRESSES4_END / size_of::<Address6>() as u32;
const ADDRESSES6_END: u32 = (ADDRESSES6_AT + ADDRESS_SLOTS) * size_of::<Address6>() as u32;
/// Slots of the frontend table.
pub const FRONTEND_SLOTS: u32 = 1 << 18;
/// Frontend table; index in u64, see [`frontend_entry`].
pub const FRONTENDS_AT: u32 = ADDRESSES6_END / 8;
const FRONTENDS_END: u32 = (FRONTENDS_AT + FRONTEND_SLOTS) * 8;

/// Policy records; index in [`Policy`].
pub const POLICIES_AT: u32 = FRONTENDS_END / size_of::<Policy>() as u32;
const POLICIES_END: u32 = (POLICIES_AT + POLICIES) * size_of::<Policy>() as u32;

/// Hash of the cluster that owns each counter slot, 0 for none; index in u64.
pub const CLUSTERS_AT: u32 = POLICIES_END / 8;
/// Where regions begin; index in u64.
pub const REGIONS_AT: u32 = CLUSTERS_AT + CLUSTERS;

/// Address number of every address of the node itself: nodePorts are looked up with it.
pub const ADDRESS_NODE: u32 = 1;
/// First address number of load balancer addresses, external IPs and pods.
pub const ADDRESS_FIRST: u32 = 2;

/// Set in the number of an external IP that is an address of the node too: where the frontend table
/// has nothing for the number, it is asked again for [`ADDRESS_NODE`].
pub const ADDRESS_ALSO_NODE: u32 = 1 << 22;

/// Entry of the IPv4 address table. `number` 0 is an empty slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Address4 {
    /// The address.
    pub address: u32,
    /// Its number: [`ADDRESS_NODE`], or from [`ADDRESS_FIRST`] on.
    pub number: u32,
}

/// Entry of the IPv6 address table. `number` 0 is an empty slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Address6 {
    /// The upper 64 bits.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
    /// Its number: [`ADDRESS_NODE`], or from [`ADDRESS_FIRST`] on.
    pub number: u64,
    /// Keeps the size a power of two, so that an entry stays in one cache line.
    pub reserved: u64,
}

/// Bits of a frontend entry that hold the policy's index.
pub const FRONTEND_POLICY_BITS: u32 = 24;

/// Key of a frontend: address number, protocol (0 TCP, 1 UDP) and port, in 40 bits.
#[inline(always)]
pub const fn frontend_key(number: u32, protocol: u32, port: u32) -> u64 {
    (number as u64) << 17 | (protocol as u64) << 16 | port as u64
}

/// Entry of the frontend table: key, then the index of the policy. 0 is an empty slot.
#[inline(always)]
pub const fn frontend_entry(key: u64, policy: u32) -> u64 {
    key << FRONTEND_POLICY_BITS | policy as u64
}

/// A list of disjoint intervals of IPv4 addresses.
///
/// Its region holds an index, then the bounds: every interval's first address and the address after
/// its last, ascending. An address is inside if and only if an odd number of bounds is not greater
/// than it. The index cuts `[min, min + span]` into slots of `2^shift` addresses and holds, for each
/// slot and one beyond, how many bounds lie below it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Intervals32 {
    /// First address of the first interval.
    pub min: u32,
    /// Last address of the last interval, minus `min`.
    pub span: u32,
    /// Where the index begins, in u32 from the image's begin; 0 is an empty list.
    pub index_at: u32,
    /// Where the bounds begin, in u32 from the image's begin.
    pub bounds_at: u32,
    /// Bits of an address below its slot number.
    pub shift: u32,
}

/// The same over 64 bit numbers: the upper halves of IPv6 addresses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Intervals64 {
    /// First number of the first interval.
    pub min: u64,
    /// Last number of the last interval, minus `min`.
    pub span: u64,
    /// Where the index begins, in u32 from the image's begin; 0 is an empty list.
    pub index_at: u32,
    /// Where the bounds begin, in u64 (in [`Bound128`] for whole addresses) from the image's begin.
    pub bounds_at: u32,
    /// Bits of a number below its slot number.
    pub shift: u32,
    /// Keeps the size a multiple of 8.
    pub reserved: u32,
}

/// A bound in a list of whole IPv6 addresses.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Bound128 {
    /// The upper 64 bits.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
}

/// Who is admitted, and on whose account: one cache line.
///
/// IPv6 is two lists: `v6` of the /64 networks that are admitted whole, and one of whole addresses
/// inside the /64 networks that are not, indexed by their upper halves.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Policy {
    /// Counter slot of the cluster.
    pub counter: u32,
    /// Where the [`Intervals64`] of the admitted addresses in other /64 networks stands, in its
    /// size from the image's begin; 0 if there are none.
    pub v6_partial_at: u32,
    /// Admitted IPv4 addresses.
    pub v4: Intervals32,
    /// Keeps the next list aligned.
    pub reserved: u32,
    /// Admitted /64 networks.
    pub v6: Intervals64,
}

/// Policy that holds the seed-wide exemptions on uplinks.
pub const POLICY_EXEMPT: u32 = 1;
/// First policy of a cluster. 0 is no policy.
pub const POLICY_FIRST: u32 = 2;

/// Counters of one cluster on one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Counters {
    /// Packets that were let through.
    pub allowed_packets: u64,
    /// Their bytes, from the network header on.
    pub allowed_bytes: u64,
    /// Packets that were dropped.
    pub denied_packets: u64,
    /// Their bytes, from the network header on.
    pub denied_bytes: u64,
}

const _: () = {
    assert!(size_of::<Images>() == 4096 + 2 * IMAGE_BYTES);
    assert!(size_of::<Header>() == 128 && size_of::<Header>() <= HEADER_BYTES as usize);
    assert!(size_of::<Address4>() == 8);
    assert!(size_of::<Address6>() == 32);
    assert!(size_of::<Intervals32>() == 20);
    assert!(size_of::<Intervals64>() == 32);
    assert!(size_of::<Bound128>() == 16);
    assert!(size_of::<Policy>() == 64);
    assert!(size_of::<Counters>() == 32);
    assert!(ADDRESSES4_END.is_multiple_of(size_of::<Address6>() as u32));
    assert!(FRONTENDS_END.is_multiple_of(size_of::<Policy>() as u32));
    assert!(REGIONS_AT.is_multiple_of(4) && (REGIONS_AT as usize) < IMAGE_BYTES / 8);
};
