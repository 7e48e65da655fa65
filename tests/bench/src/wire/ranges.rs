//! Ranges of one API server, and sources outside of them.
//!
//! Input: how many. Output: as many disjoint IPv4 ranges with the client's among them, neither first nor
//! last, and denied sources. The same in every run.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use enforcer_policy::ranges::RangeSet;
use ipnet::{IpNet, Ipv4Net};

use crate::world::Random;

/// The range of the client that is admitted.
const CLIENT: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24);

/// An allowlist.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    /// Its entries.
    pub(crate) nets: Vec<Ipv4Net>,
}

impl Ranges {
    /// An allowlist of `count` ranges, /20 to /32, each in a /20 of its own.
    pub(crate) fn new(count: usize) -> Self {
        let mut random = Random::new(2);
        let mut blocks = BTreeSet::new();
        while blocks.len() + 1 < count {
            blocks.insert(block(&mut random));
        }
        let mut nets: Vec<Ipv4Net> = blocks
            .into_iter()
            .filter_map(|block| {
                let length = 20 + random.below(13) as u8;
                let host = random.below(1 << 12) as u32;
                Some(Ipv4Net::new(Ipv4Addr::from(block | host), length).ok()?.trunc())
            })
            .collect();
        // In the order in which somebody has added them; what stands in the middle is the mean.
        for at in (1..nets.len()).rev() {
            nets.swap(at, random.below(at as u64 + 1) as usize);
        }
        nets.insert(nets.len() / 2, CLIENT);
        Self { nets }
    }

    /// As text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.nets.iter().map(ToString::to_string)
    }

    /// Sources from the same space that no range has.
    pub(crate) fn denied(&self, count: usize) -> Vec<Ipv4Addr> {
        let set: RangeSet = self.nets.iter().map(|net| IpNet::V4(*net)).collect();
        let mut random = Random::new(3);
        let mut found = Vec::new();
        while found.len() < count {
            let source = Ipv4Addr::from(block(&mut random) | random.below(1 << 12) as u32);
            if !set.contains(IpAddr::V4(source)) {
                found.push(source);
            }
        }
        found
    }
}

/// A /20 of 11.0.0.0 to 126.255.255.255.
fn block(random: &mut Random) -> u32 {
    (11 << 24) + ((random.below(116 << 12) as u32) << 12)
}
