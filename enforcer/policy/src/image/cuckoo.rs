//! Placing entries so that each stands in one of its two buckets: cuckoo hashing.
//!
//! The data path then reads at most two buckets of two entries. Below [`fill_limit`] a placement
//! exists for almost every salt (the threshold for two buckets of two is 89 % of the entries).

use enforcer_ebpf::abi::{Table, WAYS};

use super::CapacityError;

/// Entries that surely find a place for one of a few salts.
pub(super) const fn fill_limit(table: Table) -> usize {
    table.buckets as usize * WAYS * 80 / 100
}

const EMPTY: u32 = u32::MAX;

/// Moves after which a placement counts as impossible with this salt.
const MOST_MOVES: usize = 1024;

/// Gives every entry a bucket and a place in it. The error's `wanted` is not above its `limit` when
/// another salt may do.
pub(super) fn place<'a, T>(
    name: &'static str,
    table: Table,
    entries: &'a [T],
    buckets_of: impl Fn(&T) -> [u32; 2],
) -> Result<Vec<((u32, usize), &'a T)>, CapacityError> {
    let limit = fill_limit(table);
    let full = || CapacityError::Table { table: name, wanted: entries.len(), limit };
    if entries.len() > limit {
        return Err(full());
    }
    let mut buckets = vec![[EMPTY; WAYS]; table.buckets as usize];
    for newcomer in 0..entries.len() as u32 {
        let (mut entry, mut moves) = (newcomer, 0);
        let [mut bucket, other] = buckets_of(&entries[entry as usize]);
        if is_full(&buckets[bucket as usize]) && !is_full(&buckets[other as usize]) {
            bucket = other;
        }
        // Where there is no room, each newcomer takes a place; who stood there goes to its other
        // bucket.
        loop {
            let places = &mut buckets[bucket as usize];
            if let Some(place) = places.iter_mut().find(|place| **place == EMPTY) {
                *place = entry;
                break;
            }
            moves += 1;
            if moves > MOST_MOVES {
                return Err(full());
            }
            std::mem::swap(&mut places[moves % WAYS], &mut entry);
            let [first, second] = buckets_of(&entries[entry as usize]);
            bucket = if bucket == first { second } else { first };
        }
    }
    let placed = (0..).zip(buckets).flat_map(|(bucket, places)| {
        places.into_iter().enumerate().map(move |(way, entry)| ((bucket, way), entry))
    });
    Ok(placed
        .filter(|(_, entry)| *entry != EMPTY)
        .map(|(place, entry)| (place, &entries[entry as usize]))
        .collect())
}

fn is_full(places: &[u32; WAYS]) -> bool {
    places.iter().all(|place| *place != EMPTY)
}
