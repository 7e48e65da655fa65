//! Programs that only `cargo xtask bench` loads: the floor, sources that vary, a kernel LPM trie.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "parts of the product's program that the benchmark does not run")]

mod answer;
mod maps;
mod program;
mod sockets;
mod tell;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    btf_maps::{Array, LpmTrie, PerCpuArray, ProgramArray, lpm_trie::Key},
    macros::{btf_map, classifier},
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::{Image, Opened, Policy},
    parse::Link,
    tables::Tables,
    verdict::Side,
};

/// Sources that `vary4` and `vary6` write, one after the other: IPv4 in the first word.
const SOURCES: usize = 1 << 16;

#[btf_map]
static SOURCE: Array<[u32; 4], SOURCES> = Array::new();

#[btf_map]
static NEXT: PerCpuArray<u32, 1> = PerCpuArray::new();

/// What runs on the packet with another source.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Key: policy's counter slot, then the address.
#[btf_map]
static LPM4: LpmTrie<[u32; 2], u32, 131_072> = LpmTrie::new();

#[btf_map]
static LPM6: LpmTrie<[u32; 5], u32, 131_072> = LpmTrie::new();

/// The floor: a program that does nothing.
#[classifier]
pub(crate) fn empty(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// The least that dropping a packet in this hook costs: everything is dropped.
#[classifier]
pub(crate) fn drop_all(_ctx: TcContext) -> i32 {
    TC_ACT_SHOT
}

/// Another IPv4 source, then the program under test.
#[classifier]
pub(crate) fn vary4(ctx: TcContext) -> i32 {
    vary::<26, 1>(&ctx)
}

/// Another IPv6 source, then the program under test.
#[classifier]
pub(crate) fn vary6(ctx: TcContext) -> i32 {
    vary::<22, 4>(&ctx)
}

/// The product with a kernel LPM trie in place of interval lists.
#[classifier]
pub(crate) fn lpm(ctx: TcContext) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => {
            let tables = WithLpm(image);
            match program::common(&ctx, Side::Uplink, Link::Ethernet, &tables) {
                Some(action) => action,
                None => program::full(&ctx, Side::Uplink, Link::Ethernet, &tables),
            }
        }
        None => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn vary<const OFFSET: usize, const WORDS: usize>(ctx: &TcContext) -> i32 {
    let Some(next) = NEXT.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the slot of this CPU.
    let number = unsafe {
        *next = (*next).wrapping_add(1);
        *next
    };
    // Multiplied, so that neither neighbours in the table nor in memory follow each other.
    let index = number.wrapping_mul(0x9e37_79b1) >> 16;
    let Some(source) = SOURCE.get(index) else { return TC_ACT_UNSPEC };
    let at = ctx.data() + OFFSET;
    if at + 4 * WORDS > ctx.data_end() {
        return TC_ACT_UNSPEC;
    }
    for word in 0..WORDS {
        // SAFETY: inside the packet, checked above.
        unsafe { *((at + 4 * word) as *mut u32) = source[word] };
    }
    // SAFETY: the program under test expects the same context.
    let _ = unsafe { UNDER_TEST.tail_call(ctx, 0) };
    TC_ACT_UNSPEC
}

struct WithLpm(maps::CurrentImage);

impl Tables for WithLpm {
    #[inline(always)]
    fn image(&self) -> &Image {
        self.0.image()
    }

    #[inline(always)]
    fn opened(&self, connection: &Opened) -> bool {
        self.0.opened(connection)
    }

    #[inline(always)]
    fn admits4(&self, policy: &Policy, address: u32) -> bool {
        LPM4.get(&Key::new(64, [policy.counter.to_be(), address.to_be()])).is_some()
    }

    #[inline(always)]
    fn admits6(&self, policy: &Policy, high: u64, low: u64) -> bool {
        let words =
            [policy.counter, (high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
        LPM6.get(&Key::new(160, words.map(u32::to_be))).is_some()
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
