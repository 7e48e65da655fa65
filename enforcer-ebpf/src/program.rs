//! BPF only: a packet of a TC hook through its judge, and the one place where a verdict acts.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_skb_pull_data},
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::{EgressEntry, Explained, explained},
    decide::judge,
    leave::judge_leaving,
    parse::{Depth, Link, Packet},
    tables::{self, Tables},
    verdict::{Action, Judgement, Reason, Side, Verdict},
    watch::{Watched, watch},
};
use zerocopy::{FromBytes, Immutable};

use crate::{
    answer,
    maps::{self, Fate},
    sockets::PodSockets,
    tell::{self, Direction},
};

/// Bytes that hold the header of a tunnel, an IPv6 header and the usual extension headers.
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
        Judgement::Final(verdict) => {
            Some(act(ctx, Decided::of(verdict), link, Direction::In, tables))
        }
        Judgement::Unclear => None,
    }
}

/// The same in full, wherever in the packet the headers lie.
#[inline(always)]
pub(crate) fn full<T: Tables>(ctx: &TcContext, side: Side, link: Link, tables: &T) -> i32 {
    let packet = Copied { ctx, from: Start::Data };
    let mut judgement = judge(&packet, side, link, Depth::Full, tables);
    if matches!(link, Link::Raw) && !judgement.is_guarded() && begins_elsewhere(ctx) {
        make_readable(ctx);
        let packet = Copied { ctx, from: Start::Network };
        judgement = judge(&packet, side, link, Depth::Full, tables);
    }
    match judgement {
        Judgement::Final(verdict) => act(ctx, Decided::of(verdict), link, Direction::In, tables),
        // What is unclear where all of it can be read is dropped by the kernel's input.
        Judgement::Unclear => TC_ACT_UNSPEC,
    }
}

/// Judges a packet that a gated pod sends. A function of its own has only a word to return.
#[inline(always)]
pub(crate) fn leave<T: Tables>(
    ctx: &TcContext,
    link: Link,
    entry: &EgressEntry,
    tables: &T,
) -> u32 {
    let sockets = PodSockets { ctx, entry, dry: false };
    let verdict = judge_leaving(&Direct::of(ctx), link, ctx.len(), entry, tables, &sockets);
    let decided = Decided::of(verdict);
    decided.explained(decided.audits, verdict.policy)
}

/// The same, wherever in the packet the headers lie.
#[inline(always)]
pub(crate) fn leave_full<T: Tables>(
    ctx: &TcContext,
    link: Link,
    entry: &EgressEntry,
    tables: &T,
) -> u32 {
    let (sockets, from) = (PodSockets { ctx, entry, dry: false }, Start::Data);
    let packet = Copied { ctx, from };
    let verdict = judge_leaving(&packet, link, ctx.len(), entry, tables, &sockets);
    let decided = Decided::of(verdict);
    decided.explained(decided.audits, verdict.policy)
}

/// Acts on what [`leave`] said; `None` if the packet passes.
#[inline(always)]
pub(crate) fn act_leaving<T: Tables>(
    ctx: &TcContext,
    link: Link,
    word: u32,
    tables: &T,
) -> Option<i32> {
    // The image may be another one by now: that decides who counts, and nothing else.
    let Explained { reason, drops, audited: audits, policy } = Explained::from(word);
    let cluster = tables::policy(tables.image(), policy).counter;
    let decided = Decided { reason, drops, cluster, audits };
    match act(ctx, decided, link, Direction::Out, tables) {
        TC_ACT_UNSPEC => None,
        action => Some(action),
    }
}

/// Says what would be done with a packet, and does nothing.
#[inline(always)]
pub(crate) fn explain<T: Tables>(ctx: &TcContext, side: Side, tables: &T) -> i32 {
    let packet = Copied { ctx, from: Start::Data };
    say(judge(&packet, side, Link::Ethernet, Depth::Full, tables), tables)
}

/// The same for a packet that a gated pod sends.
#[inline(always)]
pub(crate) fn explain_leaving<T: Tables>(ctx: &TcContext, entry: &EgressEntry, tables: &T) -> i32 {
    let sockets = PodSockets { ctx, entry, dry: true };
    let verdict =
        judge_leaving(&Direct::of(ctx), Link::Ethernet, ctx.len(), entry, tables, &sockets);
    say(Judgement::Final(verdict), tables)
}

#[inline(always)]
fn say<T: Tables>(judgement: Judgement, tables: &T) -> i32 {
    match judgement {
        Judgement::Final(verdict) => {
            let decided = Decided::of(verdict);
            let audited = is_audited(decided.audits, tables);
            decided.explained(audited, verdict.policy).cast_signed()
        }
        Judgement::Unclear => explained(Reason::Unguarded as u32, false, false, 0).cast_signed(),
    }
}

/// Whether the network header stands elsewhere than where the hook sees the packet begin. Lengths are
/// among the first eight bytes, so that two headers of which one holds the other differ there.
#[inline(always)]
fn begins_elsewhere(ctx: &TcContext) -> bool {
    let first = |from| Copied { ctx, from }.load::<u64>(0);
    first(Start::Data) != first(Start::Network)
}

/// Moves headers into the linear part: reading from the network header on reaches no further.
#[inline(always)]
fn make_readable(ctx: &TcContext) {
    // SAFETY: the context is the one of this call.
    unsafe { bpf_skb_pull_data(ctx.skb.skb, READABLE.min(ctx.len())) };
}

/// Remembers the connection that an outgoing packet opens from a guarded port; says whether the
/// common depth could tell. Every outgoing packet passes.
#[inline(always)]
pub(crate) fn watch_common<T: Tables>(ctx: &TcContext, link: Link, tables: &T) -> Watched {
    watch(&Direct::of(ctx), link, Depth::Common, tables, maps::remember)
}

/// The same in full, wherever in the packet the headers lie.
#[inline(always)]
pub(crate) fn watch_full<T: Tables>(ctx: &TcContext, link: Link, tables: &T) {
    // What is unclear where all of it can be read opens nothing.
    let from = Start::Data;
    let _ = watch(&Copied { ctx, from }, link, Depth::Full, tables, maps::remember);
}

/// A verdict in words, so that the verifier does not walk on once for every reason.
#[derive(Clone, Copy)]
pub(crate) struct Decided {
    /// Number of the reason.
    pub(crate) reason: u32,
    /// Whether the packet is to be dropped for it.
    pub(crate) drops: bool,
    /// Counter slot of the cluster.
    pub(crate) cluster: u32,
    /// Whether the policy only audits.
    pub(crate) audits: bool,
}

impl Decided {
    #[inline(always)]
    fn of(verdict: Verdict) -> Self {
        let Verdict { reason, cluster, policy: _, audits } = verdict;
        let drops = match reason.action() {
            Action::Pass => false,
            Action::Drop => true,
        };
        Self { reason: reason as u32, drops, cluster, audits }
    }

    #[inline(always)]
    fn explained(self, audited: bool, policy: u32) -> u32 {
        explained(self.reason, self.drops, audited, policy)
    }
}

/// The one place where a verdict acts. `TC_ACT_UNSPEC` is `TCX_NEXT`: programs after this one see
/// the packet.
#[inline(always)]
fn act<T: Tables>(
    ctx: &TcContext,
    decided: Decided,
    link: Link,
    direction: Direction,
    tables: &T,
) -> i32 {
    if decided.reason == Reason::Unguarded as u32 {
        return TC_ACT_UNSPEC;
    }
    let header = match link {
        Link::Ethernet => 14,
        Link::Raw => 0,
    };
    let bytes = ctx.len().saturating_sub(header);
    if !decided.drops {
        let in_sample = maps::count(&decided, Fate::Passes, bytes);
        if in_sample && matches!(direction, Direction::In) {
            tell::admitted(ctx, link, decided.cluster);
        }
        return TC_ACT_UNSPEC;
    }
    let audited = is_audited(decided.audits, tables);
    let fate = if audited { Fate::WouldDrop } else { Fate::Drops };
    maps::count(&decided, fate, bytes);
    tell::denied(ctx, link, &decided, direction, audited);
    if audited {
        TC_ACT_UNSPEC
    } else if tables.image().header().reject != 0 {
        answer::answer(ctx, link)
    } else {
        TC_ACT_SHOT
    }
}

/// Whether what is denied passes all the same.
#[inline(always)]
fn is_audited<T: Tables>(audits: bool, tables: &T) -> bool {
    audits || tables.image().header().audit != 0
}

/// Direct packet access: what of the packet lies in the linear part.
pub(crate) struct Direct {
    begin: usize,
    end: usize,
}

impl Direct {
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Self {
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

/// Where offsets count from.
#[derive(Clone, Copy)]
enum Start {
    /// Where the hook sees the packet begin.
    Data,
    /// At the network header as the kernel has found it. Some tunnel devices show the header that
    /// they took off before it: GRE without a peer, and before Linux 5.14 all of IP in IP.
    Network,
}

/// Reads by copying, which reaches what lies outside the linear part too, and cannot fail for want of
/// memory.
struct Copied<'a> {
    ctx: &'a TcContext,
    from: Start,
}

impl Packet for Copied<'_> {
    #[inline(always)]
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        let (skb, bytes) = (self.ctx.skb.skb.cast(), size_of::<T>() as u32);
        let mut value = MaybeUninit::<T>::uninit();
        let to = value.as_mut_ptr().cast();
        // SAFETY: the context is the one of this call; the helper writes exactly the bytes of a `T`.
        let result = unsafe {
            match self.from {
                Start::Data => bpf_skb_load_bytes(skb, offset, to, bytes),
                Start::Network => {
                    let start = BPF_HDR_START_NET;
                    bpf_skb_load_bytes_relative(skb, offset, to, bytes, start)
                }
            }
        };
        // SAFETY: written above; every bit pattern is a `T`.
        (result == 0).then(|| unsafe { value.assume_init() })
    }
}
