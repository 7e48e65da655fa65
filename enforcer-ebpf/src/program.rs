//! BPF only: a packet of a TC hook through `judge`, and the one place where a verdict acts.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_skb_pull_data,
    programs::TcContext,
};
use enforcer_ebpf::{
    decide::{Action, Judgement, Reason, Side, Verdict, Watched, judge, watch},
    parse::{Depth, Link, Packet},
    tables::Tables,
};
use zerocopy::{FromBytes, Immutable};

use crate::maps;

/// Bytes made readable when the headers lie outside the linear part of a packet: link header, IPv6
/// header and the usual extension headers.
const READABLE: u32 = 256;

/// Judges the packet of this context at the common depth and acts; `None` if that cannot tell.
#[inline(always)]
pub(crate) fn common<T: Tables>(
    ctx: &TcContext,
    side: Side,
    link: Link,
    tables: &T,
) -> Option<i32> {
    match judge(&Direct::of(ctx), side, link, Depth::Common, tables) {
        Judgement::Final(verdict) => Some(act(ctx, verdict, link, tables)),
        Judgement::Unclear => None,
    }
}

/// The same in full, with the headers made readable first.
#[inline(always)]
pub(crate) fn full<T: Tables>(ctx: &TcContext, side: Side, link: Link, tables: &T) -> i32 {
    make_readable(ctx);
    match judge(&Direct::of(ctx), side, link, Depth::Full, tables) {
        Judgement::Final(verdict) => act(ctx, verdict, link, tables),
        // What is unclear when all of it is readable is dropped by the kernel's input.
        Judgement::Unclear => TC_ACT_UNSPEC,
    }
}

/// Remembers the connection that an outgoing packet opens from a guarded port; says whether the
/// common depth could tell. Every outgoing packet passes.
#[inline(always)]
pub(crate) fn watch_common<T: Tables>(ctx: &TcContext, link: Link, tables: &T) -> Watched {
    watch(&Direct::of(ctx), link, Depth::Common, tables, maps::remember)
}

/// The same in full, with the headers made readable first.
#[inline(always)]
pub(crate) fn watch_full<T: Tables>(ctx: &TcContext, link: Link, tables: &T) {
    make_readable(ctx);
    // What is unclear when all of it is readable opens nothing.
    let _ = watch(&Direct::of(ctx), link, Depth::Full, tables, maps::remember);
}

#[inline(always)]
fn make_readable(ctx: &TcContext) {
    // SAFETY: the context is the one of this call.
    unsafe { bpf_skb_pull_data(ctx.skb.skb, READABLE.min(ctx.len())) };
}

/// The one place where a verdict acts. `TC_ACT_UNSPEC` is `TCX_NEXT`: programs after this one see
/// the packet.
#[inline(always)]
fn act<T: Tables>(ctx: &TcContext, verdict: Verdict, link: Link, tables: &T) -> i32 {
    if verdict.reason as u32 == Reason::Unguarded as u32 {
        return TC_ACT_UNSPEC;
    }
    let header = match link {
        Link::Ethernet => 14,
        Link::Raw => 0,
    };
    let bytes = ctx.len().saturating_sub(header);
    match verdict.reason.action() {
        Action::Pass => {
            maps::count(verdict, true, bytes);
            TC_ACT_UNSPEC
        }
        Action::Drop => {
            maps::count(verdict, false, bytes);
            if tables.image().header().audit == 0 { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
        }
    }
}

/// Direct packet access: what of the packet lies in the linear part.
struct Direct {
    begin: usize,
    end: usize,
}

impl Direct {
    #[inline(always)]
    fn of(ctx: &TcContext) -> Self {
        Self { begin: ctx.data(), end: ctx.data_end() }
    }
}

impl Packet for Direct {
    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        let at = self.begin + offset as usize;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: inside the packet, checked above; every bit pattern is a `T`. The kernel aligns
        // network headers as it needs (NET_IP_ALIGN).
        Some(unsafe { core::ptr::read(at as *const T) })
    }
}
