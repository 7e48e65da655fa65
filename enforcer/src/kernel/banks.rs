//! The two image maps, mapped into memory, and the entry that says which is in force.

use std::{num::NonZeroUsize, os::fd::AsFd as _, ptr::NonNull};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use enforcer_ebpf::abi::{CHUNK_BYTES, IMAGE_CHUNKS, MAP_IMAGE};
use enforcer_policy::{image::IMAGE_WORDS, plan::Bank};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{KernelError, Pins};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// A map value; only its size matters.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ChunkBytes([u8; CHUNK_BYTES]);

// SAFETY: bytes.
unsafe impl aya::Pod for ChunkBytes {}

/// Both banks.
pub(super) struct Banks {
    images: ArrayOfMaps<MapData>,
    /// The same map, read as the numbers of the maps in it. A typed read of the map itself opens it
    /// by its number, which needs CAP_SYS_ADMIN.
    numbers: Array<MapData, u32>,
    maps: [MapData; 2],
    mappings: [Mapping; 2],
}

impl Banks {
    /// Opens or creates the banks; `images` is the map that points at them, already pinned.
    pub(super) fn open(pins: &Pins, images: ArrayOfMaps<MapData>) -> Result<Self, KernelError> {
        let numbers = MapData::from_pin(pins.map(MAP_IMAGE))
            .and_then(|data| Array::try_from(Map::Array(data)))
            .map_err(|source| map_error("open", source))?;
        let open = |bank| {
            let map = open_bank(pins, bank)?;
            let mapping = Mapping::of(&map)?;
            Ok::<_, KernelError>((map, mapping))
        };
        let (a, b) = (open(Bank::A)?, open(Bank::B)?);
        Ok(Self { images, numbers, maps: [a.0, b.0], mappings: [a.1, b.1] })
    }

    /// Bank in force.
    pub(super) fn active(&self) -> Result<Option<Bank>, KernelError> {
        let number = match self.numbers.get(&0, 0) {
            Ok(number) => number,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(source) => return Err(map_error("read", source)),
        };
        for bank in Bank::ALL {
            let info = self.maps[bank as usize].info();
            if info.map_err(|source| map_error("read", source))?.id() == number {
                return Ok(Some(bank));
            }
        }
        Ok(None)
    }

    /// Words of a bank.
    pub(super) fn words(&self, bank: Bank) -> &[u64] {
        self.mappings[bank as usize].words()
    }

    /// Words of a bank, to write. The caller writes only into a bank that is not in force.
    pub(super) fn words_mut(&mut self, bank: Bank) -> &mut [u64] {
        self.mappings[bank as usize].words_mut()
    }

    /// Puts a bank in force. The kernel returns only when no program runs on the former one any
    /// more (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
    pub(super) fn activate(&mut self, bank: Bank) -> Result<(), KernelError> {
        let Self { images, maps, .. } = self;
        images.set(0, &maps[bank as usize], 0).map_err(|source| map_error("update", source))
    }
}

fn open_bank(pins: &Pins, bank: Bank) -> Result<MapData, KernelError> {
    let path = pins.bank(bank);
    if !path.exists() {
        let map = Array::<MapData, ChunkBytes>::create(IMAGE_CHUNKS, MMAPABLE)
            .map_err(|source| map_error("create", source))?;
        map.pin(&path).map_err(|source| KernelError::PinObject {
            path: path.clone(),
            source: Box::new(source),
        })?;
    }
    let map = MapData::from_pin(&path).map_err(|source| map_error("open", source))?;
    let info = map.info().map_err(|source| map_error("read", source))?;
    let expected = (CHUNK_BYTES as u32, IMAGE_CHUNKS, MMAPABLE);
    if (info.value_size(), info.max_entries(), info.map_flags()) == expected {
        Ok(map)
    } else {
        Err(KernelError::Layout { path })
    }
}

fn map_error(action: &'static str, source: MapError) -> KernelError {
    KernelError::Map { action, name: MAP_IMAGE, source: Box::new(source) }
}

/// The values of an array map in this process's memory.
struct Mapping {
    begin: NonNull<u64>,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    const BYTES: NonZeroUsize = NonZeroUsize::new(IMAGE_WORDS * 8).expect("images are not empty");

    fn of(map: &MapData) -> Result<Self, KernelError> {
        // SAFETY: a new shared mapping of a map with as many bytes, at an address of the kernel's
        // choice.
        let begin = unsafe {
            mmap(
                None,
                Self::BYTES,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        let begin = begin.map_err(|errno| KernelError::Mapping(errno.into()))?;
        Ok(Self { begin: begin.cast() })
    }

    fn words(&self) -> &[u64] {
        // SAFETY: mapped until drop; only this process writes, through `words_mut`.
        unsafe { std::slice::from_raw_parts(self.begin.as_ptr(), IMAGE_WORDS) }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: mapped until drop; programs never write images and read only the one in force.
        unsafe { std::slice::from_raw_parts_mut(self.begin.as_ptr(), IMAGE_WORDS) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length; no slice outlives `self`.
        let _ = unsafe { munmap(self.begin.cast(), Self::BYTES.get()) };
    }
}
