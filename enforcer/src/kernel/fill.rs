//! How full an image is, table by table.
//!
//! Input: the words of an image. Output: for each of its tables, how many entries there are and how many it
//! has room for. What is too full is refused before it is written
//! ([`enforcer_policy::image::CapacityError`]).

use enforcer_ebpf::abi::{
    self, Bucket4, Bucket6, CLUSTERS_AT, EGRESS, EgressBucket, FRONTENDS4, FRONTENDS6, Header,
    IMAGE_BYTES, NODE4, NODE6, PODS4, PODS6, POLICIES, POLICY_FIRST, PORT_PEERS, REGIONS_AT, Table,
    WAYS,
};
use enforcer_policy::image::Image;

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
    of(|at| words.get(at).copied().unwrap_or_default())
}

/// All tables of the image with these words.
pub(super) fn of(word: impl Fn(usize) -> u64) -> Vec<Fill> {
    let table = |name, place: Table, bucket: usize, value: usize| Fill {
        table: name,
        used: entries(&word, place, bucket / 8, value),
        room: u64::from(place.buckets) * WAYS as u64,
    };
    let (four, six) = (size_of::<Bucket4>(), size_of::<Bucket6>());
    let clusters = CLUSTERS_AT as usize..(CLUSTERS_AT + abi::CLUSTERS) as usize;
    let record = size_of::<abi::Policy>() / 8;
    let policies = abi::POLICIES_AT + POLICY_FIRST..abi::POLICIES_AT + POLICIES;
    let is_policy = |index: &u32| {
        let begin = *index as usize * record;
        (begin..begin + record).any(|at| word(at) != 0)
    };
    let region_words = word(std::mem::offset_of!(Header, region_words) / 8);
    vec![
        Fill {
            table: "clusters",
            used: clusters.filter(|at| word(*at) != 0).count() as u64,
            room: u64::from(abi::CLUSTERS),
        },
        Fill {
            table: "policies",
            used: policies.filter(is_policy).count() as u64,
            room: u64::from(POLICIES - POLICY_FIRST),
        },
        table("frontends4", FRONTENDS4, four, 0),
        // The value is the last word of such an entry; one without a value is empty.
        table("frontends6", FRONTENDS6, six, 3),
        table("node_addresses4", NODE4, four, 0),
        table("node_addresses6", NODE6, six, 3),
        table("pods4", PODS4, four, 0),
        table("pods6", PODS6, six, 3),
        table("gated_interfaces", EGRESS, size_of::<EgressBucket>(), 0),
        table("port_peers", PORT_PEERS, four, 0),
        Fill {
            table: "ranges",
            used: region_words,
            room: (IMAGE_BYTES / 8) as u64 - u64::from(REGIONS_AT),
        },
    ]
}

/// Entries of a table whose word number `value` is not zero.
fn entries(word: &impl Fn(usize) -> u64, table: Table, bucket: usize, value: usize) -> u64 {
    let (begin, entry) = (table.at as usize * bucket, bucket / WAYS);
    let all = 0..table.buckets as usize * WAYS;
    all.filter(|number| word(begin + number * entry + value) != 0).count() as u64
}
