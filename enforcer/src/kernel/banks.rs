//! The map that holds both images, mapped into memory, and the number of the one in force.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Array, ArrayOfMaps, MapData, MapError};
use enforcer_ebpf::abi::{IMAGE_BYTES, MAP_GRACE, MAP_IMAGES};
use enforcer_policy::{
    image::{IMAGE_WORDS, is_image},
    plan::Bank,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{KernelError, Layout, Pins, pins};

/// Both banks.
pub(super) struct Banks {
    images: Mapping,
    grace: ArrayOfMaps<MapData>,
    /// What the entry of `grace` is set to, again and again.
    token: MapData,
}

impl Banks {
    /// Opens the banks behind the pins that loading made.
    pub(super) fn open(pins: &Pins, grace: ArrayOfMaps<MapData>) -> Result<Self, KernelError> {
        let images = MapData::from_pin(pins.map(MAP_IMAGES))
            .map_err(|source| error("open", MAP_IMAGES, source))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        Ok(Self {
            images: Mapping::of(&images, &pins.map(MAP_IMAGES), access)?,
            grace,
            token: token(pins)?,
        })
    }

    /// Bank in force; `None` before the first image.
    pub(super) fn active(&self) -> Option<Bank> {
        let bank = self.images.in_force();
        is_image(self.words(bank)).then_some(bank)
    }

    /// Words of a bank.
    pub(super) fn words(&self, bank: Bank) -> &[u64] {
        // SAFETY: only this process writes, through `words_mut`.
        unsafe { self.images.words(bank) }
    }

    /// Words of a bank, to write. The caller writes only into a bank that is not in force.
    pub(super) fn words_mut(&mut self, bank: Bank) -> &mut [u64] {
        // SAFETY: mapped as long as `self`; programs read only the bank in force.
        unsafe { std::slice::from_raw_parts_mut(self.images.bank(bank).as_ptr(), IMAGE_WORDS) }
    }

    /// Puts a bank in force. Returns when no program runs on the former one any more: the kernel
    /// waits for all of them when an entry of a map of maps is updated.
    pub(super) fn activate(&mut self, bank: Bank) -> Result<(), KernelError> {
        self.images.active().store(bank as u64, Ordering::Release);
        let Self { images: _, grace, token } = self;
        grace.set(0, &*token, 0).map_err(|source| error("update", MAP_GRACE, source))
    }
}

/// A map to put into `GRACE`. An array gives its handle away only by a pin.
fn token(folder: &Pins) -> Result<MapData, KernelError> {
    let path = folder.map("token");
    pins::remove_file(&path)?;
    let map =
        Array::<MapData, u32>::create(1, 0).map_err(|source| error("create", MAP_GRACE, source))?;
    map.pin(&path).map_err(|source| KernelError::PinObject {
        path: path.clone(),
        source: Box::new(source),
    })?;
    let token = MapData::from_pin(&path).map_err(|source| error("open", MAP_GRACE, source));
    pins::remove_file(&path)?;
    token
}

fn error(action: &'static str, name: &'static str, source: MapError) -> KernelError {
    KernelError::Map { action, name, source: Box::new(source) }
}

/// The values of the map in this process's memory.
pub(super) struct Mapping {
    begin: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Mapping {}
// SAFETY: what takes `&self` only reads, one whole word at a time.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Of the map that is pinned at `path`.
    pub(super) fn of(map: &MapData, path: &Path, access: ProtFlags) -> Result<Self, KernelError> {
        let info = map.info().map_err(|source| error("read", MAP_IMAGES, source))?;
        let layout = Layout::of(&info).ok_or_else(|| KernelError::Layout { path: path.into() })?;
        // SAFETY: a new shared mapping of a map with as many bytes, at an address of the kernel's
        // choice.
        let begin = unsafe {
            mmap(None, Self::length(layout), access, MapFlags::MAP_SHARED, map.fd().as_fd(), 0)
        };
        let begin = begin.map_err(|errno| KernelError::Mapping(errno.into()))?;
        Ok(Self { begin: begin.cast(), layout })
    }

    fn length(layout: Layout) -> NonZeroUsize {
        NonZeroUsize::new(layout.bytes()).expect("no layout is empty")
    }

    /// The bank that is in force, whether or not an image is in it.
    pub(super) fn in_force(&self) -> Bank {
        if self.active().load(Ordering::Acquire) == 0 { Bank::A } else { Bank::B }
    }

    /// Words of a bank.
    ///
    /// # Safety
    /// Nobody may write into the bank while the slice lives.
    pub(super) unsafe fn words(&self, bank: Bank) -> &[u64] {
        // SAFETY: mapped as long as `self`, and the caller's promise.
        unsafe { std::slice::from_raw_parts(self.bank(bank).as_ptr(), IMAGE_WORDS) }
    }

    /// A word of a bank that another process may write into meanwhile; 0 behind its end.
    pub(super) fn word(&self, bank: Bank, at: usize) -> u64 {
        if at >= IMAGE_WORDS {
            return 0;
        }
        // SAFETY: inside the mapping and aligned; volatile, since the agent may write.
        unsafe { self.bank(bank).as_ptr().add(at).read_volatile() }
    }

    fn active(&self) -> &AtomicU64 {
        // SAFETY: mapped as long as `self`, aligned to a page, and never accessed otherwise here.
        unsafe { AtomicU64::from_ptr(self.begin.cast().as_ptr()) }
    }

    fn bank(&self, bank: Bank) -> NonNull<u64> {
        let at = self.layout.images_at() + bank as usize * IMAGE_BYTES;
        // SAFETY: inside the mapping, which ends behind two images.
        unsafe { self.begin.add(at) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length; no slice outlives its owner.
        let _ = unsafe { munmap(self.begin.cast(), self.layout.bytes()) };
    }
}
