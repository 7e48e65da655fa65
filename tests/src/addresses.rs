//! Who has which address: documentation ranges only, the same in every run.
//!
//! ```text
//! 192.0.2.0/24     2001:db8:2::/64       the nodes' network (TEST-NET-1); the router is .1
//! 192.0.2.6        2001:db8:2::6         the seed's own API server
//! 192.0.2.11+N     2001:db8:2::11+N      node N
//! 192.0.2.100+     2001:db8:2::100+      load balancer VIPs, routed to a node
//! 198.51.100.0/24  2001:db8:51::/64      clients that are listed, by custom
//! 203.0.113.0/24   2001:db8:113::/64     clients that are not
//! 10.244.N.0/24    fd00:10:244:N::/64    pods of node N
//! 10.96.0.0/16     fd00:10:96::/112      cluster IPs of services
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::packets::Mac;

/// One host's, or service's, address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// From literals; panics if they are no addresses.
    pub fn of(v4: &str, v6: &str) -> Dual {
        let v4 = v4.parse().unwrap_or_else(|_| panic!("{v4} is not an IPv4 address"));
        let v6 = v6.parse().unwrap_or_else(|_| panic!("{v6} is not an IPv6 address"));
        Dual { v4, v6 }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Both with a port, IPv4 first.
    pub fn at(self, port: u16) -> [SocketAddr; 2] {
        self.both().map(|address| SocketAddr::new(address, port))
    }

    /// The one of the same family as `other`.
    pub fn like(self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// Each of the two with its last 16 bits raised by `offset`.
    #[must_use]
    pub fn plus(self, offset: u16) -> Dual {
        let v4 = Ipv4Addr::from(u32::from(self.v4) + u32::from(offset));
        let v6 = Ipv6Addr::from(u128::from(self.v6) + u128::from(offset));
        Dual { v4, v6 }
    }

    /// Each as a range with the given prefix lengths, such as `("10.244.0.0/24", "fd00::/64")`.
    pub fn ranges(self, v4: u8, v6: u8) -> [String; 2] {
        [format!("{}/{v4}", self.v4), format!("{}/{v6}", self.v6)]
    }
}

/// The router on the nodes' network.
pub const ROUTER: Dual =
    Dual { v4: Ipv4Addr::new(192, 0, 2, 1), v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1) };

/// The first node.
pub const FIRST_NODE: Dual = Dual {
    v4: Ipv4Addr::new(192, 0, 2, 11),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x11),
};

/// The seed's own API server, a neighbour of the nodes.
pub const CONTROL_PLANE: Dual =
    Dual { v4: Ipv4Addr::new(192, 0, 2, 6), v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 6) };

/// The first load balancer VIP.
pub const FIRST_VIP: Dual = Dual {
    v4: Ipv4Addr::new(192, 0, 2, 100),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100),
};

/// The customary listed client, inside `198.51.100.0/24` and `2001:db8:51::/64`.
pub const LISTED: Dual = Dual {
    v4: Ipv4Addr::new(198, 51, 100, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10),
};

/// The customary unlisted client, inside `203.0.113.0/24` and `2001:db8:113::/64`.
pub const UNLISTED: Dual = Dual {
    v4: Ipv4Addr::new(203, 0, 113, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10),
};
/// Of a host that lives beside the nodes, so that no router sorts out what it sends.
pub const NEIGHBOUR: Dual = Dual {
    v4: Ipv4Addr::new(192, 0, 2, 66),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x66),
};
/// What such a host may call itself: in no list, and not of the nodes' subnet, whose hosts may probe.
pub const STRANGER: Dual = Dual {
    v4: Ipv4Addr::new(203, 0, 113, 66),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x66),
};

/// The pod range of node `index`: base addresses of a /24 and a /64.
pub fn pod_range(index: u8) -> Dual {
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(index), 0, 0, 0, 0);
    Dual { v4: Ipv4Addr::new(10, 244, index, 0), v6 }
}

/// All nodes' pod ranges together: prefixes for [`Dual::ranges`] are 16 and 48.
pub fn all_pods() -> [String; 2] {
    pod_range(0).ranges(16, 48)
}

/// The cluster IP number `index` (1 or more).
pub fn cluster_ip(index: u16) -> Dual {
    let [high, low] = index.to_be_bytes();
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, index);
    Dual { v4: Ipv4Addr::new(10, 96, high, low), v6 }
}

/// The Ethernet address as tools write it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_pairs_of_one_number() {
        let node = FIRST_NODE.plus(1);
        assert_eq!(node, Dual::of("192.0.2.12", "2001:db8:2::12"));
        assert_eq!(pod_range(1).ranges(24, 64), ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(cluster_ip(258), Dual::of("10.96.1.2", "fd00:10:96::102"));
        assert_eq!(mac_text([2, 0, 0, 0, 0xab, 1]), "02:00:00:00:ab:01");
    }
}
