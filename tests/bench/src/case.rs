//! What is measured: one kind of packet at one scale, and the budget for it.

use std::fmt;

use serde::Serialize;

/// Address family of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Where the packets go and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Traffic {
    /// To a port that no frontend has.
    Unguarded,
    /// To a port that some frontend has, at another address.
    OtherAddress,
    /// To a frontend, from a listed source.
    Admitted,
    /// To a frontend, from a source that is not listed.
    Denied,
}

/// Whether all packets come from one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Sources {
    /// One.
    Hot,
    /// Another one each time, of 65,536.
    Cold,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    pub(crate) servers: usize,
    pub(crate) ranges: usize,
    pub(crate) family: Family,
    pub(crate) traffic: Traffic,
    pub(crate) sources: Sources,
}

impl Case {
    /// Every case at one scale.
    pub(crate) fn at(servers: usize, ranges: usize) -> impl Iterator<Item = Self> {
        use Sources::{Cold, Hot};
        use Traffic::{Admitted, Denied, OtherAddress, Unguarded};
        let kinds = [
            (Unguarded, Hot),
            (OtherAddress, Hot),
            (Admitted, Hot),
            (Denied, Hot),
            (Admitted, Cold),
            (Denied, Cold),
        ];
        [Family::V4, Family::V6].into_iter().flat_map(move |family| {
            kinds.into_iter().map(move |(traffic, sources)| Self {
                servers,
                ranges,
                family,
                traffic,
                sources,
            })
        })
    }

    /// Most that a packet may cost, as a ratio to an empty program.
    pub(crate) fn budget(self) -> f64 {
        match (self.traffic, self.family, self.sources) {
            (Traffic::Unguarded, _, _) => 1.25,
            (_, Family::V4, Sources::Hot) => 1.8,
            (_, Family::V4, Sources::Cold) => 2.3,
            (_, Family::V6, Sources::Hot) => 2.5,
            (_, Family::V6, Sources::Cold) if self.ranges >= 100_000 => 4.7,
            (_, Family::V6, Sources::Cold) => 3.0,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { servers, ranges, family, traffic, sources } = self;
        write!(f, "{family:?} {traffic:?} {sources:?}, {ranges} ranges, {servers} API servers")
    }
}
