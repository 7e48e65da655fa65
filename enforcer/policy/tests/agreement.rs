//! The compiler, the lowered image and the data path's own decision, held against the oracle.

use std::net::IpAddr;

use enforcer_ebpf::{
    decide::{Reason, Verdict, decide},
    parse::{Flow, Protocol as Wire, Transport, V4, V6},
};
use enforcer_policy::{
    compile::compile,
    generate::questions,
    image::{Image, assign},
    model::{Protocol, Side},
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
    };
    let halves = |address: u128| V6 { high: (address >> 64) as u64, low: address as u64 };
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => decide(
            &Flow { source: V4(source.into()), destination: V4(destination.into()), transport },
            image,
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => decide(
            &Flow {
                source: halves(source.into()),
                destination: halves(destination.into()),
                transport,
            },
            image,
        ),
        families => panic!("mixed families {families:?}"),
    }
}

/// `None` for what the image does not tell apart yet.
fn expected(answer: &Answer) -> Option<Reason> {
    match answer {
        Answer::Unguarded => Some(Reason::Unguarded),
        Answer::Listed(_) => Some(Reason::Listed),
        Answer::Exempt(_) => Some(Reason::Exempt),
        Answer::NotListed(_) => Some(Reason::NotListed),
        Answer::OwnPod(_)
        | Answer::TrustedProxy(_)
        | Answer::Reply
        | Answer::Probe(_)
        | Answer::ProbeData(_) => None,
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
            let Some(reason) = expected(&answer) else { continue };
            if packet.side == Side::Pod || rules.pods.contains_key(&packet.source) {
                continue;
            }
            let verdict = host_verdict(&image, &packet);
            prop_assert_eq!(verdict.reason, reason, "{:?} {:?}", packet, answer);
            prop_assert_eq!(
                verdict.cluster == Verdict::NO_CLUSTER,
                matches!(answer, Answer::Unguarded),
            );
        }
    }
}
