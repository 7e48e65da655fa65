//! The BPF object: one TC classifier per kind of link.
#![no_std]
#![no_main]

mod maps;
mod program;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use enforcer_ebpf::parse::Link;

/// Ingress of a device with an Ethernet header.
#[classifier]
pub(crate) fn ingress_ethernet(ctx: TcContext) -> i32 {
    ingress(&ctx, Link::Ethernet)
}

/// Ingress of a device without a link header.
#[classifier]
pub(crate) fn ingress_raw(ctx: TcContext) -> i32 {
    ingress(&ctx, Link::Raw)
}

#[inline(always)]
fn ingress(ctx: &TcContext, link: Link) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => program::ingress(ctx, link, &image),
        None => TC_ACT_UNSPEC,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
