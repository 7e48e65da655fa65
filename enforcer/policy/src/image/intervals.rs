//! Interval lists with their indexes, written into an image's regions.
//!
//! Every list is disjoint boundaries in ascending order under an index of about one slot per
//! boundary (`abi::Intervals32`).

use enforcer_ebpf::abi::{Bound128, Intervals32, Intervals64, Policy};
use zerocopy::{Immutable, IntoBytes};

use super::halves;
use crate::ranges::{Interval, RangeSet, normalised};

/// Hands out words of an image, ascending.
pub(super) struct Regions {
    begin: usize,
    next: usize,
    end: usize,
}

impl Regions {
    pub(super) fn new(begin: usize, end: usize) -> Self {
        Self { begin, next: begin, end }
    }

    /// Words handed out.
    pub(super) fn used(&self) -> usize {
        self.next - self.begin
    }

    /// First of so many free words, a multiple of four; `None` if the image is full.
    fn allocate(&mut self, words: usize) -> Option<usize> {
        let at = self.next.next_multiple_of(4);
        if words > self.end - at.min(self.end) {
            return None;
        }
        self.next = at + words;
        Some(at)
    }

    /// Writes the lists of a set; `None` if the image is full.
    pub(super) fn policy(&mut self, image: &mut [u64], set: &RangeSet) -> Option<Policy> {
        let (whole, partial) = split(set.v6());
        Some(Policy {
            v4: self.list32(image, set.v4())?,
            v6: self.list64(image, &whole)?,
            v6_partial_at: self.list128(image, &partial)?,
            ..Policy::default()
        })
    }

    fn list32(&mut self, image: &mut [u64], list: &[Interval<u32>]) -> Option<Intervals32> {
        let Some(shape) = Shape::of(list, u32::BITS, u64::from) else {
            return Some(Intervals32::default());
        };
        let bounds = bounds(list);
        let index = shape.index(bounds.iter().map(|bound| u64::from(*bound)));
        let words = index.len().div_ceil(2);
        let at = self.allocate(words + bounds.len().div_ceil(2))?;
        put(image, at, &index);
        put(image, at + words, &bounds);
        Some(Intervals32 {
            min: shape.min as u32,
            span: shape.span as u32,
            index_at: at as u32 * 2,
            bounds_at: (at + words) as u32 * 2,
            shift: shape.shift,
        })
    }

    fn list64(&mut self, image: &mut [u64], list: &[Interval<u64>]) -> Option<Intervals64> {
        let Some(shape) = Shape::of(list, u64::BITS, |number| number) else {
            return Some(Intervals64::default());
        };
        let bounds = bounds(list);
        let index = shape.index(bounds.iter().copied());
        let words = index.len().div_ceil(2);
        let at = self.allocate(words + bounds.len())?;
        put(image, at, &index);
        put(image, at + words, &bounds);
        Some(shape.intervals64(at, at + words))
    }

    /// Writes the list's description, index and bounds, and says where they begin, counted in
    /// descriptions; 0 for an empty list.
    fn list128(&mut self, image: &mut [u64], list: &[Interval<u128>]) -> Option<u32> {
        const DESCRIPTION: usize = size_of::<Intervals64>() / 8;
        let Some(shape) = Shape::of(list, u64::BITS, |address| halves(address).0) else {
            return Some(0);
        };
        let bounds: Vec<Bound128> = bounds(list)
            .into_iter()
            .map(|bound| {
                let (high, low) = halves(bound);
                Bound128 { high, low }
            })
            .collect();
        let index = shape.index(bounds.iter().map(|bound| bound.high));
        let words = index.len().div_ceil(2).next_multiple_of(2);
        let at = self.allocate(DESCRIPTION + words + bounds.len() * 2)?;
        let index_at = at + DESCRIPTION;
        put(image, index_at, &index);
        put(image, index_at + words, &bounds);
        put(image, at, &[shape.intervals64(index_at, (index_at + words) / 2)]);
        Some((at / DESCRIPTION) as u32)
    }
}

/// Copies values to a word of the image.
fn put<T: IntoBytes + Immutable>(image: &mut [u64], at: usize, values: &[T]) {
    let bytes = values.as_bytes();
    image[at..at + bytes.len().div_ceil(8)].as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
}

/// Extent of a list and the width of its index slots.
struct Shape {
    min: u64,
    span: u64,
    shift: u32,
}

impl Shape {
    /// Of a list of numbers of so many bits; `None` if it is empty.
    fn of<N: Copy>(list: &[Interval<N>], bits: u32, number: impl Fn(N) -> u64) -> Option<Self> {
        let (min, max) = (number(list.first()?.first), number(list.last()?.last));
        let span = max - min;
        // At most one slot per bound: more would cost memory and caches more than steps.
        let wanted = (list.len() as u64 * 2).next_power_of_two() / 2;
        let shift = (u64::BITS - span.leading_zeros()).saturating_sub(wanted.ilog2());
        // A shift by all bits has no meaning to a processor: two slots at least.
        Some(Self { min, span, shift: shift.min(bits - 1) })
    }

    fn slots(&self) -> usize {
        (self.span >> self.shift) as usize + 1
    }

    /// For each slot and one beyond, how many of the ascending bounds lie below it.
    fn index(&self, bounds: impl Iterator<Item = u64>) -> Vec<u32> {
        let slots = self.slots();
        let mut index = Vec::with_capacity(slots + 1);
        let mut count = 0;
        for bound in bounds {
            // The last bound, one behind the span, may lie in the slot beyond.
            let slot = (bound.wrapping_sub(self.min) >> self.shift) as usize;
            while index.len() <= slot.min(slots) {
                index.push(count);
            }
            count += 1;
        }
        index.resize(slots + 1, count);
        index
    }

    /// The description; the index begins at a word, the bounds at one of their own.
    fn intervals64(&self, index_word: usize, bounds_at: usize) -> Intervals64 {
        let Self { min, span, shift } = *self;
        let (index_at, bounds_at) = (index_word as u32 * 2, bounds_at as u32);
        Intervals64 { min, span, index_at, bounds_at, shift, reserved: 0 }
    }
}

/// First addresses and addresses after last ones; the end of the space needs none.
fn bounds<N: crate::ranges::Number>(list: &[Interval<N>]) -> Vec<N> {
    list.iter()
        .flat_map(|interval| [Some(interval.first), interval.last.after()])
        .flatten()
        .collect()
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
