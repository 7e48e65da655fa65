//! What happens in the demo, as data.

/// One step: what is done, and who gets in then.
pub(crate) struct Step {
    pub(crate) title: &'static str,
    /// What it shows, in one line.
    pub(crate) shows: &'static str,
    pub(crate) acts: &'static [Act],
    /// The client whose verdict the first file of this step changes.
    pub(crate) turns: Option<&'static str>,
    /// Who gets in at the guarded frontends afterwards.
    pub(crate) admitted: &'static [&'static str],
    /// At which frontends clients knock.
    pub(crate) at: At,
    /// What becomes of the connections that client `listed` holds open.
    pub(crate) held: Held,
}

/// Something that is done.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// Start the agent.
    Start,
    /// Copy the files of this folder below `deploy/demo/steps` over those that the agent watches.
    Copy(&'static str),
    /// End the agent with SIGTERM.
    Terminate,
    /// End the agent with SIGKILL.
    Kill,
    /// Run `enforcer clean`.
    Clean,
}

/// Frontends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Those of cluster `c1` that strategy LoadBalancer always has.
    Customary,
    /// Those that control planes have besides, with every strategy.
    AllOthers,
}

/// Connections that are held open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// None are.
    No,
    /// They are opened before the step, and stall in it.
    Stall,
    /// Those that stalled go on.
    GoOn,
}

/// Names and addresses (IPv4, IPv6) of clients besides the harness's `listed` and `unlisted`.
pub(crate) const COLLEAGUE: (&str, &str, &str) =
    ("colleague", "203.0.113.33", "2001:db8:113:d::33");
/// All clients.
pub(crate) const CLIENTS: [&str; 3] = ["listed", "colleague", "unlisted"];

pub(crate) const STEPS: &[Step] = &[
    Step {
        title: "no ranges",
        shows: "the files of deploy/demo: without a list everybody gets in",
        acts: &[Act::Start],
        turns: None,
        admitted: &CLIENTS,
        at: At::Customary,
        held: Held::No,
    },
    Step {
        title: "ranges set",
        shows: "steps/20-ranges-set: the Cluster lists the range of client listed",
        acts: &[Act::Copy("20-ranges-set")],
        turns: Some("unlisted"),
        admitted: &["listed"],
        at: At::Customary,
        held: Held::No,
    },
    Step {
        title: "seed defaults added",
        shows: "steps/30-seed-defaults-added: the Seed appends the range of client colleague",
        acts: &[Act::Copy("30-seed-defaults-added")],
        turns: Some("colleague"),
        admitted: &["listed", "colleague"],
        at: At::Customary,
        held: Held::No,
    },
    Step {
        title: "a range removed while a connection is open",
        shows: "steps/40-a-range-removed: client listed is cut off in the middle of it",
        acts: &[Act::Copy("40-a-range-removed")],
        turns: Some("listed"),
        admitted: &["colleague"],
        at: At::Customary,
        held: Held::Stall,
    },
    Step {
        title: "ranges cleared",
        shows: "steps/50-ranges-cleared: as in KKP, the Seed's defaults alone restrict nobody",
        acts: &[Act::Copy("50-ranges-cleared")],
        turns: Some("unlisted"),
        admitted: &CLIENTS,
        at: At::Customary,
        held: Held::GoOn,
    },
    Step {
        title: "ranges set again, then the agent stopped (SIGTERM)",
        shows: "steps/20-ranges-set: verdicts stay in the kernel",
        acts: &[Act::Copy("20-ranges-set"), Act::Terminate],
        turns: Some("unlisted"),
        admitted: &["listed", "colleague"],
        at: At::Customary,
        held: Held::No,
    },
    Step {
        title: "another agent started, then killed (SIGKILL)",
        shows: "verdicts stay in the kernel",
        acts: &[Act::Start, Act::Kill],
        turns: None,
        admitted: &["listed", "colleague"],
        at: At::Customary,
        held: Held::No,
    },
    Step {
        title: "every other way in",
        shows: "steps/60-every-way-in: all strategies, external IPs, pods, UDP, the shared proxy",
        acts: &[Act::Start, Act::Copy("60-every-way-in")],
        turns: Some("colleague"),
        admitted: &["listed"],
        at: At::AllOthers,
        held: Held::No,
    },
    Step {
        title: "enforcer clean",
        shows: "nothing of the enforcer is left on the node",
        acts: &[Act::Terminate, Act::Clean],
        turns: None,
        admitted: &CLIENTS,
        at: At::Customary,
        held: Held::No,
    },
];
