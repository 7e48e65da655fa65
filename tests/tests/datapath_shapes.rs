//! Shapes of packets: options, extension headers, fragments, tags. Host and kernel judge the same bytes
//! alike, and as it stands here.
#![allow(clippy::unwrap_used, reason = "a test")]

mod judged;

use std::net::SocketAddr;

use enforcer::kernel::Kernel;
use enforcer_ebpf::{
    decide::judge,
    parse::{self, Depth, Link},
    verdict::{Action, Judgement, Reason, Side},
};
use enforcer_policy::{image::Image, plan::LinkLayer};
use enforcer_tests::{
    cleanup::Scratch,
    packets::{Fragment, Packet, protocol},
};
use judged::{action_of, bytes_at, enforce, small};
use zerocopy::{FromBytes, Immutable};

struct Bytes<'a>(&'a [u8]);

impl parse::Packet for Bytes<'_> {
    fn load<T: FromBytes + Immutable>(&self, offset: u32) -> Option<T> {
        T::read_from_prefix(self.0.get(offset as usize..)?).ok().map(|(value, _)| value)
    }
}

struct Judges {
    kernel: Kernel,
    image: Image,
    _scratch: Scratch,
}

impl Judges {
    /// One cluster at nodePort 30000 of 192.0.2.10 and 2001:db8:f::10 that admits 203.0.113.0/24.
    fn new() -> Self {
        let mut scratch = Scratch::new("shapes").unwrap();
        let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
        let image = enforce(&mut kernel, &small::snapshot("203.0.113.0/24"));
        Self { kernel, image, _scratch: scratch }
    }

    fn expect(&mut self, reason: Reason, packet: &Packet) {
        for link in [LinkLayer::Ethernet, LinkLayer::Raw] {
            let bytes = bytes_at(link, packet);
            self.expect_bytes(reason, link, &bytes);
        }
    }

    fn expect_bytes(&mut self, reason: Reason, link: LinkLayer, bytes: &[u8]) {
        let host = match link {
            LinkLayer::Ethernet => Link::Ethernet,
            LinkLayer::Raw => Link::Raw,
        };
        match judge(&Bytes(bytes), Side::Uplink, host, Depth::Full, &self.image) {
            Judgement::Final(verdict) => assert_eq!(verdict.reason, reason, "{bytes:02x?}"),
            Judgement::Unclear => assert_eq!(reason.action(), Action::Pass, "{bytes:02x?}"),
        }
        match judge(&Bytes(bytes), Side::Uplink, host, Depth::Common, &self.image) {
            Judgement::Final(verdict) => assert_eq!(verdict.reason, reason, "{bytes:02x?}"),
            Judgement::Unclear => {}
        }
        assert_eq!(action_of(&mut self.kernel, link, bytes), reason.action(), "{bytes:02x?}");
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listed() -> Packet {
    Packet::tcp(at("203.0.113.9:40000"), at("192.0.2.10:30000"))
}

fn unlisted() -> Packet {
    Packet::tcp(at("198.51.100.9:40000"), at("192.0.2.10:30000"))
}

fn unlisted6() -> Packet {
    Packet::tcp(at("[2001:db8:5::9]:40000"), at("[2001:db8:f::10]:30000"))
}

fn fragment(offset: u16, more: bool) -> Fragment {
    Fragment { id: 7, offset, more }
}

#[test]
fn ipv4_options_do_not_hide_the_ports() {
    let mut judges = Judges::new();
    for length in [4, 20, 40] {
        judges.expect(Reason::NotListed, &unlisted().ip_options(vec![1; length]));
        judges.expect(Reason::Listed, &listed().ip_options(vec![1; length]));
    }
}

#[test]
fn vlan_tags_inside_the_packet_are_skipped() {
    let mut judges = Judges::new();
    for packet in [unlisted(), unlisted6()] {
        let one = bytes_at(LinkLayer::Ethernet, &packet.clone().vlan(5));
        judges.expect_bytes(Reason::NotListed, LinkLayer::Ethernet, &one);
        let two = bytes_at(LinkLayer::Ethernet, &packet.clone().vlan(5).vlan(6));
        judges.expect_bytes(Reason::NotListed, LinkLayer::Ethernet, &two);
        // The kernel takes off as many priority tags as there are.
        let mut packet = packet;
        for tags in 1..=12 {
            packet = packet.vlan(0);
            let reason = if tags > 8 { Reason::HiddenTransport } else { Reason::NotListed };
            let bytes = bytes_at(LinkLayer::Ethernet, &packet);
            judges.expect_bytes(reason, LinkLayer::Ethernet, &bytes);
        }
    }
}

#[test]
fn what_is_behind_too_many_tags_is_dropped_and_what_can_be_read_behind_them_passes() {
    let mut judges = Judges::new();
    let mut elsewhere = Packet::tcp(at("198.51.100.9:40000"), at("192.0.2.99:30000"));
    for _ in 0..8 {
        elsewhere = elsewhere.vlan(0);
        let bytes = bytes_at(LinkLayer::Ethernet, &elsewhere);
        judges.expect_bytes(Reason::Unguarded, LinkLayer::Ethernet, &bytes);
    }
    let bytes = bytes_at(LinkLayer::Ethernet, &elsewhere.vlan(0));
    judges.expect_bytes(Reason::HiddenTransport, LinkLayer::Ethernet, &bytes);
}

#[test]
fn loopback_addresses_from_the_wire_are_addresses_of_the_node() {
    let mut judges = Judges::new();
    for to in ["127.0.0.1:30000", "127.255.255.254:30000"] {
        judges.expect(Reason::NotListed, &Packet::tcp(at("198.51.100.9:40000"), at(to)));
        judges.expect(Reason::Listed, &Packet::tcp(at("203.0.113.9:40000"), at(to)));
    }
    judges.expect(Reason::Unguarded, &Packet::tcp(at("198.51.100.9:1"), at("127.0.0.1:22")));
    judges.expect(Reason::Unguarded, &Packet::tcp(at("198.51.100.9:1"), at("126.0.0.1:30000")));
}

#[test]
fn a_first_fragment_whose_ports_come_in_the_next_is_dropped() {
    let mut judges = Judges::new();
    let [source, node] = ["2001:db8:5::9", "2001:db8:f::10"].map(|text| text.parse().unwrap());
    // Fragment header, then options that name TCP as what follows, and the fragment ends.
    let chain = |node| {
        let first = [protocol::DESTINATION, 0, 0, 1, 0, 0, 0, 7];
        let options = [protocol::TCP, 0, 1, 4, 0, 0, 0, 0];
        Packet::raw(source, node, protocol::FRAGMENT).payload([first, options].concat())
    };
    let short = bytes_at(LinkLayer::Ethernet, &chain(node));
    judges.expect_bytes(Reason::HiddenTransport, LinkLayer::Ethernet, &short);
    // What follows the end of a packet is padding, also where it looks like ports.
    let padding = [[0x9c, 0x40, 0, 22].to_vec(), vec![0; 36]].concat();
    let padded = [short, padding].concat();
    judges.expect_bytes(Reason::HiddenTransport, LinkLayer::Ethernet, &padded);
    let elsewhere = bytes_at(LinkLayer::Ethernet, &chain("2001:db8:f::99".parse().unwrap()));
    judges.expect_bytes(Reason::Unguarded, LinkLayer::Ethernet, &elsewhere);
}

#[test]
fn extension_headers_in_any_order_do_not_hide_the_ports() {
    let mut judges = Judges::new();
    let headers = [protocol::HOP_BY_HOP, protocol::DESTINATION, protocol::ROUTING];
    for first in headers {
        for second in headers {
            // Type 4 without segments left.
            let body = vec![4, 0, 0, 0, 0, 0];
            let packet = unlisted6().extension(first, body.clone()).extension(second, body);
            judges.expect(Reason::NotListed, &packet);
        }
    }
}

#[test]
fn more_extension_headers_than_are_followed_are_dropped_where_there_are_frontends() {
    let mut judges = Judges::new();
    let with = |packet: Packet, count| {
        (0..count).fold(packet, |packet, _| packet.extension(protocol::DESTINATION, vec![1, 4]))
    };
    judges.expect(Reason::NotListed, &with(unlisted6(), 8));
    judges.expect(Reason::HiddenTransport, &with(unlisted6(), 9));
    let elsewhere = Packet::tcp(at("[2001:db8:5::9]:40000"), at("[2001:db8:f::99]:30000"));
    judges.expect(Reason::Unguarded, &with(elsewhere, 9));
}

#[test]
fn a_route_that_is_not_finished_is_dropped_where_there_are_frontends() {
    let mut judges = Judges::new();
    let route = vec![4, 1, 0, 0, 0, 0];
    judges.expect(Reason::HiddenTransport, &unlisted6().extension(protocol::ROUTING, route));
}

#[test]
fn first_fragments_are_judged_by_their_ports_and_later_ones_pass() {
    let mut judges = Judges::new();
    for packet in [unlisted(), unlisted6()] {
        judges.expect(Reason::NotListed, &packet.clone().fragment(fragment(0, true)));
        judges.expect(Reason::Unguarded, &packet.clone().fragment(fragment(3, true)));
        judges.expect(Reason::Unguarded, &packet.fragment(fragment(3, false)));
    }
    judges.expect(Reason::Listed, &listed().fragment(fragment(0, true)));
}

#[test]
fn a_first_fragment_without_the_whole_transport_header_is_dropped_also_from_listed_sources() {
    let mut judges = Judges::new();
    let ports = [40_000_u16.to_be_bytes(), 30_000_u16.to_be_bytes()].concat();
    let tiny = |bytes: usize| {
        let mut payload = ports.clone();
        payload.resize(bytes, 0);
        Packet::raw("203.0.113.9".parse().unwrap(), "192.0.2.10".parse().unwrap(), protocol::TCP)
            .payload(payload)
            .fragment(fragment(0, true))
    };
    for bytes in [8, 16] {
        let bytes = bytes_at(LinkLayer::Ethernet, &tiny(bytes));
        judges.expect_bytes(Reason::ShortFragment, LinkLayer::Ethernet, &bytes);
    }
    let whole = bytes_at(LinkLayer::Ethernet, &tiny(24));
    judges.expect_bytes(Reason::Listed, LinkLayer::Ethernet, &whole);
}

#[test]
fn what_is_not_tcp_or_udp_to_a_frontend_passes_untouched() {
    let mut judges = Judges::new();
    let node = "192.0.2.10".parse().unwrap();
    let from = "198.51.100.9".parse().unwrap();
    judges.expect(Reason::Unguarded, &Packet::icmp(from, node, 8, 0, [0; 4]));
    judges.expect(Reason::Unguarded, &Packet::raw(from, node, 47).payload(vec![0; 40]));
    judges.expect(Reason::Unguarded, &Packet::udp(at("198.51.100.9:1"), at("192.0.2.10:30000")));
    judges.expect(Reason::Unguarded, &Packet::tcp(at("198.51.100.9:1"), at("192.0.2.10:22")));
    let arp = [[0xff; 6], [2; 6]].concat().into_iter().chain([0x08, 0x06]).chain([0; 46]);
    judges.expect_bytes(Reason::Unguarded, LinkLayer::Ethernet, &arp.collect::<Vec<u8>>());
}

#[test]
fn truncated_packets_never_reach_a_listener_and_never_stop_the_program() {
    let mut judges = Judges::new();
    for packet in [unlisted(), unlisted6()] {
        let whole = bytes_at(LinkLayer::Ethernet, &packet);
        // With less than this the kernel refuses the test run itself.
        let least = if whole.len() > 60 { 14 + 40 } else { 14 + 20 };
        for length in least..whole.len() {
            // From the ports on there is enough to judge.
            let reason = match (length < least + 4, least) {
                (false, _) => Reason::NotListed,
                (true, 34) => Reason::Unguarded,
                (true, _) => Reason::HiddenTransport,
            };
            judges.expect_bytes(reason, LinkLayer::Ethernet, &whole[..length]);
        }
    }
}
