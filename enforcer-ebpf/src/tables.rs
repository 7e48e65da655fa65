//! Searching an image: guarded ports, frontends, pods, membership.
//!
//! Input: an [`Image`] (a BPF map's value or the same bytes on the host) and numbers from a packet.
//! Every function is a bounded number of loads without a helper call, and what is looked up does not
//! wait for what was looked up before, so that a processor can do it all at once.

use crate::{
    abi::{
        ANY_PORT, Bound128, Bucket4, Bucket6, EGRESS, EgressBucket, EgressEntry,
        FRONTEND_VALUE_BITS, FRONTENDS4, FRONTENDS6, IMAGE_BYTES, Image, List32, List64,
        NODE_PORTS_AT, NODE_VALUE_BITS, NODE4, NODE6, Opened, POD_VALUE_BITS, PODS4, PODS6,
        POLICIES_AT, PORT_PEERS, PORT_PEERS_VALUE_BITS, PORTS_AT, Policy, Table, frontend4_key,
        info, port_peers_key,
    },
    bpf::{hidden_constant, sign},
};

/// First byte of 127.0.0.0/8.
const LOOPBACK4: u32 = 127;

/// What `decide` asks. Membership is behind two of these methods, so that another structure can
/// stand in its place.
pub trait Tables {
    /// The image in force.
    fn image(&self) -> &Image;

    /// Whether the policy's list holds this IPv4 source.
    #[inline(always)]
    fn admits4(&self, policy: &Policy, address: u32) -> bool {
        contains32(self.image(), &policy.v4, address)
    }

    /// Whether the policy's list holds this IPv6 source.
    #[inline(always)]
    fn admits6(&self, policy: &Policy, high: u64, low: u64) -> bool {
        contains64(self.image(), &policy.v6, high)
            || (policy.v6_partial_at != 0 && self.holds_partly(policy.v6_partial_at, high, low))
    }

    /// Whether the list of whole IPv6 addresses at this place holds an address.
    #[inline(always)]
    fn holds_partly(&self, list_at: u32, high: u64, low: u64) -> bool {
        contains128(self.image(), list_at, high, low)
    }

    /// Whether the list of the policy with this number holds this IPv4 address. The BPF program has
    /// these three as functions that the verifier walks once.
    #[inline(always)]
    fn holds4(&self, policy: u32, address: u32) -> bool {
        self.admits4(self::policy(self.image(), policy), address)
    }

    /// The same for IPv6.
    #[inline(always)]
    fn holds6(&self, policy: u32, high: u64, low: u64) -> bool {
        self.admits6(self::policy(self.image(), policy), high, low)
    }

    /// Whether the node itself opened this connection.
    fn opened(&self, connection: &Opened) -> bool;
}

/// Whether any frontend has this port; protocol 0 is TCP, 1 UDP.
#[inline(always)]
pub fn port_is_guarded(image: &Image, protocol: u32, port: u32) -> bool {
    let bit = protocol << 16 | port;
    image.at::<u64>(PORTS_AT + (bit >> 6)) >> (bit & 63) & 1 != 0
}

/// Policy of a nodePort, 0 if it is none.
#[inline(always)]
pub fn node_port_policy(image: &Image, protocol: u32, port: u32) -> u32 {
    u32::from(*image.at::<u16>(NODE_PORTS_AT + (protocol << 16 | port)))
}

/// Whether a node of the seed has this address, this one or another. All of 127.0.0.0/8 are this
/// node's: destination NAT takes packets to them from the wire before the kernel finds them odd.
#[inline(always)]
pub fn is_node4(image: &Image, address: u32) -> bool {
    address >> 24 == LOOPBACK4 || find4::<NODE_VALUE_BITS>(image, NODE4, u64::from(address)) != 0
}

/// The same for IPv6.
#[inline(always)]
pub fn is_node6(image: &Image, high: u64, low: u64) -> bool {
    find6(image, NODE6, high, low, 0) != 0
}

/// Policy of the frontend at an address that is not looked up as one of the node, 0 if there is none.
#[inline(always)]
pub fn frontend4_policy(image: &Image, address: u32, protocol: u32, port: u32) -> u32 {
    find4::<FRONTEND_VALUE_BITS>(image, FRONTENDS4, frontend4_key(address, protocol, port))
}

/// The same for IPv6.
#[inline(always)]
pub fn frontend6_policy(image: &Image, high: u64, low: u64, protocol: u32, port: u32) -> u32 {
    find6(image, FRONTENDS6, high, low, u64::from(protocol << 16 | port)) as u32
}

/// Whether an IPv6 address has any frontend, those of nodes left out.
#[inline(always)]
pub fn has_frontend6(image: &Image, high: u64, low: u64) -> bool {
    find6(image, FRONTENDS6, high, low, u64::from(ANY_PORT)) != 0
}

/// What is known of the pod with an address, 0 if none has it: bits `POD_*`.
#[inline(always)]
pub fn pod4(image: &Image, address: u32) -> u32 {
    find4::<POD_VALUE_BITS>(image, PODS4, u64::from(address))
}

/// The same for IPv6.
#[inline(always)]
pub fn pod6(image: &Image, high: u64, low: u64) -> u32 {
    find6(image, PODS6, high, low, 0) as u32
}

/// What is known of a gated pod's interface; `None` for all others.
#[inline(always)]
pub fn egress_entry(image: &Image, interface: u32) -> Option<&EgressEntry> {
    for multiplier in &image.header().multipliers {
        let at = EGRESS.at + bucket4(EGRESS, *multiplier, u64::from(interface));
        for entry in image.at::<EgressBucket>(at) {
            if entry.interface == interface {
                return Some(entry);
            }
        }
    }
    None
}

/// Policy whose list holds the destinations that an egress policy grants at one port, 0 if none is.
#[inline(always)]
pub fn port_peers(image: &Image, policy: u32, protocol: u32, port: u32) -> u32 {
    let key = port_peers_key(policy, protocol, port);
    find4::<PORT_PEERS_VALUE_BITS>(image, PORT_PEERS, key)
}

/// The record of a policy.
#[inline(always)]
pub fn policy(image: &Image, index: u32) -> &Policy {
    image.at::<Policy>(POLICIES_AT + index)
}

/// Value of a key in an IPv4 table, 0 if it is not there.
#[inline(always)]
fn find4<const VALUE_BITS: u32>(image: &Image, table: Table, key: u64) -> u32 {
    for multiplier in &image.header().multipliers {
        let bucket = image.at::<Bucket4>(table.at + bucket4(table, *multiplier, key));
        for entry in bucket {
            if entry >> VALUE_BITS == key {
                return *entry as u32 & (u32::MAX >> (32 - VALUE_BITS));
            }
        }
    }
    0
}

/// Value of an address and port in an IPv6 table, 0 if it is not there.
#[inline(always)]
fn find6(image: &Image, table: Table, high: u64, low: u64, port: u64) -> u64 {
    for multiplier in &image.header().multipliers {
        let bucket = image.at::<Bucket6>(table.at + bucket6(table, *multiplier, high, low, port));
        for entry in bucket {
            if entry.low == low && entry.high == high && entry.port == port {
                return entry.value;
            }
        }
    }
    0
}

/// Bucket of a key by one of the two hash functions: multiply-shift, the highest bits of a product
/// with an odd number.
#[inline(always)]
#[must_use]
pub const fn bucket4(table: Table, multiplier: u64, key: u64) -> u32 {
    (multiplier.wrapping_mul(key) >> (u64::BITS - table.buckets.ilog2())) as u32
}

/// Bucket of an IPv6 address and port.
#[inline(always)]
#[must_use]
pub const fn bucket6(table: Table, multiplier: u64, high: u64, low: u64, port: u64) -> u32 {
    let mixed = multiplier.wrapping_mul(high) ^ low ^ port << 32;
    (multiplier.wrapping_mul(mixed ^ mixed >> 32) >> (u64::BITS - table.buckets.ilog2())) as u32
}

/// Whether an IPv4 address lies in the list.
#[inline(always)]
pub fn contains32(image: &Image, list: &List32, address: u32) -> bool {
    let offset = address.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let shift = list.shift & 31;
    let place = Place {
        slot: offset >> shift,
        last: list.span >> shift,
        infos_at: list.infos_at,
        bounds_at: list.bounds_at,
    };
    let not_address = !i64::from(address);
    // bound <= address, as bound + !address < 0.
    place.odd(image, |at| sign(i64::from(*image.at::<u32>(at)).wrapping_add(not_address)))
}

/// Whether a 64 bit number lies in the list.
#[inline(always)]
pub fn contains64(image: &Image, list: &List64, value: u64) -> bool {
    // Bounds count from their slot's begin, so that both numbers are less than 2^63.
    let not_rest = !value.wrapping_sub(list.min) | u64::MAX << (list.shift & 63);
    contains(image, list, value, |at| {
        sign(image.at::<u64>(at).wrapping_add(not_rest).cast_signed())
    })
}

/// Whether a whole IPv6 address lies in the list that stands at this place, with slots by upper
/// halves.
#[inline(always)]
pub fn contains128(image: &Image, list_at: u32, high: u64, low: u64) -> bool {
    contains(image, image.at::<List64>(list_at), high, |at| {
        let bound = image.at::<Bound128>(at);
        if bound.high == high { !less(low, bound.low) } else { !less(high, bound.high) }
    })
}

#[inline(always)]
fn contains(image: &Image, list: &List64, value: u64, passed: impl Fn(u32) -> u32) -> bool {
    let offset = value.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let shift = list.shift & 63;
    let place = Place {
        slot: (offset >> shift) as u32,
        last: (list.span >> shift) as u32,
        infos_at: list.infos_at,
        bounds_at: list.bounds_at,
    };
    place.odd(image, passed)
}

/// A slot of a list.
struct Place {
    slot: u32,
    /// The list's last slot.
    last: u32,
    infos_at: u32,
    bounds_at: u32,
}

impl Place {
    /// Whether an odd number of the list's bounds is passed. `passed` is a mask: whether the bound at
    /// this place of the image is not greater than what is looked for.
    #[inline(always)]
    fn odd(&self, image: &Image, passed: impl Fn(u32) -> u32) -> bool {
        let Self { slot, last, infos_at, bounds_at } = *self;
        let info_at = infos_at.wrapping_add(slot);
        let info = *image.at::<u32>(info_at);
        let bound_at = bounds_at.wrapping_add(slot << 1);
        let (least, second) = (passed(bound_at), passed(bound_at.wrapping_add(1)));
        if second & info & info::MORE == 0 {
            return (info ^ least ^ second) & 1 != 0;
        }
        let overflow_at = bounds_at.wrapping_add(last.wrapping_add(1) << 1);
        let begin = info >> info::SHIFT;
        let end = *image.at::<u32>(info_at.wrapping_add(1)) >> info::SHIFT;
        let more = count(begin, end.wrapping_sub(begin), |at| passed(overflow_at.wrapping_add(at)));
        (info ^ more) & 1 != 0
    }
}

/// All ones if the first number is less than the second, else zero; without a branch, since the
/// verifier would follow both ways of every halving.
#[inline(always)]
fn less(left: u64, right: u64) -> u32 {
    let borrow = (!left & right) | (!(left ^ right) & left.wrapping_sub(right));
    sign(borrow.cast_signed())
}

/// Halvings that find a bound among all that fit an image.
const SEARCH_STEPS: u64 = (IMAGE_BYTES / 4).ilog2() as u64;

/// How many of `left` ascending bounds from `begin` on are passed; at least one is there. Only whether
/// it is odd counts.
#[inline(always)]
fn count(begin: u32, mut left: u32, passed: impl Fn(u32) -> u32) -> u32 {
    // One interval more than the slot has room for: neither bound waits for the other.
    if left == 2 {
        return passed(begin) ^ passed(begin.wrapping_add(1));
    }
    let mut first = begin;
    // The steps keep the verifier's walk finite; one bound is left long before.
    let mut steps = hidden_constant::<SEARCH_STEPS>();
    while left > 1 && steps != 0 {
        let half = left >> 1;
        let at = first.wrapping_add(half).wrapping_sub(1);
        first = first.wrapping_add(half & passed(at));
        left -= half;
        steps -= 1;
    }
    first.wrapping_sub(begin).wrapping_sub(passed(first))
}
