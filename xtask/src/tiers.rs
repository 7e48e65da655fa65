//! The test tiers, as data.
//!
//! Input: nothing. Output: what each tier proves, needs and runs. Invariant: the name of a
//! test program decides its tier, and each has one.

use crate::needs::Need;

/// A group of tests that needs the same things of a machine.
pub(crate) struct Tier {
    pub(crate) name: &'static str,
    pub(crate) proves: &'static str,
    /// In this order; what takes long comes last.
    pub(crate) needs: &'static [Need],
    pub(crate) steps: &'static [Step],
}

/// One thing that a tier runs.
#[derive(Debug)]
pub(crate) enum Step {
    /// `cargo test` with these arguments. `--workspace` is among them so that every tier sees the
    /// same features, and crates are compiled once.
    Tests(&'static [&'static str]),
    /// A cargo command whose exit code decides.
    Cargo(&'static [&'static str]),
    /// Licences, sources and bans of the dependencies. Advisories need the network on every run
    /// and change without a commit, so they are no part of a test.
    DependencyRules,
    /// The objects that the agent reads against KKP's own CRDs, where they lie beside the project;
    /// elsewhere these tests count as ignored.
    RealCrds,
    /// The policy core depends on nothing that knows time, network or kernel.
    PureCrate,
    /// Tests on other kernels, in virtual machines; `guest_*` runs nowhere else.
    Guests,
    /// The demo, whose exit code says whether every observation was as expected.
    Demo,
}

/// What real connections across network namespaces take.
const NETWORKS: &[Need] = &[
    Need::Root,
    Need::LoadBpf,
    Need::MountBpffs,
    Need::NetworkNamespaces,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::BpfObject,
    Need::Agent,
];

/// What strangers' own tools take besides.
const HOSTILE: &[Need] = &[
    Need::Root,
    Need::LoadBpf,
    Need::MountBpffs,
    Need::NetworkNamespaces,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("nmap"),
    Need::BpfObject,
    Need::Agent,
];

/// What a test that lets the agent die takes.
const FAULTS: &[Need] = &[
    Need::Root,
    Need::LoadBpf,
    Need::MountBpffs,
    Need::NetworkNamespaces,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("faketime"),
    Need::BpfObject,
    Need::Agent,
    Need::AgentWithFaults,
];

/// What a real API server beside these networks takes.
const CLUSTER: &[Need] = &[
    Need::Root,
    Need::LoadBpf,
    Need::MountBpffs,
    Need::NetworkNamespaces,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::BpfObject,
    Need::Agent,
    Need::ControlPlane,
];

/// What containers on these networks take.
const CONTAINERS: &[Need] = &[
    Need::Root,
    Need::LoadBpf,
    Need::MountBpffs,
    Need::NetworkNamespaces,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("podman"),
    Need::Program("runc"),
    Need::BpfObject,
    Need::Agent,
    Need::Image,
    Need::ControlPlane,
];

/// What other kernels take.
const GUESTS: &[Need] = &[
    Need::Program("ip"),
    Need::Program("nft"),
    Need::BpfObject,
    Need::Emulator,
    Need::OtherKernels,
    Need::Agent,
];

pub(crate) const TIERS: &[Tier] = &[
    Tier {
        name: "lint",
        proves: "format, lints, licences and sources of dependencies",
        needs: &[
            Need::Component("rustfmt"),
            Need::Component("clippy"),
            Need::CargoDeny,
            Need::BpfObject,
        ],
        steps: &[
            Step::Cargo(&["fmt", "--all", "--check"]),
            Step::Cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]),
            Step::DependencyRules,
        ],
    },
    Tier {
        name: "unit",
        proves: "parts by themselves, properties, purity of the policy core",
        needs: &[Need::BpfObject],
        steps: &[
            Step::Tests(&["--workspace", "--lib", "--bins", "--test", "agreement*"]),
            Step::Tests(&["--workspace", "--doc"]),
            Step::RealCrds,
            Step::PureCrate,
        ],
    },
    Tier {
        name: "kernel",
        proves: "the product's programs in this kernel, packet by packet",
        needs: &[Need::Root, Need::LoadBpf, Need::MountBpffs, Need::BpfObject, Need::Agent],
        steps: &[Step::Tests(&["--workspace", "--test", "datapath_*"])],
    },
    Tier {
        name: "netns",
        proves: "the agent with real connections across network namespaces",
        needs: NETWORKS,
        steps: &[Step::Tests(&[
            "--workspace",
            "--test",
            "harness_*",
            "--test",
            "node_*",
            "--test",
            "agent_*",
        ])],
    },
    Tier {
        name: "faults",
        proves: "nothing opens and nothing is lost, whatever happens to the agent",
        needs: FAULTS,
        steps: &[Step::Tests(&["--workspace", "--test", "faults_*"])],
    },
    Tier {
        name: "hostile",
        proves: "no shape of packets gets a stranger to a guarded listener, or a gated pod to a stranger",
        needs: HOSTILE,
        steps: &[Step::Tests(&["--workspace", "--test", "hostile_*"])],
    },
    Tier {
        name: "kernels",
        proves: "packets, connections and egress on the kernels that nodes have, 5.10 to the newest",
        needs: GUESTS,
        steps: &[Step::Guests],
    },
    Tier {
        name: "cluster",
        proves: "the agent and deploy/ against a real API server",
        needs: CLUSTER,
        steps: &[Step::Tests(&["--workspace", "--test", "cluster_*"])],
    },
    Tier {
        name: "image",
        proves: "the container image with the capabilities of deploy/ and no others",
        needs: CONTAINERS,
        steps: &[Step::Tests(&["--workspace", "--test", "image_*"])],
    },
    Tier {
        name: "demo",
        proves: "the demo shows what it says",
        needs: NETWORKS,
        steps: &[Step::Demo],
    },
];

pub(crate) fn names() -> Vec<&'static str> {
    TIERS.iter().map(|tier| tier.name).collect()
}

impl Tier {
    /// Whether it counts tests, so that running none of them is a failure.
    pub(crate) fn has_tests(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Tests(_) | Step::Guests))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::project::Project;

    #[test]
    fn names_differ_and_every_tier_runs_something() {
        let mut names = names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TIERS.len());
        for tier in TIERS {
            assert!(!tier.steps.is_empty() && !tier.proves.is_empty(), "{}", tier.name);
        }
    }

    #[test]
    fn the_agent_comes_after_the_object_that_it_embeds() {
        for tier in TIERS {
            let place = |wanted: Need| tier.needs.iter().position(|need| *need == wanted);
            if let Some(agent) = place(Need::Agent) {
                assert!(
                    place(Need::BpfObject).is_some_and(|object| object < agent),
                    "{}",
                    tier.name
                );
            }
        }
    }

    #[test]
    fn every_test_program_belongs_to_exactly_one_tier() {
        let root = Project::of_this_workspace().root().to_path_buf();
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let members = manifest.split_once("\nmembers = [").unwrap().1.split(']').next().unwrap();
        for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
            let Ok(folder) = fs::read_dir(root.join(member).join("tests")) else { continue };
            for entry in folder {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "rs") {
                    continue;
                }
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                let runs = commands().filter(|args| selects(args, &name)).count();
                assert_eq!(runs, 1, "{runs} commands run {member}/tests/{name}.rs");
            }
        }
    }

    fn commands() -> impl Iterator<Item = &'static [&'static str]> {
        TIERS.iter().flat_map(|tier| tier.steps).filter_map(|step| match step {
            Step::Tests(args) => Some(*args),
            Step::Guests => Some(&["guest_*"]),
            Step::Cargo(_)
            | Step::RealCrds
            | Step::DependencyRules
            | Step::PureCrate
            | Step::Demo => None,
        })
    }

    fn selects(args: &[&str], name: &str) -> bool {
        let mut patterns = args.iter().filter_map(|arg| arg.strip_suffix('*'));
        patterns.any(|prefix| name.starts_with(prefix))
    }
}
