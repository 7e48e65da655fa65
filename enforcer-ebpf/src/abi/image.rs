//! Where images lie in the map `IMAGES`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, IMAGE_BYTES};
use crate::bpf;

/// Bytes of a value of the map `IMAGES` where the kernel takes no larger one: what one allocation of it
/// could have before Linux 6.0.
pub const PART_BYTES: usize = 4 << 20;
/// Values of the map `IMAGES` there: the first begins with the number of the image in force, then come the
/// parts of one image, then those of the other.
pub const PARTS: usize = 1 + 2 * IMAGE_BYTES / PART_BYTES;

/// The value of the map `IMAGES`.
#[repr(C, align(8))]
pub struct Images {
    /// Which image is in force: 0 or 1.
    pub active: u64,
    /// Fills a memory page.
    pub reserved: [u64; 511],
    /// The images; zeroes guard nothing.
    pub banks: [Image; 2],
}

/// One image.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(8))]
pub struct Image {
    bytes: [u8; IMAGE_BYTES],
}

impl Image {
    /// The head of the image.
    #[inline(always)]
    #[must_use]
    pub fn header(&self) -> &Header {
        // SAFETY: the first bytes, aligned like the image; every bit pattern is a header.
        unsafe { &*self.bytes.as_ptr().cast::<Header>() }
    }

    /// The `index`-th `T` of the image seen as an array of `T`; the index wraps at the end.
    #[inline(always)]
    #[must_use]
    pub fn at<T: FromBytes + Immutable>(&self, index: u32) -> &T {
        const { assert!(size_of::<T>().is_power_of_two() && align_of::<T>() <= 8) };
        let offset = bpf::masked::<T>(u64::from(index).wrapping_mul(size_of::<T>() as u64));
        // SAFETY: the mask leaves room for a `T` at the offset, a multiple of its size, in an image
        // aligned to 8; every bit pattern is a `T` because it is `FromBytes`.
        unsafe { &*self.bytes.as_ptr().add(offset as usize).cast::<T>() }
    }
}
