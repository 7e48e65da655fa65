//! Digest of the policy that all nodes share, so that nodes can be compared.
//!
//! Left out: what this node sees of itself, and pods, as sources and as destinations, which each node
//! learns at its own time.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::memory::{Known, Memory};
use crate::model::{
    Cluster, ExposeStrategy, Frontend, FrontendAddress, LoadBalancerRanges, Mode, Options,
    ProbeRanges, Protocol, RangeList, Reject, Seed, SeedDefaults, SeedNode, Snapshot,
};

/// SHA-256, shown as its first 12 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision(pub [u64; 4]);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0[0] >> 16)
    }
}

/// Of a part.
pub(super) type PartDigest = [u8; 32];

/// Digest of a snapshot.
#[must_use]
pub fn revision(snapshot: &Snapshot) -> Revision {
    of(snapshot, &mut Memory::default().recall(snapshot))
}

/// Digest of a snapshot whose clusters are these.
pub(super) fn of(snapshot: &Snapshot, known: &mut [Known]) -> Revision {
    let Snapshot {
        options,
        seed,
        clusters,
        shared_proxy,
        shared_proxy_pods: _,
        nodes,
        this_node: _,
    } = snapshot;
    let mut feed = Feed(Sha256::new());
    feed.options(options);
    feed.number(u64::from(seed.is_some()));
    if let Some(Seed { name, default_ranges, load_balancer_ranges, new_clusters_gate: _ }) = seed {
        feed.text(name);
        feed.list(default_ranges.as_ref());
        feed.list(load_balancer_ranges.as_ref());
    }
    feed.number(clusters.len() as u64);
    for (cluster, known) in clusters.values().zip(known) {
        let digest = known.digest.get_or_insert_with(|| {
            let mut feed = Feed(Sha256::new());
            feed.cluster(cluster);
            feed.0.finalize().into()
        });
        feed.0.update(digest);
    }
    feed.frontends(shared_proxy);
    feed.number(nodes.len() as u64);
    for (name, SeedNode { addresses, pod_ranges }) in nodes {
        feed.text(name);
        feed.number(addresses.len() as u64);
        for address in addresses {
            feed.address(*address);
        }
        feed.nets(pod_ranges.iter().copied());
    }
    let digest: PartDigest = feed.0.finalize().into();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    Revision(words)
}

/// Writes values so that different sequences of them never give the same bytes.
struct Feed(Sha256);

impl Feed {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.0.update([4]);
                self.0.update(address.octets());
            }
            IpAddr::V6(address) => {
                self.0.update([6]);
                self.0.update(address.octets());
            }
        }
    }

    fn nets(&mut self, nets: impl ExactSizeIterator<Item = IpNet>) {
        self.number(nets.len() as u64);
        for net in nets {
            self.address(net.network());
            self.0.update([net.prefix_len()]);
        }
    }

    fn list(&mut self, list: Option<&RangeList>) {
        self.number(u64::from(list.is_some()));
        if let Some(RangeList { origin: _, ranges, written }) = list {
            self.nets(ranges.iter().map(|range| range.net));
            self.number(*written as u64);
        }
    }

    fn options(&mut self, options: &Options) {
        let Options {
            mode,
            seed_defaults,
            exempt,
            exempt_seed,
            lb_ranges,
            trusted_proxies,
            probes,
            reject,
        } = options;
        self.mode(*mode);
        self.number(match seed_defaults {
            SeedDefaults::Appended => 0,
            SeedDefaults::Always => 1,
        });
        self.nets(exempt.iter().copied());
        self.number(u64::from(exempt_seed.nodes) << 1 | u64::from(exempt_seed.pods));
        self.number(match lb_ranges {
            LoadBalancerRanges::Proxies => 0,
            LoadBalancerRanges::Everywhere => 1,
        });
        self.nets(trusted_proxies.iter().copied());
        let ProbeRanges { ranges, connected } = probes;
        self.nets(ranges.iter().copied());
        self.number(u64::from(*connected));
        self.number(match reject {
            Reject::Drop => 0,
            Reject::Reset => 1,
        });
    }

    fn cluster(&mut self, cluster: &Cluster) {
        let Cluster {
            id,
            namespace,
            strategy,
            allowed,
            frontends,
            own_pods: _,
            api_server_pods: _,
            mode,
            egress,
        } = cluster;
        self.text(&id.0);
        self.text(namespace);
        self.number(match strategy {
            ExposeStrategy::NodePort => 0,
            ExposeStrategy::LoadBalancer => 1,
            ExposeStrategy::Tunneling => 2,
        });
        self.list(allowed.as_ref());
        self.frontends(frontends);
        self.mode(*mode);
        // Peers are pods and resolved names mostly, which each node learns at its own time.
        self.number(u64::from(egress.is_some()));
    }

    fn mode(&mut self, mode: Mode) {
        self.number(match mode {
            Mode::Enforce => 0,
            Mode::Audit => 1,
        });
    }

    fn frontends(&mut self, frontends: &[Frontend]) {
        let lasting = || frontends.iter().filter(|frontend| !frontend.kind.is_pod());
        self.number(lasting().count() as u64);
        for Frontend { protocol, at, kind, service: _, port_name: _ } in lasting() {
            self.number(match protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => 1,
            });
            self.number(u64::from(kind.is_shared_proxy()));
            match *at {
                FrontendAddress::Node { port } => self.number(u64::from(port)),
                FrontendAddress::Address { address, port } => {
                    self.address(address);
                    self.number(u64::from(port));
                }
            }
        }
    }
}
