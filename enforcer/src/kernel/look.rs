//! What an agent left in the kernel, seen by another process: nothing is locked, created or changed.
//!
//! Input: the folder of `--bpffs`. Output: the image in force, counters, and where on the interfaces
//! our programs hang. Invariant: an image is handed out only if it stayed in force while it was read.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use aya::{
    maps::MapData,
    programs::links::{FdLink, PinnedLink},
};
use enforcer_ebpf::abi::{MAGIC, MAP_IMAGES};
use enforcer_policy::{
    image::{IMAGE_WORDS, Image},
    plan::Hook,
};
use nix::sys::mman::ProtFlags;

use super::{CounterTable, Fill, KernelError, Pins, banks::Mapping, clsact, fill, pins, query};

/// How often an image that was replaced meanwhile is read again.
const ATTEMPTS: usize = 8;

/// The pins of an agent, running or not.
pub struct Look {
    bpffs: PathBuf,
    images: Mapping,
    counters: CounterTable,
}

/// Where on a hook of an interface our program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As this link of so many; 1 sees packets before all others.
    Link {
        /// Counted from 1.
        position: usize,
        /// Links on this hook.
        of: usize,
    },
    /// As a filter of clsact, with the first priority.
    Filter,
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").field("bpffs", &self.bpffs).finish_non_exhaustive()
    }
}

impl Look {
    /// Opens the pins.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let path = Pins::map_below(bpffs, MAP_IMAGES);
        match path.metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(KernelError::Forbidden { path: bpffs.into() });
            }
            Err(_) => return Err(KernelError::NoMaps { path: bpffs.into() }),
        }
        let images = MapData::from_pin(&path).map_err(|source| {
            if nix::unistd::geteuid().is_root() {
                KernelError::Map { action: "open", name: MAP_IMAGES, source: Box::new(source) }
            } else {
                KernelError::Forbidden { path: bpffs.into() }
            }
        })?;
        Ok(Self {
            bpffs: bpffs.into(),
            images: Mapping::of(&images, &path, ProtFlags::PROT_READ)?,
            counters: CounterTable::open(bpffs)?,
        })
    }

    /// A copy of the image in force; `None` before the first.
    #[must_use]
    pub fn image(&self) -> Option<Image> {
        for _ in 0..ATTEMPTS {
            let bank = self.images.in_force();
            let words = (0..IMAGE_WORDS).map(|at| self.images.word(bank, at)).collect();
            if self.images.in_force() == bank {
                return Image::from_words(words);
            }
        }
        None
    }

    /// How full the image in force is; nothing before the first. Copies nothing, so that an image which is
    /// replaced meanwhile gives figures of both.
    #[must_use]
    pub fn fill(&self) -> Vec<Fill> {
        let bank = self.images.in_force();
        let word = |at| self.images.word(bank, at);
        if word(0) == MAGIC { fill::of(word) } else { Vec::new() }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &CounterTable {
        &self.counters
    }

    /// What hangs where, by interface number and hook, in this network namespace.
    pub fn places(&self) -> Result<BTreeMap<(u32, Hook), Place>, KernelError> {
        let mut places = BTreeMap::new();
        for (index, hook) in pins::links_below(&self.bpffs)? {
            let failed =
                |source| KernelError::Link { action: "read", index, source: Box::new(source) };
            let pin = pins::link_below(&self.bpffs, index, hook);
            let link = FdLink::from(PinnedLink::from_pin(pin).map_err(failed)?);
            let own = link.info().map_err(failed)?.id();
            // An error: there is no interface of that number.
            let links = query::links(index, hook).unwrap_or_default();
            if let Some(before) = links.iter().position(|link| *link == own) {
                places.insert((index, hook), Place::Link { position: before + 1, of: links.len() });
            }
        }
        places.extend(clsact::places()?.into_iter().map(|place| (place, Place::Filter)));
        Ok(places)
    }
}
