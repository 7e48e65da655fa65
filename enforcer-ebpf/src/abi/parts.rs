//! An image whose bytes are in several values of the map `IMAGES`, for kernels whose arrays take no value
//! as large as an image (before Linux 6.0).
//!
//! What is known to lie in the first part is an offset there; for the rest the map is asked, which the
//! kernel makes a few instructions.

#[cfg(target_arch = "bpf")]
use core::ffi::c_void;

#[cfg(target_arch = "bpf")]
use zerocopy::{FromBytes, Immutable};

use super::PART_BYTES;
#[cfg(target_arch = "bpf")]
use super::{Header, IMAGE_BYTES};
#[cfg(target_arch = "bpf")]
use crate::bpf;

/// A value of the map.
#[repr(C, align(8))]
pub struct Part {
    /// Its bytes.
    pub words: [u64; PART_BYTES / 8],
}

/// One image.
#[cfg(target_arch = "bpf")]
#[derive(Clone, Copy)]
pub struct Image {
    map: *const c_void,
    base: *const u8,
    first: u32,
}

#[cfg(target_arch = "bpf")]
impl Image {
    /// The image whose first part is the value `base` of `map`, with the key `first`.
    ///
    /// # Safety
    /// `map` is the map `IMAGES`, and its values are there as long as what this gives.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of(map: *const c_void, base: *const u8, first: u32) -> Self {
        Self { map, base, first }
    }

    /// The head of the image.
    #[inline(always)]
    #[must_use]
    pub fn header(&self) -> &Header {
        // SAFETY: the first bytes, aligned like the image; every bit pattern is a header.
        unsafe { &*self.base.cast::<Header>() }
    }

    /// The `index`-th `T` of the image seen as an array of `T`; the index wraps at the end.
    #[inline(always)]
    #[must_use]
    pub fn at<T: FromBytes + Immutable>(&self, index: u32) -> &T {
        const { assert!(size_of::<T>().is_power_of_two() && align_of::<T>() <= 8) };
        let offset = u64::from(index).wrapping_mul(size_of::<T>() as u64);
        let part = (offset as usize & (IMAGE_BYTES - 1)) / PART_BYTES;
        let begin = if part == 0 { self.base } else { self.part(part as u32) };
        let inside = bpf::masked_in_part::<T>(offset);
        // SAFETY: the mask leaves room for a `T` at the offset, a multiple of its size, in a part aligned to
        // 8; every bit pattern is a `T` because it is `FromBytes`.
        unsafe { &*begin.add(inside as usize).cast::<T>() }
    }

    #[inline(always)]
    fn part(&self, number: u32) -> *const u8 {
        /// `bpf_map_lookup_elem` (include/uapi/linux/bpf.h).
        const LOOK_UP: usize = 1;
        let key = self.first + number;
        // SAFETY: the helper's number stands for its address in a BPF program, and these are its arguments.
        let found = unsafe {
            let look_up: extern "C" fn(*const c_void, *const c_void) -> *const u8 =
                core::mem::transmute(LOOK_UP);
            look_up(self.map, (&raw const key).cast())
        };
        // Always there: arrays have all their values.
        if found.is_null() { self.base } else { found }
    }
}
