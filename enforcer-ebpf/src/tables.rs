//! Searching an image: guarded ports, address numbers, frontends, membership.
//!
//! Input: an [`Image`] (BPF maps or the same bytes on the host) and numbers from a packet. Every
//! function is a bounded number of loads without a helper call. A chunk that is missing reads as
//! empty; `decide` says what that means.

use crate::abi::{
    self, ADDRESS_SLOTS, ADDRESSES4_AT, ADDRESSES6_AT, Address4, Address6, Bound128, CHUNK_BYTES,
    Chunk, FRONTEND_POLICY_BITS, FRONTEND_SLOTS, FRONTENDS_AT, Header, Intervals32, Intervals64,
    PORTS_AT, Policy, frontend_key,
};

/// Gives access to the chunks of one image.
pub trait Image {
    /// The chunk with this number, from 0; `None` beyond the image.
    fn chunk(&self, number: u32) -> Option<&Chunk>;
}

/// Halvings that find a bound among all that fit one chunk.
const SEARCH_STEPS: u32 = (CHUNK_BYTES / 4).ilog2();

/// Whether any frontend has this port; protocol 0 is TCP, 1 UDP.
#[inline(always)]
pub fn port_is_guarded(head: &Chunk, protocol: u32, port: u32) -> bool {
    let bit = protocol << 16 | port;
    head.at::<u64>(PORTS_AT + (bit >> 6)) >> (bit & 63) & 1 != 0
}

/// Number of a destination address, 0 if no frontend has it.
#[inline(always)]
pub fn address4_number(head: &Chunk, address: u32) -> u32 {
    let (first, second) = hash4_slots(head.at::<Header>(0).salt, address);
    let entry = head.at::<Address4>(ADDRESSES4_AT + first);
    if entry.address == address {
        return entry.number;
    }
    let entry = head.at::<Address4>(ADDRESSES4_AT + second);
    if entry.address == address { entry.number } else { 0 }
}

/// The same for IPv6.
#[inline(always)]
pub fn address6_number(head: &Chunk, high: u64, low: u64) -> u32 {
    let (first, second) = hash6_slots(head.at::<Header>(0).salt, high, low);
    let entry = head.at::<Address6>(ADDRESSES6_AT + first);
    if entry.low == low && entry.high == high {
        return entry.number as u32;
    }
    let entry = head.at::<Address6>(ADDRESSES6_AT + second);
    if entry.low == low && entry.high == high { entry.number as u32 } else { 0 }
}

/// Index of the policy of a frontend, 0 if it is none.
#[inline(always)]
pub fn frontend_policy(head: &Chunk, number: u32, protocol: u32, port: u32) -> u32 {
    let key = frontend_key(number, protocol, port);
    let (first, second) = frontend_slots(head.at::<Header>(0).salt, key);
    let mut entry = *head.at::<u64>(FRONTENDS_AT + first);
    if entry >> FRONTEND_POLICY_BITS != key {
        entry = *head.at::<u64>(FRONTENDS_AT + second);
        if entry >> FRONTEND_POLICY_BITS != key {
            return 0;
        }
    }
    entry as u32 & ((1 << FRONTEND_POLICY_BITS) - 1)
}

/// The record of a policy.
#[inline(always)]
pub fn policy<I: Image>(image: &I, index: u32) -> Option<&Policy> {
    Some(image.chunk(1)?.at::<Policy>(abi::POLICIES_AT + index))
}

/// The two slots at which an IPv4 address may stand.
#[inline(always)]
pub fn hash4_slots(salt: u64, address: u32) -> (u32, u32) {
    slots::<ADDRESS_SLOTS>(salt, address as u64)
}

/// The two slots at which an IPv6 address may stand.
#[inline(always)]
pub fn hash6_slots(salt: u64, high: u64, low: u64) -> (u32, u32) {
    slots::<ADDRESS_SLOTS>(salt, (high ^ salt).wrapping_mul(MULTIPLIERS.1) ^ low)
}

/// The two slots at which a frontend may stand.
#[inline(always)]
pub fn frontend_slots(salt: u64, key: u64) -> (u32, u32) {
    slots::<FRONTEND_SLOTS>(salt, key)
}

/// Odd constants without structure: the fractions of the golden ratio and of the square root of 3.
const MULTIPLIERS: (u64, u64) = (0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b);

/// Multiply-shift hashing: the highest bits of two products with odd constants.
#[inline(always)]
fn slots<const SLOTS: u32>(salt: u64, key: u64) -> (u32, u32) {
    let shift = u64::BITS - SLOTS.ilog2();
    let mixed = key.wrapping_add(salt);
    let first = (mixed ^ mixed >> 29).wrapping_mul(MULTIPLIERS.0);
    let second = (mixed ^ mixed >> 32).wrapping_mul(MULTIPLIERS.1);
    ((first >> shift) as u32, (second >> shift) as u32)
}

/// Chunk number and index inside it of the `at`-th `T` of the image.
#[inline(always)]
const fn place<T>(at: u32) -> (u32, u32) {
    let per_chunk = (CHUNK_BYTES / size_of::<T>()) as u32;
    (at / per_chunk, at % per_chunk)
}

/// Whether an IPv4 address lies in the list.
#[inline(always)]
pub fn contains32<I: Image>(image: &I, list: &Intervals32, address: u32) -> bool {
    let offset = address.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let Some((below, upto)) = slot_bounds(image, list.index_at, offset >> (list.shift & 31)) else {
        return false;
    };
    let (number, begin) = place::<u32>(list.bounds_at);
    let Some(chunk) = image.chunk(number) else {
        return false;
    };
    let at_or_below = |at: u32| at_or_below63(u64::from(*chunk.at::<u32>(at)), u64::from(address));
    odd(begin, below, upto, at_or_below)
}

/// Whether a 64 bit number lies in the list.
#[inline(always)]
pub fn contains64<I: Image>(image: &I, list: &Intervals64, value: u64) -> bool {
    let offset = value.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let Some((below, upto)) =
        slot_bounds(image, list.index_at, (offset >> (list.shift & 63)) as u32)
    else {
        return false;
    };
    let (number, begin) = place::<u64>(list.bounds_at);
    let Some(chunk) = image.chunk(number) else {
        return false;
    };
    odd(begin, below, upto, |at| at_or_below64(*chunk.at::<u64>(at), value))
}

/// Whether a whole IPv6 address lies in the list, indexed by upper halves.
#[inline(always)]
pub fn contains128<I: Image>(image: &I, list: &Intervals64, high: u64, low: u64) -> bool {
    let offset = high.wrapping_sub(list.min);
    if offset > list.span {
        return false;
    }
    let Some((below, upto)) =
        slot_bounds(image, list.index_at, (offset >> (list.shift & 63)) as u32)
    else {
        return false;
    };
    let (number, begin) = place::<Bound128>(list.bounds_at);
    let Some(chunk) = image.chunk(number) else {
        return false;
    };
    odd(begin, below, upto, |at| {
        let bound = chunk.at::<Bound128>(at);
        if bound.high == high {
            at_or_below64(bound.low, low)
        } else {
            at_or_below64(bound.high, high)
        }
    })
}

/// How many bounds lie below a slot of the index, and below the next one. `None` for an empty list.
#[inline(always)]
fn slot_bounds<I: Image>(image: &I, index_at: u32, slot: u32) -> Option<(u32, u32)> {
    if index_at == 0 {
        return None;
    }
    let (number, begin) = place::<u32>(index_at);
    let chunk = image.chunk(number)?;
    Some((*chunk.at::<u32>(begin + slot), *chunk.at::<u32>(begin + slot + 1)))
}

/// 1 if `bound` is not greater than `value`, else 0; without a branch, since the verifier would
/// follow both ways of every halving.
#[inline(always)]
fn at_or_below64(bound: u64, value: u64) -> u32 {
    1 - highest_bit((!value & bound) | (!(value ^ bound) & value.wrapping_sub(bound)))
}

/// The same for numbers below 2^63.
#[inline(always)]
fn at_or_below63(bound: u64, value: u64) -> u32 {
    1 - highest_bit(value.wrapping_sub(bound))
}

/// The highest bit, in assembly on BPF: LLVM would make a comparison of it, and a branch of that.
#[inline(always)]
fn highest_bit(value: u64) -> u32 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: one arithmetic instruction on one register.
        unsafe {
            core::arch::asm!("{0} >>= 63", inout(reg) value, options(pure, nomem, nostack));
        }
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let value = value >> 63;
    value as u32
}

/// [`SEARCH_STEPS`], hidden from LLVM, which would unroll the loop.
#[inline(always)]
fn search_steps() -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let steps: u64;
        // SAFETY: one constant into one register.
        unsafe {
            core::arch::asm!("{0} = {1}", out(reg) steps, const SEARCH_STEPS + 1, options(pure, nomem, nostack));
        }
        steps as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        SEARCH_STEPS + 1
    }
}

/// Whether the number of bounds that are not greater than the value is odd, knowing that `below`
/// are and that only those before `upto` can be.
#[inline(always)]
fn odd(begin: u32, below: u32, upto: u32, at_or_below: impl Fn(u32) -> u32) -> bool {
    let mut first = below;
    let mut left = upto.wrapping_sub(below);
    // The bound keeps the verifier's walk finite; `left` reaches 0 long before.
    let mut steps = search_steps();
    while left != 0 && steps != 0 {
        let half = left >> 1;
        let taken = at_or_below(begin.wrapping_add(first).wrapping_add(half));
        first = first.wrapping_add((half + 1) * taken);
        left = half - (half + half + 1 - left) * taken;
        steps -= 1;
    }
    first & 1 != 0
}
