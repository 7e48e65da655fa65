//! The BPF object: a TC classifier per direction, side of the node and kind of link.
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
use enforcer_ebpf::{decide::Side, parse::Link};

/// What comes in on an uplink or tunnel with an Ethernet header.
#[classifier]
pub(crate) fn ingress_uplink_ethernet(ctx: TcContext) -> i32 {
    match common(&ctx, Side::Uplink, Link::Ethernet) {
        Some(action) => action,
        None => full_uplink_ethernet(ctx.as_ptr().cast()),
    }
}

/// What comes in on an uplink or tunnel without a link header.
#[classifier]
pub(crate) fn ingress_uplink_raw(ctx: TcContext) -> i32 {
    match common(&ctx, Side::Uplink, Link::Raw) {
        Some(action) => action,
        None => full_uplink_raw(ctx.as_ptr().cast()),
    }
}

/// What a pod of this node sends, its interface with an Ethernet header.
#[classifier]
pub(crate) fn ingress_pod_ethernet(ctx: TcContext) -> i32 {
    match common(&ctx, Side::Pod, Link::Ethernet) {
        Some(action) => action,
        None => full_pod_ethernet(ctx.as_ptr().cast()),
    }
}

/// The same without a link header.
#[classifier]
pub(crate) fn ingress_pod_raw(ctx: TcContext) -> i32 {
    match common(&ctx, Side::Pod, Link::Raw) {
        Some(action) => action,
        None => full_pod_raw(ctx.as_ptr().cast()),
    }
}

/// What leaves on a device with an Ethernet header.
#[classifier]
pub(crate) fn egress_ethernet(ctx: TcContext) -> i32 {
    outgoing(&ctx, Link::Ethernet)
}

/// What leaves on a device without a link header.
#[classifier]
pub(crate) fn egress_raw(ctx: TcContext) -> i32 {
    outgoing(&ctx, Link::Raw)
}

#[inline(always)]
fn common(ctx: &TcContext, side: Side, link: Link) -> Option<i32> {
    program::common(ctx, side, link, &maps::CurrentImage::get()?)
}

#[inline(always)]
fn outgoing(ctx: &TcContext, link: Link) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => program::outgoing(ctx, link, &image),
        None => TC_ACT_UNSPEC,
    }
}

/// A function of its own, so that rare packets do not lengthen the way of the others.
#[inline(never)]
fn full_uplink_ethernet(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Side::Uplink, Link::Ethernet)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn full_uplink_raw(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Side::Uplink, Link::Raw)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn full_pod_ethernet(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Side::Pod, Link::Ethernet)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn full_pod_raw(ctx: *mut __sk_buff) -> i32 {
    full(ctx, Side::Pod, Link::Raw)
}

#[inline(always)]
fn full(ctx: *mut __sk_buff, side: Side, link: Link) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => program::full(&TcContext::new(ctx), side, link, &image),
        None => TC_ACT_UNSPEC,
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
