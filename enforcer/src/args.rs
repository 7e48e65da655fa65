//! The command line. An option that is not here is not understood, never accepted and ignored.

mod values;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use enforcer_policy::model::{
    ExemptSeed, LoadBalancerRanges, Mode, Options, ProbeRanges, Reject, SeedDefaults,
};
use ipnet::IpNet;

pub use self::values::{
    EgressDnsOption, GuardPodsOption, LbRangesOption, LogFormat, ModeOption, RejectOption,
    SeedDefaultsOption, Source,
};
use self::values::{exempt_seed, hold, probe_ranges};
use crate::{
    debug::Debug,
    kernel::Attach,
    node::{Preemption, Selection},
    source::{Destination, EgressSettings, GuardPods, Limits, kubernetes::Hold},
};

/// Enforces in the kernel of a seed node who may reach each user cluster's API server.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the source and enforce it until a signal comes; what is enforced stays.
    Run(Box<Run>),
    /// Enforce what was enforced last, as the state says, and end: for a node that boots.
    Restore(Restore),
    /// Detach and remove everything, and forget the state.
    Clean(Clean),
    /// Say what is enforced here, and why. Exit codes: 0 allowed or all well, 3 denied, 4 not
    /// enforced, 2 wrong usage, 1 no answer.
    Debug(Debug),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Where things are kept.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Folder of a BPF file system for pinned maps and links; `enforcer run` mounts one if nothing is.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/enforcer",
        global = true,
        help_heading = COMMON
    )]
    pub bpffs: PathBuf,
    /// Folder for what was enforced last, and the agent's socket.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/enforcer",
        global = true,
        help_heading = COMMON
    )]
    pub state: PathBuf,
}

/// Heading, in help texts, of options that several commands have.
pub(crate) const COMMON: &str = "Common options";

/// Options of `enforcer restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// Where things are kept.
    #[command(flatten)]
    pub places: Places,
    /// Interfaces to guard: `auto`, or names separated by commas.
    #[arg(long, value_name = "NAMES", default_value = "auto")]
    pub interfaces: Selection,
    /// How programs are attached.
    #[arg(long, value_enum, default_value = "auto")]
    pub attach: Attach,
}

/// Options of `enforcer clean`.
#[derive(Debug, Args)]
pub struct Clean {
    /// Where things are kept.
    #[command(flatten)]
    pub places: Places,
    /// Then wait for a signal, as a DaemonSet asks of its containers.
    #[arg(long)]
    pub stay: bool,
}

/// Options of `enforcer run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Where objects come from: `kubernetes`, the API of the seed as a pod or KUBECONFIG reach it,
    /// `kubernetes=FILE`, as that kubeconfig does, or `manifests=DIR`, a folder of YAML files.
    #[arg(long, value_name = "SOURCE")]
    pub source: Source,
    /// Name of the Node object of this machine.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Interfaces to guard: `auto`, or names separated by commas.
    #[arg(long, value_name = "NAMES", default_value = "auto")]
    pub interfaces: Selection,
    /// How programs are attached.
    #[arg(long, value_enum, default_value = "auto")]
    pub attach: Attach,
    /// What may see packets before our programs without the node counting as not enforced.
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    pub tolerate: Vec<Preemption>,
    /// Where things are kept.
    #[command(flatten)]
    pub places: Places,
    /// Address that serves /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Ranges that every list admits.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub exempt: Vec<IpNet>,
    /// Seed addresses that every list admits: `nodes`, `pods`, `nodes,pods` or `none`.
    #[arg(long, value_name = "WHICH", default_value = "nodes,pods", value_parser = exempt_seed)]
    pub exempt_seed: ExemptSeed,
    /// Load balancers that deliver from their own addresses and enforce the lists themselves.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,
    /// Who may open and close TCP connections, without sending data, though no list admits it: ranges,
    /// `published` (those of big providers' health checks), `connected` (the subnets of the uplinks),
    /// or `none`.
    #[arg(
        long,
        value_name = "CIDR,...",
        default_value = "published,connected",
        value_parser = probe_ranges
    )]
    pub probe_ranges: ProbeRanges,
    /// What becomes of packets that nothing admits: `audit` counts them as denied and lets them pass.
    #[arg(long, value_enum, default_value = "enforce")]
    pub mode: ModeOption,
    /// How denied packets are answered: `reset` sends TCP RST or ICMP "prohibited", at a bounded rate.
    #[arg(long, value_enum, default_value = "drop")]
    pub reject: RejectOption,
    /// Where the Seed's load balancer ranges count besides strategy LoadBalancer.
    #[arg(long, value_enum, default_value = "proxies")]
    pub lb_ranges: LbRangesOption,
    /// Whether pod addresses are guarded as destinations. `auto`: where all pods lie in known ranges,
    /// or a load balancer targets pods.
    #[arg(long, value_enum, default_value = "auto")]
    pub guard_pods: GuardPodsOption,
    /// Whom API servers with limited egress may ask for names: `any` is anybody, at port 53; `derived`
    /// the resolvers of cluster and seed, and what --egress-allow names.
    #[arg(long, value_enum, default_value = "any")]
    pub egress_dns: EgressDnsOption,
    /// Destinations that all API servers may connect to: CIDR, CIDR:PORT, [CIDR]:PORT for IPv6.
    #[arg(long, value_name = "CIDR[:PORT]", value_delimiter = ',')]
    pub egress_allow: Vec<Destination>,
    /// Whether the Seed's default ranges also restrict clusters without a list of their own.
    #[arg(long, value_enum, default_value = "appended")]
    pub seed_defaults: SeedDefaultsOption,
    /// Name of the Seed object; needed where several are visible.
    #[arg(long, value_name = "NAME")]
    pub seed: Option<String>,
    /// Namespace of KKP's own services.
    #[arg(long, value_name = "NAME", default_value = "kubermatic")]
    pub kubermatic_namespace: String,
    /// Entries that one cluster's list may have. A longer one does not count: the list before it is
    /// kept, and without one the cluster admits nobody but exemptions.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().ranges)]
    pub max_ranges_per_cluster: usize,
    /// Addresses that one cluster may have: of frontends besides nodePorts, of pods, and of peers in its
    /// own namespace, so many of each. What is beyond does not count.
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().addresses)]
    pub max_addresses_per_cluster: usize,
    /// Options of the source `kubernetes`.
    #[command(flatten)]
    pub kubernetes: KubernetesOptions,
    /// Form of log lines.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// Options of the source `kubernetes`.
#[derive(Clone, Debug, Args)]
pub struct KubernetesOptions {
    /// Namespace that the agent runs in, where it keeps its Leases; known by itself in a pod.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Hold what a list suddenly lacks if less than this share of it is left; 0% never does.
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = hold)]
    pub hold_below: Hold,
}

impl Run {
    /// The options that change verdicts.
    #[must_use]
    pub fn policy(&self) -> Options {
        Options {
            mode: match self.mode {
                ModeOption::Enforce => Mode::Enforce,
                ModeOption::Audit => Mode::Audit,
            },
            seed_defaults: match self.seed_defaults {
                SeedDefaultsOption::Appended => SeedDefaults::Appended,
                SeedDefaultsOption::Always => SeedDefaults::Always,
            },
            exempt: self.exempt.iter().map(IpNet::trunc).collect(),
            exempt_seed: self.exempt_seed,
            lb_ranges: match self.lb_ranges {
                LbRangesOption::Proxies => LoadBalancerRanges::Proxies,
                LbRangesOption::Everywhere => LoadBalancerRanges::Everywhere,
            },
            trusted_proxies: self.trusted_proxies.iter().map(IpNet::trunc).collect(),
            probes: self.probe_ranges.clone(),
            reject: match self.reject {
                RejectOption::Drop => Reject::Drop,
                RejectOption::Reset => Reject::Reset,
            },
        }
    }

    /// What one cluster may use up.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            ranges: self.max_ranges_per_cluster,
            addresses: self.max_addresses_per_cluster,
            ..Limits::default()
        }
    }

    /// Whether pod addresses are guarded as destinations.
    #[must_use]
    pub fn guard_pods(&self) -> GuardPods {
        self.guard_pods.choice()
    }

    /// What API servers may connect to besides what objects say.
    #[must_use]
    pub fn egress(&self) -> EgressSettings {
        EgressSettings { dns: self.egress_dns.choice(), allow: self.egress_allow.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Box<Run>, clap::Error> {
        let fixed = ["enforcer", "run", "--source", "manifests=/etc/kkp", "--node", "n1"];
        match Arguments::try_parse_from(fixed.iter().chain(arguments))?.command {
            Command::Run(run) => Ok(run),
            Command::Clean(_)
            | Command::Restore(_)
            | Command::Debug(_)
            | Command::Completion { .. } => {
                unreachable!("run was asked for")
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_readme() {
        let run = run(&[]).unwrap();
        assert_eq!(run.source, Source::Manifests("/etc/kkp".into()));
        assert_eq!(run.interfaces, Selection::Auto);
        assert_eq!(run.attach, Attach::Auto);
        assert_eq!(run.places.bpffs, PathBuf::from("/sys/fs/bpf/enforcer"));
        assert_eq!(run.listen.to_string(), "127.0.0.1:9464");
        assert_eq!(run.policy(), Options::default());
        assert_eq!(run.guard_pods(), GuardPods::Auto);
        assert_eq!(run.egress(), EgressSettings::default());
    }

    #[test]
    fn kubernetes_is_a_source_with_and_without_a_file() {
        assert_eq!("kubernetes".parse(), Ok(Source::Kubernetes(None)));
        let file = Source::Kubernetes(Some("/etc/kubeconfig".into()));
        assert_eq!("kubernetes=/etc/kubeconfig".parse(), Ok(file));
        assert_eq!(run(&[]).unwrap().kubernetes.hold_below, Hold { percent: 50 });
        let run = run(&["--hold-below", "80%", "--namespace", "guard"]).unwrap();
        assert_eq!(run.kubernetes.hold_below, Hold { percent: 80 });
        assert_eq!(run.kubernetes.namespace.as_deref(), Some("guard"));
    }

    #[test]
    fn exemptions_are_ranges_with_host_bits_cleared() {
        let run = run(&["--exempt", "10.1.2.3/8,fd00::1/64", "--exempt-seed", "pods"]).unwrap();
        let options = run.policy();
        assert_eq!(options.exempt, ["10.0.0.0/8", "fd00::/64"].map(|net| net.parse().unwrap()));
        assert_eq!(options.exempt_seed, ExemptSeed { nodes: false, pods: true });
    }

    #[test]
    fn probe_ranges_are_published_ones_the_uplinks_subnets_and_ones_own() {
        let probes = |text| run(&["--probe-ranges", text]).unwrap().policy().probes;
        assert_eq!(probes("none"), ProbeRanges::NONE);
        assert_eq!(probes("connected"), ProbeRanges { ranges: [].into(), connected: true });
        assert_eq!(probes("published,connected"), ProbeRanges::default());
        let own = ["10.0.0.0/8", "fd00::/64"].map(|net| net.parse().unwrap());
        let expected = ProbeRanges { ranges: own.into(), connected: false };
        assert_eq!(probes("10.1.2.3/8,fd00::1/64"), expected);
    }

    #[test]
    fn nothing_that_sees_packets_first_is_tolerated_unless_it_is_named() {
        assert_eq!(run(&[]).unwrap().tolerate, []);
        let both = run(&["--tolerate", "xdp,netkit"]).unwrap().tolerate;
        assert_eq!(both, [Preemption::Xdp, Preemption::Netkit]);
    }

    #[test]
    fn proxies_ranges_of_load_balancers_and_pods_are_chosen() {
        let run =
            run(&["--trusted-proxies=10.1.2.3/8", "--lb-ranges=everywhere", "--guard-pods=off"])
                .unwrap();
        let options = run.policy();
        assert_eq!(options.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(options.lb_ranges, LoadBalancerRanges::Everywhere);
        assert_eq!(run.guard_pods(), GuardPods::Off);
    }

    #[test]
    fn egress_is_widened_by_ranges_with_and_without_a_port_and_narrowed_for_names() {
        let allow = "10.1.2.3/8,192.0.2.1:443,[2001:db8::/32]:8443";
        let egress = run(&["--egress-dns=derived", "--egress-allow", allow]).unwrap().egress();
        assert_eq!(egress.dns, crate::source::EgressDns::Derived);
        let shown: Vec<String> = egress.allow.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "192.0.2.1/32:443", "[2001:db8::/32]:8443"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for wrong in [
            ["--source", "kubernetes="],
            ["--interfaces", "eth0,"],
            ["--exempt", "10.0.0.0/33"],
            ["--exempt-seed", "all"],
            ["--hold-below", "101%"],
            ["--hold-below", "50"],
            ["--probe-ranges", ""],
            ["--probe-ranges", "none,connected"],
            ["--probe-ranges", "10.0.0.0"],
            ["--trusted-proxies", "proxy.example.com"],
            ["--lb-ranges", "nowhere"],
            ["--guard-pods", "yes"],
            ["--mode", "off"],
            ["--tolerate", "everything"],
            ["--egress-dns", "none"],
            ["--egress-allow", "proxy.example.com:443"],
            ["--egress-allow", "10.0.0.0/8:0"],
        ] {
            assert!(run(&wrong).is_err(), "{wrong:?}");
        }
    }
}
