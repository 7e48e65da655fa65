//! Which policy binds which interface, and what is said where that is not clear.

use crate::{
    compile::{Rules, compile},
    model::{
        Cluster, ClusterId, Egress, ExposeStrategy, GatedPod, Mode, ObjectRef, Origin, Peer,
        PeerPort, PodInterface, Protocol, Snapshot,
    },
};

fn object(kind: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.to_owned(), namespace: "cluster-c".to_owned(), name: name.to_owned() }
}

fn peer(net: &str, port: PeerPort) -> Peer {
    let origin = Origin { object: object("Service", "etcd"), field: "spec.clusterIPs".to_owned() };
    Peer { net: net.parse().unwrap(), port, origin }
}

fn pod(name: &str, addresses: &[&str]) -> GatedPod {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    GatedPod { object: object("Pod", name), addresses }
}

fn interface(index: u32, netns: u32, addresses: &[&str]) -> PodInterface {
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    PodInterface { index, name: format!("veth{index}"), netns, addresses }
}

fn cluster(id: &str, egress: Option<Egress>) -> Cluster {
    Cluster {
        id: ClusterId(id.to_owned()),
        namespace: format!("cluster-{id}"),
        strategy: ExposeStrategy::NodePort,
        allowed: None,
        frontends: Vec::new(),
        own_pods: [].into(),
        api_server_pods: [].into(),
        mode: Mode::Enforce,
        egress,
    }
}

fn gated(id: &str, peers: &[Peer], pods: &[GatedPod]) -> Cluster {
    cluster(id, Some(Egress { peers: peers.to_vec(), pods: pods.to_vec() }))
}

fn compiled(clusters: Vec<Cluster>, interfaces: Vec<PodInterface>) -> (Rules, Vec<String>) {
    let mut snapshot = Snapshot::default();
    snapshot.this_node.pod_interfaces = interfaces;
    let clusters = clusters.into_iter().map(|cluster| (cluster.id.clone(), cluster.into()));
    snapshot.clusters = clusters.collect();
    let (rules, problems) = compile(&snapshot);
    (rules, problems.iter().map(ToString::to_string).collect())
}

const TCP_443: PeerPort = PeerPort::Only(Protocol::Tcp, 443);

#[test]
fn an_interface_with_an_address_of_a_gated_pod_has_its_clusters_policy() {
    let peers = [peer("10.0.0.7/32", PeerPort::Any), peer("10.96.0.5/32", TCP_443)];
    let pods = [pod("apiserver-1", &["10.1.0.1", "fd00::1"])];
    let interfaces = vec![
        interface(7, 3, &["10.1.0.1", "10.1.0.99", "fd00::1"]),
        interface(8, 4, &["10.1.0.2"]),
    ];
    let (rules, said) = compiled(vec![gated("c", &peers, &pods)], interfaces);
    assert_eq!(said, [""; 0]);
    let [policy] = rules.egress_policies.as_slice() else { panic!("{rules:?}") };
    assert_eq!(policy.cluster.0, "c");
    assert!(policy.any_port.contains("10.0.0.7".parse().unwrap()));
    assert!(!policy.any_port.contains("10.96.0.5".parse().unwrap()));
    assert!(policy.ports[&(Protocol::Tcp, 443)].contains("10.96.0.5".parse().unwrap()));
    let [(7, bound)] = Vec::from_iter(&rules.egress)[..] else { panic!("{rules:?}") };
    assert_eq!((bound.netns, bound.policy), (3, 0));
    assert_eq!(bound.v4, Some("10.1.0.1".parse().unwrap()));
    assert_eq!(bound.v6, Some("fd00::1".parse().unwrap()));
}

#[test]
fn without_the_gate_no_interface_is_bound_and_no_policy_is_made() {
    let interfaces = vec![interface(7, 3, &["10.1.0.1"])];
    let (rules, said) = compiled(vec![cluster("c", None), gated("d", &[], &[])], interfaces);
    assert!(rules.egress.is_empty() && rules.egress_policies.is_empty() && said.is_empty());
}

#[test]
fn a_gated_pod_whose_peers_are_not_known_yet_may_connect_to_nobody() {
    let interfaces = vec![interface(7, 3, &["10.1.0.1"])];
    let pods = [pod("apiserver-1", &["10.1.0.1"])];
    let (rules, said) = compiled(vec![gated("c", &[], &pods)], interfaces);
    assert_eq!(said, [""; 0]);
    let policy = &rules.egress_policies[rules.egress[&7].policy];
    assert!(policy.any_port.is_empty() && policy.ports.is_empty());
}

#[test]
fn a_pod_whose_address_is_at_no_interface_is_not_enforceable_and_one_without_address_is_waited_for()
{
    let pods = [pod("apiserver-1", &["192.0.2.1"]), pod("apiserver-2", &[])];
    let (rules, said) =
        compiled(vec![gated("c", &[], &pods)], vec![interface(7, 3, &["10.1.0.1"])]);
    assert!(rules.egress.is_empty());
    let [one] = said.as_slice() else { panic!("{said:?}") };
    assert!(one.starts_with("Pod cluster-c/apiserver-1 status.podIPs = \"192.0.2.1\""), "{one}");
    assert!(one.contains("egress: not enforceable"), "{one}");
}

#[test]
fn two_interfaces_that_hold_one_address_are_both_held_to_the_policy_and_that_is_said() {
    let pods = [pod("apiserver-1", &["10.1.0.1"])];
    let interfaces = vec![interface(7, 3, &["10.1.0.1"]), interface(8, 4, &["10.1.0.1"])];
    let (rules, said) = compiled(vec![gated("c", &[], &pods)], interfaces);
    assert_eq!(Vec::from_iter(rules.egress.keys()), [&7, &8]);
    let [one] = said.as_slice() else { panic!("{said:?}") };
    assert!(one.contains("is at interfaces veth7, veth8"), "{one}");
}

#[test]
fn an_address_of_pods_of_two_clusters_may_connect_to_nobody_and_both_are_told() {
    let peers = [peer("10.0.0.0/8", PeerPort::Any)];
    let clusters = vec![
        gated("c", &peers, &[pod("one", &["10.1.0.1"])]),
        gated("d", &peers, &[pod("two", &["10.1.0.1"]), pod("three", &["10.1.0.3"])]),
    ];
    let interfaces = vec![interface(7, 3, &["10.1.0.1"]), interface(8, 4, &["10.1.0.3"])];
    let (rules, said) = compiled(clusters, interfaces);
    let of = |index: u32| &rules.egress_policies[rules.egress[&index].policy];
    assert!(of(7).any_port.is_empty() && of(7).ports.is_empty());
    assert_eq!((of(8).cluster.0.as_str(), of(8).any_port.is_empty()), ("d", false));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("cluster-c/one") && said[0].contains("of cluster d"), "{said:?}");
    assert!(said[1].contains("cluster-c/two") && said[1].contains("of cluster c"), "{said:?}");
}

#[test]
fn one_interface_with_addresses_of_two_clusters_may_connect_to_nobody() {
    let peers = [peer("10.0.0.0/8", PeerPort::Any)];
    let clusters = vec![
        gated("c", &peers, &[pod("one", &["10.1.0.1"])]),
        gated("d", &peers, &[pod("two", &["10.1.0.2"])]),
    ];
    let (rules, said) = compiled(clusters, vec![interface(7, 3, &["10.1.0.1", "10.1.0.2"])]);
    assert!(rules.egress_policies[rules.egress[&7].policy].any_port.is_empty());
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn another_interface_of_the_pods_namespace_is_not_passed_over_in_silence() {
    let pods = [pod("apiserver-1", &["10.1.0.1"])];
    let interfaces = vec![interface(7, 3, &["10.1.0.1"]), interface(8, 3, &["172.16.0.1"])];
    let (rules, said) = compiled(vec![gated("c", &[], &pods)], interfaces);
    assert_eq!(Vec::from_iter(rules.egress.keys()), [&7]);
    let [one] = said.as_slice() else { panic!("{said:?}") };
    assert!(one.contains("not enforceable at veth8"), "{one}");
}

#[test]
fn equal_sets_are_one_however_their_peers_are_written() {
    let pods = |name, address| [pod(name, &[address])];
    let halves = [peer("10.0.0.0/9", PeerPort::Any), peer("10.128.0.0/9", PeerPort::Any)];
    let whole = [peer("10.1.2.3/32", PeerPort::Any), peer("10.0.0.0/8", PeerPort::Any)];
    let clusters = vec![
        gated("c", &halves, &pods("one", "10.1.0.1")),
        gated("d", &whole, &pods("two", "10.1.0.2")),
    ];
    let (rules, _) = compiled(clusters, Vec::new());
    let [one, two] = rules.egress_policies.as_slice() else { panic!("{rules:?}") };
    assert!(std::sync::Arc::ptr_eq(&one.any_port, &two.any_port));
}

#[test]
fn a_contested_interface_is_audited_only_where_all_claimants_are() {
    for (modes, expected) in
        [([Mode::Audit, Mode::Audit], Mode::Audit), ([Mode::Audit, Mode::Enforce], Mode::Enforce)]
    {
        let mut clusters = vec![
            gated("c", &[], &[pod("one", &["10.1.0.1"])]),
            gated("d", &[], &[pod("two", &["10.1.0.1"])]),
        ];
        for (cluster, mode) in clusters.iter_mut().zip(modes) {
            cluster.mode = mode;
        }
        let (rules, _) = compiled(clusters, vec![interface(7, 3, &["10.1.0.1"])]);
        assert_eq!(rules.egress_policies[rules.egress[&7].policy].mode, expected);
    }
}
