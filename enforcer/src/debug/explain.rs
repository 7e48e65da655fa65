//! `enforcer debug explain SRC [->] CLUSTER|ADDR:PORT`: what would become of a connection, and why.
//!
//! Input: a question. Output: the verdict of the programs in force, on every frontend of a cluster that the
//! source could name, and the range and object behind it. The verdict is the kernel's; the words are the
//! oracle's, and left out where the two do not agree, which is said.

mod because;
mod egress;
mod questions;
mod said;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::Args;
use enforcer_policy::{
    model::{Cluster, ClusterId, Frontend, FrontendAddress, Protocol, Side, Snapshot},
    oracle::{self, Answer, Segment},
    plan::Hook,
};

use self::{
    because::Words,
    said::{Said, outcome, reason, verdict},
};
pub(super) use self::{questions::answer, said::Explanation};
use super::{
    DebugError, show,
    sight::{Known, Sight},
    words::{self, FrontendWords},
};
use crate::{
    kernel::{DryRun, Look, Probe, Step},
    observe::side_name,
};

/// A source port that no server has.
const SOURCE_PORT: u16 = 55_555;

/// How it is written.
pub(super) const USAGE: &str = "enforcer debug explain [OPTIONS] <SRC> <CLUSTER|ADDR:PORT>\n       \
                                enforcer debug explain [OPTIONS] --questions <FILE> [CLUSTER|ADDR:PORT]";

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct Options {
    /// Who asks: an address. With --egress the cluster whose API server asks, or its pod's address.
    /// With --questions, instead: the target of lines that name none.
    #[arg(value_name = "SRC", required_unless_present = "questions")]
    source: Option<String>,
    /// Where to: a cluster, ADDRESS:PORT, or ADDRESS:PORT/udp.
    #[arg(
        value_name = "CLUSTER|ADDR:PORT",
        required_unless_present = "questions",
        conflicts_with = "questions"
    )]
    target: Option<String>,
    /// Many questions at once, from a file or, with `-`, from standard input: a line `SRC TARGET` for each;
    /// empty lines and what follows a # are left out. With --output json a line for each. Ends with 1 if
    /// any has no answer, else as a single question with all these verdicts.
    #[arg(long, value_name = "FILE")]
    pub(super) questions: Option<PathBuf>,
    /// A connection that an API server opens, instead of one to it.
    #[arg(long)]
    egress: bool,
    /// Where the packet comes in: `uplink`, or `pod` for one of this node's pods. Else where such a source
    /// would.
    #[arg(long, value_name = "SIDE", value_parser = side, conflicts_with = "egress")]
    side: Option<Side>,
}

/// What is wrong with a question.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The source is no address.
    #[error("{0} is no address; write an address like 198.51.100.7 or 2001:db8::1")]
    Source(String),
    /// A shell took the arrow for itself.
    #[error("leave out the arrow, or quote it: a shell writes the answer into a file else")]
    Arrow,
    /// The target is neither.
    #[error("{target} is neither ADDRESS:PORT nor a cluster{known}")]
    Target {
        /// As asked.
        target: String,
        /// The clusters that there are.
        known: String,
    },
    /// One is IPv4, the other IPv6.
    #[error("{source_address} and {target} are not of one family")]
    Families {
        /// Who asks.
        source_address: IpAddr,
        /// Where to.
        target: SocketAddr,
    },
    /// An API server connects to addresses.
    #[error("with --egress the target is ADDRESS:PORT, not {0}")]
    EgressTarget(String),
    /// No pod is meant.
    #[error("{0} is neither a cluster with an API server pod on this node nor the address of one")]
    NoPod(String),
    /// The questions are not to be had.
    #[error("cannot read questions from {path}")]
    Questions {
        /// As asked.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing is asked.
    #[error("there are no questions in {0}")]
    NoQuestions(PathBuf),
    /// A line with too few or too many words.
    #[error(
        "not a question; write a source and a target, or name the target of all on the command line"
    )]
    Line,
    /// Policy changes faster than this can ask.
    #[error("what is in force changed while this was asked; ask again")]
    Changed,
}

fn side(text: &str) -> Result<Side, &'static str> {
    match text {
        "uplink" => Ok(Side::Uplink),
        "pod" => Ok(Side::Pod),
        _ => Err("write uplink or pod"),
    }
}

/// Answers.
pub(super) fn view(sight: &Sight, options: &Options) -> Result<Explanation, DebugError> {
    let source = options.source.as_deref().unwrap_or_default();
    let target = options.target.as_deref().unwrap_or_default();
    if source == "-" || target == "-" {
        return Err(ExplainError::Arrow.into());
    }
    let known = sight.known()?;
    Asker::of(sight, &known)?.explain(source, target, options)
}

/// Whether any program hangs on any interface here.
fn is_attached(sight: &Sight) -> Result<bool, DebugError> {
    match &sight.kernel {
        Ok(look) => Ok(look.places()?.keys().any(|(_, hook)| *hook == Hook::Ingress)),
        Err(_) => Ok(false),
    }
}

/// Pods of this node send through their own interfaces.
pub(super) fn usual_side(snapshot: &Snapshot, source: IpAddr) -> Side {
    let node = snapshot.nodes.get(&snapshot.this_node.name);
    let mut ranges = node.into_iter().flat_map(|node| &node.pod_ranges);
    let mut ends = snapshot.this_node.pod_interfaces.iter();
    let is_pod = ranges.any(|range| range.contains(&source))
        || ends.any(|end| end.addresses.contains(&source));
    if is_pod { Side::Pod } else { Side::Uplink }
}

/// An address of this node, of the source's family, at which others find its nodePorts.
pub(super) fn node_address(snapshot: &Snapshot, source: IpAddr) -> Option<IpAddr> {
    let Snapshot { nodes, this_node, .. } = snapshot;
    let published = nodes.get(&this_node.name).into_iter().flat_map(|node| &node.addresses);
    let here = published.filter(|address| this_node.addresses.contains(address));
    here.chain(&this_node.addresses).find(|it| it.is_ipv4() == source.is_ipv4()).copied()
}

fn address(text: &str) -> Result<IpAddr, ExplainError> {
    let address = text.parse::<IpAddr>().map_err(|_| ExplainError::Source(text.to_owned()))?;
    Ok(address.to_canonical())
}

/// `ADDRESS:PORT`, `ADDRESS:PORT/udp`
fn place(text: &str) -> Option<(SocketAddr, Protocol)> {
    let (place, protocol) = match text.rsplit_once('/') {
        Some((place, "tcp")) => (place, Protocol::Tcp),
        Some((place, "udp")) => (place, Protocol::Udp),
        _ => (text, Protocol::Tcp),
    };
    let place = SocketAddr::from_str(place).ok()?;
    Some((SocketAddr::new(place.ip().to_canonical(), place.port()), protocol))
}

struct Asker<'a> {
    known: &'a Known<'a>,
    dry_run: DryRun,
    /// Whether the kernel enforces what the snapshot says.
    is_of_snapshot: bool,
    /// Whether there is an image, and programs that look into it.
    is_in_force: bool,
    caveat: Option<String>,
}

/// What is asked: in whose words an answer is told that two programs agree on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To an API server.
    Ingress,
    /// From one.
    Egress,
}

impl<'a> Asker<'a> {
    fn of(sight: &Sight, known: &'a Known<'a>) -> Result<Self, DebugError> {
        if sight.kernel.is_err() {
            // Says what is wrong.
            Look::open(&sight.places.bpffs)?;
        }
        Ok(Self {
            known,
            dry_run: DryRun::open(&sight.places.bpffs)?,
            is_of_snapshot: sight.snapshot_is_in_force(),
            is_in_force: sight.image.is_some() && is_attached(sight)?,
            caveat: sight.caveat(),
        })
    }

    fn explain(
        &self,
        source: &str,
        target: &str,
        options: &Options,
    ) -> Result<Explanation, DebugError> {
        let (side, verdicts) = if options.egress {
            (Side::Pod, self.egress(source, target)?)
        } else {
            let source = address(source)?;
            let side = options.side.unwrap_or_else(|| usual_side(self.known.snapshot, source));
            (side, self.ingress(source, side, target)?)
        };
        Ok(Explanation {
            source: source.to_owned(),
            target: target.to_owned(),
            direction: if options.egress { "egress" } else { "ingress" },
            side: side_name(side),
            is_in_force: self.is_in_force,
            verdicts,
            caveat: self.caveat.clone(),
        })
    }

    fn ingress(&self, source: IpAddr, side: Side, target: &str) -> Result<Vec<Said>, DebugError> {
        if let Some((to, protocol)) = place(target) {
            if to.is_ipv4() != source.is_ipv4() {
                let (source_address, target) = (source, to);
                return Err(ExplainError::Families { source_address, target }.into());
            }
            return Ok(vec![self.arrives(source, side, to, protocol, None)?]);
        }
        let cluster = self.cluster(target)?;
        let mut verdicts = Vec::new();
        for frontend in &cluster.frontends {
            // A nodePort answers at every address of the node; all of them are judged alike.
            let to = match frontend.at {
                FrontendAddress::Node { port } => node_address(self.known.snapshot, source)
                    .map(|address| SocketAddr::new(address, port)),
                FrontendAddress::Address { address, port } => Some(SocketAddr::new(address, port)),
            };
            let Some(to) = to.filter(|to| to.is_ipv4() == source.is_ipv4()) else { continue };
            verdicts.push(self.arrives(source, side, to, frontend.protocol, Some(frontend))?);
        }
        Ok(verdicts)
    }

    /// What becomes of a connection to a frontend; a gated pod's own policy is asked first.
    fn arrives(
        &self,
        source: IpAddr,
        side: Side,
        to: SocketAddr,
        protocol: Protocol,
        frontend: Option<&Frontend>,
    ) -> Result<Said, DebugError> {
        match self.gated(source).filter(|_| side == Side::Pod) {
            Some(pod) => self.leaves_and_enters(&pod, to, protocol, frontend, Direction::Ingress),
            None => self.enters(source, side, to, protocol, frontend),
        }
    }

    fn cluster(&self, target: &str) -> Result<&Cluster, DebugError> {
        let id = ClusterId(target.to_owned());
        let names_a_place = target.contains([':', '/']) || target.parse::<IpAddr>().is_ok();
        if names_a_place && !self.known.snapshot.clusters.contains_key(&id) {
            let ids = self.known.snapshot.clusters.keys().map(ToString::to_string);
            let known = super::others(&ids.collect::<Vec<_>>());
            return Err(ExplainError::Target { target: id.0, known }.into());
        }
        show::find(self.known, &id)
    }

    fn enters(
        &self,
        source: IpAddr,
        side: Side,
        to: SocketAddr,
        protocol: Protocol,
        frontend: Option<&Frontend>,
    ) -> Result<Said, DebugError> {
        let from = SocketAddr::new(source, SOURCE_PORT);
        let probe = |step| Probe { from, to, protocol, step };
        let opening = self.dry_run.enters(side, &probe(Step::Open))?;
        let data = self.dry_run.enters(side, &probe(Step::Data))?;
        // What is denied with data and not without is a health check's handshake.
        let (explained, segment) = match (opening.drops, data.drops) {
            (false, true) => (opening, Segment::Open),
            _ if protocol == Protocol::Udp => (data, Segment::Data),
            _ => (opening, Segment::Open),
        };
        let packet = oracle::Packet {
            source,
            destination: to.ip(),
            protocol,
            port: to.port(),
            side,
            segment,
            answers_node: false,
        };
        let answer = oracle::admit(self.known.snapshot, &packet);
        let reason = reason(explained);
        let words = if answer.reason() == reason && self.is_of_snapshot {
            Words::of(&answer)
        } else {
            Words::unknown(&answer, reason)
        };
        let verdict = match verdict(explained) {
            "allowed" if data.drops && data.audited => "would-deny",
            "allowed" if data.drops => "handshake",
            other => other,
        };
        let cluster = match &answer {
            Answer::Listed(by) => by.first().map(|(cluster, _)| cluster.to_string()),
            Answer::NotListed(by) => by.first().map(ToString::to_string),
            Answer::Unguarded
            | Answer::OwnPod(_)
            | Answer::Exempt(_)
            | Answer::TrustedProxy(_)
            | Answer::Reply
            | Answer::Probe(_)
            | Answer::ProbeData(_) => None,
        };
        let frontend = frontend.or_else(|| self.frontend_at(&packet));
        Ok(Said {
            cluster: cluster.or_else(|| self.owner(frontend?)),
            frontend: frontend.map(FrontendWords::of),
            source: source.to_string(),
            destination: to.to_string(),
            protocol: words::protocol(protocol),
            verdict,
            reason,
            range: words.range,
            object: words.object,
            field: words.field,
            why: words.why,
        })
    }

    fn frontend_at(&self, packet: &oracle::Packet) -> Option<&Frontend> {
        let Snapshot { clusters, shared_proxy, .. } = self.known.snapshot;
        let here = &self.known.rules.node_addresses;
        let mut all = clusters.values().flat_map(|cluster| &cluster.frontends).chain(shared_proxy);
        all.find(|frontend| {
            frontend.protocol == packet.protocol
                && match frontend.at {
                    FrontendAddress::Node { port } => {
                        port == packet.port && here.contains(&packet.destination)
                    }
                    FrontendAddress::Address { address, port } => {
                        port == packet.port && address == packet.destination
                    }
                }
        })
    }

    fn owner(&self, frontend: &Frontend) -> Option<String> {
        let mut clusters = self.known.snapshot.clusters.values();
        let owner = clusters.find(|cluster| cluster.frontends.contains(frontend));
        owner.map(|cluster| cluster.id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_places_with_and_without_a_protocol() {
        let tcp = |text: &str| Some((text.parse().unwrap(), Protocol::Tcp));
        assert_eq!(place("192.0.2.1:6443"), tcp("192.0.2.1:6443"));
        assert_eq!(place("[2001:db8::1]:6443/tcp"), tcp("[2001:db8::1]:6443"));
        assert_eq!(place("[::ffff:192.0.2.1]:1"), tcp("192.0.2.1:1"));
        let (to, protocol) = place("192.0.2.1:53/udp").unwrap();
        assert_eq!((to.port(), protocol), (53, Protocol::Udp));
        assert_eq!(place("c1"), None);
        assert_eq!(place("192.0.2.1"), None);
    }
}
