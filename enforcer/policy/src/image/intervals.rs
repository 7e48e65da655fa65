//! Interval lists with their indexes, written into an image's regions.
//!
//! Every list is disjoint boundaries in ascending order under an index of about one slot per
//! boundary (`abi::Intervals32`). A region never crosses a chunk, so that the data path asks for one
//! chunk per list.

use enforcer_ebpf::abi::{Bound128, Intervals32, Intervals64, Policy};
use zerocopy::IntoBytes as _;

use super::{CHUNK_WORDS, halves};
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

    /// Words handed out, gaps at the ends of chunks included.
    pub(super) fn used(&self) -> usize {
        self.next - self.begin
    }

    /// First of so many free words in one chunk, an even number; `None` if the image is full.
    fn allocate(&mut self, words: usize) -> Option<usize> {
        let mut at = self.next.next_multiple_of(2);
        if at / CHUNK_WORDS != (at + words.max(1) - 1) / CHUNK_WORDS {
            at = at.next_multiple_of(CHUNK_WORDS);
        }
        if words > CHUNK_WORDS || at + words > self.end {
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
            v6_partial: self.list128(image, &partial)?,
            ..Policy::default()
        })
    }

    fn list32(&mut self, image: &mut [u64], list: &[Interval<u32>]) -> Option<Intervals32> {
        let Some(shape) = Shape::of(list, |address| u64::from(address)) else {
            return Some(Intervals32::default());
        };
        let bounds = bounds(list);
        let index_at = self.index(image, &shape, bounds.iter().map(|bound| u64::from(*bound)))?;
        let at = self.allocate(bounds.len().div_ceil(2))?;
        image[at..at + bounds.len().div_ceil(2)].as_mut_bytes()[..bounds.len() * 4]
            .copy_from_slice(bounds.as_bytes());
        Some(Intervals32 {
            min: shape.min as u32,
            span: shape.span as u32,
            index_at,
            bounds_at: at as u32 * 2,
            shift: shape.shift,
            reserved: 0,
        })
    }

    fn list64(&mut self, image: &mut [u64], list: &[Interval<u64>]) -> Option<Intervals64> {
        let Some(shape) = Shape::of(list, |number| number) else {
            return Some(Intervals64::default());
        };
        let bounds = bounds(list);
        let index_at = self.index(image, &shape, bounds.iter().copied())?;
        let at = self.allocate(bounds.len())?;
        image[at..at + bounds.len()].copy_from_slice(&bounds);
        Some(shape.intervals64(index_at, at as u32))
    }

    fn list128(&mut self, image: &mut [u64], list: &[Interval<u128>]) -> Option<Intervals64> {
        let Some(shape) = Shape::of(list, |address| halves(address).0) else {
            return Some(Intervals64::default());
        };
        let bounds = bounds(list);
        let highs = bounds.iter().map(|bound| halves(*bound).0);
        let index_at = self.index(image, &shape, highs)?;
        let at = self.allocate(bounds.len() * 2)?;
        for (words, bound) in image[at..].chunks_exact_mut(2).zip(bounds) {
            let (high, low) = halves(bound);
            words.as_mut_bytes().copy_from_slice(Bound128 { high, low }.as_bytes());
        }
        Some(shape.intervals64(index_at, at as u32 / 2))
    }

    /// Writes the index: for each slot and one beyond, how many bounds lie below it.
    fn index(
        &mut self,
        image: &mut [u64],
        shape: &Shape,
        bounds: impl Iterator<Item = u64>,
    ) -> Option<u32> {
        let slots = shape.slots();
        let mut index = Vec::with_capacity(slots + 1);
        let mut count = 0_u32;
        for bound in bounds {
            // The last bound, one behind the span, may lie in the slot beyond.
            let slot = (bound.wrapping_sub(shape.min) >> shape.shift) as usize;
            while index.len() <= slot.min(slots) {
                index.push(count);
            }
            count += 1;
        }
        index.resize(slots + 1, count);
        let words = index.len().div_ceil(2);
        let at = self.allocate(words)?;
        image[at..at + words].as_mut_bytes()[..index.len() * 4].copy_from_slice(index.as_bytes());
        Some(at as u32 * 2)
    }
}

/// Extent of a list and the width of its index slots.
struct Shape {
    min: u64,
    span: u64,
    shift: u32,
}

impl Shape {
    /// `None` for an empty list.
    fn of<N: Copy>(list: &[Interval<N>], number: impl Fn(N) -> u64) -> Option<Self> {
        let (min, max) = (number(list.first()?.first), number(list.last()?.last));
        let span = max - min;
        // The fewest slots that are more than one per bound.
        let wanted = (list.len() as u64 * 2).next_power_of_two();
        let shift = (u64::BITS - span.leading_zeros()).saturating_sub(wanted.ilog2());
        Some(Self { min, span, shift: shift.min(u64::BITS - 1) })
    }

    fn slots(&self) -> usize {
        (self.span >> self.shift) as usize + 1
    }

    fn intervals64(&self, index_at: u32, bounds_at: u32) -> Intervals64 {
        let Self { min, span, shift } = *self;
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
