//! `compile` and the image: whatever the snapshot, the program decides as the oracle does.

use std::net::SocketAddr;

use enforcer_ebpf::{
    abi::{self, Opened},
    decide::judge,
    parse::{Depth, Link},
    tables::Tables,
    verdict::{self, Judgement},
};
use enforcer_policy::{
    compile::compile,
    generate::questions,
    image::{Image, assign},
    model::{Protocol, Side},
    oracle::{Packet as Question, Segment, admit},
};
use enforcer_tests::packets::{Packet, flags};
use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::bytes::Bytes;

const QUESTIONS: usize = 24;
const SOURCE_PORT: u16 = 40_000;

/// The bytes seed the dice with which a snapshot and packets are drawn.
pub fn run(data: &[u8]) {
    let Some((snapshot, packets)) = drawn(&questions(QUESTIONS), data) else { return };
    let (rules, _problems) = compile(&snapshot);
    let counters = assign(&rules, &[]).unwrap_or_else(|error| panic!("{error}"));
    let image = Image::lower(&rules, &counters).unwrap_or_else(|error| panic!("{error}"));
    for question in packets {
        let answer = admit(&snapshot, &question);
        let side = match question.side {
            Side::Uplink => verdict::Side::Uplink,
            Side::Pod => verdict::Side::Pod,
        };
        let tables = Asked { image: &image, answers: question.answers_node };
        let bytes = crafted(&question).ip_bytes();
        match judge(&Bytes(&bytes), side, Link::Raw, Depth::Full, &tables) {
            Judgement::Final(verdict) => {
                assert_eq!(verdict.reason.name(), answer.reason(), "{question:?} {answer:?}");
            }
            Judgement::Unclear => panic!("unclear: {question:?}"),
        }
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

/// A question as a packet.
fn crafted(question: &Question) -> Packet {
    let from = SocketAddr::new(question.source, SOURCE_PORT);
    let to = SocketAddr::new(question.destination, question.port);
    match (question.protocol, question.segment) {
        (Protocol::Udp, _) => Packet::udp(from, to).payload([7; 9]),
        (Protocol::Tcp, Segment::Open) => Packet::tcp(from, to),
        (Protocol::Tcp, Segment::OpenData) => Packet::tcp(from, to).payload([7; 9]),
        (Protocol::Tcp, Segment::Bare) => Packet::tcp(from, to).flags(flags::ACK),
        (Protocol::Tcp, Segment::Data) => Packet::tcp(from, to).flags(flags::ACK).payload([7; 9]),
    }
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
