//! The BPF object: a TC classifier per direction, side of the node and kind of link, and three that
//! only say what they would do (`explain_…`).
#![no_std]
#![no_main]

mod answer;
mod maps;
mod program;
mod sockets;
mod tell;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::Explained,
    parse::{Link, Packet as _},
    tables::{Tables as _, egress_entry},
    verdict::{Reason, Side},
    watch::Watched,
};
use program::Direct;

/// What comes in on an uplink or tunnel with an Ethernet header.
#[classifier]
pub(crate) fn ingress_uplink_ethernet(ctx: TcContext) -> i32 {
    match common_uplink_ethernet(&ctx) {
        Some(action) => action,
        None => full_uplink_ethernet(ctx.as_ptr().cast()),
    }
}

/// What comes in on an uplink or tunnel without a link header.
#[classifier]
pub(crate) fn ingress_uplink_raw(ctx: TcContext) -> i32 {
    match common_uplink_raw(&ctx) {
        Some(action) => action,
        None => full_uplink_raw(ctx.as_ptr().cast()),
    }
}

/// What a pod of this node sends, its interface with an Ethernet header.
#[classifier]
pub(crate) fn ingress_pod_ethernet(ctx: TcContext) -> i32 {
    if let Some(action) = may_not_leave(&ctx, Link::Ethernet) {
        return action;
    }
    let skb = ctx.as_ptr().cast();
    match common_pod_ethernet(skb) {
        UNCLEAR => full_pod_ethernet(skb),
        action => action,
    }
}

/// The same without a link header.
#[classifier]
pub(crate) fn ingress_pod_raw(ctx: TcContext) -> i32 {
    if let Some(action) = may_not_leave(&ctx, Link::Raw) {
        return action;
    }
    let skb = ctx.as_ptr().cast();
    match common_pod_raw(skb) {
        UNCLEAR => full_pod_raw(skb),
        action => action,
    }
}

/// What leaves on a device with an Ethernet header.
#[classifier]
pub(crate) fn egress_ethernet(ctx: TcContext) -> i32 {
    match watch(&ctx, Link::Ethernet) {
        Watched::Done => TC_ACT_UNSPEC,
        Watched::Unclear => watch_full_ethernet(ctx.as_ptr().cast()),
    }
}

/// What leaves on a device without a link header.
#[classifier]
pub(crate) fn egress_raw(ctx: TcContext) -> i32 {
    match watch(&ctx, Link::Raw) {
        Watched::Done => TC_ACT_UNSPEC,
        Watched::Unclear => watch_full_raw(ctx.as_ptr().cast()),
    }
}

#[cfg(not(feature = "parts"))]
#[inline(always)]
fn common_uplink_ethernet(ctx: &TcContext) -> Option<i32> {
    common(ctx, Side::Uplink, Link::Ethernet)
}

#[cfg(not(feature = "parts"))]
#[inline(always)]
fn common_uplink_raw(ctx: &TcContext) -> Option<i32> {
    common(ctx, Side::Uplink, Link::Raw)
}

/// Images in parts take more of the stack: as with pods, see [`common_pod_ethernet`].
#[cfg(feature = "parts")]
#[inline(always)]
fn common_uplink_ethernet(ctx: &TcContext) -> Option<i32> {
    Some(apart_uplink_ethernet(ctx.as_ptr().cast())).filter(|action| *action != UNCLEAR)
}

#[cfg(feature = "parts")]
#[inline(always)]
fn common_uplink_raw(ctx: &TcContext) -> Option<i32> {
    Some(apart_uplink_raw(ctx.as_ptr().cast())).filter(|action| *action != UNCLEAR)
}

/// See [`common_uplink_ethernet`].
#[cfg(feature = "parts")]
#[inline(never)]
fn apart_uplink_ethernet(ctx: *mut __sk_buff) -> i32 {
    common(&TcContext::new(ctx), Side::Uplink, Link::Ethernet).unwrap_or(UNCLEAR)
}

/// See [`common_uplink_raw`].
#[cfg(feature = "parts")]
#[inline(never)]
fn apart_uplink_raw(ctx: *mut __sk_buff) -> i32 {
    common(&TcContext::new(ctx), Side::Uplink, Link::Raw).unwrap_or(UNCLEAR)
}

/// What would be done with a packet on an uplink, as [`explained`](enforcer_ebpf::abi::explained).
#[classifier]
pub(crate) fn explain_uplink(ctx: TcContext) -> i32 {
    explain(&ctx, Side::Uplink)
}

/// What would be done with a packet of a pod that is not gated.
#[classifier]
pub(crate) fn explain_pod(ctx: TcContext) -> i32 {
    explain(&ctx, Side::Pod)
}

/// What would be done with a packet of a gated pod before anything else is asked: its interface's
/// number is the beginning of the Ethernet source address.
#[classifier]
pub(crate) fn explain_egress(ctx: TcContext) -> i32 {
    let interface = Direct::of(&ctx).load::<u32>(6).unwrap_or(0);
    let Some(image) = maps::CurrentImage::get() else { return 0 };
    match egress_entry(image.image(), u32::from_be(interface)) {
        Some(entry) => program::explain_leaving(&ctx, entry, &image),
        None => 0,
    }
}

#[inline(always)]
fn explain(ctx: &TcContext, side: Side) -> i32 {
    match maps::CurrentImage::get() {
        Some(image) => program::explain(ctx, side, &image),
        None => 0,
    }
}

/// What a gated pod sends must be let go by its own policy first.
#[inline(always)]
fn may_not_leave(ctx: &TcContext, link: Link) -> Option<i32> {
    let image = maps::CurrentImage::get()?;
    egress_entry(image.image(), tell::interface(ctx))?;
    let skb = ctx.as_ptr().cast();
    let mut word = match link {
        Link::Ethernet => leave_ethernet(skb),
        Link::Raw => leave_raw(skb),
    };
    if Explained::from(word).reason == Reason::HiddenTransport as u32 {
        word = match link {
            Link::Ethernet => leave_full_ethernet(skb),
            Link::Raw => leave_full_raw(skb),
        };
    }
    program::act_leaving(ctx, link, word, &image)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn leave_ethernet(ctx: *mut __sk_buff) -> u32 {
    leave(ctx, Link::Ethernet)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn leave_raw(ctx: *mut __sk_buff) -> u32 {
    leave(ctx, Link::Raw)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn leave_full_ethernet(ctx: *mut __sk_buff) -> u32 {
    leave_full(ctx, Link::Ethernet)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn leave_full_raw(ctx: *mut __sk_buff) -> u32 {
    leave_full(ctx, Link::Raw)
}

/// Nothing, which is no reason to drop, where it was gated a moment ago and is not any more.
#[inline(always)]
fn leave(ctx: *mut __sk_buff, link: Link) -> u32 {
    let ctx = TcContext::new(ctx);
    let Some(image) = maps::CurrentImage::get() else { return 0 };
    match egress_entry(image.image(), tell::interface(&ctx)) {
        Some(entry) => program::leave(&ctx, link, entry, &image),
        None => 0,
    }
}

#[inline(always)]
fn leave_full(ctx: *mut __sk_buff, link: Link) -> u32 {
    let ctx = TcContext::new(ctx);
    let Some(image) = maps::CurrentImage::get() else { return 0 };
    match egress_entry(image.image(), tell::interface(&ctx)) {
        Some(entry) => program::leave_full(&ctx, link, entry, &image),
        None => 0,
    }
}

/// See [`common_pod_ethernet`]: no action has this number.
const UNCLEAR: i32 = i32::MIN;

/// A function of its own, so that its stack is not there any more when the ones after it run: all of
/// them together may have 512 bytes.
#[inline(never)]
fn common_pod_ethernet(ctx: *mut __sk_buff) -> i32 {
    common(&TcContext::new(ctx), Side::Pod, Link::Ethernet).unwrap_or(UNCLEAR)
}

/// See [`common_pod_ethernet`].
#[inline(never)]
fn common_pod_raw(ctx: *mut __sk_buff) -> i32 {
    common(&TcContext::new(ctx), Side::Pod, Link::Raw).unwrap_or(UNCLEAR)
}

#[inline(always)]
fn common(ctx: &TcContext, side: Side, link: Link) -> Option<i32> {
    program::common(ctx, side, link, &maps::CurrentImage::get()?)
}

#[inline(always)]
fn watch(ctx: &TcContext, link: Link) -> Watched {
    match maps::CurrentImage::get() {
        Some(image) => program::watch_common(ctx, link, &image),
        None => Watched::Done,
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

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn watch_full_ethernet(ctx: *mut __sk_buff) -> i32 {
    watch_full(ctx, Link::Ethernet)
}

/// See [`full_uplink_ethernet`].
#[inline(never)]
fn watch_full_raw(ctx: *mut __sk_buff) -> i32 {
    watch_full(ctx, Link::Raw)
}

#[inline(always)]
fn watch_full(ctx: *mut __sk_buff, link: Link) -> i32 {
    if let Some(image) = maps::CurrentImage::get() {
        program::watch_full(&TcContext::new(ctx), link, &image);
    }
    TC_ACT_UNSPEC
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
