//! The kernel's verdicts, taken with `test_run` on the product's own program, held against the
//! oracle, which never sees the compiled image.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use aya::programs::{TestRun as _, TestRunOptions};
use enforcer::kernel::Kernel;
use enforcer_ebpf::decide::{Action, Reason};
use enforcer_policy::{
    compile::compile,
    generate::questions,
    image::{Image, assign, counter_owners},
    model::{Protocol, Snapshot},
    oracle::{Answer, Packet as Question, admit},
    plan::{Desired, LinkLayer, plan},
};
use enforcer_tests::{cleanup::Scratch, packets::Packet};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const SNAPSHOTS: u32 = 250;
const PACKETS: usize = 48;

/// Puts a snapshot in force.
fn enforce(kernel: &mut Kernel, snapshot: &Snapshot) {
    let (rules, _) = compile(snapshot);
    let observed = kernel.observe().unwrap();
    let owners = observed.active.map(|bank| counter_owners(observed.bank(bank)).to_vec());
    let counters = assign(&rules, &owners.unwrap_or_default()).unwrap();
    let image = Image::lower(&rules, &counters).unwrap();
    let desired = Desired { image: &image, counters: &counters, interfaces: &[] };
    for step in plan(&observed, &desired) {
        kernel.apply(&step, &image).unwrap();
    }
    let observed = kernel.observe().unwrap();
    let again = plan(&observed, &desired);
    assert_eq!(again, [], "what was applied is what is observed");
}

fn crafted(question: &Question) -> Packet {
    let from = SocketAddr::new(question.source, 40_000);
    let to = SocketAddr::new(question.destination, question.port);
    match question.protocol {
        Protocol::Tcp => Packet::tcp(from, to),
        Protocol::Udp => Packet::udp(from, to),
    }
}

/// What the program does with a packet.
fn action(kernel: &mut Kernel, link: LinkLayer, packet: &Packet) -> Action {
    let bytes = match link {
        LinkLayer::Ethernet => packet.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        // Long enough for what the kernel takes for an Ethernet header and what follows it.
        LinkLayer::Raw => packet.clone().payload([0; 40]).ip_bytes(),
    };
    let options = TestRunOptions { data_in: Some(&bytes), ..TestRunOptions::new() };
    let result = kernel.program(link).unwrap().test_run(options).unwrap();
    match result.return_value.cast_signed() {
        -1 => Action::Pass,
        2 => Action::Drop,
        other => panic!("the program returned {other}"),
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

fn counted(kernel: &Kernel) -> BTreeMap<Reason, u64> {
    Reason::ALL
        .into_iter()
        .map(|reason| (reason, kernel.counters().reason(reason).unwrap()))
        .collect()
}

#[test]
fn the_kernel_agrees_with_the_oracle_on_generated_snapshots_and_packets() {
    let mut scratch = Scratch::new("oracle").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    let mut runner = TestRunner::new(Config {
        cases: SNAPSHOTS,
        failure_persistence: None,
        ..Config::default()
    });
    let tally = std::cell::RefCell::new(BTreeMap::<Reason, u64>::new());
    let kernel = std::cell::RefCell::new(&mut kernel);
    runner
        .run(&questions(PACKETS), |(snapshot, packets)| {
            let kernel = &mut **kernel.borrow_mut();
            enforce(kernel, &snapshot);
            for (number, question) in packets.iter().enumerate() {
                let link = if number % 2 == 0 { LinkLayer::Ethernet } else { LinkLayer::Raw };
                let reason = expected(&admit(&snapshot, question));
                let before = counted(kernel);
                let action = action(kernel, link, &crafted(question));
                let mut after = before.clone();
                if reason != Reason::Unguarded {
                    *after.entry(reason).or_default() += 1;
                }
                prop_assert_eq!(action, reason.action(), "{:?}", question);
                prop_assert_eq!(counted(kernel), after, "{:?}", question);
                *tally.borrow_mut().entry(reason).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    let tally = tally.into_inner();
    println!("pairs by reason: {tally:?}");
    assert!(tally.values().sum::<u64>() >= 10_000, "{tally:?}");
    for reason in [Reason::Unguarded, Reason::Listed, Reason::Exempt, Reason::NotListed] {
        assert!(tally.get(&reason).is_some_and(|count| *count >= 100), "{reason:?} {tally:?}");
    }
}

#[test]
fn counters_belong_to_the_cluster_and_count_packets_and_bytes() {
    let mut scratch = Scratch::new("counters").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    let snapshot = small::snapshot("203.0.113.0/24");
    enforce(&mut kernel, &snapshot);
    let to = SocketAddr::new("192.0.2.10".parse::<IpAddr>().unwrap(), 30_000);
    let listed = Packet::tcp("203.0.113.9:40000".parse().unwrap(), to);
    let unlisted = Packet::tcp("198.51.100.9:40000".parse().unwrap(), to).payload(vec![0; 100]);
    for _ in 0..3 {
        assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &listed), Action::Pass);
    }
    for _ in 0..2 {
        assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &unlisted), Action::Drop);
    }
    let counters = kernel.counters().cluster(0).unwrap();
    assert_eq!((counters.allowed_packets, counters.denied_packets), (3, 2));
    assert_eq!(counters.allowed_bytes, 3 * listed.ip_bytes().len() as u64);
    assert_eq!(counters.denied_bytes, 2 * unlisted.ip_bytes().len() as u64);
    enforce(&mut kernel, &small::snapshot("198.51.100.0/24"));
    assert_eq!(kernel.counters().cluster(0).unwrap(), counters, "an edit keeps the counters");
    assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &listed), Action::Drop);
    assert_eq!(action(&mut kernel, LinkLayer::Ethernet, &unlisted), Action::Pass);
}

mod small {
    use enforcer_policy::model::{
        Cluster, ClusterId, ExposeStrategy, Frontend, FrontendAddress, FrontendKind, ListedRange,
        ObjectRef, Origin, Protocol, RangeList, Snapshot, ThisNode,
    };

    /// One cluster with one nodePort and one range, on a node 192.0.2.10.
    pub(crate) fn snapshot(range: &str) -> Snapshot {
        let object = ObjectRef {
            kind: "Cluster".to_owned(),
            namespace: String::new(),
            name: "c1".to_owned(),
        };
        let id = ClusterId("c1".to_owned());
        let cluster = Cluster {
            id: id.clone(),
            namespace: "cluster-c1".to_owned(),
            strategy: ExposeStrategy::LoadBalancer,
            allowed: Some(RangeList {
                origin: Origin { object: object.clone(), field: "cidrBlocks".to_owned() },
                ranges: vec![ListedRange { net: range.parse().unwrap(), position: 0 }],
                written: 1,
            }),
            frontends: vec![Frontend {
                protocol: Protocol::Tcp,
                at: FrontendAddress::Node { port: 30_000 },
                kind: FrontendKind::ApiServerNodePort,
                service: object,
                port_name: "secure".to_owned(),
            }],
            own_pods: [].into(),
            api_server_pods: [].into(),
        };
        Snapshot {
            clusters: [(id, cluster)].into(),
            this_node: ThisNode {
                name: "node".to_owned(),
                addresses: ["192.0.2.10".parse().unwrap()].into(),
            },
            ..Snapshot::default()
        }
    }
}
