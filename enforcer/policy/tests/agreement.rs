//! The compiler, the lowered image and the data path's own decision, held against the oracle.

use std::net::IpAddr;

use enforcer_ebpf::{
    decide::{Reason, Side, Verdict, decide},
    parse::{Flow, Protocol as Wire, Segment, Transport, V4, V6},
};
use enforcer_policy::{
    compile::compile,
    generate::questions,
    image::{Image, assign},
    model::Protocol,
    oracle::{Answer, Packet, admit},
};
use proptest::prelude::*;

fn host_verdict(image: &Image, packet: &Packet) -> Verdict {
    let transport = Transport::Ports {
        protocol: match packet.protocol {
            Protocol::Tcp => Wire::Tcp,
            Protocol::Udp => Wire::Udp,
        },
        source: 40_000,
        destination: packet.port,
        whole: true,
        at: 0,
        end: 0,
    };
    let halves = |address: u128| V6 { high: (address >> 64) as u64, low: address as u64 };
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => decide(
            &Flow { source: V4(source.into()), destination: V4(destination.into()), transport },
            Side::Uplink,
            image,
            || Segment::Open,
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => decide(
            &Flow {
                source: halves(source.into()),
                destination: halves(destination.into()),
                transport,
            },
            Side::Uplink,
            image,
            || Segment::Open,
        ),
        families => panic!("mixed families {families:?}"),
    }
}

fn expected(answer: &Answer) -> Reason {
    match answer {
        Answer::Unguarded => Reason::Unguarded,
        Answer::Listed(_) => Reason::Listed,
        Answer::Exempt(_) => Reason::Exempt,
        Answer::NotListed(_) => Reason::NotListed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_lowered_image_decides_as_the_oracle_does((snapshot, packets) in questions(40)) {
        let (rules, _) = compile(&snapshot);
        let counters = assign(&rules, &[]).unwrap();
        let image = Image::lower(&rules, &counters).unwrap();
        for packet in packets {
            let answer = admit(&snapshot, &packet);
            let verdict = host_verdict(&image, &packet);
            prop_assert_eq!(verdict.reason, expected(&answer), "{:?} {:?}", packet, answer);
            prop_assert_eq!(
                verdict.cluster == Verdict::NO_CLUSTER,
                matches!(answer, Answer::Unguarded),
            );
        }
    }
}
