//! The BPF object: one TC classifier per hook, side and kind of link.
#![no_std]
#![no_main]

mod maps;
mod program;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use enforcer_ebpf::parse::Link;

/// Ingress of an uplink or tunnel with an Ethernet header.
#[classifier]
pub(crate) fn ingress_uplink_ethernet(ctx: TcContext) -> i32 {
    match common(&ctx, Link::Ethernet) {
        Some(action) => action,
        None => full_ethernet(ctx.as_ptr().cast()),
    }
}

/// Ingress of an uplink or tunnel without a link header.
#[classifier]
pub(crate) fn ingress_uplink_raw(ctx: TcContext) -> i32 {
    match common(&ctx, Link::Raw) {
        Some(action) => action,
        None => full_raw(ctx.as_ptr().cast()),
    }
}

/// Ingress of the host's end of a pod's interface, with an Ethernet header.
#[classifier]
pub(crate) fn ingress_pod_ethernet(ctx: TcContext) -> i32 {
    match common(&ctx, Link::Ethernet) {
        Some(action) => action,
        None => full_ethernet(ctx.as_ptr().cast()),
    }
}

/// Ingress of the host's end of a pod's interface, without a link header.
#[classifier]
pub(crate) fn ingress_pod_raw(ctx: TcContext) -> i32 {
    match common(&ctx, Link::Raw) {
        Some(action) => action,
        None => full_raw(ctx.as_ptr().cast()),
    }
}

/// Egress of a device with an Ethernet header.
#[classifier]
pub(crate) fn egress_ethernet(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Egress of a device without a link header.
#[classifier]
pub(crate) fn egress_raw(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[inline(always)]
fn common(ctx: &TcContext, link: Link) -> Option<i32> {
    program::common(ctx, link, &maps::CurrentImage::get()?)
}

/// A function of its own, so that rare packets do not lengthen the way of the others.
#[inline(never)]
fn full_ethernet(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Link::Ethernet)
}

/// See [`full_ethernet`].
#[inline(never)]
fn full_raw(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Link::Raw)
}

#[inline(always)]
fn full(ctx: *mut __sk_buff, link: Link) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => program::full(&TcContext::new(ctx), link, &image),
        None => TC_ACT_UNSPEC,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
