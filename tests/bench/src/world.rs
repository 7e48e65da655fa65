//! A seed at a given scale: rules, and the packets that go with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use enforcer_policy::{
    compile::{Exempt, Pod, Policy, Revision, Rules},
    model::{ClusterId, FrontendAddress, Mode, ProbeRanges, Protocol},
    ranges::RangeSet,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::case::{Case, Family, Traffic};

/// Ranges of every API server but the measured one.
const OTHERS: usize = 20;

/// A seed.
pub(crate) struct World {
    pub(crate) rules: Rules,
    /// The measured API server's ranges.
    pub(crate) ranges: Vec<IpNet>,
}

impl World {
    /// `servers` API servers, the first of which has `ranges` ranges of each family.
    pub(crate) fn new(servers: usize, ranges: usize) -> Self {
        let mut random = Random(1);
        let measured = nets(&mut random, ranges);
        let (mut policies, mut frontends) = (Vec::new(), BTreeMap::new());
        for number in 0..servers {
            let nets = if number == 0 { measured.clone() } else { nets(&mut random, OTHERS) };
            policies.push(Policy {
                cluster: ClusterId(format!("c{number:05}")),
                admitted: Arc::new(nets.into_iter().collect::<RangeSet>()),
                own_pods: true,
                mode: Mode::Enforce,
            });
            let port = port(number);
            let mut at = |at| frontends.insert((Protocol::Tcp, at), number);
            at(FrontendAddress::Node { port });
            for family in [Family::V4, Family::V6] {
                at(FrontendAddress::Address { address: balancer(family, number), port });
                at(FrontendAddress::Address { address: balancer(family, number), port: 443 });
            }
        }
        let node = [IpAddr::from([10, 9, 0, 1]), "fd00:9::1".parse().unwrap_or(UNSPECIFIED)];
        let uplink: RangeSet = (0..200_u8)
            .flat_map(|node| [IpNet::from(IpAddr::from([10, 9, 0, node])), pods(node)])
            .collect();
        let exempt = Exempt {
            pod_facing: uplink.clone(),
            uplink,
            trusted: RangeSet::default(),
            probes: ProbeRanges::PUBLISHED.into_iter().collect(),
        };
        let rules = Rules {
            node_addresses: BTreeSet::from(node),
            exempt,
            pods: (0..servers).flat_map(api_servers).collect(),
            policies,
            frontends,
            revision: Revision([1, servers as u64, ranges as u64, 0]),
            ..Rules::default()
        };
        Self { rules, ranges: measured }
    }

    /// A packet of a case: from where, to where.
    pub(crate) fn packet(&self, case: Case, seed: u64) -> (SocketAddr, SocketAddr) {
        let source = match case.traffic {
            Traffic::Admitted => self.inside(case.family, seed),
            Traffic::Unguarded | Traffic::OtherAddress | Traffic::Denied => {
                self.outside(case.family, seed)
            }
        };
        let frontend = balancer(case.family, 0);
        let destination = match case.traffic {
            Traffic::Unguarded => SocketAddr::new(frontend, 8080),
            Traffic::OtherAddress => SocketAddr::new(balancer(case.family, 40_000), port(0)),
            Traffic::Admitted | Traffic::Denied => SocketAddr::new(frontend, port(0)),
        };
        (SocketAddr::new(source, 50_000), destination)
    }

    /// Sources for a cold case.
    pub(crate) fn sources(&self, case: Case, count: usize) -> Vec<IpAddr> {
        (0..count as u64)
            .map(|seed| match case.traffic {
                Traffic::Admitted => self.inside(case.family, seed),
                Traffic::Unguarded | Traffic::OtherAddress | Traffic::Denied => {
                    self.outside(case.family, seed)
                }
            })
            .collect()
    }

    fn inside(&self, family: Family, seed: u64) -> IpAddr {
        let mut random = Random(seed.wrapping_add(77));
        loop {
            let net = self.ranges[random.below(self.ranges.len() as u64) as usize];
            match (net, family) {
                (IpNet::V4(net), Family::V4) => {
                    let host = random.next() as u32 & u32::from(net.hostmask());
                    return Ipv4Addr::from(u32::from(net.network()) | host).into();
                }
                (IpNet::V6(net), Family::V6) => {
                    let host = random.wide() & u128::from(net.hostmask());
                    return Ipv6Addr::from(u128::from(net.network()) | host).into();
                }
                (IpNet::V4(_), Family::V6) | (IpNet::V6(_), Family::V4) => {}
            }
        }
    }

    fn outside(&self, family: Family, seed: u64) -> IpAddr {
        let mut random = Random(seed.wrapping_add(5_000_000));
        loop {
            let address = match family {
                Family::V4 => IpAddr::from(Ipv4Addr::from(source4(&mut random))),
                Family::V6 => IpAddr::from(Ipv6Addr::from(source6(&mut random))),
            };
            let measured = &*self.rules.policies[0].admitted;
            let Exempt { uplink, probes, .. } = &self.rules.exempt;
            if ![measured, uplink, probes].into_iter().any(|set| set.contains(address)) {
                return address;
            }
        }
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn port(server: usize) -> u16 {
    10_000 + server as u16
}

fn balancer(family: Family, server: usize) -> IpAddr {
    let number = server as u32;
    match family {
        Family::V4 => Ipv4Addr::from(0x0a80_0000 + number).into(),
        Family::V6 => Ipv6Addr::from(0xfd00_0008 << 96 | u128::from(number)).into(),
    }
}

/// Two API server pods of a cluster, spread over the nodes.
fn api_servers(server: usize) -> impl Iterator<Item = (IpAddr, Pod)> {
    (0..2).map(move |replica| {
        let number = server * 2 + replica;
        let address = IpAddr::from([10, 244, (number % 200) as u8, (1 + number / 200) as u8]);
        let cluster = Some(ClusterId(format!("c{server:05}")));
        (address, Pod { cluster, api_server: true, local: false })
    })
}

fn pods(node: u8) -> IpNet {
    Ipv4Net::new(Ipv4Addr::new(10, 244, node, 0), 24).map_or_else(|_| UNSPECIFIED.into(), IpNet::V4)
}

/// As many ranges of each family, spread over the unicast space: /20 to /32, /44 to /64.
fn nets(random: &mut Random, count: usize) -> Vec<IpNet> {
    let v4: Vec<IpNet> = (0..count)
        .filter_map(|_| {
            let length = 20 + random.below(13) as u8;
            Ipv4Net::new(source4(random).into(), length).ok().map(|net| net.trunc().into())
        })
        .collect();
    let v6 = (0..count).filter_map(|_| {
        let length = 44 + random.below(21) as u8;
        Ipv6Net::new(source6(random).into(), length).ok().map(|net| net.trunc().into())
    });
    let v6: Vec<IpNet> = v6.collect();
    [v4, v6].concat()
}

/// 11.0.0.0 to 223.255.255.255.
fn source4(random: &mut Random) -> u32 {
    (11 << 24) + random.below(213 << 24) as u32
}

/// 2000::/3.
fn source6(random: &mut Random) -> u128 {
    1 << 125 | random.wide() >> 3
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(crate) fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
