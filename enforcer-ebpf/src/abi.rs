//! What the agent writes and the data path reads: words only, sizes asserted.
//!
//! An *image* is everything one verdict depends on: 16 MiB of tables and lists. The map `IMAGES` is
//! an array with one value, [`Images`], that holds two images and the number of the one in force. A
//! change is written into the other one and becomes visible by one store to that number; one value
//! means one lookup per packet, after which every load is an offset. Kernels that take no value as large
//! have the same bytes in parts (`abi/parts.rs`).
//!
//! ```text
//! Header | guarded ports | nodePorts | node addresses | frontends | pods | gated interfaces
//!        | peers by port | policies | cluster of each counter | regions: the policies' interval lists
//! ```
//!
//! Hash tables hold two entries per bucket and every key in one of its two buckets
//! (`image/cuckoo.rs`): loads that do not wait for each other, no chains, no loops.
//!
//! Everything is in the machine's byte order; addresses and ports are numbers (1.2.3.4 is
//! `0x01020304`), so that their order is the order of the ranges.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod egress;
mod events;
mod image;
#[cfg(feature = "parts")]
mod parts;

pub use egress::{
    ASKED, Asked, DNS_PORT, EgressEntry, LISTENED, Listened, MAP_ASKED, MAP_LISTENED,
    port_peers_key,
};
pub use events::{
    ANSWERS_PER_WINDOW, DropEvent, EVENTS_BYTES, EVENTS_PER_WINDOW, Explained, MAP_ANSWERED,
    MAP_EVENTS, MAP_RECENT, MAP_SUPPRESSED, Pace, RECENT, Recent, SAMPLE, Scratch, WINDOW_SHIFT,
    explained,
};

#[cfg(not(all(target_arch = "bpf", feature = "parts")))]
pub use image::Image;
pub use image::{Images, PART_BYTES, PARTS};
#[cfg(all(target_arch = "bpf", feature = "parts"))]
pub use parts::Image;
#[cfg(feature = "parts")]
pub use parts::Part;

/// Changes whenever a type, an offset or a meaning in this file changes; part of the pin path.
pub const ABI_VERSION: u32 = 3;

/// Marks a finished image: `b"apiguard"` as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"apiguard");

/// Bytes of an image, a power of two.
pub const IMAGE_BYTES: usize = 16 << 20;

/// Names of the maps in the BPF object and of their pins.
pub const MAP_IMAGES: &str = "IMAGES";
/// See [`MAP_IMAGES`].
pub const MAP_GRACE: &str = "GRACE";
/// See [`MAP_IMAGES`].
pub const MAP_COUNTERS: &str = "COUNTERS";
/// See [`MAP_IMAGES`].
pub const MAP_REASONS: &str = "REASONS";
/// See [`MAP_IMAGES`].
pub const MAP_OPENED: &str = "OPENED";

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
    /// 1 where packets that nothing admits are counted and pass, 0 where they are dropped.
    pub audit: u64,
    /// 1 where denied packets are answered.
    pub reject: u64,
    /// Keeps the size a power of two.
    pub reserved: [u64; 5],
}

/// A header of zeroes: no image.
pub const EMPTY_HEADER: Header = Header {
    magic: 0,
    abi: 0,
    clusters: 0,
    multipliers: [0; 2],
    revision: [0; 4],
    region_words: 0,
    audit: 0,
    reject: 0,
    reserved: [0; 5],
};

/// Counter slots: one per cluster with at least one guarded frontend, and one per cluster with a gated
/// API server pod on this node.
pub const CLUSTERS: u32 = 10 << 10;
/// Policies of an image, the reserved ones included: more than one per cluster where frontends of
/// one cluster are guarded by different lists, and in conflicts.
pub const POLICIES: u32 = 20 << 10;

/// A hash table of the image, of buckets with [`WAYS`] entries each.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Index of the first bucket, the image seen as an array of buckets.
    pub at: u32,
    /// Buckets, a power of two.
    pub buckets: u32,
}

/// Entries of a bucket.
pub const WAYS: usize = 2;

/// A bucket of an IPv4 table: [`entry4`].
pub type Bucket4 = [u64; WAYS];
/// A bucket of an IPv6 table.
pub type Bucket6 = [Entry6; WAYS];
/// A bucket of gated interfaces.
pub type EgressBucket = [EgressEntry; WAYS];

impl Table {
    /// Behind that many bytes.
    const fn new<Bucket>(bytes: u32, buckets: u32) -> Self {
        assert!(buckets.is_power_of_two() && bytes.is_multiple_of(size_of::<Bucket>() as u32));
        Self { at: bytes / size_of::<Bucket>() as u32, buckets }
    }

    const fn end<Bucket>(self) -> u32 {
        (self.at + self.buckets) * size_of::<Bucket>() as u32
    }
}

/// Bytes before the port bitmaps.
const HEADER_BYTES: u32 = 4096;
/// Guarded destination ports: one bit each, 65,536 for TCP, then 65,536 for UDP; index in u64.
pub const PORTS_AT: u32 = HEADER_BYTES / 8;
const PORTS_BYTES: u32 = 2 * 65_536 / 8;
/// Policy of every nodePort, 0 for none: 65,536 for TCP, then 65,536 for UDP; index in u16.
pub const NODE_PORTS_AT: u32 = (HEADER_BYTES + PORTS_BYTES) / 2;
const NODE_PORTS_END: u32 = (NODE_PORTS_AT + 2 * 65_536) * 2;

/// IPv4 addresses of nodes: see [`entry4`] with [`NODE_VALUE_BITS`].
pub const NODE4: Table = Table::new::<Bucket4>(NODE_PORTS_END, 1 << 12);
/// Frontends at other IPv4 addresses: see [`entry4`] with [`FRONTEND_VALUE_BITS`].
pub const FRONTENDS4: Table = Table::new::<Bucket4>(NODE4.end::<Bucket4>(), 1 << 16);
/// Pods by IPv4 address: see [`entry4`] with [`POD_VALUE_BITS`].
pub const PODS4: Table = Table::new::<Bucket4>(FRONTENDS4.end::<Bucket4>(), 1 << 15);
/// IPv6 addresses of nodes.
pub const NODE6: Table =
    Table::new::<Bucket6>(PODS4.end::<Bucket4>().next_multiple_of(64), 1 << 10);
/// Frontends at other IPv6 addresses. Every address has an entry with [`ANY_PORT`] too.
pub const FRONTENDS6: Table = Table::new::<Bucket6>(NODE6.end::<Bucket6>(), 1 << 15);
/// Pods by IPv6 address.
pub const PODS6: Table = Table::new::<Bucket6>(FRONTENDS6.end::<Bucket6>(), 1 << 13);

/// Gated pods' interfaces by number.
pub const EGRESS: Table = Table::new::<EgressBucket>(PODS6.end::<Bucket6>(), 1 << 9);
/// Lists of egress policies for one port: see [`entry4`] and [`port_peers_key`].
pub const PORT_PEERS: Table = Table::new::<Bucket4>(EGRESS.end::<EgressBucket>(), 1 << 12);

/// Policy records; index in [`Policy`].
pub const POLICIES_AT: u32 = PORT_PEERS.end::<Bucket4>() / size_of::<Policy>() as u32;
const POLICIES_END: u32 = (POLICIES_AT + POLICIES) * size_of::<Policy>() as u32;
/// Hash of the cluster that owns each counter slot, 0 for none; index in u64.
pub const CLUSTERS_AT: u32 = POLICIES_END / 8;
/// Where regions begin; index in u64.
pub const REGIONS_AT: u32 = CLUSTERS_AT + CLUSTERS;

/// Bits of an IPv4 entry that hold the value: 1 for an address of the node.
pub const NODE_VALUE_BITS: u32 = 32;
/// The same for a frontend: index of its policy.
pub const FRONTEND_VALUE_BITS: u32 = 15;
/// The same for a pod: see [`POD_CLUSTER`].
pub const POD_VALUE_BITS: u32 = 32;
/// The same for peers at one port: index of the policy whose list they are.
pub const PORT_PEERS_VALUE_BITS: u32 = 15;

/// Bits of a pod's value: counter slot of its cluster plus one, 0 if no one cluster owns it.
pub const POD_CLUSTER: u32 = 0xffff;
/// Set in every pod's value: 0 means no pod.
pub const POD_KNOWN: u32 = 1 << 29;
/// Set in a pod's value if it is an API server: no exemption counts for it.
pub const POD_API_SERVER: u32 = 1 << 30;
/// Set in a pod's value if it runs on this node: on an uplink its address is spoofed.
pub const POD_LOCAL: u32 = 1 << 31;

/// Port of the entry in [`FRONTENDS6`] that every address with a frontend has besides.
pub const ANY_PORT: u32 = 1 << 17;

/// Key of a frontend at an IPv4 address; protocol 0 is TCP, 1 UDP.
#[inline(always)]
#[must_use]
pub const fn frontend4_key(address: u32, protocol: u32, port: u32) -> u64 {
    (address as u64) << 17 | (protocol as u64) << 16 | port as u64
}

/// Entry of an IPv4 table; 0 is an empty slot.
#[inline(always)]
#[must_use]
pub const fn entry4(key: u64, value_bits: u32, value: u32) -> u64 {
    key << value_bits | value as u64
}

/// Entry of an IPv6 table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Entry6 {
    /// The upper 64 bits of the address.
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
    /// Protocol and port as in [`frontend4_key`], 0 where only the address counts.
    pub port: u64,
    /// As in IPv4 entries; 0 is an empty slot.
    pub value: u64,
}

/// A list of disjoint intervals of IPv4 addresses.
///
/// Its *bounds* are every interval's first address and the address after its last, ascending: an
/// address is inside if and only if an odd number of bounds is not greater than it. The list cuts
/// `[min, min + span]` into slots of `2^shift` addresses. Each slot has an [`info`] and its two least
/// bounds; where it has fewer, 0 stands before them, which every address passes. The others stand in
/// the overflow behind the bounds of all slots, slot by slot. One more info ends the last one's overflow.
///
/// An empty list has one slot, of zeroes ([`ZEROES_AT`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct List32 {
    /// First address of the first interval.
    pub min: u32,
    /// Last address of the last interval, minus `min`.
    pub span: u32,
    /// Where infos begin, in u32 from the image's begin.
    pub infos_at: u32,
    /// Where bounds begin, in u32 from the image's begin.
    pub bounds_at: u32,
    /// Bits of an address below its slot number.
    pub shift: u32,
}

/// The same over 64 bit numbers, the upper halves of IPv6 addresses, with bounds that count from their
/// slot's begin; or over whole IPv6 addresses with slots by upper halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct List64 {
    /// First number of the first interval.
    pub min: u64,
    /// Last number of the last interval, minus `min`.
    pub span: u64,
    /// Where infos begin, in u32 from the image's begin.
    pub infos_at: u32,
    /// Where bounds begin, in bounds from the image's begin.
    pub bounds_at: u32,
    /// Bits of a number below its slot number.
    pub shift: u32,
    /// Makes the padding explicit.
    pub reserved: u32,
}

/// What a slot says besides its two least bounds.
pub mod info {
    /// Set if an odd number of bounds lies below the slot, those zeroes counted that stand for bounds.
    pub const ODD: u32 = 1;
    /// Set if the slot has bounds in the overflow.
    pub const MORE: u32 = 2;
    /// The other bits: how many bounds of slots before it are in the overflow.
    pub const SHIFT: u32 = 2;
}

/// A u64 of the image's header that is zero, and so are the one before and the one after.
pub const ZEROES_AT: u32 = HEADER_BYTES / 8 - 2;

impl List32 {
    /// No address.
    pub const EMPTY: Self = Self {
        min: u32::MAX,
        span: 0,
        infos_at: ZEROES_AT * 2,
        bounds_at: ZEROES_AT * 2,
        shift: 0,
    };
}

impl List64 {
    /// No number.
    pub const EMPTY: Self = Self {
        min: u64::MAX,
        span: 0,
        infos_at: ZEROES_AT * 2,
        bounds_at: ZEROES_AT,
        shift: 0,
        reserved: 0,
    };
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
/// inside the /64 networks that are not, with slots by their upper halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Policy {
    /// Counter slot of the cluster.
    pub counter: u32,
    /// The [`POD_CLUSTER`] of pods that are admitted besides the list, 0 for none.
    pub own_pods: u16,
    /// [`POLICY_AUDIT`] or 0.
    pub flags: u16,
    /// Admitted IPv4 addresses.
    pub v4: List32,
    /// Where the [`List64`] of the admitted addresses in other /64 networks stands, in its size from
    /// the image's begin; 0 if there are none.
    pub v6_partial_at: u32,
    /// Admitted /64 networks.
    pub v6: List64,
}

impl Policy {
    /// Admits nobody.
    pub const EMPTY: Self = Self {
        counter: 0,
        own_pods: 0,
        flags: 0,
        v4: List32::EMPTY,
        v6_partial_at: 0,
        v6: List64::EMPTY,
    };
}

/// Set where what the policy denies passes all the same.
pub const POLICY_AUDIT: u16 = 1;

/// Sources that every policy admits on uplinks.
pub const POLICY_EXEMPT_UPLINK: u32 = 1;
/// Sources that every policy admits on pod-facing interfaces.
pub const POLICY_EXEMPT_POD: u32 = 2;
/// Load balancers that enforce the lists themselves.
pub const POLICY_TRUSTED: u32 = 3;
/// Sources whose TCP segments are admitted if they carry no data.
pub const POLICY_PROBES: u32 = 4;
/// Every source that some rule besides a cluster's list may admit on an uplink: all of the above and
/// the pods. Who is not here is denied without being looked for there.
pub const POLICY_OTHERS_UPLINK: u32 = 5;
/// The same on pod-facing interfaces.
pub const POLICY_OTHERS_POD: u32 = 6;
/// First policy of a cluster. 0 is no policy.
pub const POLICY_FIRST: u32 = 8;

/// A TCP connection that the node opened from a guarded port number, as its replies name it. IPv4
/// addresses are IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Opened {
    /// Where replies come from.
    pub remote: [u64; 2],
    /// The node's address.
    pub local: [u64; 2],
    /// The remote port, then the node's in the lower half.
    pub ports: u32,
    /// Makes the padding explicit.
    pub reserved: u32,
}

/// Connections that are remembered; the least recently used is forgotten first.
pub const OPENED: u32 = 1 << 15;

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
    /// Packets that were denied and passed all the same, since the cluster or the node only audits;
    /// they are in none of the others.
    pub would_deny_packets: u64,
}

const _: () = {
    assert!(size_of::<Images>() == 4096 + 2 * IMAGE_BYTES);
    assert!(size_of::<Header>() == 128 && size_of::<Header>() <= HEADER_BYTES as usize - 64);
    assert!(size_of::<Entry6>() == 32);
    assert!(size_of::<List32>() == 20);
    assert!(size_of::<List64>() == 32);
    assert!(size_of::<Bound128>() == 16);
    assert!(size_of::<Policy>() == 64);
    assert!(size_of::<Opened>() == 40);
    assert!(size_of::<Counters>() == 40);
    assert!(NODE_PORTS_END.is_multiple_of(8));
    assert!(PORT_PEERS.end::<Bucket4>().is_multiple_of(size_of::<Policy>() as u32));
    assert!(POLICIES <= 1 << FRONTEND_VALUE_BITS);
    assert!(CLUSTERS < POD_CLUSTER);
    assert!(REGIONS_AT.is_multiple_of(4) && (REGIONS_AT as usize) < IMAGE_BYTES / 8);
};
