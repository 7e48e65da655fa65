//! `enforcer debug show CLUSTER`: one API server, with the object and field that each range came from.

use std::{collections::BTreeMap, net::IpAddr};

use clap::Args;
use enforcer_policy::{
    model::{Cluster, ClusterId, Origin, RangeList, Snapshot},
    oracle,
};
use serde::Serialize;

use super::{
    DebugError, Outcome, View,
    screen::{Screen, Tone, plain, toned},
    sight::{Known, Sight},
    words::{self, FrontendWords},
};

/// Options of `show`.
#[derive(Debug, Args)]
pub struct Options {
    /// Name of the Cluster object.
    cluster: String,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Show {
    cluster: String,
    namespace: String,
    strategy: &'static str,
    mode: &'static str,
    /// Whether the kernel enforces this.
    is_in_force: bool,
    frontends: Vec<Frontend>,
    ranges: Vec<Range>,
    /// Sources that are admitted besides the ranges.
    exemptions: Vec<Exemption>,
    egress: Egress,
    #[serde(skip)]
    caveat: Option<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Frontend {
    #[serde(flatten)]
    words: FrontendWords,
    /// Whether a list restricts it; else everybody is admitted.
    is_guarded: bool,
    /// Who else claims it, other clusters or the shared proxy: only what all their lists admit passes.
    shared_with: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Range {
    range: String,
    object: String,
    field: String,
    /// Position in the field, from 0.
    position: u32,
    /// `all` frontends, or those of the `shared-proxy` only.
    counts_at: &'static str,
}

#[derive(Debug, Serialize)]
struct Exemption {
    source: String,
    /// Where it comes from: an option or an object.
    from: String,
    /// What is admitted: `everything`, or `handshakes` without data.
    admits: &'static str,
}

#[derive(Debug, Serialize)]
struct Egress {
    gate: bool,
    peers: Vec<Peer>,
    pods: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Peer {
    net: String,
    port: String,
    object: String,
    field: String,
}

/// Answers.
pub(super) fn view(sight: &Sight, options: &Options) -> Result<Show, DebugError> {
    let known = sight.known()?;
    let id = ClusterId(options.cluster.clone());
    let cluster = find(&known, &id)?;
    let snapshot = known.snapshot;
    Ok(Show {
        cluster: id.to_string(),
        namespace: cluster.namespace.clone(),
        strategy: words::strategy(cluster.strategy),
        mode: words::mode(words::mode_of(snapshot, cluster)),
        is_in_force: sight.snapshot_is_in_force(),
        frontends: frontends(&known, cluster),
        ranges: ranges(snapshot, cluster),
        exemptions: exemptions(snapshot, cluster),
        egress: egress(cluster),
        caveat: sight.caveat(),
    })
}

/// The cluster of that name.
pub(super) fn find<'a>(known: &Known<'a>, id: &ClusterId) -> Result<&'a Cluster, DebugError> {
    known.snapshot.clusters.get(id).map(AsRef::as_ref).ok_or_else(|| DebugError::UnknownCluster {
        cluster: id.to_string(),
        known: known.snapshot.clusters.keys().map(ToString::to_string).collect(),
    })
}

fn frontends(known: &Known<'_>, cluster: &Cluster) -> Vec<Frontend> {
    let mut frontends: Vec<Frontend> = cluster
        .frontends
        .iter()
        .map(|frontend| Frontend {
            words: FrontendWords::of(frontend),
            is_guarded: known.rules.frontends.contains_key(&(frontend.protocol, frontend.at)),
            shared_with: known.rivals(frontend, &cluster.id),
        })
        .collect();
    frontends.sort();
    frontends
}

/// Every range of the lists that count somewhere, in the order of the lists.
fn ranges(snapshot: &Snapshot, cluster: &Cluster) -> Vec<Range> {
    let mut everywhere: BTreeMap<&Origin, (&RangeList, usize)> = BTreeMap::new();
    for frontend in &cluster.frontends {
        for list in oracle::lists(snapshot, cluster, frontend) {
            everywhere.entry(&list.origin).or_insert((list, 0)).1 += 1;
        }
    }
    let of_list = |(list, frontends): &(&RangeList, usize)| {
        let counts_at = if *frontends == cluster.frontends.len() { "all" } else { "shared-proxy" };
        let origin = list.origin.clone();
        let range = move |range: &enforcer_policy::model::ListedRange| Range {
            range: range.net.to_string(),
            object: origin.object.to_string(),
            field: origin.field.clone(),
            position: range.position,
            counts_at,
        };
        list.ranges.iter().map(range).collect::<Vec<_>>()
    };
    everywhere.values().flat_map(of_list).collect()
}

fn exemptions(snapshot: &Snapshot, cluster: &Cluster) -> Vec<Exemption> {
    let Snapshot { options, nodes, this_node, shared_proxy_pods, .. } = snapshot;
    let mut exemptions = Vec::new();
    let mut add = |source: String, from: String, admits| {
        exemptions.push(Exemption { source, from, admits });
    };
    let all = "everything";
    let single = |address: &IpAddr| address.to_string();
    for range in &options.exempt {
        add(range.to_string(), "--exempt".to_owned(), all);
    }
    for (name, node) in nodes {
        for address in node.addresses.iter().filter(|_| options.exempt_seed.nodes) {
            add(single(address), format!("Node {name} status.addresses"), all);
        }
        for range in node.pod_ranges.iter().filter(|_| options.exempt_seed.pods) {
            add(range.to_string(), format!("Node {name} spec.podCIDRs"), all);
        }
    }
    for address in this_node.tunnel_peers.iter().filter(|_| options.exempt_seed.nodes) {
        add(single(address), "tunnel device of another node".to_owned(), all);
    }
    for address in shared_proxy_pods {
        add(single(address), "pod of the shared nodeport-proxy".to_owned(), all);
    }
    for address in &cluster.own_pods {
        let what = match cluster.api_server_pods.contains(address) {
            true => "API server pod of this cluster",
            false => "pod of this cluster's control plane",
        };
        add(single(address), what.to_owned(), all);
    }
    for range in &options.trusted_proxies {
        add(range.to_string(), "--trusted-proxies".to_owned(), all);
    }
    for range in &options.probes.ranges {
        add(range.to_string(), "--probe-ranges".to_owned(), "handshakes");
    }
    for range in this_node.connected.iter().filter(|_| options.probes.connected) {
        add(range.to_string(), "--probe-ranges connected".to_owned(), "handshakes");
    }
    exemptions
}

fn egress(cluster: &Cluster) -> Egress {
    let Some(enforcer_policy::model::Egress { peers, pods }) = &cluster.egress else {
        return Egress { gate: false, peers: Vec::new(), pods: Vec::new() };
    };
    let peer = |peer: &enforcer_policy::model::Peer| Peer {
        net: peer.net.to_string(),
        port: words::peer_port(peer.port),
        object: peer.origin.object.to_string(),
        field: peer.origin.field.clone(),
    };
    Egress {
        gate: true,
        peers: peers.iter().map(peer).collect(),
        pods: pods.iter().map(|pod| pod.object.to_string()).collect(),
    }
}

impl View for Show {
    const COMMAND: &'static str = "show";

    fn text(&self, screen: &Screen) -> String {
        let Self {
            cluster,
            namespace,
            strategy,
            mode,
            is_in_force: _,
            frontends,
            ranges,
            exemptions,
            egress,
            caveat,
        } = self;
        let mut text = screen.title(&format!("Cluster {cluster}"));
        let facts = [
            [plain("namespace"), plain(namespace.clone())],
            [plain("strategy"), plain(*strategy)],
            [plain("mode"), toned(*mode, if *mode == "audit" { Tone::Worth } else { Tone::Plain })],
        ];
        text.push_str(&facts.map(|[(name, _), (value, _)]| format!("{name}  {value}\n")).concat());
        let rows = frontends.iter().map(|it| {
            let FrontendWords { kind, protocol, address, port, service, port_name } = &it.words;
            let address = address.clone().unwrap_or_else(|| words::ANY_OF_A_NODE.to_owned());
            let admits = match (it.is_guarded, it.shared_with.as_slice()) {
                (false, _) => toned("everybody", Tone::Worth),
                (true, []) => toned("the ranges", Tone::Good),
                (true, others) => {
                    toned(format!("what {} admits too", others.join(" and ")), Tone::Worth)
                }
            };
            let port = format!("{port}/{protocol}");
            [
                plain(*kind),
                plain(address),
                plain(port),
                admits,
                plain(format!("{service} {port_name}").trim_end()),
            ]
        });
        text.push('\n');
        text.push_str(&screen.table(["FRONTEND", "ADDRESS", "PORT", "ADMITS", "FROM"], rows));
        let rows = ranges.iter().map(|it| {
            let at = if it.counts_at == "all" { "all frontends" } else { "shared proxy" };
            let from = format!("{} {}[{}]", it.object, it.field, it.position);
            [plain(it.range.clone()), plain(at), plain(from)]
        });
        text.push('\n');
        text.push_str(&screen.table(["RANGE", "AT", "FROM"], rows));
        let rows = exemptions
            .iter()
            .map(|it| [plain(it.source.clone()), plain(it.admits), plain(it.from.clone())]);
        text.push('\n');
        text.push_str(&screen.table(["EXEMPT", "MAY SEND", "FROM"], rows));
        text.push('\n');
        text.push_str(&match egress.gate {
            false => "egress: open, spec.features.apiserverNetworkPolicy is off\n".to_owned(),
            true if egress.peers.is_empty() => {
                "egress: no peer is known, all is denied\n".to_owned()
            }
            true => {
                let rows = egress.peers.iter().map(|it| {
                    let from = format!("{} {}", it.object, it.field);
                    [plain(it.net.clone()), plain(it.port.clone()), plain(from.trim_end())]
                });
                screen.table(["EGRESS TO", "PORT", "FROM"], rows)
            }
        });
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        text
    }

    fn outcome(&self) -> Outcome {
        Outcome::enforced_if(self.is_in_force)
    }
}
