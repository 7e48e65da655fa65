//! Veths between namespaces: routed ones, bridged ones, and the addresses and routes on them.
//!
//! Ethernet addresses are chosen here, so that raw senders need not ask for their gateway's.

use anyhow::Result;

use crate::addresses::{Dual, mac_text, pod_range};
use crate::netns::Netns;
use crate::packets::Mac;
use crate::topology::{Host, Node};

/// Of the router on the bridge between the nodes.
pub(crate) const ROUTER_MAC: Mac = [0x02, 0xee, 0, 0, 0, 1];
/// Of `cni0` on nodes with a bridge CNI.
pub(crate) const POD_BRIDGE_MAC: Mac = [0x02, 0xee, 0, 0, 0, 2];

/// Settings of whatever forwards. Bridged packets meet netfilter on nodes, as kube-proxy needs it.
pub(crate) const FORWARDING: &[(&str, &str)] =
    &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// One veth pair to be: `eth0` at the inner end, `peer` at the outer.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) peer: String,
    pub(crate) inner_mac: Mac,
    outer_mac: Mac,
}

impl Cable {
    /// The cable number `number` of a network; the peer's name is cut to what the kernel takes.
    pub(crate) fn new(number: u32, name: &str) -> Cable {
        let [a, b, c, d] = number.to_be_bytes();
        let mut peer = format!("v-{name}");
        if peer.len() > 15 {
            let suffix = number.to_string();
            peer.truncate(15 - suffix.len());
            peer += &suffix;
        }
        Cable { peer, inner_mac: [0x02, 0xaa, a, b, c, d], outer_mac: [0x02, 0xbb, a, b, c, d] }
    }

    /// The host at the inner end, with the outer end as its gateway.
    pub(crate) fn host(self, ns: Netns, addresses: Dual) -> Host {
        let Cable { peer, inner_mac, outer_mac } = self;
        Host { ns, addresses, mac: inner_mac, gateway_mac: outer_mac, peer }
    }

    fn add(&self, inner: &Netns) -> String {
        let (outer_mac, inner_mac) = (mac_text(self.outer_mac), mac_text(self.inner_mac));
        format!(
            "link add {peer} address {outer_mac} type veth \
             peer name eth0 address {inner_mac} netns {inner}\n",
            peer = self.peer,
            inner = inner.name(),
        )
    }
}

/// Connects `inner` to `outer` with a routed veth: single-address routes, link-local gateways.
///
/// `own` is the address with which `outer` itself speaks to `inner`.
pub(crate) fn routed(
    outer: &Netns,
    own: Dual,
    inner: &Netns,
    cable: &Cable,
    addresses: Dual,
) -> Result<()> {
    let peer = &cable.peer;
    let Dual { v4, v6 } = addresses;
    let add = cable.add(inner);
    outer.ip(&format!(
        "{add}\
         link set {peer} addrgenmode none\n\
         addr add 169.254.1.1/32 dev {peer} scope link\n\
         addr add fe80::1/64 dev {peer} nodad\n\
         link set {peer} up\n\
         route add {v4}/32 dev {peer} src {}\n\
         route add {v6}/128 dev {peer} src {}\n",
        own.v4, own.v6,
    ))?;
    inner.ip(&format!(
        "addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via 169.254.1.1 dev eth0 onlink\n\
         route add default via fe80::1 dev eth0\n"
    ))
}

/// Connects `inner` to a bridge of `outer`, in that bridge's /24 and /64, with `gateway` as router.
pub(crate) fn bridged(
    outer: &Netns,
    bridge: &str,
    gateway: Dual,
    inner: &Netns,
    cable: &Cable,
    addresses: Dual,
) -> Result<()> {
    let peer = &cable.peer;
    let add = cable.add(inner);
    outer.ip(&format!(
        "{add}\
         link set {peer} addrgenmode none\n\
         link set {peer} master {bridge} up\n"
    ))?;
    inner.ip(&format!(
        "addr add {}/24 dev eth0\n\
         addr add {}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {}\n\
         route add default via {}\n",
        addresses.v4, addresses.v6, gateway.v4, gateway.v6,
    ))
}

/// Makes the bridge `cni0` that is the gateway of a node's pods.
pub(crate) fn pod_bridge(node: &Netns, range: Dual) -> Result<()> {
    let gateway = range.plus(1);
    node.ip(&format!(
        "link add cni0 address {} type bridge mcast_snooping 0\n\
         addr add {}/24 dev cni0\n\
         addr add {}/64 dev cni0 nodad\n\
         link set cni0 up\n",
        mac_text(POD_BRIDGE_MAC),
        gateway.v4,
        gateway.v6,
    ))
}

/// Routes to the pods of `node` through the nodes' network.
pub(crate) fn route_to_pods(node: &Node) -> String {
    let [v4, v6] = pod_range(node.index).ranges(24, 64);
    let Dual { v4: via4, v6: via6 } = node.addresses;
    format!("route add {v4} via {via4}\nroute add {v6} via {via6}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_fit_the_kernel() {
        assert_eq!(Cable::new(3, "apiserver").peer, "v-apiserver");
        assert_eq!(Cable::new(3, "konnectivity-agent").peer, "v-konnectivity3");
        assert_eq!(Cable::new(123, "x".repeat(40).as_str()).peer.len(), 15);
    }
}
