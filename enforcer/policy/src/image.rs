//! The desired contents of the maps: [`Rules`] lowered to the words of the ABI.
//!
//! Input: rules, and the counter slots as they are in the kernel. Output: an [`Image`], complete, or
//! the name of what is full. Nothing here talks to a kernel; tests search an image with the data
//! path's own functions.

use enforcer_ebpf::{
    abi::{self, ABI_VERSION, CLUSTERS_AT, Header, IMAGE_BYTES, MAGIC, Opened},
    tables,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::compile::Rules;

mod build;
mod counters;
mod cuckoo;
mod lists;

use build::Builder;
pub use counters::{Assignment, Counted, Direction, assign};

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
    #[error("{wanted} guarded or gated clusters, room for {limit}")]
    Clusters {
        /// Clusters with a guarded frontend, and those with a gated pod here.
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

/// What each counter slot counts: [`Counted::word`], 0 for nothing.
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

    fn opened(&self, _connection: &Opened) -> bool {
        false
    }
}

/// Pairs of hash functions that are tried.
const SALTS: u64 = 32;

/// Upper and lower 64 bits.
fn halves(address: u128) -> (u64, u64) {
    ((address >> 64) as u64, address as u64)
}
