//! The desired contents of the maps: [`Rules`] lowered to the words of the ABI.
//!
//! Input: rules, and the counter slots as they are in the kernel. Output: an [`Image`], complete, or
//! the name of what is full. Nothing here talks to a kernel; tests search an image with the data
//! path's own functions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use enforcer_ebpf::{
    abi::{
        self, ABI_VERSION, ADDRESS_ALSO_NODE, ADDRESS_FIRST, ADDRESS_NODE, ADDRESS_SLOTS,
        ADDRESSES4_AT, ADDRESSES6_AT, Address4, Address6, CLUSTERS_AT, FRONTEND_SLOTS,
        FRONTENDS_AT, Header, IMAGE_BYTES, MAGIC, POLICIES, POLICY_EXEMPT, POLICY_FIRST, PORTS_AT,
        frontend_entry, frontend_key,
    },
    tables,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::{
    compile::{FrontendKey, Rules},
    model::{FrontendAddress, Protocol},
};

mod counters;
mod cuckoo;
mod intervals;

pub use counters::{Assignment, assign, cluster_word};
use intervals::Regions;

/// Words (8 bytes) of an image.
pub const IMAGE_WORDS: usize = IMAGE_BYTES / 8;

/// The full desired content of an image map.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    words: Vec<u64>,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// More clusters than counters.
    #[error("{wanted} guarded clusters, room for {limit}")]
    Clusters {
        /// Clusters with a guarded frontend.
        wanted: usize,
        /// Counter slots.
        limit: usize,
    },
    /// More policies than records.
    #[error("{wanted} policies, room for {limit}")]
    Policies {
        /// Policies of the rules.
        wanted: usize,
        /// Records.
        limit: usize,
    },
    /// A hash table is too full to place every entry in one of its two slots.
    #[error("{wanted} {table}, room for about {limit}")]
    Table {
        /// What the table holds.
        table: &'static str,
        /// Entries.
        wanted: usize,
        /// Entries that surely fit.
        limit: usize,
    },
    /// The interval lists need more room than the image has.
    #[error(
        "the ranges of {policies} policies do not fit; cluster {cluster} is the first without room"
    )]
    Regions {
        /// Policies of the rules.
        policies: usize,
        /// The cluster whose list found no room.
        cluster: String,
    },
}

impl Image {
    /// Lowers rules. `counters` says which slot counts for which cluster.
    pub fn lower(rules: &Rules, counters: &Assignment) -> Result<Self, CapacityError> {
        // Relocation fails for some salts; one that fits is found at the first try or so below the
        // limit, and the salts are tried in order so that equal rules give equal images.
        let mut last = None;
        for salt in 0..SALTS {
            match Builder::new(salt).build(rules, counters) {
                Ok(image) => return Ok(image),
                Err(error @ CapacityError::Table { wanted, limit, .. }) if wanted <= limit => {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(CapacityError::Table { table: "entries", wanted: 0, limit: 0 }))
    }

    /// All words of the image, [`IMAGE_WORDS`] of them.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The head of the image.
    #[must_use]
    pub fn header(&self) -> Header {
        header(&self.words)
    }

    /// Reads an image from words, as they stand in a map or a file. `None` unless it is a whole
    /// image of this ABI.
    #[must_use]
    pub fn from_words(words: Vec<u64>) -> Option<Self> {
        (is_image(&words)).then_some(Self { words })
    }
}

/// Whether these words are an image of this ABI.
#[must_use]
pub fn is_image(words: &[u64]) -> bool {
    let Header { magic, abi, .. } = header(words);
    words.len() == IMAGE_WORDS && magic == MAGIC && abi == ABI_VERSION
}

/// The head of an image; zeroes where there is none.
#[must_use]
pub fn header(words: &[u64]) -> Header {
    Header::read_from_prefix(words.as_bytes()).map_or(abi::EMPTY_HEADER, |(header, _)| header)
}

/// Which cluster each counter slot counts for: [`cluster_word`], 0 for none.
#[must_use]
pub fn counter_owners(words: &[u64]) -> &[u64] {
    let begin = CLUSTERS_AT as usize;
    words.get(begin..begin + abi::CLUSTERS as usize).unwrap_or(&[])
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("header", &self.header()).finish_non_exhaustive()
    }
}

impl tables::Tables for Image {
    fn image(&self) -> &abi::Image {
        abi::Image::ref_from_bytes(self.words.as_bytes()).unwrap_or_else(|_| {
            unreachable!("an image is built with as many words as it has in the kernel")
        })
    }
}

/// Pairs of hash functions that are tried.
const SALTS: u64 = 32;

/// Odd numbers without structure: the golden ratio's and the square root of 3's fractions.
const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

struct Builder {
    words: Vec<u64>,
    multipliers: [u64; 2],
}

impl Builder {
    fn new(salt: u64) -> Self {
        // Odd factors keep the products odd.
        let multipliers = MULTIPLIERS.map(|odd| odd.wrapping_mul(2 * salt + 1));
        Self { words: vec![0; IMAGE_WORDS], multipliers }
    }

    fn build(mut self, rules: &Rules, counters: &Assignment) -> Result<Image, CapacityError> {
        let Rules { node_addresses, exempt, pods: _, policies, frontends, revision } = rules;
        let limit = (POLICIES - POLICY_FIRST) as usize;
        if policies.len() > limit {
            return Err(CapacityError::Policies { wanted: policies.len(), limit });
        }
        let numbers = number_addresses(node_addresses, frontends.keys());
        self.addresses(&numbers)?;
        self.frontends(frontends, &numbers)?;
        let mut regions = Regions::new(abi::REGIONS_AT as usize, IMAGE_WORDS);
        let full = |cluster: &str| CapacityError::Regions {
            policies: policies.len(),
            cluster: cluster.to_owned(),
        };
        let exempt =
            regions.policy(&mut self.words, &exempt.uplink).ok_or_else(|| full("(exemptions)"))?;
        self.policy(POLICY_EXEMPT, exempt);
        let mut known = HashMap::new();
        for (index, policy) in (POLICY_FIRST..).zip(policies) {
            // Equal lists (a Seed's defaults and nothing else, say) are stored once.
            let mut record = match known.get(&policy.admitted) {
                Some(record) => *record,
                None => {
                    let record = regions
                        .policy(&mut self.words, &policy.admitted)
                        .ok_or_else(|| full(&policy.cluster.0))?;
                    known.insert(&policy.admitted, record);
                    record
                }
            };
            record.counter = counters.slot(&policy.cluster);
            self.policy(index, record);
        }
        for (slot, owner) in counters.owners() {
            self.words[(CLUSTERS_AT + slot) as usize] = owner;
        }
        let header = Header {
            magic: MAGIC,
            abi: ABI_VERSION,
            clusters: counters.owners().map(|(slot, _)| slot + 1).max().unwrap_or(0),
            multipliers: self.multipliers,
            revision: revision.0,
            region_words: regions.used() as u64,
            reserved: [0; 7],
        };
        self.put(0, header.as_bytes());
        Ok(Image { words: self.words })
    }

    /// Copies bytes, a multiple of eight, to a word.
    fn put(&mut self, word: usize, bytes: &[u8]) {
        self.words[word..word + bytes.len() / 8].as_mut_bytes().copy_from_slice(bytes);
    }

    fn policy(&mut self, index: u32, record: abi::Policy) {
        let at = (abi::POLICIES_AT + index) as usize * size_of::<abi::Policy>();
        self.put(at / 8, record.as_bytes());
    }

    fn addresses(&mut self, numbers: &BTreeMap<IpAddr, u32>) -> Result<(), CapacityError> {
        let [one, other] = self.multipliers;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, number) in numbers {
            match address {
                IpAddr::V4(address) => {
                    v4.push(Address4 { address: u32::from(*address), number: *number });
                }
                IpAddr::V6(address) => {
                    let (high, low) = halves(u128::from(*address));
                    v6.push(Address6 { high, low, number: u64::from(*number), reserved: 0 });
                }
            }
        }
        let slots = |entry: &Address4| {
            [one, other].map(|multiplier| tables::address4_slot(multiplier, entry.address))
        };
        for (slot, entry) in cuckoo::place("IPv4 addresses", ADDRESS_SLOTS, &v4, slots)? {
            self.put((ADDRESSES4_AT + slot) as usize, entry.as_bytes());
        }
        let slots = |entry: &Address6| {
            [one, other].map(|multiplier| tables::address6_slot(multiplier, entry.high, entry.low))
        };
        for (slot, entry) in cuckoo::place("IPv6 addresses", ADDRESS_SLOTS, &v6, slots)? {
            let words = size_of::<Address6>() / 8;
            self.put((ADDRESSES6_AT + slot) as usize * words, entry.as_bytes());
        }
        Ok(())
    }

    fn frontends(
        &mut self,
        frontends: &BTreeMap<FrontendKey, usize>,
        numbers: &BTreeMap<IpAddr, u32>,
    ) -> Result<(), CapacityError> {
        let mut entries = Vec::with_capacity(frontends.len());
        for ((protocol, at), policy) in frontends {
            let protocol = match protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => 1,
            };
            let (number, port) = match at {
                FrontendAddress::Node { port } => (ADDRESS_NODE, u32::from(*port)),
                FrontendAddress::Address { address, port } => {
                    (numbers[address] & !ADDRESS_ALSO_NODE, u32::from(*port))
                }
            };
            let bit = (protocol << 16 | port) as usize;
            self.words[PORTS_AT as usize + bit / 64] |= 1 << (bit % 64);
            entries.push((frontend_key(number, protocol, port), POLICY_FIRST + *policy as u32));
        }
        let [one, other] = self.multipliers;
        let slots = |entry: &(u64, u32)| {
            [one, other].map(|multiplier| tables::frontend_slot(multiplier, entry.0))
        };
        for (slot, (key, policy)) in cuckoo::place("frontends", FRONTEND_SLOTS, &entries, slots)? {
            self.words[(FRONTENDS_AT + slot) as usize] = frontend_entry(*key, *policy);
        }
        Ok(())
    }
}

/// Numbers every address that packets to frontends carry: the node's own share one number.
fn number_addresses<'a>(
    node: &BTreeSet<IpAddr>,
    frontends: impl Iterator<Item = &'a FrontendKey>,
) -> BTreeMap<IpAddr, u32> {
    let mut numbers: BTreeMap<IpAddr, u32> =
        node.iter().map(|address| (*address, ADDRESS_NODE)).collect();
    let mut next = ADDRESS_FIRST;
    for (_, at) in frontends {
        let FrontendAddress::Address { address, port: _ } = at else { continue };
        let number = numbers.entry(*address).or_insert(0);
        if *number == 0 || *number == ADDRESS_NODE {
            let also_node = if *number == ADDRESS_NODE { ADDRESS_ALSO_NODE } else { 0 };
            *number = next | also_node;
            next += 1;
        }
    }
    numbers
}

/// Upper and lower 64 bits.
fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}
