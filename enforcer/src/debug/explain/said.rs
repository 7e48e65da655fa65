//! What `explain` answers: its JSON, its table and its exit code.

use enforcer_ebpf::{abi::Explained, verdict::Reason};
use serde::Serialize;

use crate::debug::{
    Outcome, View,
    screen::{Screen, Tone, plain, toned},
    words::FrontendWords,
};

/// The answer.
#[derive(Debug, Serialize)]
pub(in crate::debug) struct Explanation {
    pub(super) source: String,
    pub(super) target: String,
    /// `ingress`: to an API server; `egress`: from one.
    pub(super) direction: &'static str,
    /// `uplink` or `pod`.
    pub(super) side: &'static str,
    /// Whether an image is in force, and the programs hang on an interface of this side.
    pub(super) is_in_force: bool,
    pub(super) verdicts: Vec<Said>,
    #[serde(skip)]
    pub(super) caveat: Option<String>,
}

/// What becomes of one connection.
#[derive(Debug, Serialize)]
pub(super) struct Said {
    /// `null` where the target is no frontend.
    pub(super) frontend: Option<FrontendWords>,
    pub(super) cluster: Option<String>,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) protocol: &'static str,
    /// `allowed`; `handshake`: it can be opened, but not used; `denied`; `would-deny`: passes, since it is
    /// only audited; `unguarded`: nothing restricts it.
    pub(super) verdict: &'static str,
    /// The reason as it is counted.
    pub(super) reason: &'static str,
    /// The range, or address, that decides.
    pub(super) range: Option<String>,
    /// The object that it comes from, or the option.
    pub(super) object: Option<String>,
    /// The field.
    pub(super) field: Option<String>,
    /// In words.
    pub(super) why: String,
}

impl Said {
    pub(super) fn tone(&self) -> Tone {
        match self.verdict {
            "allowed" => Tone::Good,
            "denied" => Tone::Bad,
            _ => Tone::Worth,
        }
    }
}

pub(super) fn reason(explained: Explained) -> &'static str {
    let known = Reason::ALL.into_iter().find(|reason| *reason as u32 == explained.reason);
    known.map_or("unknown", Reason::name)
}

pub(super) fn verdict(explained: Explained) -> &'static str {
    match (explained.drops, explained.audited) {
        (true, true) => "would-deny",
        (true, false) => "denied",
        (false, _) if explained.reason == Reason::Unguarded as u32 => "unguarded",
        (false, _) => "allowed",
    }
}

impl View for Explanation {
    const COMMAND: &'static str = "explain";

    fn text(&self, screen: &Screen) -> String {
        let Self { source, target, direction, side, is_in_force, verdicts, caveat } = self;
        let mut text = screen.title(&format!("{source} -> {target} ({direction}, {side})"));
        let rows = verdicts.iter().map(|it| {
            let kind = it.frontend.as_ref().map_or("-", |frontend| frontend.kind);
            [
                plain(format!("{}/{}", it.destination, it.protocol)),
                plain(kind),
                toned(it.verdict, it.tone()),
                plain(it.reason),
                plain(it.why.clone()),
            ]
        });
        text.push_str(&screen.table(["DESTINATION", "FRONTEND", "VERDICT", "REASON", "WHY"], rows));
        if verdicts.is_empty() {
            text.push_str("no frontend of this cluster is of the source's family\n");
        }
        if !is_in_force {
            text.push_str("\nno program hangs on any interface here: nothing is enforced\n");
        }
        if let Some(caveat) = caveat {
            text.push_str(&format!("\n{caveat}\n"));
        }
        text
    }

    fn outcome(&self) -> Outcome {
        outcome(std::iter::once(self))
    }
}

/// What some answers come to together.
pub(super) fn outcome<'a>(answers: impl Iterator<Item = &'a Explanation> + Clone) -> Outcome {
    let said = answers.clone().flat_map(|answer| &answer.verdicts);
    let any = |wanted: &str| said.clone().any(|said| said.verdict == wanted);
    match () {
        () if answers.clone().any(|answer| !answer.is_in_force) => Outcome::NotEnforced,
        () if any("denied") || any("handshake") => Outcome::Denied,
        () if any("would-deny") => Outcome::NotEnforced,
        () => Outcome::Fine,
    }
}
