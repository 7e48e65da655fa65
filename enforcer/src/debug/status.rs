//! `enforcer debug status`: whether everything is enforced on this node, and what is not and why.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use enforcer_policy::{
    compile::contested,
    model::Snapshot,
    plan::Hook,
    problem::{Problem, ProblemKind},
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    DebugError, Outcome, View, drops,
    screen::{Screen, Tone, plain, toned},
    sight::Sight,
    words,
};
use crate::{
    kernel::{Fill, Place, fill},
    observe::{InterfaceState, sources::RECENTLY},
};

/// Options of `status`.
#[derive(Debug, Args)]
pub struct Options {
    /// All nodes of the seed, as their agents' Leases tell it, instead of this one.
    #[arg(long)]
    pub(super) all_nodes: bool,
    /// With --all-nodes: Namespace of the agents; known by itself in a pod.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", requires = "all_nodes")]
    pub(super) namespace: Option<String>,
    /// With --all-nodes: how to reach the seed's API; else KUBECONFIG, or as a pod does.
    #[arg(long, value_name = "FILE", requires = "all_nodes")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Whether enforcing would cut nobody by mistake: ends with 4 while recent sources of a frontend are
    /// mostly addresses of load balancers or nodes, or what is audited still shows would-be drops.
    #[arg(long)]
    ready_to_enforce: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// Whether everything that the objects say is enforced on every interface.
    is_enforced: bool,
    agent: Agent,
    /// Revision of the image in force.
    enforced: Option<String>,
    /// Revision of what the objects say, where an agent says or said it.
    wanted: Option<String>,
    mode: Option<&'static str>,
    /// What the gate `apiserverNetworkPolicy` will be in new clusters; `null` where no Seed tells.
    new_clusters_gate: Option<bool>,
    /// Since when the source cannot be read.
    stale_since: Option<String>,
    /// Everything that stands in the way, in words.
    not_enforced: Vec<String>,
    interfaces: Vec<Interface>,
    fill: Vec<Filled>,
    /// Frontends that several clusters claim: only sources that all their lists admit pass.
    contested: Vec<Contested>,
    problems: Vec<Told>,
    /// What recent traffic gives away.
    observed: Vec<Told>,
    /// With `--ready-to-enforce`; else `null`.
    ready_to_enforce: Option<Ready>,
    #[serde(skip)]
    caveat: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ready {
    is_ready: bool,
    /// What speaks against it.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Agent {
    is_running: bool,
    version: Option<String>,
    node: Option<String>,
    source: Option<String>,
    /// When it started.
    started: Option<String>,
    /// When it said what is said here.
    at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    index: Option<u32>,
    side: Option<String>,
    /// `guarded`, `attaching`, `unguarded`, or `drifted`: guarded says the agent, and it is not so.
    state: &'static str,
    hooks: Vec<OnHook>,
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct OnHook {
    hook: &'static str,
    /// `tcx`, `clsact`, or `none`.
    manner: &'static str,
    /// 1 sees packets before all others; `null` where it is not known.
    position: Option<usize>,
    /// Programs on this hook.
    of: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Filled {
    table: &'static str,
    used: u64,
    room: u64,
}

#[derive(Debug, Serialize)]
struct Contested {
    protocol: &'static str,
    /// `null` for a nodePort: any address of a node.
    address: Option<String>,
    port: u16,
    /// Clusters; namespace and name of its Service for the shared proxy.
    claimed_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Told {
    cluster: Option<String>,
    object: String,
    file: Option<String>,
    field: String,
    value: String,
    /// Whether something written has no effect because of it.
    is_not_enforced: bool,
    text: String,
}

/// Answers.
pub(super) fn view(sight: &Sight, options: &Options) -> Result<Status, DebugError> {
    let account = sight.account.as_ref();
    let enforced = sight.enforced();
    let interfaces = interfaces(sight)?;
    let wanted = account.and_then(|account| account.wanted.clone());
    let mut not_enforced = Vec::new();
    match &sight.kernel {
        Err(error) => not_enforced.push(error.to_string()),
        Ok(_) if enforced.is_none() => not_enforced.push("no image is in force yet".to_owned()),
        Ok(_) => {}
    }
    if let Some(account) = account {
        if sight.is_running {
            not_enforced.extend(account.not_ready.iter().cloned());
        } else if wanted.is_some() && wanted != enforced && enforced.is_some() {
            not_enforced
                .push("the image in force is not the one that the last agent wanted".into());
        }
    }
    let drifted = interfaces.iter().filter(|interface| interface.state == "drifted");
    not_enforced
        .extend(drifted.filter_map(|one| Some(format!("{}: {}", one.name, one.why.as_ref()?))));
    let seed = sight.snapshot.as_ref().and_then(|snapshot| snapshot.seed.as_ref());
    let audits = sight.image.as_ref().map(|image| image.header().audit != 0);
    Ok(Status {
        is_enforced: not_enforced.is_empty(),
        agent: Agent {
            is_running: sight.is_running,
            version: account.map(|account| account.agent.version.clone()),
            node: account.map(|account| account.agent.node.clone()),
            source: account.map(|account| account.agent.source.clone()),
            started: account.map(|account| account.agent.started.clone()),
            at: account.map(|account| account.at.clone()),
        },
        enforced,
        wanted,
        mode: audits.map(|audits| if audits { "audit" } else { "enforce" }),
        new_clusters_gate: seed.and_then(|seed| seed.new_clusters_gate),
        stale_since: account.and_then(|account| account.stale_since.clone()),
        not_enforced,
        interfaces,
        fill: sight.image.iter().flat_map(fill).map(Filled::of).collect(),
        contested: sight.snapshot.iter().flat_map(Contested::all).collect(),
        problems: account.iter().flat_map(|it| &it.problems).map(Told::of).collect(),
        observed: account.iter().flat_map(|it| &it.observed).map(Told::of).collect(),
        ready_to_enforce: match options.ready_to_enforce {
            true => Some(ready(sight)?),
            false => None,
        },
        caveat: sight.caveat(),
    })
}

/// Whether enforcing would cut nobody by mistake, as far as recent traffic tells.
fn ready(sight: &Sight) -> Result<Ready, DebugError> {
    let observed = sight.account.iter().flat_map(|account| &account.observed);
    let mut reasons: Vec<String> = observed.map(ToString::to_string).collect();
    let since = Timestamp::now() - RECENTLY;
    let mut would_deny: BTreeMap<String, usize> = BTreeMap::new();
    // Without an agent, to look at events is to take them.
    let events = if sight.is_running { drops::events(sight)? } else { Vec::new() };
    for dropped in events {
        let is_recent = dropped.at.parse::<Timestamp>().is_ok_and(|at| at >= since);
        if dropped.audited && is_recent {
            let cluster = dropped.cluster.clone().unwrap_or_else(|| "-".to_owned());
            *would_deny.entry(cluster).or_default() += 1;
        }
    }
    reasons.extend(would_deny.into_iter().map(|(cluster, events)| {
        let minutes = RECENTLY.as_secs() / 60;
        format!(
            "Cluster {cluster}: enforcing would have denied {} or more in the last {minutes} minutes; \
             `enforcer debug drops --cluster {cluster}` shows them",
            words::count(events, "packet", "packets")
        )
    }));
    if !sight.is_running {
        reasons.push("no agent runs here: what recent traffic would say is not known".to_owned());
    }
    Ok(Ready { is_ready: reasons.is_empty(), reasons })
}

/// What the agent says of its interfaces, against what hangs on them.
fn interfaces(sight: &Sight) -> Result<Vec<Interface>, DebugError> {
    let places = match &sight.kernel {
        Ok(look) => look.places()?,
        Err(_) => BTreeMap::new(),
    };
    let accounted = sight.account.iter().flat_map(|account| &account.interfaces);
    let mut interfaces = Vec::new();
    for interface in accounted {
        let place = |hook| places.get(&(interface.index?, hook)).copied();
        let ingress = place(Hook::Ingress);
        let (state, drift) = match (interface.state, ingress) {
            (InterfaceState::Unguarded, _) => ("unguarded", None),
            // The kernel knows it sooner than the account.
            (
                InterfaceState::Guarded | InterfaceState::Attaching,
                Some(Place::Filter | Place::Link { position: 1, .. }),
            ) => ("guarded", None),
            (InterfaceState::Attaching, _) if sight.is_running => ("attaching", None),
            (InterfaceState::Attaching, _) => {
                ("unguarded", Some("the last agent ended before its turn".to_owned()))
            }
            (InterfaceState::Guarded, Some(Place::Link { position, of: _ })) => {
                let others = words::count(position - 1, "program sees", "programs see");
                ("drifted", Some(format!("{others} packets before ours")))
            }
            (InterfaceState::Guarded, None) => {
                ("drifted", Some("our program is not attached (any more)".to_owned()))
            }
        };
        let hooks = Hook::ALL.map(|hook| OnHook::of(hook, place(hook)));
        interfaces.push(Interface {
            name: interface.name.clone(),
            index: interface.index,
            side: interface.side.clone(),
            state,
            hooks: hooks.into_iter().filter(|_| interface.index.is_some()).collect(),
            why: interface.why.clone().or(drift),
        });
    }
    Ok(interfaces)
}

impl OnHook {
    fn of(hook: Hook, place: Option<Place>) -> Self {
        let hook = match hook {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        };
        match place {
            None => Self { hook, manner: "none", position: None, of: None },
            Some(Place::Filter) => Self { hook, manner: "clsact", position: None, of: None },
            Some(Place::Link { position, of }) => {
                Self { hook, manner: "tcx", position: Some(position), of: Some(of) }
            }
        }
    }

    fn text(&self) -> String {
        let Self { hook: _, manner, position, of } = self;
        match (position, of) {
            (Some(position), Some(of)) => format!("{manner} {position} of {of}"),
            _ => (*manner).to_owned(),
        }
    }
}

impl Filled {
    fn of(Fill { table, used, room }: Fill) -> Self {
        Self { table, used, room }
    }
}

impl Contested {
    fn all(snapshot: &Snapshot) -> impl Iterator<Item = Self> {
        contested(snapshot).into_iter().map(|((protocol, at), claimants)| {
            let (address, port) = words::address(at);
            Self {
                protocol: words::protocol(protocol),
                address,
                port,
                claimed_by: claimants.iter().map(ToString::to_string).collect(),
            }
        })
    }
}

impl Told {
    fn of(problem: &Problem) -> Self {
        Self {
            cluster: problem.cluster.as_ref().map(ToString::to_string),
            object: problem.object.to_string(),
            file: Some(problem.file.clone()).filter(|file| !file.is_empty()),
            field: problem.field.clone(),
            value: problem.value.clone(),
            is_not_enforced: matches!(problem.kind, ProblemKind::NotEnforced { .. }),
            text: problem.to_string(),
        }
    }
}

impl View for Status {
    const COMMAND: &'static str = "status";

    fn text(&self, screen: &Screen) -> String {
        let Self {
            is_enforced,
            agent,
            enforced,
            wanted,
            mode,
            new_clusters_gate,
            stale_since,
            not_enforced,
            interfaces,
            fill,
            contested,
            problems,
            observed,
            ready_to_enforce,
            caveat,
        } = self;
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let good = |is_good| if is_good { Tone::Good } else { Tone::Bad };
        let running = match agent.is_running {
            true => format!("running since {}", or_none(&agent.started)),
            false => "not running".to_owned(),
        };
        let source = match stale_since {
            None => or_none(&agent.source),
            Some(since) => format!("{}, stale since {since}", or_none(&agent.source)),
        };
        let gate = match new_clusters_gate {
            Some(true) => "limited",
            Some(false) => "free",
            None => "-",
        };
        let facts = [
            [plain("agent"), toned(running, good(agent.is_running))],
            [plain("version"), plain(or_none(&agent.version))],
            [plain("source"), toned(source, good(stale_since.is_none()))],
            [plain("mode"), plain(mode.unwrap_or("-"))],
            [plain("egress of new clusters"), plain(gate)],
            [plain("wanted"), plain(or_none(wanted))],
            [plain("enforced"), toned(or_none(enforced), good(wanted == enforced))],
        ];
        let verdict = match is_enforced {
            true => "Everything is enforced",
            false => "Not everything is enforced",
        };
        let mut text = screen.title(verdict);
        text.push('\n');
        text.push_str(&screen.table(["node", &or_none(&agent.node)], facts));
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        if !not_enforced.is_empty() {
            text.push('\n');
            text.push_str(&screen.title("Not enforced"));
            not_enforced.iter().for_each(|why| text.push_str(&format!("  {why}\n")));
        }
        let rows = interfaces.iter().map(|it| {
            let at = |hook: &str| it.hooks.iter().find(|on| on.hook == hook).map(OnHook::text);
            [
                plain(it.name.clone()),
                plain(or_none(&it.side)),
                toned(it.state, good(it.state == "guarded")),
                plain(or_none(&at("ingress"))),
                plain(or_none(&at("egress"))),
                plain(it.why.clone().unwrap_or_default()),
            ]
        });
        let header = ["INTERFACE", "SIDE", "STATE", "INGRESS", "EGRESS", "WHY"];
        text.push('\n');
        text.push_str(&screen.table(header, rows));
        let rows = fill.iter().filter(|filled| filled.used > 0).map(|filled| {
            let Filled { table, used, room } = filled;
            let percent = *used * 100 / (*room).max(1);
            let tone = if percent >= 80 { Tone::Worth } else { Tone::Plain };
            [plain(*table), plain(format!("{used} of {room}")), toned(format!("{percent}%"), tone)]
        });
        text.push('\n');
        text.push_str(&screen.table(["MAP", "ENTRIES", "FULL"], rows));
        let rows = contested.iter().map(|it| {
            let Contested { protocol, address, port, claimed_by } = it;
            let address = address.clone().unwrap_or_else(|| words::ANY_OF_A_NODE.to_owned());
            let claimants = toned(claimed_by.join(", "), Tone::Worth);
            [plain(address), plain(format!("{port}/{protocol}")), claimants]
        });
        text.push('\n');
        text.push_str(&screen.table(["CONTESTED ADDRESS", "PORT", "CLAIMED BY"], rows));
        let rows = problems.iter().map(|problem| {
            let cluster = problem.cluster.clone().unwrap_or_else(|| "-".to_owned());
            [plain(cluster), toned(problem.text.clone(), Tone::Worth)]
        });
        text.push('\n');
        text.push_str(&screen.table(["CLUSTER", "PROBLEM"], rows));
        let rows = observed.iter().map(|told| {
            let cluster = told.cluster.clone().unwrap_or_else(|| "-".to_owned());
            [plain(cluster), toned(told.text.clone(), Tone::Worth)]
        });
        text.push('\n');
        text.push_str(&screen.table(["CLUSTER", "RECENT TRAFFIC SHOWS"], rows));
        if let Some(Ready { is_ready, reasons }) = ready_to_enforce {
            let title = if *is_ready { "Ready to enforce" } else { "Not ready to enforce" };
            text.push('\n');
            text.push_str(&screen.title(title));
            reasons.iter().for_each(|why| text.push_str(&format!("  {why}\n")));
        }
        // A table without rows leaves nothing between two empty lines.
        while text.contains("\n\n\n") {
            text = text.replace("\n\n\n", "\n\n");
        }
        text.trim_end().to_owned() + "\n"
    }

    fn outcome(&self) -> Outcome {
        let is_ready = self.ready_to_enforce.as_ref().is_none_or(|ready| ready.is_ready);
        Outcome::enforced_if(self.is_enforced && is_ready)
    }
}
