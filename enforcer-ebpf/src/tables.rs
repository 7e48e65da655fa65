//! Searching an image: guarded ports, address numbers, frontends, membership.
//!
//! Input: an [`Image`] (a BPF map's value or the same bytes on the host) and numbers from a packet.
//! Every function is a bounded number of loads without a helper call.

use crate::{
    abi::{
        ADDRESS_SLOTS, ADDRESSES4_AT, ADDRESSES6_AT, Address4, Address6, Bound128,
        FRONTEND_POLICY_BITS, FRONTEND_SLOTS, FRONTENDS_AT, IMAGE_BYTES, Image, Intervals32,
        Intervals64, POLICIES_AT, PORTS_AT, Policy, frontend_key,
    },
    bpf::{hidden_constant, sign},
};

/// What `decide` asks. Membership is behind these two methods, so that another structure can stand in
/// its place.
pub trait Tables {
    /// The image in force.
    fn image(&self) -> &Image;

    /// Whether the policy admits this IPv4 source.
    #[inline(always)]
    fn admits4(&self, policy: &Policy, address: u32) -> bool {
        contains32(self.image(), &policy.v4, address)
    }

    /// Whether the policy admits this IPv6 source.
    #[inline(always)]
    fn admits6(&self, policy: &Policy, high: u64, low: u64) -> bool {
        contains64(self.image(), &policy.v6, high)
            || (policy.v6_partial_at != 0
                && contains128(self.image(), policy.v6_partial_at, high, low))
    }
}

impl Tables for &Image {
    #[inline(always)]
    fn image(&self) -> &Image {
        self
    }
}

/// Whether any frontend has this port; protocol 0 is TCP, 1 UDP.
#[inline(always)]
pub fn port_is_guarded(image: &Image, protocol: u32, port: u32) -> bool {
    let bit = protocol << 16 | port;
    image.at::<u64>(PORTS_AT + (bit >> 6)) >> (bit & 63) & 1 != 0
}

/// Number of a destination address, 0 if no frontend has it.
#[inline(always)]
pub fn address4_number(image: &Image, address: u32) -> u32 {
    let multipliers = &image.header().multipliers;
    let mut entry = image.at::<Address4>(ADDRESSES4_AT + address4_slot(multipliers[0], address));
    if entry.address != address {
        entry = image.at::<Address4>(ADDRESSES4_AT + address4_slot(multipliers[1], address));
        if entry.address != address {
            return 0;
        }
    }
    entry.number
}

/// The same for IPv6.
#[inline(always)]
pub fn address6_number(image: &Image, high: u64, low: u64) -> u32 {
    let multipliers = &image.header().multipliers;
    let mut entry = image.at::<Address6>(ADDRESSES6_AT + address6_slot(multipliers[0], high, low));
    if entry.low != low || entry.high != high {
        entry = image.at::<Address6>(ADDRESSES6_AT + address6_slot(multipliers[1], high, low));
        if entry.low != low || entry.high != high {
            return 0;
        }
    }
    entry.number as u32
}

/// Index of the policy of a frontend, 0 if it is none.
#[inline(always)]
pub fn frontend_policy(image: &Image, number: u32, protocol: u32, port: u32) -> u32 {
    let key = frontend_key(number, protocol, port);
    let multipliers = &image.header().multipliers;
    let mut entry = *image.at::<u64>(FRONTENDS_AT + frontend_slot(multipliers[0], key));
    if entry >> FRONTEND_POLICY_BITS != key {
        entry = *image.at::<u64>(FRONTENDS_AT + frontend_slot(multipliers[1], key));
        if entry >> FRONTEND_POLICY_BITS != key {
            return 0;
        }
    }
    entry as u32 & ((1 << FRONTEND_POLICY_BITS) - 1)
}

/// The record of a policy.
#[inline(always)]
pub fn policy(image: &Image, index: u32) -> &Policy {
    image.at::<Policy>(POLICIES_AT + index)
}

/// Slot of an IPv4 address by one of the two hash functions: multiply-shift, the highest bits of a
/// product with an odd number.
#[inline(always)]
#[must_use]
pub const fn address4_slot(multiplier: u64, address: u32) -> u32 {
    (multiplier.wrapping_mul(address as u64) >> (u64::BITS - ADDRESS_SLOTS.ilog2())) as u32
}

/// Slot of an IPv6 address.
#[inline(always)]
#[must_use]
pub const fn address6_slot(multiplier: u64, high: u64, low: u64) -> u32 {
    let mixed = multiplier.wrapping_mul(high) ^ low;
    (multiplier.wrapping_mul(mixed ^ mixed >> 32) >> (u64::BITS - ADDRESS_SLOTS.ilog2())) as u32
}

/// Slot of a frontend.
#[inline(always)]
#[must_use]
pub const fn frontend_slot(multiplier: u64, key: u64) -> u32 {
    (multiplier.wrapping_mul(key) >> (u64::BITS - FRONTEND_SLOTS.ilog2())) as u32
}

/// Whether an IPv4 address lies in the list.
#[inline(always)]
pub fn contains32(image: &Image, list: &Intervals32, address: u32) -> bool {
    let offset = address.wrapping_sub(list.min);
    if offset > list.span || list.index_at == 0 {
        return false;
    }
    let slot = list.index_at.wrapping_add(offset >> (list.shift & 31));
    let not_address = !i64::from(address);
    // bound <= address, as bound + !address < 0.
    odd(image, slot, list.bounds_at, |at| {
        sign(i64::from(*image.at::<u32>(at)).wrapping_add(not_address))
    })
}

/// Whether a 64 bit number lies in the list.
#[inline(always)]
pub fn contains64(image: &Image, list: &Intervals64, value: u64) -> bool {
    let offset = value.wrapping_sub(list.min);
    if offset > list.span || list.index_at == 0 {
        return false;
    }
    let slot = list.index_at.wrapping_add((offset >> (list.shift & 63)) as u32);
    odd(image, slot, list.bounds_at, |at| !less(value, *image.at::<u64>(at)))
}

/// Whether a whole IPv6 address lies in the list that stands at this place, indexed by upper halves.
#[inline(always)]
pub fn contains128(image: &Image, list_at: u32, high: u64, low: u64) -> bool {
    let list = image.at::<Intervals64>(list_at);
    let offset = high.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let slot = list.index_at.wrapping_add((offset >> (list.shift & 63)) as u32);
    odd(image, slot, list.bounds_at, |at| {
        let bound = image.at::<Bound128>(at);
        if bound.high == high { !less(low, bound.low) } else { !less(high, bound.high) }
    })
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

/// Whether the number of bounds that are not greater than the value is odd. The index says how many
/// surely are, and its next slot how many at most can be. `at_or_below` is a mask.
#[inline(always)]
fn odd(image: &Image, slot: u32, bounds: u32, at_or_below: impl Fn(u32) -> u32) -> bool {
    let mut first = *image.at::<u32>(slot);
    let mut left = image.at::<u32>(slot.wrapping_add(1)).wrapping_sub(first);
    if left == 0 {
        return first & 1 != 0;
    }
    // The count keeps the verifier's walk finite; one bound is left long before.
    let mut steps = hidden_constant::<SEARCH_STEPS>();
    while left > 1 && steps != 0 {
        let half = left >> 1;
        let at = bounds.wrapping_add(first).wrapping_add(half).wrapping_sub(1);
        first = first.wrapping_add(half & at_or_below(at));
        left -= half;
        steps -= 1;
    }
    first.wrapping_sub(at_or_below(bounds.wrapping_add(first))) & 1 != 0
}
