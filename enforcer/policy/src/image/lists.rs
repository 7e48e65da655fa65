//! Interval lists, written into an image's regions.
//!
//! Input: a set of addresses. Output: its lists in the form of `abi::List32` and `abi::List64`:
//! disjoint bounds in slots of equal width, the two least of each slot where a packet finds them at
//! once, the others in an overflow. Invariant: the lists of a set describe exactly the set.

use enforcer_ebpf::abi::{Bound128, List32, List64, Policy, info};
use zerocopy::{Immutable, IntoBytes};

use super::halves;
use crate::ranges::{Interval, Number, RangeSet, normalised};

/// Hands out words of an image, ascending.
pub(super) struct Regions {
    begin: usize,
    next: usize,
    end: usize,
}

impl Regions {
    pub(super) fn new(begin: usize, end: usize) -> Self {
        let begin = begin.next_multiple_of(8);
        Self { begin, next: begin, end }
    }

    /// Words handed out.
    pub(super) fn used(&self) -> usize {
        self.next - self.begin
    }

    /// First of so many free words, a multiple of eight; `None` if the image is full.
    ///
    /// Some words stay free behind every list, so that one more range mostly finds room there and the
    /// lists that follow stay where they are: an edit then changes few pages of the image.
    fn allocate(&mut self, words: usize) -> Option<usize> {
        let grain = (words.next_power_of_two() / 32).max(8);
        let at = self.next;
        if words > self.end - at.min(self.end) {
            return None;
        }
        self.next = at + words.next_multiple_of(grain);
        Some(at)
    }

    /// Writes the lists of a set; `None` if the image is full.
    pub(super) fn policy(&mut self, image: &mut [u64], set: &RangeSet) -> Option<Policy> {
        let (whole, partial) = split(set.v6());
        Some(Policy {
            v4: self.list32(image, set.v4())?,
            v6: self.list64(image, &whole)?,
            v6_partial_at: self.list128(image, &partial)?,
            ..Policy::EMPTY
        })
    }

    fn list32(&mut self, image: &mut [u64], list: &[Interval<u32>]) -> Option<List32> {
        let Some(slots) = Slots::of(list, u32::BITS, u64::from) else {
            return Some(List32::EMPTY);
        };
        let at = self.allocate(slots.words::<u32>())?;
        let Written { infos_at, bounds_at } = slots.write(image, at, Option::unwrap_or_default);
        let Slots { min, span, shift, .. } = slots;
        Some(List32 { min: min as u32, span: span as u32, infos_at, bounds_at, shift })
    }

    fn list64(&mut self, image: &mut [u64], list: &[Interval<u64>]) -> Option<List64> {
        let Some(slots) = Slots::of(list, u64::BITS, |number| number) else {
            return Some(List64::EMPTY);
        };
        let at = self.allocate(slots.words::<u64>())?;
        let in_slot = !(u64::MAX << slots.shift);
        let written = slots.write(image, at, |bound| {
            bound.map_or(0, |bound| bound.wrapping_sub(slots.min) & in_slot)
        });
        Some(slots.list64(&written))
    }

    /// Writes the list's description, then the list, and says where it begins, counted in
    /// descriptions; 0 for an empty list.
    fn list128(&mut self, image: &mut [u64], list: &[Interval<u128>]) -> Option<u32> {
        const DESCRIPTION: usize = size_of::<List64>() / 8;
        let Some(slots) = Slots::of(list, u64::BITS, |address| halves(address).0) else {
            return Some(0);
        };
        let at = self.allocate(DESCRIPTION + slots.words::<Bound128>())?;
        let written = slots.write(image, at + DESCRIPTION, |bound| {
            let (high, low) = halves(bound.unwrap_or_default());
            Bound128 { high, low }
        });
        put(image, at, &[slots.list64(&written)]);
        Some((at / DESCRIPTION) as u32)
    }
}

/// Copies values to a word of the image.
fn put<T: IntoBytes + Immutable>(image: &mut [u64], at: usize, values: &[T]) {
    let bytes = values.as_bytes();
    image[at..at + bytes.len().div_ceil(8)].as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
}

/// The bounds of a list, slot by slot.
struct Slots<N> {
    min: u64,
    span: u64,
    shift: u32,
    /// One per slot, and one beyond.
    infos: Vec<u32>,
    /// Two per slot, `None` where it has fewer.
    least: Vec<Option<N>>,
    overflow: Vec<N>,
}

/// Where a list was written.
struct Written {
    /// In u32.
    infos_at: u32,
    /// In bounds.
    bounds_at: u32,
}

impl<N: Number> Slots<N> {
    /// Of a list whose slots are cut by numbers of so many bits; `None` if it is empty.
    fn of(list: &[Interval<N>], bits: u32, number: impl Fn(N) -> u64) -> Option<Self> {
        let (min, max) = (number(list.first()?.first), number(list.last()?.last));
        let span = max - min;
        // At most one slot per interval: more would cost memory and caches more than steps.
        let wanted = list.len().next_power_of_two().max(2) as u64 / 2;
        let shift = (u64::BITS - span.leading_zeros()).saturating_sub(wanted.ilog2());
        // A shift by all bits has no meaning to a processor: two slots at least.
        let shift = shift.min(bits - 1);
        let count = (span >> shift) as usize + 1;
        let mut slots = Self {
            min,
            span,
            shift,
            infos: Vec::with_capacity(count + 1),
            least: Vec::with_capacity(count * 2),
            overflow: Vec::with_capacity(list.len()),
        };
        // What lies beyond the span is never looked up.
        let offset = |bound: N| number(bound).wrapping_sub(min);
        let bounds: Vec<N> = bounds(list).filter(|bound| offset(*bound) <= span).collect();
        let mut below = 0;
        for slot in 0..count as u64 {
            let rest = &bounds[below..];
            let here = rest.partition_point(|bound| offset(*bound) >> shift <= slot);
            slots.add(below % 2 != 0, &rest[..here]);
            below += here;
        }
        slots.infos.push((slots.overflow.len() as u32) << info::SHIFT);
        Some(slots)
    }

    /// Adds the next slot with its bounds; `odd` says how many there are below.
    fn add(&mut self, odd: bool, bounds: &[N]) {
        let mut word = (self.overflow.len() as u32) << info::SHIFT;
        if odd != (bounds.len() == 1) {
            word |= info::ODD;
        }
        if bounds.len() > 2 {
            word |= info::MORE;
        }
        self.infos.push(word);
        match bounds {
            [] => self.least.extend([None, None]),
            [only] => self.least.extend([None, Some(*only)]),
            [least, second, more @ ..] => {
                self.least.extend([Some(*least), Some(*second)]);
                self.overflow.extend(more);
            }
        }
    }

    /// Words that [`Self::write`] takes.
    fn words<B>(&self) -> usize {
        let bounds = (self.least.len() + self.overflow.len()) * size_of::<B>();
        self.info_words::<B>() + bounds.div_ceil(8)
    }

    /// Words of infos; a multiple of what a bound takes.
    fn info_words<B>(&self) -> usize {
        self.infos.len().div_ceil(2).next_multiple_of(size_of::<B>().div_ceil(8))
    }

    /// Writes infos and bounds to a word of the image, a multiple of the bounds'.
    fn write<B: IntoBytes + Immutable>(
        &self,
        image: &mut [u64],
        at: usize,
        bound: impl Fn(Option<N>) -> B,
    ) -> Written {
        let bounds_at = at + self.info_words::<B>();
        let overflow = self.overflow.iter().copied().map(Some);
        let bounds: Vec<B> = self.least.iter().copied().chain(overflow).map(bound).collect();
        put(image, at, &self.infos);
        put(image, bounds_at, &bounds);
        Written {
            infos_at: (at * 8 / size_of::<u32>()) as u32,
            bounds_at: (bounds_at * 8 / size_of::<B>()) as u32,
        }
    }

    fn list64(&self, written: &Written) -> List64 {
        let Self { min, span, shift, .. } = *self;
        let Written { infos_at, bounds_at } = *written;
        List64 { min, span, infos_at, bounds_at, shift, reserved: 0 }
    }
}

/// First addresses and addresses after last ones; the end of the space needs none.
fn bounds<N: Number>(list: &[Interval<N>]) -> impl Iterator<Item = N> {
    list.iter().flat_map(|interval| [Some(interval.first), interval.last.after()]).flatten()
}

/// The /64 networks that are in the list whole, as upper halves, and what is left of the others.
fn split(list: &[Interval<u128>]) -> (Vec<Interval<u64>>, Vec<Interval<u128>>) {
    let (mut whole, mut partial) = (Vec::new(), Vec::new());
    for interval in list {
        let ((first, first_low), (last, last_low)) =
            (halves(interval.first), halves(interval.last));
        // Numbers of the first and one behind the last whole network; equal if there is none.
        let begin = u128::from(first) + u128::from(first_low != 0);
        let end = u128::from(last) + u128::from(last_low == u64::MAX);
        if begin >= end {
            partial.push(*interval);
            continue;
        }
        whole.push(Interval { first: begin as u64, last: (end - 1) as u64 });
        if first_low != 0 {
            partial.push(Interval { first: interval.first, last: (begin << 64) - 1 });
        }
        if last_low != u64::MAX {
            partial.push(Interval { first: end << 64, last: interval.last });
        }
    }
    (normalised(whole), partial)
}
