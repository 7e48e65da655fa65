//! The filters that are compared, and how each gets its ranges.
//!
//! Input: ranges and the frontend. Output: rules in force in a node's namespace. All but kube-proxy's
//! set stand where they cost least, before connection tracking.

use std::{fmt, fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use enforcer_tests::{exec, netns::Netns};
use serde::Serialize;

use super::{
    bed::{PORT, VIP},
    kube_proxy,
    ranges::Ranges,
};

/// What decides who gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Filter {
    /// Nothing.
    None,
    /// Nothing, in a second bed: the error of the measurement.
    NoneAgain,
    /// This project's agent.
    Ours,
    /// The rules of kube-proxy's nftables mode for `loadBalancerSourceRanges`.
    KubeProxy,
    /// One nftables set with intervals, looked up before connection tracking.
    Stateless,
    /// An ipset `hash:net`, matched by one rule of iptables.
    Ipset,
    /// One rule of iptables per range.
    Linear,
    /// A TC program that drops everything.
    DropAll,
}

/// All of them.
pub(crate) const FILTERS: [Filter; 8] = [
    Filter::None,
    Filter::NoneAgain,
    Filter::Ours,
    Filter::KubeProxy,
    Filter::Stateless,
    Filter::Ipset,
    Filter::Linear,
    Filter::DropAll,
];

/// Rules that take longer to load nobody would run.
const PATIENCE: Duration = Duration::from_secs(20);

impl Filter {
    /// Whether anybody gets in.
    pub(crate) fn admits(self) -> bool {
        self != Self::DropAll
    }

    /// Whether anybody does not.
    pub(crate) fn denies(self) -> bool {
        !matches!(self, Self::None | Self::NoneAgain)
    }

    /// What must be installed for it.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::None | Self::NoneAgain | Self::Ours | Self::DropAll => &[],
            Self::KubeProxy | Self::Stateless => &["nft"],
            Self::Ipset => &["ipset", "iptables"],
            Self::Linear => &["iptables-restore"],
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no filter",
            Self::NoneAgain => "no filter, second bed",
            Self::Ours => "this project",
            Self::KubeProxy => "kube-proxy, nftables mode",
            Self::Stateless => "nftables set, stateless",
            Self::Ipset => "ipset with iptables",
            Self::Linear => "iptables, a rule per range",
            Self::DropAll => "TC program that drops everything",
        })
    }
}

/// Puts the rules of a filter that needs no agent and no program in force.
pub(crate) fn load(filter: Filter, node: &Netns, ranges: &Ranges) -> Result<()> {
    match filter {
        Filter::None | Filter::NoneAgain | Filter::Ours | Filter::DropAll => Ok(()),
        Filter::KubeProxy => node.nft(&kube_proxy::firewall(ranges)),
        Filter::Stateless => node.nft(&stateless(ranges)),
        Filter::Ipset => ipset(node, ranges),
        Filter::Linear => run(node, "iptables-restore", &[], &linear(ranges)),
    }
}

fn stateless(ranges: &Ranges) -> String {
    let elements: Vec<String> = ranges.texts().collect();
    format!(
        "table ip stateless\ndelete table ip stateless\ntable ip stateless {{\n\
         set allowed {{\n type ipv4_addr\n flags interval\n elements = {{ {} }}\n }}\n\
         chain prerouting {{\n type filter hook prerouting priority raw; policy accept;\n\
         ip daddr {VIP} tcp dport {PORT} ip saddr != @allowed drop\n }}\n}}\n",
        elements.join(", ")
    )
}

/// The set is filled beside the one in use and swapped in, as those who run it do.
fn ipset(node: &Netns, ranges: &Ranges) -> Result<()> {
    let size = ranges.nets.len().max(1024);
    let mut text = String::new();
    for name in ["allowed", "next"] {
        let _ = writeln!(text, "create -exist {name} hash:net family inet maxelem 131072");
    }
    let _ = writeln!(text, "destroy next");
    let _ = writeln!(text, "create next hash:net family inet hashsize {size} maxelem 131072");
    for net in ranges.texts() {
        let _ = writeln!(text, "add next {net}");
    }
    let _ = writeln!(text, "swap next allowed\ndestroy next");
    run(node, "ipset", &["restore"], &text)?;
    let rule = format!(
        "*raw\n-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport {PORT} -m set ! --match-set allowed src -j DROP\nCOMMIT\n"
    );
    run(node, "iptables-restore", &[], &rule)
}

fn linear(ranges: &Ranges) -> String {
    let mut text = format!(
        "*raw\n:ALLOWED - [0:0]\n-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport {PORT} -j ALLOWED\n"
    );
    for net in ranges.texts() {
        let _ = writeln!(text, "-A ALLOWED -s {net} -j RETURN");
    }
    text + "-A ALLOWED -j DROP\nCOMMIT\n"
}

fn run(node: &Netns, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = node.command(program);
    command.args(arguments);
    let output = exec::output(command, input, PATIENCE)
        .with_context(|| format!("cannot load the rules with {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
