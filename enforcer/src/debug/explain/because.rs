//! Why a connection is decided as it is, in the oracle's words.
//!
//! Input: an [`Answer`] of the oracle. Output: the range, the object and field that it came from, and a
//! sentence.

use enforcer_policy::{
    model::ClusterId,
    oracle::{Admitted, Answer, Exemption},
};
use ipnet::IpNet;

/// The oracle's words.
#[derive(Default)]
pub(super) struct Words {
    pub(super) range: Option<String>,
    pub(super) object: Option<String>,
    pub(super) field: Option<String>,
    pub(super) why: String,
}

impl Words {
    /// Why the kernel and the oracle decide as they do.
    pub(super) fn of(answer: &Answer) -> Self {
        let option = |range: &IpNet, option: &str| Self {
            range: Some(range.to_string()),
            object: Some(option.to_owned()),
            field: None,
            why: format!("{option} {range}"),
        };
        match answer {
            Answer::Unguarded => Self::only("no list restricts it"),
            Answer::Listed(by) => Self::listed(by),
            Answer::OwnPod(cluster) => {
                Self::only(&format!("a pod of the control plane of {cluster}"))
            }
            Answer::Exempt(exemption) => Self::exempt(exemption),
            Answer::TrustedProxy(range) => option(range, "--trusted-proxies"),
            Answer::Reply => Self::only("a reply to a connection that the node opened"),
            Answer::Probe(range) | Answer::ProbeData(range) => option(range, "--probe-ranges"),
            Answer::NotListed(clusters) => {
                let names: Vec<String> = clusters.iter().map(ToString::to_string).collect();
                Self::only(&format!("in no list of {}", names.join(", ")))
            }
        }
    }

    fn only(why: &str) -> Self {
        Self { why: why.to_owned(), ..Self::default() }
    }

    fn listed(by: &[(ClusterId, Admitted)]) -> Self {
        let one = |Admitted { range, origin, position }: &Admitted| {
            format!("{range} of {origin}[{position}]")
        };
        let all: Vec<String> = by.iter().map(|(_, admitted)| one(admitted)).collect();
        let first = by.first().map(|(_, admitted)| admitted);
        Self {
            range: first.map(|admitted| admitted.range.to_string()),
            object: first.map(|admitted| admitted.origin.object.to_string()),
            field: first.map(|it| format!("{}[{}]", it.origin.field, it.position)),
            why: all.join(" and "),
        }
    }

    fn exempt(exemption: &Exemption) -> Self {
        let node = |name: &String, field: &str, range: Option<&IpNet>| Self {
            range: range.map(ToString::to_string),
            object: Some(format!("Node {name}")),
            field: Some(field.to_owned()),
            why: match range {
                Some(range) => format!("{range} of Node {name} {field}"),
                None => format!("an address of Node {name} {field}"),
            },
        };
        match exemption {
            Exemption::Node(name) => node(name, "status.addresses", None),
            Exemption::PodRange(name, range) => node(name, "spec.podCIDRs", Some(range)),
            Exemption::TunnelPeer => Self::only("the tunnel device of another node"),
            Exemption::SharedProxyPod => Self::only("a pod of the shared nodeport-proxy"),
            Exemption::Option(range) => Self {
                range: Some(range.to_string()),
                object: Some("--exempt".to_owned()),
                field: None,
                why: format!("--exempt {range}"),
            },
        }
    }

    /// The image in force is not that of the objects.
    pub(super) fn unknown(answer: &Answer, reason: &str) -> Self {
        let said = answer.reason();
        Self::only(&format!(
            "{}: by an image of other objects; by those that are known it were {said}",
            reason.replace('_', " ")
        ))
    }
}
