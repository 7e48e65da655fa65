//! From where load balancers ask whether a node is healthy.
//!
//! Output: the default of `--probe-ranges`: what providers publish, each with its source, and the
//! subnets that the node is directly connected to, where load balancers without published ranges
//! have their own addresses (network load balancers of AWS, MetalLB's and HAProxy's peers).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// `--probe-ranges`: sources that no list admits and that may open and end a TCP connection
/// nevertheless, without sending data on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRanges {
    /// The ranges named or published.
    pub ranges: Vec<IpNet>,
    /// Whether the subnets directly connected to this node's uplinks count too.
    pub connected: bool,
}

impl ProbeRanges {
    /// `none`: nobody may probe.
    pub const NONE: Self = Self { ranges: Vec::new(), connected: false };

    /// Ranges that providers publish.
    ///
    /// Google Cloud: <https://cloud.google.com/load-balancing/docs/firewall-rules> and
    /// <https://cloud.google.com/load-balancing/docs/health-check-concepts>. Azure:
    /// <https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16>. Alibaba
    /// Cloud: <https://www.alibabacloud.com/help/en/slb/classic-load-balancer/user-guide/health-check-overview>.
    pub const PUBLISHED: [IpNet; 9] = [
        v4([35, 191, 0, 0], 16),
        v4([130, 211, 0, 0], 22),
        v4([209, 85, 152, 0], 22),
        v4([209, 85, 204, 0], 22),
        v6([0x2600, 0x2d00, 0x1, 0xb029], 64),
        v6([0x2600, 0x2d00, 0x1, 0x1], 64),
        v6([0x2600, 0x1901, 0x8001, 0], 48),
        v4([168, 63, 129, 16], 32),
        v4([100, 64, 0, 0], 10),
    ];
}

impl Default for ProbeRanges {
    fn default() -> Self {
        Self { ranges: Self::PUBLISHED.to_vec(), connected: true }
    }
}

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d]: [u16; 4], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ranges_are_canonical_and_each_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for net in ProbeRanges::PUBLISHED {
            assert_eq!(net, net.trunc());
            assert!(seen.insert(net), "{net}");
        }
    }
}
