//! `compile` and the image: whatever the snapshot, the program decides as the oracle does.

use std::{net::IpAddr, sync::Arc};

use enforcer_ebpf::{
    abi::{self, Opened},
    decide::judge,
    parse::{Depth, Link},
    tables::Tables,
    verdict::{self, Judgement},
};
use enforcer_policy::{
    compile::compile,
    generate::{packet, snapshot},
    image::{Image, assign},
    model::{ClusterId, Protocol, Side, Snapshot},
    oracle::{Packet as Question, Segment, admit},
};
use etherparse::PacketBuilder;
use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::bytes::Bytes;

const SOURCE_PORT: u16 = 40_000;
const WINDOW: u16 = 1024;

/// Bytes that seed the dice for one part of the input.
const DICE: usize = 4;
/// Parts of a snapshot besides its clusters.
const PARTS: usize = 4;
const MOST_CLUSTERS: usize = 6;

/// The first byte says how many clusters there are. Behind it, a few bytes each draw the options, the Seed,
/// the shared proxy and the nodes, a cluster, and with all others a packet: a part that reaches something
/// new is kept whatever happens to the others.
pub fn run(data: &[u8]) {
    let Some((first, dice)) = data.split_first() else { return };
    let mut dice = dice.chunks(DICE);
    let Some(snapshot) = assembled(usize::from(*first) % (MOST_CLUSTERS + 1), &mut dice) else {
        return;
    };
    let (rules, _problems) = compile(&snapshot);
    let counters = assign(&rules, &[]).unwrap_or_else(|error| panic!("{error}"));
    let image = Image::lower(&rules, &counters).unwrap_or_else(|error| panic!("{error}"));
    let packets = packet(&snapshot);
    for dice in dice.take(64) {
        let Some(question) = drawn(&packets, dice) else { continue };
        agree(&snapshot, &image, &question);
    }
}

/// A snapshot of parts of others.
fn assembled<'a>(clusters: usize, dice: &mut impl Iterator<Item = &'a [u8]>) -> Option<Snapshot> {
    let mut parts = dice.take(PARTS + clusters).map(|dice| drawn(&snapshot(), dice));
    let mut snapshot = parts.next()??;
    if let Some(part) = parts.next() {
        snapshot.seed = part?.seed;
    }
    if let Some(part) = parts.next() {
        let Snapshot { shared_proxy, shared_proxy_pods, .. } = part?;
        (snapshot.shared_proxy, snapshot.shared_proxy_pods) = (shared_proxy, shared_proxy_pods);
    }
    if let Some(part) = parts.next() {
        let Snapshot { nodes, this_node, .. } = part?;
        (snapshot.nodes, snapshot.this_node) = (nodes, this_node);
    }
    snapshot.clusters.clear();
    for (number, part) in parts.enumerate() {
        let Some((_, cluster)) = part?.clusters.pop_last() else { continue };
        let id = ClusterId(format!("c{number}"));
        let mut cluster = Arc::unwrap_or_clone(cluster);
        (cluster.namespace, cluster.id) = (format!("cluster-{id}"), id.clone());
        snapshot.clusters.insert(id, Arc::new(cluster));
    }
    Some(snapshot)
}

/// The program decides a packet as the oracle does.
fn agree(snapshot: &Snapshot, image: &Image, question: &Question) {
    let answer = admit(snapshot, question);
    let side = match question.side {
        Side::Uplink => verdict::Side::Uplink,
        Side::Pod => verdict::Side::Pod,
    };
    let tables = Asked { image, answers: question.answers_node };
    match judge(&Bytes(&crafted(question)), side, Link::Raw, Depth::Full, &tables) {
        Judgement::Final(verdict) => {
            assert_eq!(verdict.reason.name(), answer.reason(), "{question:?} {answer:?}");
        }
        Judgement::Unclear => panic!("unclear: {question:?}"),
    }
}

/// A value drawn with dice that these bytes are the seed of; nothing where a strategy gives up. As dice
/// themselves they run out: a strategy that asks again for what it cannot use would ask for ever.
pub(crate) fn drawn<T>(strategy: &impl Strategy<Value = T>, dice: &[u8]) -> Option<T> {
    let mut seed = [0_u8; 32];
    for (at, byte) in dice.iter().enumerate() {
        let word = &mut seed[at % 32];
        *word = word.rotate_left(3) ^ byte;
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    strategy.new_tree(&mut runner).ok().map(|tree| tree.current())
}

/// A question as a packet, from its IP header on.
fn crafted(question: &Question) -> Vec<u8> {
    let builder = match (question.source, question.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            unreachable!("a packet is of one family")
        }
    };
    let (mut bytes, data) = (Vec::new(), [7; 9]);
    let written = match question.protocol {
        Protocol::Udp => builder.udp(SOURCE_PORT, question.port).write(&mut bytes, &data),
        Protocol::Tcp => {
            let tcp = builder.tcp(SOURCE_PORT, question.port, 1, WINDOW);
            match question.segment {
                Segment::Open => tcp.syn().write(&mut bytes, &[]),
                Segment::OpenData => tcp.syn().write(&mut bytes, &data),
                Segment::Bare => tcp.ack(1).write(&mut bytes, &[]),
                Segment::Data => tcp.ack(1).write(&mut bytes, &data),
            }
        }
    };
    written.unwrap_or_else(|error| panic!("{error}"));
    bytes
}

/// An image, and whether the node opened the connection that is asked about.
struct Asked<'a> {
    image: &'a Image,
    answers: bool,
}

impl Tables for Asked<'_> {
    fn image(&self) -> &abi::Image {
        self.image.image()
    }

    fn opened(&self, _connection: &Opened) -> bool {
        self.answers
    }
}
