//! `enforcer debug list`: every API server of the seed, one line each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_policy::{
    image::Counted,
    model::{ClusterId, Frontend, Mode},
};
use serde::Serialize;

use super::{
    DebugError, Outcome, View, drops,
    screen::{Screen, Tone, plain, toned},
    sight::{Known, Sight},
    words,
};
use crate::{kernel::ClusterCounters, observe::drops::Dropped};

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct List {
    /// Whether the kernel enforces these objects.
    is_in_force: bool,
    clusters: Vec<Listed>,
    /// Packets of this node by reason; what lists admit is counted by cluster only.
    reasons: Vec<Reason>,
    #[serde(skip)]
    caveat: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    cluster: String,
    namespace: Option<String>,
    strategy: Option<&'static str>,
    /// `enforce` or `audit`, the agent's own mode counted in.
    mode: &'static str,
    frontends: Frontends,
    /// Ranges of all lists that count somewhere; `null` where nothing restricts the cluster.
    ranges: Option<usize>,
    egress: Egress,
    packets: Option<Packets>,
    /// Why packets were denied lately, by the events that the agent keeps; `null` where none runs.
    recent_drops: Option<Vec<RecentDrops>>,
}

#[derive(Clone, Debug, Serialize)]
struct RecentDrops {
    reason: String,
    events: u64,
    /// Denied packets that came just before these events and have none; of any cluster.
    suppressed: u64,
}

#[derive(Debug, Serialize)]
struct Frontends {
    all: usize,
    /// Those that a list restricts.
    guarded: usize,
    /// Those that others claim too, where only what all their lists admit passes.
    contested: usize,
    /// Who does.
    contested_by: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
struct Egress {
    /// `spec.features.apiserverNetworkPolicy`
    gate: bool,
    peers: usize,
    /// Packets of its API server pods on this node, where the gate is on.
    packets: Option<Packets>,
}

#[derive(Debug, Serialize)]
struct Packets {
    allowed: u64,
    denied: u64,
    /// Passed in audit mode, and would be denied without it.
    would_deny: u64,
    allowed_bytes: u64,
    denied_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Reason {
    reason: &'static str,
    /// `pass` or `drop`
    action: &'static str,
    packets: u64,
}

/// Answers.
pub(super) fn view(sight: &Sight) -> Result<List, DebugError> {
    let known = sight.known()?;
    let mut clusters = Vec::new();
    for id in known.snapshot.clusters.keys() {
        clusters.push(listed(&known, id)?);
    }
    clusters.extend(shared_proxy(&known)?);
    // Without an agent, to look at events is to take them.
    if sight.is_running {
        let events = drops::events(sight)?;
        for listed in &mut clusters {
            listed.recent_drops = Some(recent(&listed.cluster, &events));
        }
    }
    Ok(List {
        is_in_force: sight.snapshot_is_in_force(),
        clusters,
        reasons: reasons(sight)?,
        caveat: sight.caveat(),
    })
}

fn listed(known: &Known<'_>, id: &ClusterId) -> Result<Listed, DebugError> {
    let snapshot = known.snapshot;
    let cluster = &snapshot.clusters[id];
    let is_guarded = |frontend: &&Frontend| is_guarded(known, frontend);
    let mut origins = BTreeMap::new();
    for frontend in cluster.frontends.iter().filter(is_guarded) {
        for list in enforcer_policy::oracle::lists(snapshot, cluster, frontend) {
            origins.insert(&list.origin, list.ranges.len());
        }
    }
    let frontends = Frontends::of(known, &cluster.frontends, id);
    Ok(Listed {
        cluster: id.to_string(),
        namespace: Some(cluster.namespace.clone()),
        strategy: Some(words::strategy(cluster.strategy)),
        mode: words::mode(words::mode_of(snapshot, cluster)),
        ranges: (frontends.guarded > 0).then(|| origins.values().sum()),
        egress: Egress {
            gate: cluster.egress.is_some(),
            peers: cluster.egress.as_ref().map_or(0, |egress| egress.peers.len()),
            packets: match &cluster.egress {
                Some(_) => known.counters(&Counted::egress(id.clone()))?.map(Packets::of),
                None => None,
            },
        },
        packets: known.counters(&Counted::ingress(id.clone()))?.map(Packets::of),
        recent_drops: None,
        frontends,
    })
}

fn is_guarded(known: &Known<'_>, frontend: &Frontend) -> bool {
    known.rules.frontends.contains_key(&(frontend.protocol, frontend.at))
}

impl Frontends {
    fn of<'a>(
        known: &Known<'_>,
        frontends: impl IntoIterator<Item = &'a Frontend>,
        claimant: &ClusterId,
    ) -> Self {
        let mut counted = Self { all: 0, guarded: 0, contested: 0, contested_by: BTreeSet::new() };
        for frontend in frontends {
            let rivals = known.rivals(frontend, claimant);
            counted.all += 1;
            counted.guarded += usize::from(is_guarded(known, frontend));
            counted.contested += usize::from(!rivals.is_empty());
            counted.contested_by.extend(rivals);
        }
        counted
    }
}

/// The shared proxy's ports that lead to no single cluster.
fn shared_proxy(known: &Known<'_>) -> Result<Option<Listed>, DebugError> {
    let frontends = &known.snapshot.shared_proxy;
    let Some(first) = frontends.first() else { return Ok(None) };
    let id = first.shared_claimant();
    let counted = Frontends::of(known, frontends, &id);
    let ranges = known.snapshot.seed.iter().flat_map(|seed| &seed.load_balancer_ranges);
    Ok(Some(Listed {
        cluster: id.to_string(),
        namespace: Some(first.service.namespace.clone()),
        strategy: None,
        mode: words::mode(known.snapshot.options.mode),
        ranges: (counted.guarded > 0).then(|| ranges.map(|list| list.ranges.len()).sum()),
        egress: Egress { gate: false, peers: 0, packets: None },
        packets: known.counters(&Counted::ingress(id))?.map(Packets::of),
        recent_drops: None,
        frontends: counted,
    }))
}

fn recent(cluster: &str, events: &[Arc<Dropped>]) -> Vec<RecentDrops> {
    let mut reasons: BTreeMap<&str, RecentDrops> = BTreeMap::new();
    for dropped in events.iter().filter(|dropped| dropped.cluster.as_deref() == Some(cluster)) {
        let reason = dropped.reason.clone();
        let none = RecentDrops { reason, events: 0, suppressed: 0 };
        let of_reason = reasons.entry(&dropped.reason).or_insert(none);
        of_reason.events += 1;
        of_reason.suppressed += dropped.suppressed;
    }
    reasons.into_values().collect()
}

fn reasons(sight: &Sight) -> Result<Vec<Reason>, DebugError> {
    use enforcer_ebpf::verdict::{Action, Reason as Why};
    let Ok(look) = &sight.kernel else { return Ok(Vec::new()) };
    let mut reasons = Vec::new();
    for reason in Why::ALL {
        let packets = look.counters().reason(reason)?;
        let action = match reason.action() {
            Action::Pass => "pass",
            Action::Drop => "drop",
        };
        reasons.push(Reason { reason: reason.name(), action, packets });
    }
    reasons.retain(|reason| reason.packets > 0);
    Ok(reasons)
}

impl Packets {
    fn of(counters: ClusterCounters) -> Self {
        let ClusterCounters {
            allowed_packets,
            allowed_bytes,
            denied_packets,
            denied_bytes,
            would_deny_packets,
        } = counters;
        Self {
            allowed: allowed_packets,
            denied: denied_packets,
            would_deny: would_deny_packets,
            allowed_bytes,
            denied_bytes,
        }
    }
}

impl View for List {
    const COMMAND: &'static str = "list";

    fn text(&self, screen: &Screen) -> String {
        let Self { is_in_force: _, clusters, reasons, caveat } = self;
        if clusters.is_empty() {
            return "there are no clusters\n".to_owned();
        }
        let header = [
            "CLUSTER",
            "STRATEGY",
            "MODE",
            "FRONTENDS",
            "RANGES",
            "EGRESS",
            "ALLOWED",
            "DENIED",
            "WOULD DENY",
            "LEFT",
            "KEPT IN",
            "RECENT EVENTS",
        ];
        let rows = clusters.iter().map(|it| {
            let Frontends { all, guarded, contested, contested_by } = &it.frontends;
            let others: Vec<&str> = contested_by.iter().map(String::as_str).collect();
            let frontends = match contested {
                0 => plain(format!("{guarded} of {all} guarded")),
                _ => {
                    let others = others.join(", ");
                    let text =
                        format!("{guarded} of {all} guarded, {contested} claimed by {others} too");
                    toned(text, Tone::Worth)
                }
            };
            let packets = |of: fn(&Packets) -> u64| {
                it.packets
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |packets| of(packets).to_string())
            };
            let left = |of: fn(&Packets) -> u64| {
                plain(it.egress.packets.as_ref().map_or("-".to_owned(), |it| of(it).to_string()))
            };
            let recent = it.recent_drops.iter().flatten();
            let recent: Vec<String> =
                recent.map(|drops| format!("{} {}", drops.events, drops.reason)).collect();
            let audits = it.mode == words::mode(Mode::Audit);
            [
                plain(it.cluster.clone()),
                plain(it.strategy.unwrap_or("shared proxy")),
                toned(it.mode, if audits { Tone::Worth } else { Tone::Plain }),
                frontends,
                match it.ranges {
                    Some(ranges) => plain(ranges.to_string()),
                    None => toned("everybody", Tone::Worth),
                },
                plain(match &it.egress {
                    Egress { gate: false, .. } => "open".to_owned(),
                    Egress { gate: true, peers, packets: _ } => {
                        words::count(*peers, "peer", "peers")
                    }
                }),
                plain(packets(|it| it.allowed)),
                plain(packets(|it| it.denied)),
                plain(packets(|it| it.would_deny)),
                left(|it| it.allowed),
                left(|it| it.denied + it.would_deny),
                plain(recent.join(", ")),
            ]
        });
        let mut text = screen.table(header, rows);
        let rows = reasons.iter().map(|it| {
            let tone = if it.action == "drop" { Tone::Bad } else { Tone::Plain };
            [plain(it.reason), toned(it.action, tone), plain(it.packets.to_string())]
        });
        text.push('\n');
        text.push_str(&screen.table(["REASON", "ACTION", "PACKETS"], rows));
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        text.trim_end().to_owned() + "\n"
    }

    fn outcome(&self) -> Outcome {
        Outcome::enforced_if(self.is_in_force)
    }
}
