//! Who might ask whom: sources in, at the ends of and beside everything that decides.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::draw::Draw;
use crate::fleet::{BASES, EXEMPT, Fleet, GATED, PROBING, TRUSTED, Target};

/// A question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) source: IpAddr,
    pub(crate) to: SocketAddr,
    pub(crate) udp: bool,
    /// Whether it comes in on an uplink, wherever such a source belongs.
    pub(crate) uplink: bool,
    /// Whether a gated pod opens it.
    pub(crate) egress: bool,
}

/// Connections to API servers.
pub(crate) fn to_api_servers(
    fleet: &Fleet,
    targets: &[Target],
    draw: &mut Draw,
    number: usize,
) -> Vec<Asked> {
    let listed = listed(fleet);
    let pods = fleet.pods();
    (0..number)
        .map(|_| {
            let (to, udp) = *draw.one(targets);
            let source = loop {
                let source = source(&listed, &pods, draw);
                if source.is_ipv4() == to.is_ipv4() {
                    break source;
                }
            };
            Asked { source, to, udp, uplink: draw.percent(15), egress: false }
        })
        .collect()
}

/// Connections that gated API servers open: to what they may reach, to what they may not, and to others'
/// frontends.
pub(crate) fn from_api_servers(
    fleet: &Fleet,
    targets: &[Target],
    draw: &mut Draw,
    number: usize,
) -> Vec<Asked> {
    let granted: Vec<IpNet> = fleet.granted().iter().map(|it| it.parse().unwrap()).collect();
    (0..number)
        .map(|_| {
            let (to, udp) = match draw.below(10) {
                0..3 => *draw.one(targets),
                3..8 => (SocketAddr::new(around(&granted, draw), port(draw)), false),
                8 => (SocketAddr::new(around(&granted, draw), 53), draw.percent(50)),
                _ => {
                    let range = draw.range(&BASES, 30);
                    (SocketAddr::new(draw.inside(range), port(draw)), draw.percent(50))
                }
            };
            let pod = fleet.stage.network.pod(draw.one::<&str>(&GATED));
            let source = pod.addresses.like(to.ip());
            Asked { source, to, udp, uplink: false, egress: true }
        })
        .collect()
}

fn around(ranges: &[IpNet], draw: &mut Draw) -> IpAddr {
    let range = *draw.one(ranges);
    draw.around(range)
}

fn port(draw: &mut Draw) -> u16 {
    *draw.one(&[443, 443, 8443, 8080])
}

fn source(listed: &[IpNet], pods: &[IpAddr], draw: &mut Draw) -> IpAddr {
    let of = |ranges: &[&str; 2], draw: &mut Draw| {
        let range: IpNet = draw.one(ranges).parse().unwrap();
        draw.around(range)
    };
    match draw.below(100) {
        0..45 => around(listed, draw),
        45..60 => {
            let range = draw.range(&BASES, 40);
            draw.inside(range)
        }
        60..66 => of(&EXEMPT, draw),
        66..70 => of(&TRUSTED, draw),
        70..77 => of(&PROBING, draw),
        // On the nodes' network: nodes, and who may probe.
        77..80 => of(&["192.0.2.11/32", "2001:db8:2::11/128"], draw),
        80..82 => of(&["192.0.2.12/32", "2001:db8:2::12/128"], draw),
        82..85 => of(&["192.0.2.64/27", "2001:db8:2::7000/120"], draw),
        // Pods of this node, pods of control planes, pods of the other one.
        85..90 => of(&["10.244.0.128/25", "fd00:10:244:0:1::/80"], draw),
        90..97 => *draw.one(pods),
        _ => of(&["10.244.1.0/24", "fd00:10:244:1::/64"], draw),
    }
}

/// All ranges of all lists.
fn listed(fleet: &Fleet) -> Vec<IpNet> {
    let stage = &fleet.stage;
    let clusters = [&stage.cluster].into_iter().chain(stage.tenants.iter().map(|it| &it.cluster));
    let of_clusters = clusters.flat_map(|cluster| {
        let annotated = cluster.annotations.iter().flat_map(|(_, value)| value.split(','));
        cluster.allowed.iter().flatten().map(String::as_str).chain(annotated)
    });
    let of_seed = stage.seed.defaults.iter().chain(&stage.seed.source_ranges).flatten();
    of_clusters.chain(of_seed.map(String::as_str)).map(|range| range.parse().unwrap()).collect()
}
