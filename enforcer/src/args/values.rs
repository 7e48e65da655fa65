//! Values of options: words to types. What is not understood is refused with what may stand there.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use enforcer_policy::model::{ExemptSeed, ProbeRanges};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::source::{EgressDns, GuardPods, kubernetes::Hold};

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of YAML files.
    Manifests(PathBuf),
    /// The API of the seed, as this kubeconfig reaches it.
    Kubernetes(Option<PathBuf>),
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some(("manifests", folder)) if !folder.is_empty() => Ok(Self::Manifests(folder.into())),
            Some(("kubernetes", file)) if !file.is_empty() => {
                Ok(Self::Kubernetes(Some(file.into())))
            }
            None if text == "kubernetes" => Ok(Self::Kubernetes(None)),
            _ => Err("write kubernetes, kubernetes=FILE or manifests=DIR"),
        }
    }
}

impl fmt::Display for Source {
    /// As it is written on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(folder) => write!(f, "manifests={}", folder.display()),
            Self::Kubernetes(Some(file)) => write!(f, "kubernetes={}", file.display()),
            Self::Kubernetes(None) => f.write_str("kubernetes"),
        }
    }
}

/// `--seed-defaults`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SeedDefaultsOption {
    /// As KKP does: only where the cluster has a list of its own.
    Appended,
    /// As KKP's documentation reads: everywhere.
    Always,
}

/// `--mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeOption {
    /// They are dropped.
    Enforce,
    /// They pass.
    Audit,
}

/// `--reject`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RejectOption {
    /// Not at all.
    Drop,
    /// With TCP RST, or ICMP "administratively prohibited".
    Reset,
}

/// `--lb-ranges`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LbRangesOption {
    /// As KKP does: on the shared nodeport-proxy.
    Proxies,
    /// On every frontend, direct nodePorts included.
    Everywhere,
}

/// `--guard-pods`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardPodsOption {
    /// Where all pods lie in known ranges, or a load balancer targets pods.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl GuardPodsOption {
    /// What it means.
    #[must_use]
    pub fn choice(self) -> GuardPods {
        match self {
            Self::Auto => GuardPods::Auto,
            Self::On => GuardPods::On,
            Self::Off => GuardPods::Off,
        }
    }
}

/// `--egress-dns`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressDnsOption {
    /// As KKP does: anybody, at port 53.
    #[default]
    Any,
    /// The resolvers of cluster and seed, and what is allowed besides.
    Derived,
}

impl EgressDnsOption {
    /// What it means.
    #[must_use]
    pub fn choice(self) -> EgressDns {
        match self {
            Self::Any => EgressDns::Any,
            Self::Derived => EgressDns::Derived,
        }
    }
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

pub(super) fn exempt_seed(text: &str) -> Result<ExemptSeed, &'static str> {
    let mut which = ExemptSeed { nodes: false, pods: false };
    if text == "none" {
        return Ok(which);
    }
    for word in text.split(',') {
        match word {
            "nodes" => which.nodes = true,
            "pods" => which.pods = true,
            _ => return Err("write nodes, pods, nodes,pods or none"),
        }
    }
    Ok(which)
}

pub(super) fn hold(text: &str) -> Result<Hold, &'static str> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent = percent.filter(|percent| *percent <= 100);
    percent.map(|percent| Hold { percent }).ok_or("write a share from 0% to 100%")
}

pub(super) fn probe_ranges(text: &str) -> Result<ProbeRanges, &'static str> {
    let mut probes = ProbeRanges::NONE;
    if text == "none" {
        return Ok(probes);
    }
    for word in text.split(',') {
        match word {
            "published" => probes.ranges.extend(ProbeRanges::PUBLISHED),
            "connected" => probes.connected = true,
            range => match range.parse::<IpNet>() {
                Ok(net) => probes.ranges.push(net.trunc()),
                Err(_) => return Err("write none, or any of published, connected and CIDR,..."),
            },
        }
    }
    Ok(probes)
}
