//! How full an image is, table by table.
//!
//! Input: an image. Output: for each of its tables, how many entries there are and how many it has room
//! for. What is too full is refused before it is written ([`enforcer_policy::image::CapacityError`]).

use enforcer_ebpf::abi::{
    self, Bucket4, Bucket6, FRONTENDS4, FRONTENDS6, IMAGE_BYTES, NODE4, NODE6, PODS4, PODS6,
    POLICIES, POLICY_FIRST, REGIONS_AT, Table, WAYS,
};
use enforcer_policy::image::{Image, counter_owners};

/// One table of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What it holds, as in metrics and messages.
    pub table: &'static str,
    /// Entries, or words of interval lists.
    pub used: u64,
    /// How many there can be.
    pub room: u64,
}

impl Fill {
    /// From 0 to 1.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.used as f64 / self.room as f64
    }
}

/// All tables of an image.
#[must_use]
pub fn fill(image: &Image) -> Vec<Fill> {
    let words = image.words();
    let four = |table, place: Table| Fill {
        table,
        used: entries(words, place, size_of::<Bucket4>(), 0),
        room: u64::from(place.buckets) * WAYS as u64,
    };
    // The value is the last word of an entry; entries without one are empty.
    let six = |table, place: Table| Fill {
        table,
        used: entries(words, place, size_of::<Bucket6>(), 3),
        room: u64::from(place.buckets) * WAYS as u64,
    };
    let clusters = counter_owners(words).iter().filter(|owner| **owner != 0).count();
    vec![
        Fill { table: "clusters", used: clusters as u64, room: u64::from(abi::CLUSTERS) },
        Fill { table: "policies", used: policies(words), room: u64::from(POLICIES - POLICY_FIRST) },
        four("frontends4", FRONTENDS4),
        six("frontends6", FRONTENDS6),
        four("node_addresses4", NODE4),
        six("node_addresses6", NODE6),
        four("pods4", PODS4),
        six("pods6", PODS6),
        Fill {
            table: "ranges",
            used: image.header().region_words,
            room: (IMAGE_BYTES / 8) as u64 - u64::from(REGIONS_AT),
        },
    ]
}

/// Entries of a table whose word number `value` is not zero.
fn entries(words: &[u64], table: Table, bucket_bytes: usize, value: usize) -> u64 {
    let bucket = bucket_bytes / 8;
    let begin = table.at as usize * bucket;
    let words = words.get(begin..begin + table.buckets as usize * bucket).unwrap_or_default();
    words.chunks_exact(bucket / WAYS).filter(|entry| entry[value] != 0).count() as u64
}

/// Policies of clusters: those that are not all zeroes.
fn policies(words: &[u64]) -> u64 {
    let record = size_of::<abi::Policy>() / 8;
    let begin = (abi::POLICIES_AT + POLICY_FIRST) as usize * record;
    let end = (abi::POLICIES_AT + POLICIES) as usize * record;
    let records = words.get(begin..end).unwrap_or_default().chunks_exact(record);
    records.filter(|record| record.iter().any(|word| *word != 0)).count() as u64
}
