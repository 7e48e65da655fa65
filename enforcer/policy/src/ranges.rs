//! Sets of addresses as disjoint intervals: exact, sorted, touching intervals merged.
//!
//! Invariant: of one family, `intervals[i].last + 1 < intervals[i + 1].first`.

use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval<N> {
    /// First address.
    pub first: N,
    /// Last address.
    pub last: N,
}

/// A set of IPv4 and IPv6 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeSet {
    v4: Vec<Interval<u32>>,
    v6: Vec<Interval<u128>>,
}

impl RangeSet {
    /// The IPv4 intervals.
    #[must_use]
    pub fn v4(&self) -> &[Interval<u32>] {
        &self.v4
    }

    /// The IPv6 intervals.
    #[must_use]
    pub fn v6(&self) -> &[Interval<u128>] {
        &self.v6
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { v4, v6 } = self;
        v4.is_empty() && v6.is_empty()
    }

    /// Whether the address is in the set; an IPv4-mapped one is looked up as it is written.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => contains(&self.v4, u32::from(address)),
            IpAddr::V6(address) => contains(&self.v6, u128::from(address)),
        }
    }

    /// Addresses in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { v4: merged(&self.v4, &other.v4), v6: merged(&self.v6, &other.v6) }
    }

    /// Addresses in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { v4: intersected(&self.v4, &other.v4), v6: intersected(&self.v6, &other.v6) }
    }

    /// Addresses in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self { v4: subtracted(&self.v4, &other.v4), v6: subtracted(&self.v6, &other.v6) }
    }
}

impl FromIterator<IpNet> for RangeSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(nets: T) -> Self {
        let mut set = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => set.v4.push(Interval {
                    first: u32::from(net.network()),
                    last: u32::from(net.broadcast()),
                }),
                IpNet::V6(net) => set.v6.push(Interval {
                    first: u128::from(net.network()),
                    last: u128::from(net.broadcast()),
                }),
            }
        }
        Self { v4: normalised(set.v4), v6: normalised(set.v6) }
    }
}

impl<'a> FromIterator<&'a IpAddr> for RangeSet {
    fn from_iter<T: IntoIterator<Item = &'a IpAddr>>(addresses: T) -> Self {
        addresses.into_iter().map(|address| IpNet::from(*address)).collect()
    }
}

/// Numbers that addresses are.
pub trait Number: Copy + Default + Ord {
    /// The number before, if there is one.
    fn before(self) -> Option<Self>;
    /// The number after, if there is one.
    fn after(self) -> Option<Self>;
}

impl Number for u32 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u64 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn before(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Sorted, with overlapping and touching intervals merged.
#[must_use]
pub fn normalised<N: Number>(mut intervals: Vec<Interval<N>>) -> Vec<Interval<N>> {
    intervals.sort_unstable();
    intervals.dedup_by(|next, kept| {
        let joins = kept.last.after().is_none_or(|after| next.first <= after);
        if joins {
            kept.last = kept.last.max(next.last);
        }
        joins
    });
    intervals
}

fn merged<N: Number>(left: &[Interval<N>], right: &[Interval<N>]) -> Vec<Interval<N>> {
    normalised(left.iter().chain(right).copied().collect())
}

fn contains<N: Number>(intervals: &[Interval<N>], value: N) -> bool {
    let upto = intervals.partition_point(|interval| interval.first <= value);
    intervals[..upto].last().is_some_and(|interval| value <= interval.last)
}

fn intersected<N: Number>(left: &[Interval<N>], right: &[Interval<N>]) -> Vec<Interval<N>> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    let mut both = Vec::new();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let (first, last) = (a.first.max(b.first), a.last.min(b.last));
        if first <= last {
            both.push(Interval { first, last });
        }
        if a.last < b.last {
            left.next();
        } else {
            right.next();
        }
    }
    both
}

fn subtracted<N: Number>(from: &[Interval<N>], holes: &[Interval<N>]) -> Vec<Interval<N>> {
    let mut kept = Vec::new();
    let mut holes = holes.iter().peekable();
    for interval in from {
        let mut first = Some(interval.first);
        while let Some(hole) = holes.peek() {
            let Some(begin) = first else { break };
            if hole.last < begin {
                holes.next();
                continue;
            }
            if hole.first > interval.last {
                break;
            }
            if let Some(last) = hole.first.before()
                && begin < hole.first
            {
                kept.push(Interval { first: begin, last });
            }
            // A hole may reach into the next interval: it is looked at again there.
            first = hole.last.after().filter(|next| *next <= interval.last);
        }
        if let Some(first) = first {
            kept.push(Interval { first, last: interval.last });
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Small numbers, so that intervals touch, overlap and nest; both ends of the space included.
    fn set() -> impl Strategy<Value = Vec<Interval<u32>>> {
        let near = |base: u32| {
            (0..40_u32, 0..12_u32).prop_map(move |(first, length)| Interval {
                first: base.wrapping_add(first).min(u32::MAX - 12),
                last: base.wrapping_add(first).min(u32::MAX - 12) + length,
            })
        };
        vec(prop_oneof![near(0), near(u32::MAX - 45)], 0..12).prop_map(normalised)
    }

    fn probes() -> impl Iterator<Item = u32> {
        (0..64).chain(u32::MAX - 64..=u32::MAX)
    }

    fn is_normal(intervals: &[Interval<u32>]) -> bool {
        intervals.iter().all(|interval| interval.first <= interval.last)
            && intervals
                .windows(2)
                .all(|pair| pair[0].last.checked_add(1).is_some_and(|after| after < pair[1].first))
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_membership(a in set(), b in set()) {
            let (union, both, rest) = (merged(&a, &b), intersected(&a, &b), subtracted(&a, &b));
            prop_assert!(is_normal(&union) && is_normal(&both) && is_normal(&rest));
            for probe in probes() {
                let (in_a, in_b) = (contains(&a, probe), contains(&b, probe));
                prop_assert_eq!(contains(&union, probe), in_a || in_b);
                prop_assert_eq!(contains(&both, probe), in_a && in_b);
                prop_assert_eq!(contains(&rest, probe), in_a && !in_b);
            }
        }
    }

    #[test]
    fn nets_that_touch_become_one_interval_and_the_whole_space_does_not_overflow() {
        let set: RangeSet = ["10.0.0.0/9", "10.128.0.0/9", "::/0", "0.0.0.0/1", "128.0.0.0/1"]
            .iter()
            .map(|net| net.parse::<IpNet>().unwrap())
            .collect();
        assert_eq!(set.v4(), [Interval { first: 0, last: u32::MAX }]);
        assert_eq!(set.v6(), [Interval { first: 0, last: u128::MAX }]);
    }
}
