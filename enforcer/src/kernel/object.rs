//! The BPF objects that `cargo xtask build` made, embedded.

use aya::maps::MapInfo;
use enforcer_ebpf::abi::{IMAGE_BYTES, Images, PART_BYTES, PARTS};

static WHOLE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer.bpf.o"));
static IN_PARTS: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-parts.bpf.o"));

/// How images lie in the map `IMAGES`. The bytes of an image are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Both in one value: one lookup a packet. Needs Linux 6.0.
    Whole,
    /// In values of 4 MiB, for older kernels.
    Parts,
}

impl Layout {
    /// The object file.
    #[must_use]
    pub const fn object(self) -> &'static [u8] {
        match self {
            Self::Whole => WHOLE,
            Self::Parts => IN_PARTS,
        }
    }

    /// Bytes of a value, and how many there are.
    pub(super) const fn values(self) -> (u32, u32) {
        match self {
            Self::Whole => (size_of::<Images>() as u32, 1),
            Self::Parts => (PART_BYTES as u32, PARTS as u32),
        }
    }

    /// Bytes of all values, which follow each other.
    pub(super) const fn bytes(self) -> usize {
        let (size, count) = self.values();
        size as usize * count as usize
    }

    /// Where the first image begins in them. The number of the one in force is the first word.
    pub(super) const fn images_at(self) -> usize {
        self.bytes() - 2 * IMAGE_BYTES
    }

    /// That of a map; `None` for one of another build.
    pub(super) fn of(map: &MapInfo) -> Option<Self> {
        let values = (map.value_size(), map.max_entries());
        [Self::Whole, Self::Parts].into_iter().find(|layout| layout.values() == values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_begin_behind_the_number_of_the_one_in_force() {
        assert_eq!(Layout::Whole.images_at(), std::mem::offset_of!(Images, banks));
        assert_eq!(Layout::Parts.images_at(), PART_BYTES);
        for layout in [Layout::Whole, Layout::Parts] {
            assert_eq!(layout.images_at() % 4096, 0);
            assert!(layout.object().starts_with(b"\x7fELF"));
        }
    }
}
