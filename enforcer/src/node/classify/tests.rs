//! Topologies as they occur on real nodes, and what is guarded there.

use super::{draw::Node, *};
use crate::node::{Preemption, facts::SERVICE_DEVICE};

fn named(names: &[&str]) -> Selection {
    Selection::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn nets(networks: &[&str]) -> BTreeSet<IpNet> {
    networks.iter().map(|network| network.parse().unwrap()).collect()
}

fn ips(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn a_plain_node_guards_its_network_card() {
    Node::new().nic("eth0").holds("10.0.0.5/24").default_route().guards(&["eth0"]);
}

#[test]
fn a_card_without_an_address_is_guarded_for_the_kernel_answers_there_too() {
    let node = Node::new().nic("eth0").holds("10.0.0.5/24").default_route().nic("eth1");
    node.guards(&["eth0", "eth1"]);
}

#[test]
fn two_uplinks_are_both_guarded() {
    let node = Node::new().nic("eth0").holds("10.0.0.5/24").default_route();
    node.nic("eth1").holds("192.168.7.5/24").guards(&["eth0", "eth1"]);
}

#[test]
fn of_a_bond_its_ports_are_guarded() {
    Node::new()
        .device("bond", "bond0")
        .holds("10.0.0.5/24")
        .default_route()
        .nic("eth0")
        .port_of("bond0")
        .nic("eth1")
        .port_of("bond0")
        .guards(&["eth0", "eth1"]);
}

#[test]
fn of_a_vlan_on_a_bond_the_ports_of_the_bond_are_guarded() {
    Node::new()
        .device("bond", "bond0")
        .nic("eth0")
        .port_of("bond0")
        .nic("eth1")
        .port_of("bond0")
        .device("vlan", "bond0.5")
        .over("bond0")
        .holds("10.0.0.5/24")
        .default_route()
        .guards(&["eth0", "eth1"]);
}

#[test]
fn a_failover_device_that_looks_like_hardware_leaves_it_to_its_ports() {
    Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .default_route()
        .nic("eth0nsby")
        .port_of("eth0")
        .nic("enP1s0")
        .port_of("eth0")
        .guards(&["eth0nsby", "enP1s0"]);
}

#[test]
fn of_a_bridge_with_a_card_and_pods_both_ends_are_guarded_and_the_bridge_between_is_not() {
    let node = Node::new()
        .device("bridge", "br0")
        .holds("10.0.0.5/24")
        .default_route()
        .nic("eth0")
        .port_of("br0")
        .pod("veth1")
        .port_of("br0");
    node.guards(&["eth0"]);
    node.guards_with(&["10.0.0.5"], &["eth0"]);
    node.guards_pods(&["veth1"]);
    assert_eq!(node.role("br0"), Role::Inside);
}

#[test]
fn a_macvlan_is_judged_on_its_card_and_one_in_a_container_on_itself() {
    let card = Node::new().nic("eth0").device("macvlan", "shim").over("eth0").holds("10.0.0.9/32");
    card.guards(&["eth0"]);
    let container = Node::new().device("macvlan", "eth0").elsewhere().holds("10.0.0.5/24");
    container.guards(&["eth0"]);
}

#[test]
fn with_flannel_the_card_the_vxlan_and_the_pods_ends_are_guarded_and_peers_are_known() {
    let node = Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .default_route()
        .device("vxlan", "flannel.1")
        .over("eth0")
        .holds("10.244.1.0/32")
        .peer("10.244.2.0")
        .peer("10.244.3.0")
        .device("bridge", "cni0")
        .holds("10.244.1.1/24")
        .pod("veth1")
        .port_of("cni0")
        .pod("veth2")
        .port_of("cni0");
    node.guards_with(&["10.0.0.5"], &["eth0", "flannel.1"]);
    node.guards_pods(&["veth1", "veth2"]);
    assert_eq!(node.role("flannel.1"), Role::Tunnel);
    assert_eq!(node.role("cni0"), Role::Inside);
    let state = node.state(&Selection::Auto);
    assert_eq!(state.tunnel_peers, ips(&["10.244.2.0", "10.244.3.0"]));
    assert_eq!(state.connected, nets(&["10.0.0.0/24"]));
}

#[test]
fn calico_guards_the_card_and_its_tunnels_without_a_link_header() {
    let node = Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .default_route()
        .device("ipip", "tunl0")
        .header(libc::ARPHRD_TUNNEL)
        .holds("10.244.1.0/32")
        .device("wireguard", "wireguard.cali")
        .header(libc::ARPHRD_NONE)
        .holds("10.244.1.1/32")
        .pod("cali0123456789a")
        .holds("fe80::ecee:eeff:feee:eeee/64");
    node.guards(&["eth0", "tunl0", "wireguard.cali"]);
    node.guards_pods(&["cali0123456789a"]);
    let layers: Vec<_> =
        node.state(&Selection::Auto).interfaces.into_iter().map(|i| i.link).collect();
    let ethernet = LinkLayer::Ethernet;
    assert_eq!(layers, [ethernet, LinkLayer::Raw, LinkLayer::Raw, ethernet]);
}

#[test]
fn cilium_guards_the_card_and_the_vxlan_but_not_its_own_pair() {
    Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .default_route()
        .device("veth", "cilium_net")
        .device("veth", "cilium_host")
        .over("cilium_net")
        .holds("10.244.1.7/32")
        .device("vxlan", "cilium_vxlan")
        .pod("lxc0123456789ab")
        .device("netkit", "lxcba9876543210")
        .elsewhere()
        .guards(&["eth0", "cilium_vxlan"]);
}

#[test]
fn a_gateway_address_on_every_pods_end_makes_no_uplink() {
    let node = Node::new().nic("eth0").holds("10.0.0.5/24").default_route();
    let node = node.pod("veth1").holds("10.244.1.1/32").pod("veth2").holds("10.244.1.1/32");
    node.guards(&["eth0"]);
    node.guards_pods(&["veth1", "veth2"]);
}

#[test]
fn in_a_node_that_is_a_container_the_pair_with_the_default_route_is_the_uplink() {
    let node = Node::new().device("veth", "eth0").elsewhere().holds("172.18.0.2/16");
    let node = node.default_route().pod("veth1").holds("10.244.1.1/32");
    node.guards(&["eth0"]);
    node.guards_pods(&["veth1"]);
}

#[test]
fn a_pair_with_an_address_of_the_node_object_or_with_a_subnet_is_an_uplink() {
    let host_address = Node::new().device("veth", "up0").elsewhere().holds("192.0.2.1/32");
    host_address.guards(&[]);
    host_address.guards_with(&["192.0.2.1"], &["up0"]);
    Node::new().device("veth", "up0").elsewhere().holds("192.0.2.1/24").guards(&["up0"]);
    Node::new().device("veth", "up0").elsewhere().holds("2001:db8::1/64").guards(&["up0"]);
}

#[test]
fn a_bridge_with_the_default_route_and_pairs_only_has_its_uplink_among_them() {
    Node::new()
        .device("bridge", "br0")
        .holds("10.0.0.5/24")
        .default_route()
        .device("veth", "eth0")
        .elsewhere()
        .port_of("br0")
        .pod("veth1")
        .port_of("br0")
        .guards(&["eth0", "veth1"]);
}

#[test]
fn a_way_out_is_followed_over_a_vlan_and_over_a_pair_to_a_bridge() {
    Node::new()
        .device("bridge", "br0")
        .device("veth", "eth0")
        .elsewhere()
        .port_of("br0")
        .device("veth", "patch")
        .port_of("br0")
        .device("veth", "up0")
        .over("patch")
        .device("vlan", "up0.7")
        .over("up0")
        .default_route()
        .guards(&["eth0"]);
}

#[test]
fn with_open_vswitch_the_card_and_the_tunnel_are_guarded() {
    let node = Node::new()
        .device("openvswitch", "ovs-system")
        .device("openvswitch", "br-ex")
        .holds("10.0.0.5/24")
        .default_route();
    let card = node.nic("eth0").port_of("ovs-system");
    let card = card.device("geneve", "genev_sys_6081").port_of("ovs-system");
    card.pod("abc").port_of("ovs-system").guards(&["eth0", "genev_sys_6081"]);
}

#[test]
fn with_open_vswitch_in_a_container_every_port_may_be_the_uplink() {
    Node::new()
        .device("openvswitch", "ovs-system")
        .device("openvswitch", "br-ex")
        .default_route()
        .pod("eth0")
        .port_of("ovs-system")
        .device("geneve", "genev_sys_6081")
        .port_of("ovs-system")
        .guards(&["eth0", "genev_sys_6081"]);
}

#[test]
fn devices_in_a_circle_do_not_keep_us() {
    let mut node = Node::new().device("vlan", "a").default_route().device("vlan", "b").over("a");
    let (a, b) = (node.index("a"), node.index("b"));
    node.0.links.get_mut(&a).unwrap().lower = Lower::Here(b);
    node.guards(&[]);
}

#[test]
fn a_virtual_function_in_a_pod_is_pod_facing_and_one_of_the_node_is_not() {
    let node = Node::new().nic("eth0").port_name("p0").nic("eth0_0").port_name("pf0vf0");
    let node = node.nic("eth0_1").port_name("c1pf0vf12").nic("eth0_2").port_name("pf1sf88");
    let node = node.nic("pf0hpf").port_name("pf0").nic("eth1");
    node.guards(&["eth0", "pf0hpf", "eth1"]);
    node.guards_pods(&["eth0_0", "eth0_1", "eth0_2"]);
}

#[test]
fn decrypted_and_unknown_devices_are_guarded_silent_ones_never() {
    let node = Node::new().device("tun", "tun0").header(libc::ARPHRD_NONE);
    let node = node.device("macsec", "macsec0").device("ppp", "ppp0").header(libc::ARPHRD_PPP);
    let node = node.device("invented-tomorrow", "new0");
    let node = node.device("dummy", "nodelocaldns").holds("169.254.20.10/32").default_route();
    let node = node.device("ifb", "ifb0").device("nlmon", "nlmon0").nic("can0").header(280);
    node.guards(&["tun0", "macsec0", "ppp0", "new0"]);
}

#[test]
fn a_link_header_that_the_program_cannot_read_is_reported() {
    let node = Node::new().nic("ib0").header(libc::ARPHRD_INFINIBAND).nic("eth0");
    let reason = UnguardableReason::LinkLayer { arphrd: libc::ARPHRD_INFINIBAND };
    for selection in [Selection::Auto, named(&["eth0", "ib0"])] {
        let state = node.state(&selection);
        assert_eq!(state.interfaces.len(), 1, "{state:?}");
        assert_eq!(state.unguardable, [Unguardable { name: "ib0".to_owned(), reason }]);
        assert!(state.missing.is_empty());
    }
}

#[test]
fn named_interfaces_are_guarded_as_they_are_and_missing_ones_reported() {
    let node = Node::new().nic("eth0").pod("veth1").device("bridge", "br0");
    let state = node.state(&named(&["veth1", "br0", "eth7"]));
    let guarded: Vec<_> =
        state.interfaces.iter().map(|i| (i.index, i.name.as_str(), i.side)).collect();
    assert_eq!(guarded, [(3, "veth1", Side::Pod), (4, "br0", Side::Uplink)]);
    assert_eq!(state.missing, BTreeSet::from(["eth7".to_owned()]));
}

#[test]
fn addresses_are_those_of_all_interfaces_but_not_of_services() {
    let node = Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .holds("10.0.0.6/24")
        .holds("2001:db8::5/64")
        .holds("fe80::5/64")
        .device("dummy", SERVICE_DEVICE)
        .holds("10.96.0.1/32")
        .holds("10.0.0.6/32")
        .device("dummy", "vip")
        .holds("198.51.100.9/32");
    let wanted = ips(&["10.0.0.5", "10.0.0.6", "2001:db8::5", "fe80::5", "198.51.100.9"]);
    assert_eq!(node.state(&Selection::Auto).addresses, wanted);
}

#[test]
fn addresses_of_lo_count_except_loopback_itself() {
    let node = Node::new().holds("198.51.100.9/32").holds("::1/128").local_route("127.0.0.0/8");
    let state = node.state(&Selection::Auto);
    assert_eq!(state.addresses, ips(&["198.51.100.9"]));
    assert!(state.local_ranges.is_empty());
}

#[test]
fn what_only_a_local_route_names_is_an_address_and_a_whole_range_is_reported() {
    let node = Node::new().nic("eth0").local_route("203.0.113.4/32").local_route("192.0.2.0/28");
    let state = node.state(&Selection::Auto);
    assert_eq!(state.addresses, ips(&["203.0.113.4"]));
    assert_eq!(state.local_ranges, BTreeSet::from(["192.0.2.0/28".parse().unwrap()]));
}

#[test]
fn service_addresses_make_no_uplink() {
    let node = Node::new().device("dummy", SERVICE_DEVICE).holds("192.0.2.1/24");
    node.guards_with(&["192.0.2.1"], &[]);
}

#[test]
fn subnets_are_connected_through_uplinks_and_what_stands_on_them() {
    let node = Node::new()
        .nic("eth0")
        .holds("10.0.0.5/24")
        .holds("10.0.0.9/32")
        .holds("2001:db8::5/64")
        .holds("fe80::5/64")
        .device("bond", "bond0")
        .nic("eth1")
        .port_of("bond0")
        .device("vlan", "bond0.5")
        .over("bond0")
        .holds("192.168.5.1/16");
    assert_eq!(
        node.state(&Selection::Auto).connected,
        nets(&["10.0.0.0/24", "2001:db8::/64", "192.168.0.0/16"])
    );
}

#[test]
fn neither_tunnels_nor_bridges_of_pods_nor_pods_connect_a_subnet() {
    let node = Node::new()
        .device("vxlan", "vx0")
        .holds("172.20.0.1/16")
        .device("vlan", "vx0.7")
        .over("vx0")
        .holds("172.21.0.1/16")
        .device("bridge", "cni0")
        .holds("10.244.1.1/24")
        .pod("veth1")
        .port_of("cni0")
        .device("bridge", "docker0")
        .holds("172.17.0.1/16");
    assert_eq!(node.state(&Selection::Auto).connected, nets(&[]));
}

#[test]
fn of_neighbours_those_of_tunnels_are_peers() {
    let node = Node::new().nic("eth0").peer("10.0.0.1").device("vxlan", "vx0").peer("fe80::1");
    let node = node.peer("10.244.7.0").peer("2001:db8:244::7");
    let state = node.state(&Selection::Auto);
    assert_eq!(state.tunnel_peers, ips(&["10.244.7.0", "2001:db8:244::7"]));
}

#[test]
fn what_sees_packets_first_is_named_and_the_card_is_guarded_all_the_same() {
    let node = Node::new().nic("eth0").preempted(Preemption::Xdp).holds("10.0.0.5/24");
    let node = node.default_route().device("dummy", "d0").preempted(Preemption::Xdp);
    let state = classify(&node.0, &Selection::Auto, &BTreeSet::new());
    let guarded: Vec<&str> = state.interfaces.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(guarded, ["eth0"]);
    let reason = UnguardableReason::Preempted(Preemption::Xdp);
    assert_eq!(state.unguardable, [Unguardable { name: "eth0".to_owned(), reason }]);
    let said = state.unguardable[0].to_string();
    assert!(said.contains("ip link set eth0 xdp off") && said.contains("--tolerate xdp"), "{said}");
}
