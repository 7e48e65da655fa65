//! The compiler's rules, read as plainly as they are written, held against the oracle.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_policy::{
    compile::{Exempt, FrontendKey, Pod, Policy, Rules, compile, contested, revision},
    generate::{questions, snapshot},
    model::{
        Cluster, ClusterId, ExposeStrategy, Frontend, FrontendAddress, FrontendKind, ListedRange,
        LoadBalancerRanges, Mode, ObjectRef, Origin, ProbeRanges, Protocol, RangeList, Side,
        Snapshot,
    },
    oracle::{Packet, admit},
    problem::ProblemKind,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// What the rules say of a packet, in the words of the data path.
fn verdict(rules: &Rules, packet: &Packet) -> &'static str {
    let Rules { exempt, pods, policies, .. } = rules;
    let Exempt { uplink, pod_facing, trusted, probes } = exempt;
    let Some(policy) = guarded(rules, packet) else { return "unguarded" };
    let Policy { cluster, admitted, own_pods, mode: _ } = &policies[policy];
    let source = packet.source;
    if admitted.contains(source) {
        return "listed";
    }
    let pod = pods.get(&source);
    let is_own = pod.is_some_and(|Pod { cluster: of, api_server: _, local }| {
        *own_pods && of.as_ref() == Some(cluster) && (packet.side == Side::Pod || !local)
    });
    let is_steered = pod.is_some_and(|pod| pod.api_server);
    let exempt = match packet.side {
        Side::Uplink => uplink,
        Side::Pod => pod_facing,
    };
    let is_tcp = packet.protocol == Protocol::Tcp;
    let is_probe = is_tcp && !is_steered && probes.contains(source);
    if !is_steered && exempt.contains(source) {
        "exempt"
    } else if is_own {
        "own_pod"
    } else if !is_steered && trusted.contains(source) {
        "trusted_proxy"
    } else if is_tcp && packet.answers_node && !packet.segment.opens() {
        "reply"
    } else if is_probe && packet.segment.has_data() {
        "probe_data"
    } else if is_probe {
        "probe"
    } else {
        "not_listed"
    }
}

/// The policy of the frontend that a packet names.
fn guarded(rules: &Rules, packet: &Packet) -> Option<usize> {
    let Packet { destination: address, protocol, port, .. } = *packet;
    let find = |at| rules.frontends.get(&(protocol, at) as &FrontendKey).copied();
    let node = || rules.is_of_a_node(address).then_some(());
    find(FrontendAddress::Address { address, port })
        .or_else(|| node().and_then(|()| find(FrontendAddress::Node { port })))
}

#[test]
fn the_rules_decide_as_the_oracle_does_and_every_answer_is_met_often() {
    let mut runner =
        TestRunner::new(Config { cases: 1_500, failure_persistence: None, ..Config::default() });
    let tally = RefCell::new(BTreeMap::<(&str, Side), u32>::new());
    let tested = runner.run(&questions(40), |(snapshot, packets)| {
        let (rules, _) = compile(&snapshot);
        for packet in packets {
            let answer = admit(&snapshot, &packet);
            prop_assert_eq!(verdict(&rules, &packet), answer.reason(), "{:?} {:?}", packet, answer);
            prop_assert_eq!(
                answer.passes(),
                !matches!(answer.reason(), "not_listed" | "probe_data")
            );
            *tally.borrow_mut().entry((answer.reason(), packet.side)).or_default() += 1;
        }
        Ok(())
    });
    assert!(tested.is_ok(), "{tested:?}");
    let tally = tally.into_inner();
    println!("{tally:?}");
    let reasons = [
        "unguarded",
        "listed",
        "own_pod",
        "exempt",
        "trusted_proxy",
        "reply",
        "probe",
        "not_listed",
        "probe_data",
    ];
    for reason in reasons {
        for side in [Side::Uplink, Side::Pod] {
            let met = tally.get(&(reason, side)).copied().unwrap_or(0);
            assert!(met >= 100, "{reason} {side:?}: {met} of {tally:?}");
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn pods_with_a_record_are_those_that_ranges_do_not_decide(snapshot in snapshot()) {
        let (Rules { pods, exempt, .. }, _) = compile(&snapshot);
        for (address, pod) in &pods {
            prop_assert!(pod.api_server || !exempt.pod_facing.contains(*address), "{address}");
        }
        for cluster in snapshot.clusters.values() {
            for address in &cluster.api_server_pods {
                prop_assert!(pods.get(address).is_some_and(|pod| pod.api_server), "{address}");
            }
        }
        prop_assert_eq!(exempt.uplink.difference(&exempt.pod_facing), <_>::default());
    }

    #[test]
    fn the_revision_depends_on_nothing_that_each_node_learns_at_its_own_time(
        snapshot in snapshot(),
        other in snapshot(),
    ) {
        let mut elsewhere = Snapshot { this_node: other.this_node, ..snapshot.clone() };
        elsewhere.shared_proxy_pods = other.shared_proxy_pods;
        let without_pods = |frontends: &mut Vec<Frontend>| {
            frontends.retain(|frontend| !frontend.kind.is_pod());
        };
        without_pods(&mut elsewhere.shared_proxy);
        for cluster in elsewhere.clusters.values_mut() {
            let cluster = Arc::make_mut(cluster);
            without_pods(&mut cluster.frontends);
            cluster.own_pods.clear();
            cluster.api_server_pods.clear();
        }
        prop_assert_eq!(revision(&snapshot), revision(&elsewhere));
    }
}

#[test]
fn options_and_the_shared_proxy_are_part_of_the_revision() {
    let plain = revision(&Snapshot::default());
    let changed = |change: fn(&mut Snapshot)| {
        let mut snapshot = Snapshot::default();
        change(&mut snapshot);
        assert_ne!(revision(&snapshot), plain);
    };
    changed(|snapshot| snapshot.options.mode = Mode::Audit);
    changed(|snapshot| snapshot.options.lb_ranges = LoadBalancerRanges::Everywhere);
    changed(|snapshot| snapshot.options.probes = ProbeRanges::NONE);
    changed(|snapshot| snapshot.options.probes.connected = false);
    changed(|snapshot| snapshot.options.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    changed(|snapshot| snapshot.shared_proxy = vec![shared(6443)]);
}

fn shared(port: u16) -> Frontend {
    Frontend {
        protocol: Protocol::Tcp,
        at: FrontendAddress::Address { address: "203.0.113.1".parse().unwrap(), port },
        kind: FrontendKind::SharedProxy,
        service: ObjectRef {
            kind: "Service".to_owned(),
            namespace: "kubermatic".to_owned(),
            name: "nodeport-proxy".to_owned(),
        },
        port_name: String::new(),
    }
}

fn cluster(id: &str, frontends: Vec<Frontend>, allowed: &[&str]) -> (ClusterId, Cluster) {
    let id = ClusterId(id.to_owned());
    let object =
        ObjectRef { kind: "Cluster".to_owned(), namespace: String::new(), name: id.0.clone() };
    let ranges = (0..).zip(allowed).map(|(position, net)| {
        let net = net.parse().unwrap();
        ListedRange { net, position }
    });
    let list = RangeList {
        origin: Origin { object, field: "cidrBlocks".to_owned() },
        ranges: ranges.collect(),
        written: allowed.len(),
    };
    let cluster = Cluster {
        id: id.clone(),
        namespace: format!("cluster-{id}"),
        strategy: ExposeStrategy::NodePort,
        allowed: Some(list),
        frontends,
        own_pods: [].into(),
        api_server_pods: [].into(),
        mode: Mode::Enforce,
        egress: None,
    };
    (id, cluster)
}

#[test]
fn the_shared_proxy_has_a_name_that_no_cluster_can_have_and_conflicts_name_it() {
    let (id, abc) = cluster("abc", vec![shared(6443)], &[]);
    let snapshot = Snapshot {
        clusters: [(id.clone(), abc.into())].into(),
        shared_proxy: vec![shared(6443)],
        ..Snapshot::default()
    };
    let (_, problems) = compile(&snapshot);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].cluster, Some(id));
    let other = ClusterId("kubermatic/nodeport-proxy".to_owned());
    assert_eq!(problems[0].kind, ProblemKind::Conflict { other });
}

#[test]
fn clusters_with_equal_lists_share_one_set() {
    let ranges = ["198.51.100.0/25", "198.51.100.128/25"];
    let clusters =
        [cluster("a", vec![shared(30_001)], &ranges), cluster("b", vec![shared(30_002)], &ranges)];
    let clusters = clusters.map(|(id, cluster)| (id, cluster.into())).into();
    let snapshot = Snapshot { clusters, ..Snapshot::default() };
    let (rules, _) = compile(&snapshot);
    let [a, b] = rules.policies.as_slice() else { panic!("{:?}", rules.policies) };
    assert!(Arc::ptr_eq(&a.admitted, &b.admitted));
    assert!(a.own_pods && b.own_pods);
}

#[test]
fn contested_frontends_are_those_of_conflicts_and_name_all_claimants() {
    let met = RefCell::new([0_u32; 2]);
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let tested = TestRunner::new(config).run(&snapshot(), |snapshot| {
        let contested = contested(&snapshot);
        let (_, problems) = compile(&snapshot);
        let conflicts = problems.iter().filter_map(|problem| {
            let ProblemKind::Conflict { other } = &problem.kind else { return None };
            Some(other)
        });
        let conflicts: BTreeSet<&ClusterId> = conflicts.collect();
        // A problem is told at one claimant, and names each of the others.
        for (frontend, claimants) in &contested {
            prop_assert!(claimants.len() > 1);
            let told = claimants.iter().filter(|claimant| conflicts.contains(claimant)).count();
            prop_assert!(told >= claimants.len() - 1, "{frontend:?}: {claimants:?}, {conflicts:?}");
        }
        let claimants: BTreeSet<&ClusterId> = contested.values().flatten().collect();
        prop_assert!(conflicts.is_subset(&claimants), "{conflicts:?}, {contested:?}");
        met.borrow_mut()[usize::from(!contested.is_empty())] += 1;
        Ok(())
    });
    tested.unwrap();
    let met = met.into_inner();
    assert!(met.iter().all(|snapshots| *snapshots >= 20), "{met:?}");
}
