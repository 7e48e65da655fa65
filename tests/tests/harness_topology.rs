//! The seed of namespaces by itself, without any enforcer: all ways lead to the API server, with
//! the source addresses that kube-proxy and Envoy leave. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use enforcer_tests::addresses::{Dual, FIRST_NODE, LISTED, cluster_ip};
use enforcer_tests::listen::Server;
use enforcer_tests::nat::{self, Protocol, Service, ServicePort};
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::talk::{Outcome, connect, greeting};
use enforcer_tests::topology::{Cni, Network, Plan};

const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn every_client_reaches_every_frontend_of_both_families() {
    let stage = Stage::customary().unwrap();
    let frontends = stage.frontends();
    assert_eq!(frontends.len(), 16);
    for frontend in frontends {
        for client in ["listed", "unlisted"] {
            let ns = &stage.network.host(client).ns;
            let server = greeting(ns, frontend.address, LIMIT);
            let expected = match frontend.label.split_once(", ") {
                Some((_, server)) => server,
                None => "apiserver",
            };
            assert_eq!(server.as_deref(), Ok(expected), "{client} at {frontend:?}");
        }
    }
}

#[test]
fn the_api_server_never_sees_the_clients_address() {
    let stage = Stage::customary().unwrap();
    let envoy = stage.network.pod("envoy").addresses;
    let node = stage.network.node(NODE).addresses;
    let listed = &stage.network.host("listed").ns;
    let seen = |label, v6| {
        let before = stage.servers["apiserver"].peers().len();
        assert_eq!(connect(listed, None, stage.frontend(label, v6), LIMIT), Outcome::Answered);
        stage.servers["apiserver"].peers()[before].ip()
    };
    assert_eq!(seen("bypass nodePort", false), IpAddr::from(node.v4));
    assert_eq!(seen("bypass nodePort", true), IpAddr::from(node.v6));
    assert_eq!(seen("VIP", false), IpAddr::from(envoy.v4));
    assert_eq!(stage.servers["envoy"].peer_addresses(), [IpAddr::from(node.v4)]);
}

#[test]
fn pods_and_nodes_reach_a_service_by_its_cluster_ip_on_every_cni() {
    let network = two_nodes(false);
    let _api = api_server(&network);
    for to in cluster_ip(1).at(443) {
        for pod in ["apiserver", "neighbour", "bridged", "bridged-too"] {
            let outcome = connect(&network.pod(pod).ns, None, to, LIMIT);
            assert_eq!(outcome, Outcome::Answered, "pod {pod} to {to}");
        }
        for (name, node) in network.nodes() {
            assert_eq!(
                connect(&node.ns, None, to, LIMIT),
                Outcome::Answered,
                "node {name} to {to}"
            );
        }
    }
}

#[test]
fn pods_talk_across_nodes_with_their_own_addresses() {
    let network = two_nodes(false);
    let api = api_server(&network);
    let bridged = network.pod("bridged");
    for to in network.pod("apiserver").addresses.at(6443) {
        assert_eq!(connect(&bridged.ns, None, to, LIMIT), Outcome::Answered, "{to}");
    }
    assert_eq!(api.peer_addresses(), bridged.addresses.both());
}

#[test]
fn a_pod_reaches_the_world_with_its_nodes_address() {
    let network = two_nodes(false);
    let listed = network.host("listed");
    let outside = Server::echo(&listed.ns, any(443), "outside").unwrap();
    for (pod, node) in [("neighbour", 0), ("bridged", 1)] {
        let before = outside.peers().len();
        for to in LISTED.at(443) {
            assert_eq!(connect(&network.pod(pod).ns, None, to, LIMIT), Outcome::Answered, "{to}");
        }
        let sources: Vec<IpAddr> = outside.peers()[before..].iter().map(SocketAddr::ip).collect();
        assert_eq!(sources, FIRST_NODE.plus(node).both(), "{pod}");
    }
}

#[test]
fn the_local_traffic_policy_keeps_the_source_on_the_endpoints_node_only() {
    let network = two_nodes(true);
    let api = api_server(&network);
    let listed = network.host("listed");
    for (own, other) in FIRST_NODE.at(31443).iter().zip(FIRST_NODE.plus(1).at(31443)) {
        assert_eq!(connect(&listed.ns, None, *own, LIMIT), Outcome::Answered, "{own}");
        let short = Duration::from_millis(200);
        assert_eq!(connect(&listed.ns, None, other, short), Outcome::TimedOut, "{other}");
    }
    assert_eq!(api.peer_addresses(), LISTED.both());
}

#[test]
fn what_is_added_later_works_like_what_was_planned() {
    let mut network = two_nodes(false);
    let api = api_server(&network);
    network.add_client("late", Dual::of("198.51.100.77", "2001:db8:51::77")).unwrap();
    network.add_neighbour("prober", Dual::of("192.0.2.200", "2001:db8:2::200")).unwrap();
    let more = ["198.51.100.78".parse().unwrap(), "2001:db8:51::78".parse().unwrap()];
    network.add_addresses("late", &more).unwrap();
    for (to, from) in FIRST_NODE.at(31443).iter().zip(more) {
        let from = Some(SocketAddr::new(from, 0));
        for host in ["late", "prober"] {
            assert_eq!(connect(&network.host(host).ns, None, *to, LIMIT), Outcome::Answered);
        }
        assert_eq!(connect(&network.host("late").ns, from, *to, LIMIT), Outcome::Answered);
    }
    drop(api);
    network.remove_pod("seed-1", "apiserver").unwrap();
    network.add_pod("seed-1", "apiserver").unwrap();
    let _api = api_server(&network);
    network.serve(&[service(&network, false)]).unwrap();
    for to in FIRST_NODE.at(31443) {
        assert_eq!(connect(&network.host("late").ns, None, to, LIMIT), Outcome::Answered, "{to}");
    }
}

#[test]
fn a_vip_follows_its_route_to_another_node() {
    let network = two_nodes(false);
    let _api = api_server(&network);
    let vip = service(&network, false).external;
    let count = "tcp dport 443 tcp flags & (syn | ack) == syn counter";
    let node = &network.node("seed-2").ns;
    node.nft(&nat::filter("seen", "prerouting", -310, &[count])).unwrap();
    network.route(&vip, "seed-2").unwrap();
    for address in vip {
        let to = SocketAddr::new(address, 443);
        assert_eq!(connect(&network.host("listed").ns, None, to, LIMIT), Outcome::Answered, "{to}");
    }
    let rules = node.run("nft", &["list", "table", "inet", "seen"]).unwrap();
    assert!(rules.contains("counter packets 2"), "{rules}");
}

/// A routed node with the API server and a bridged node, both serving the API server's service.
fn two_nodes(local: bool) -> Network {
    let mut network = Plan::default()
        .client("listed", LISTED)
        .node("seed-1", Cni::Routed)
        .node("seed-2", Cni::Bridge)
        .pod("seed-1", "apiserver")
        .pod("seed-1", "neighbour")
        .pod("seed-2", "bridged")
        .pod("seed-2", "bridged-too")
        .build()
        .unwrap();
    let service = service(&network, local);
    network.serve(&[service]).unwrap();
    network
}

fn service(network: &Network, local: bool) -> Service {
    let port = ServicePort {
        protocol: Protocol::Tcp,
        port: 443,
        node_port: Some(31443),
        endpoints: network.pod("apiserver").addresses.at(6443).to_vec(),
    };
    Service {
        name: "apiserver".into(),
        cluster_ips: cluster_ip(1).both().to_vec(),
        external: Dual::of("192.0.2.150", "2001:db8:2::150").both().to_vec(),
        local,
        ports: vec![port],
    }
}

fn api_server(network: &Network) -> Server {
    Server::echo(&network.pod("apiserver").ns, any(6443), "apiserver").unwrap()
}

fn any(port: u16) -> SocketAddr {
    format!("[::]:{port}").parse().unwrap()
}
