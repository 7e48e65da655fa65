//! BPF only: what is told of a packet besides counters. Functions of their own, off the common way.

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::{DropEvent, EVENTS_PER_WINDOW, Recent},
    address::Address,
    parse::{Depth, Flow, Link, Parsed, Reach, Transport, parse},
};

use crate::{
    maps,
    program::{Decided, Direct},
};

/// Which way a packet was going.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    /// To a frontend.
    In,
    /// From a gated pod.
    Out,
}

/// Tells of a denied packet, at a bounded rate.
#[inline(always)]
pub(crate) fn denied(
    ctx: &TcContext,
    link: Link,
    decided: &Decided,
    direction: Direction,
    audited: bool,
) {
    let Some(pace) = maps::suppressed() else { return };
    // SAFETY: a helper without arguments.
    if !pace.admits(unsafe { bpf_jiffies64() }, EVENTS_PER_WINDOW) {
        return;
    }
    let detail = u64::from(decided.reason)
        | (direction as u64) << DIRECTION_SHIFT
        | u64::from(audited) << AUDITED_SHIFT;
    let skb = ctx.as_ptr().cast();
    match link {
        Link::Ethernet => denied_ethernet(skb, detail, decided.cluster),
        Link::Raw => denied_raw(skb, detail, decided.cluster),
    }
}

/// Remembers the source of an admitted packet.
#[inline(always)]
pub(crate) fn admitted(ctx: &TcContext, link: Link, cluster: u32) {
    let skb = ctx.as_ptr().cast();
    match link {
        Link::Ethernet => admitted_ethernet(skb, cluster),
        Link::Raw => admitted_raw(skb, cluster),
    }
}

const DIRECTION_SHIFT: u32 = 8;
const AUDITED_SHIFT: u32 = 9;

#[inline(never)]
fn denied_ethernet(skb: *mut __sk_buff, detail: u64, cluster: u32) {
    write_event(&TcContext::new(skb), Link::Ethernet, detail, cluster);
}

#[inline(never)]
fn denied_raw(skb: *mut __sk_buff, detail: u64, cluster: u32) {
    write_event(&TcContext::new(skb), Link::Raw, detail, cluster);
}

#[inline(never)]
fn admitted_ethernet(skb: *mut __sk_buff, cluster: u32) {
    write_recent(&TcContext::new(skb), Link::Ethernet, cluster);
}

#[inline(never)]
fn admitted_raw(skb: *mut __sk_buff, cluster: u32) {
    write_recent(&TcContext::new(skb), Link::Raw, cluster);
}

#[inline(always)]
fn write_event(ctx: &TcContext, link: Link, detail: u64, cluster: u32) {
    let Some(pace) = maps::suppressed() else { return };
    let Some(mut entry) = maps::event() else {
        pace.left_out += 1;
        pace.left_out_ever += 1;
        return;
    };
    // In place: there is no room for another event on the stack.
    let event = entry.as_mut_ptr();
    // SAFETY: room for one event; every field is written.
    let event = unsafe { &mut *event };
    event.source = [0; 2];
    event.destination = [0; 2];
    event.ports = 0;
    event.protocol = 0;
    // SAFETY: a helper without arguments.
    event.time = unsafe { bpf_ktime_get_ns() };
    event.interface = interface(ctx);
    event.cluster = cluster;
    event.reason = (detail & 0xff) as u32;
    event.direction = (detail >> DIRECTION_SHIFT & 1) as u32;
    event.audited = (detail >> AUDITED_SHIFT & 1) as u32;
    event.reserved = 0;
    event.suppressed = pace.left_out;
    pace.left_out = 0;
    match parse(&Direct::of(ctx), link, Depth::Full, Reach::Everything) {
        Parsed::V4(flow) => describe(event, &flow),
        Parsed::V6(flow) => describe(event, &flow),
        Parsed::Unjudged | Parsed::Unclear | Parsed::Buried => {}
    }
    entry.submit(0);
}

#[inline(always)]
fn describe<A: Address>(event: &mut DropEvent, flow: &Flow<A>) {
    event.source = flow.source.mapped();
    event.destination = flow.destination.mapped();
    event.ports = u32::from(flow.source_port) << 16 | u32::from(flow.destination_port);
    event.protocol = flow.protocol.into();
}

#[inline(always)]
fn write_recent(ctx: &TcContext, link: Link, cluster: u32) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    match parse(&Direct::of(ctx), link, Depth::Full, Reach::Frontends) {
        Parsed::V4(flow) => maps::note(&recent(&flow, cluster), time),
        Parsed::V6(flow) => maps::note(&recent(&flow, cluster), time),
        Parsed::Unjudged | Parsed::Unclear | Parsed::Buried => {}
    }
}

#[inline(always)]
fn recent<A: Address>(flow: &Flow<A>, cluster: u32) -> Recent {
    let protocol = match flow.transport {
        Transport::Ports | Transport::Short => flow.kind as u32,
        Transport::Hidden | Transport::Fragment | Transport::Other => 0,
    };
    let port = protocol << 16 | u32::from(flow.destination_port);
    Recent { source: flow.source.mapped(), cluster, port }
}

/// Number of the interface that a packet came in on.
#[inline(always)]
pub(crate) fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the one of this call.
    unsafe { (*ctx.skb.skb).ifindex }
}
