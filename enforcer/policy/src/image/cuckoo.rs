//! Placing entries so that each stands in one of its two slots: cuckoo hashing.
//!
//! The data path then reads at most two slots. Below [`fill_limit`] a placement exists for almost
//! every salt (the threshold of two-choice cuckoo hashing is one half).

use super::CapacityError;

/// Entries that surely find a place for one of a few salts.
pub(super) const fn fill_limit(slots: u32) -> usize {
    slots as usize * 45 / 100
}

const EMPTY: u32 = u32::MAX;

/// Moves after which a placement counts as impossible with this salt.
const MOST_MOVES: usize = 512;

/// Gives every entry a slot. The error's `wanted` is not above its `limit` when another salt may do.
pub(super) fn place<'a, T>(
    table: &'static str,
    slots: u32,
    entries: &'a [T],
    slots_of: impl Fn(&T) -> [u32; 2],
) -> Result<Vec<(u32, &'a T)>, CapacityError> {
    let full = || CapacityError::Table { table, wanted: entries.len(), limit: fill_limit(slots) };
    if entries.len() > fill_limit(slots) {
        return Err(full());
    }
    let mut occupant = vec![EMPTY; slots as usize];
    for entry in 0..entries.len() as u32 {
        let (mut entry, mut slot) = (entry, slots_of(&entries[entry as usize])[0]);
        let mut moves = 0;
        // Each newcomer takes the slot; who stood there goes to its other one.
        loop {
            std::mem::swap(&mut occupant[slot as usize], &mut entry);
            if entry == EMPTY {
                break;
            }
            moves += 1;
            if moves > MOST_MOVES {
                return Err(full());
            }
            let [first, second] = slots_of(&entries[entry as usize]);
            slot = if slot == first { second } else { first };
        }
    }
    Ok((0..)
        .zip(occupant)
        .filter(|(_, entry)| *entry != EMPTY)
        .map(|(slot, entry)| (slot, &entries[entry as usize]))
        .collect())
}
