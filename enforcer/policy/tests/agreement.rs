//! The compiler, the lowered image and the data path's own decision, held against the oracle.

use std::{cell::RefCell, collections::BTreeMap, net::IpAddr};

use enforcer_ebpf::{
    abi::{self, Opened},
    decide::decide,
    parse::{self, Flow, Transport, V4, V6},
    tables::Tables,
    verdict::{self, Reason, Verdict},
};
use enforcer_policy::{
    compile::compile,
    generate::questions,
    image::{Image, assign},
    model::{Protocol, Side},
    oracle::{Answer, Packet, Segment, admit},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const SOURCE_PORT: u16 = 40_000;

/// An image, and whether the node opened the connection that is asked about.
struct Asked<'a> {
    image: &'a Image,
    packet: &'a Packet,
}

impl Tables for Asked<'_> {
    fn image(&self) -> &abi::Image {
        self.image.image()
    }

    fn opened(&self, connection: &Opened) -> bool {
        let ports = u32::from(SOURCE_PORT) << 16 | u32::from(self.packet.port);
        assert_eq!((connection.ports, connection.reserved), (ports, 0));
        assert_eq!(connection.remote, mapped(self.packet.source));
        assert_eq!(connection.local, mapped(self.packet.destination));
        self.packet.answers_node
    }
}

fn mapped(address: IpAddr) -> [u64; 2] {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let V6 { high, low } = halves(address.into());
    [high, low]
}

fn halves(address: u128) -> V6 {
    V6 { high: (address >> 64) as u64, low: address as u64 }
}

fn host_verdict(image: &Image, packet: &Packet) -> Verdict {
    let side = match packet.side {
        Side::Uplink => verdict::Side::Uplink,
        Side::Pod => verdict::Side::Pod,
    };
    let segment = || match packet.segment {
        Segment::Open => parse::Segment::Open,
        Segment::OpenData => parse::Segment::OpenData,
        Segment::Bare => parse::Segment::Bare,
        Segment::Data => parse::Segment::Data,
    };
    let tables = Asked { image, packet };
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (source, destination) = (V4(source.into()), V4(destination.into()));
            decide(&flow(packet, source, destination), side, &tables, segment)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (source, destination) = (halves(source.into()), halves(destination.into()));
            decide(&flow(packet, source, destination), side, &tables, segment)
        }
        families => panic!("mixed families {families:?}"),
    }
}

fn flow<A>(packet: &Packet, source: A, destination: A) -> Flow<A> {
    let protocol = match packet.protocol {
        Protocol::Tcp => parse::Protocol::Tcp,
        Protocol::Udp => parse::Protocol::Udp,
    };
    Flow {
        source,
        destination,
        transport: Transport::Ports,
        kind: protocol,
        protocol: protocol.number(),
        source_port: SOURCE_PORT,
        destination_port: packet.port,
        at: 0,
        end: 0,
    }
}

#[test]
fn the_lowered_image_decides_as_the_oracle_does_for_every_reason() {
    let tally: RefCell<BTreeMap<&str, u64>> = RefCell::default();
    let config = Config { cases: 600, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&questions(40), |(snapshot, packets)| {
            let (rules, _) = compile(&snapshot);
            let counters = assign(&rules, &[]).unwrap();
            let image = Image::lower(&rules, &counters).unwrap();
            for packet in packets {
                let answer = admit(&snapshot, &packet);
                let verdict = host_verdict(&image, &packet);
                prop_assert_eq!(
                    verdict.reason.name(),
                    answer.reason(),
                    "{:?} {:?}",
                    packet,
                    answer
                );
                prop_assert_eq!(
                    verdict.cluster == Verdict::NO_CLUSTER,
                    matches!(answer, Answer::Unguarded),
                );
                *tally.borrow_mut().entry(answer.reason()).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    for reason in Reason::ALL.into_iter().filter(|reason| !reason.is_of_gated_pods()) {
        // What the shape of a packet decides is no question for the oracle.
        let of_shapes = matches!(reason, Reason::ShortFragment | Reason::HiddenTransport);
        let asked = tally.get(reason.name()).copied().unwrap_or_default();
        assert!(of_shapes || asked >= 20, "{reason:?}: {tally:?}");
    }
}
