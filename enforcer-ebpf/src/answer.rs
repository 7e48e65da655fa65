//! BPF only: an answer in place of a denied packet, so that who sent it need not wait for a timeout.
//!
//! A TCP segment is answered with RST (RFC 9293, 3.5.2), a UDP packet with ICMP "communication
//! administratively prohibited" (RFC 1812, 5.2.7.1; RFC 4443, 3.1), both sent back by the interface
//! that the packet came in on. Anything else, and what is not a plain packet of one host to another, has no
//! answer; nor has more than a bounded number in a moment.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::{
        bpf_jiffies64, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::{ANSWERS_PER_WINDOW, Scratch},
    parse::{Link, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
};

use crate::{maps, tell::interface};

/// Answers a packet that is dropped, if it has an answer. Returns the action.
#[inline(always)]
pub(crate) fn answer(ctx: &TcContext, link: Link) -> i32 {
    // SAFETY: a helper without arguments.
    let ticks = unsafe { bpf_jiffies64() };
    let admitted =
        maps::answered(maps::ANSWERS).is_some_and(|pace| pace.admits(ticks, ANSWERS_PER_WINDOW));
    if !admitted {
        return TC_ACT_SHOT;
    }
    let skb = ctx.as_ptr().cast();
    let sent = match link {
        Link::Ethernet => answer_ethernet(skb),
        Link::Raw => answer_raw(skb),
    };
    if sent { sent_back(ctx) } else { TC_ACT_SHOT }
}

#[inline(always)]
fn sent_back(ctx: &TcContext) -> i32 {
    // SAFETY: the interface that the packet came in on.
    unsafe { bpf_redirect(interface(ctx), 0) as i32 }
}

#[inline(never)]
fn answer_ethernet(skb: *mut __sk_buff) -> bool {
    let answered = write(skb, ETHERNET);
    answered && swap_ethernet(skb)
}

#[inline(never)]
fn answer_raw(skb: *mut __sk_buff) -> bool {
    write(skb, 0)
}

/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;
/// First byte of a plain IPv4 header, and of an IPv6 header as far as it is fixed.
const PLAIN_IPV4: u32 = 0x45;
const IPV6: u32 = 6;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP: u32 = 1;
const ICMP6: u32 = 58;
const HOPS: u32 = 64;
/// Flags and offset of an IPv4 fragment.
const FRAGMENTED: u32 = 0x3fff;

/// Makes an answer of the packet; says whether there is one.
#[inline(always)]
fn write(skb: *mut __sk_buff, at: u32) -> bool {
    let Some(scratch) = maps::scratch() else { return false };
    if !load(skb, at, &mut scratch.words[..5]) {
        return false;
    }
    let first = u32::from_be(scratch.words[0]);
    if first >> 24 == PLAIN_IPV4 {
        write4(skb, at, scratch)
    } else if first >> 28 == IPV6 {
        write6(skb, at, scratch)
    } else {
        false
    }
}

/// The packet's IPv4 header is in the first five words.
#[inline(always)]
fn write4(skb: *mut __sk_buff, at: u32, scratch: &mut Scratch) -> bool {
    let [_, fragment, protocol, source, destination] = first(&scratch.words);
    let protocol = u32::from_be(protocol) >> 16 & 0xff;
    if u32::from_be(fragment) & FRAGMENTED != 0 || !is_host4(source) || !is_host4(destination) {
        return false;
    }
    let total = u32::from_be(scratch.words[0]) & 0xffff;
    let bytes = match protocol {
        TCP => {
            let pseudo = sum(&[source, destination, (TCP << 16).to_be()]);
            let Some(tcp) = reset(skb, at + 20, total.wrapping_sub(20), pseudo) else {
                return false;
            };
            scratch.words[5..10].copy_from_slice(&tcp);
            40
        }
        UDP => {
            // The header and eight bytes are quoted.
            if !load(skb, at, &mut scratch.words[7..14]) {
                return false;
            }
            scratch.words[5] = ((3_u32 << 8 | 13) << 16).to_be();
            scratch.words[6] = 0;
            let checksum = !fold(sum(&scratch.words[5..14]));
            scratch.words[5] |= u32::from(checksum) << 16;
            56
        }
        _ => return false,
    };
    let protocol = if protocol == UDP { ICMP } else { TCP };
    scratch.words[0] = (PLAIN_IPV4 << 24 | bytes).to_be();
    scratch.words[1] = 0x4000_u32.to_be();
    scratch.words[2] = (HOPS << 24 | protocol << 16).to_be();
    scratch.words[3] = destination;
    scratch.words[4] = source;
    let checksum = !fold(sum(&scratch.words[..5]));
    scratch.words[2] |= u32::from(checksum) << 16;
    match bytes {
        40 => store(skb, at, &scratch.words[..10]),
        _ => store(skb, at, &scratch.words[..14]),
    }
}

/// The first five words of the packet's IPv6 header are in the first five words.
#[inline(always)]
fn write6(skb: *mut __sk_buff, at: u32, scratch: &mut Scratch) -> bool {
    if !load(skb, at, &mut scratch.words[..10]) {
        return false;
    }
    let payload = u32::from_be(scratch.words[1]) >> 16;
    let protocol = u32::from_be(scratch.words[1]) >> 8 & 0xff;
    if !is_host6(scratch.words[2]) || !is_host6(scratch.words[6]) {
        return false;
    }
    let addresses = sum(&scratch.words[2..10]);
    let (words, protocol) = match protocol {
        TCP => {
            let pseudo = addresses + sum(&[TCP.to_be()]);
            let Some(tcp) = reset(skb, at + 40, payload, pseudo) else { return false };
            scratch.words[10..15].copy_from_slice(&tcp);
            (5, TCP)
        }
        UDP => {
            if !load(skb, at, &mut scratch.words[12..24]) {
                return false;
            }
            scratch.words[10] = ((1_u32 << 8 | 1) << 16).to_be();
            scratch.words[11] = 0;
            let pseudo = addresses + sum(&[(14_u32 * 4).to_be(), ICMP6.to_be()]);
            let checksum = !fold(pseudo + sum(&scratch.words[10..24]));
            scratch.words[10] |= u32::from(checksum) << 16;
            (14, ICMP6)
        }
        _ => return false,
    };
    scratch.words[0] = (IPV6 << 28).to_be();
    scratch.words[1] = (words * 4 << 16 | protocol << 8 | HOPS).to_be();
    for word in 2..6 {
        scratch.words.swap(word, word + 4);
    }
    match words {
        5 => store(skb, at, &scratch.words[..15]),
        _ => store(skb, at, &scratch.words[..24]),
    }
}

/// The header of the reset that answers the segment at this place. `length` is the segment's, `pseudo`
/// the sum of addresses and protocol, which is that of the answer too.
#[inline(always)]
fn reset(skb: *mut __sk_buff, at: u32, length: u32, pseudo: u64) -> Option<[u32; 5]> {
    let mut tcp = [0_u32; 5];
    if !load(skb, at, &mut tcp) {
        return None;
    }
    let [ports, sequence, acknowledged, flags, checksum] = tcp.map(u32::from_be);
    let (header, flags) = (flags >> 28, (flags >> 16) as u8);
    if flags & TCP_RST != 0 {
        return None;
    }
    // Whose checksum is left to the device holds the sum of the pseudo header alone.
    let is_left = fold(pseudo + sum(&[length.to_be()])).to_be() == (checksum >> 16) as u16;
    let data = length.wrapping_sub(header * 4)
        + u32::from(flags & TCP_SYN != 0)
        + u32::from(flags & TCP_FIN != 0);
    let (sequence, acknowledged, flags) = if flags & TCP_ACK != 0 {
        (acknowledged, 0, TCP_RST)
    } else {
        (0, sequence.wrapping_add(data), TCP_RST | TCP_ACK)
    };
    let mut answer =
        [ports.rotate_left(16), sequence, acknowledged, 5 << 28 | u32::from(flags) << 16, 0]
            .map(u32::to_be);
    let pseudo = pseudo + sum(&[20_u32.to_be()]);
    let checksum = if is_left { fold(pseudo) } else { !fold(pseudo + sum(&answer)) };
    answer[4] = u32::from(checksum);
    Some(answer)
}

/// Whether an IPv4 address, in network byte order, can be a host's.
#[inline(always)]
fn is_host4(address: u32) -> bool {
    let first = u32::from_be(address) >> 24;
    first != 0 && first != 127 && first < 224
}

/// The same of an IPv6 address by its first word: neither multicast nor one of ::/32.
#[inline(always)]
fn is_host6(word: u32) -> bool {
    word != 0 && u32::from_be(word) >> 24 != 0xff
}

/// Sum of words for a checksum (RFC 1071): the order of bytes does not matter.
#[inline(always)]
fn sum(words: &[u32]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += u64::from(*word);
    }
    sum
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[inline(always)]
fn first(words: &[u32]) -> [u32; 5] {
    [words[0], words[1], words[2], words[3], words[4]]
}

#[inline(always)]
fn load(skb: *mut __sk_buff, at: u32, words: &mut [u32]) -> bool {
    let bytes = size_of_val(words) as u32;
    // SAFETY: the context is the one of this call; the helper writes the words and nothing else.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, words.as_mut_ptr().cast(), bytes) == 0 }
}

/// Makes the packet end behind these words and writes them.
#[inline(always)]
fn store(skb: *mut __sk_buff, at: u32, words: &[u32]) -> bool {
    let bytes = size_of_val(words) as u32;
    // SAFETY: the context is the one of this call; the helpers check the packet's bounds.
    unsafe {
        bpf_skb_change_tail(skb, at + bytes, 0) == 0
            && bpf_skb_store_bytes(skb.cast(), at, words.as_ptr().cast(), bytes, 0) == 0
    }
}

#[inline(always)]
fn swap_ethernet(skb: *mut __sk_buff) -> bool {
    let mut addresses = [0_u32; 3];
    if !load(skb, 0, &mut addresses) {
        return false;
    }
    let [a, b, c] = addresses.map(u32::from_be);
    // Six bytes and six bytes: to change their places is to turn twelve bytes by six.
    let turned = [b << 16 | c >> 16, c << 16 | a >> 16, a << 16 | b >> 16].map(u32::to_be);
    // SAFETY: the context is the one of this call; the helper checks the packet's bounds.
    unsafe { bpf_skb_store_bytes(skb.cast(), 0, turned.as_ptr().cast(), 12, 0) == 0 }
}
