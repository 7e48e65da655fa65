//! Single instructions that LLVM must not see through, with the same meaning on the host.
//!
//! LLVM removes masks that it proves redundant for valid input, makes branches of arithmetic and
//! unrolls loops; the verifier then refuses the access, follows both ways of every branch, or reads
//! the loop twenty times.

use crate::abi::IMAGE_BYTES;

/// A constant that LLVM does not know.
#[inline(always)]
#[must_use]
pub fn hidden_constant<const VALUE: u64>() -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: one constant into one register.
        unsafe {
            core::arch::asm!("{0} = {1}", out(reg) value, const VALUE, options(pure, nomem, nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    VALUE
}

/// All ones if the number is negative, else zero.
#[inline(always)]
#[must_use]
pub fn sign(value: i64) -> u32 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: one arithmetic instruction on one register.
        unsafe {
            core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack));
        }
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let value = value >> 63;
    value as u32
}

/// The lowest bit.
#[inline(always)]
#[must_use]
pub fn lowest_bit(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: one arithmetic instruction on one register.
        unsafe {
            core::arch::asm!("{0} &= 1", inout(reg) value, options(pure, nomem, nostack));
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        value & 1
    }
}

/// A byte offset wrapped so that a `T`, whose size is a power of two, lies whole in an image.
#[inline(always)]
#[must_use]
pub fn masked<T>(offset: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut offset = offset;
        // SAFETY: one arithmetic instruction on one register.
        unsafe {
            core::arch::asm!(
                "{0} &= {1}",
                inout(reg) offset,
                const const { IMAGE_BYTES - size_of::<T>() },
                options(pure, nomem, nostack)
            );
        }
        offset
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        offset & (IMAGE_BYTES - size_of::<T>()) as u64
    }
}

/// The same in a part of an image.
#[cfg(all(target_arch = "bpf", feature = "parts"))]
#[inline(always)]
#[must_use]
pub fn masked_in_part<T>(offset: u64) -> u64 {
    let mut offset = offset;
    // SAFETY: one arithmetic instruction on one register.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) offset,
            const const { crate::abi::PART_BYTES - size_of::<T>() },
            options(pure, nomem, nostack)
        );
    }
    offset
}

/// Offsets in a packet that the parser reaches: link header, tags, IPv6 header, eight extension
/// headers of at most 2,048 bytes.
const OFFSET_MASK: u32 = 0x7fff;

/// The same offset, as one that the verifier knows nothing of but its bound: ways that reach a place
/// with different offsets are then one state instead of thousands. `unknown` is any number from the
/// packet.
#[inline(always)]
#[must_use]
pub fn forgotten(offset: u32, unknown: u16) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let mut offset = u64::from(offset);
        // SAFETY: three arithmetic instructions on two registers; the two exclusive ors cancel.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}", "{0} ^= {1}", "{0} &= {2}",
                inout(reg) offset,
                in(reg) u64::from(unknown),
                const OFFSET_MASK,
                options(pure, nomem, nostack)
            );
        }
        offset as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = unknown;
        offset & OFFSET_MASK
    }
}
