//! The Debian packages that the project needs, and how they are installed.
//!
//! Input: package tables. Output: installed packages, or the exact commands to run. Invariant: a
//! package is installed only as root, only when what it brings is absent, and is named before.

use std::path::Path;

use anyhow::{Result, bail};

use crate::child::{announce, ask, foreign, run_as_progress};
use crate::machine::{Machine, find};
use crate::project::Project;

/// One package, how its presence shows, and what it is for.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) brings: Brings,
    pub(crate) purpose: &'static str,
}

/// Evidence that a package is installed, also when it came another way.
#[derive(Debug)]
pub(crate) enum Brings {
    Program(&'static str),
    Path(&'static str),
}

const CA_CERTIFICATES: Package = Package {
    name: "ca-certificates",
    brings: Brings::Path("/etc/ssl/certs/ca-certificates.crt"),
    purpose: "lets cargo and Go download",
};

/// Debian's Rust with a prebuilt `core` for BPF: compiles the BPF program without rustup.
pub(crate) const BPF_RUST: &[Package] = &[
    Package {
        name: "rustc-web",
        brings: Brings::Path("/usr/bin/rustc"),
        purpose: "compiles the BPF program",
    },
    Package {
        name: "cargo-web",
        brings: Brings::Path("/usr/bin/cargo"),
        purpose: "drives that compiler",
    },
    Package {
        name: "libstd-rust-web-dev-bpf",
        brings: Brings::Path("/usr/lib/rustlib/bpfel-unknown-none"),
        purpose: "`core` for the BPF target",
    },
];

/// What that cargo and bpf-linker need besides.
pub(crate) const BPF_SUPPORT: &[Package] = &[
    Package {
        name: "llvm-22-dev",
        brings: Brings::Path("/usr/lib/llvm-22/lib/libLLVM.so"),
        purpose: "LLVM for bpf-linker",
    },
    Package {
        name: "g++",
        brings: Brings::Program("c++"),
        purpose: "the C++ library that LLVM needs, for linking",
    },
    CA_CERTIFICATES,
];

/// What the demo and the tiers with network namespaces start.
pub(crate) const NETWORK: &[Package] = &[
    Package {
        name: "iproute2",
        brings: Brings::Program("ip"),
        purpose: "network namespaces and links of the demo and the tests",
    },
    Package {
        name: "nftables",
        brings: Brings::Program("nft"),
        purpose: "kube-proxy's address translation in the demo and the tests",
    },
];

/// What the tiers `faults` and `hostile` make trouble with.
pub(crate) const TROUBLE: &[Package] = &[
    Package {
        name: "faketime",
        brings: Brings::Program("faketime"),
        purpose: "lets an agent's clock jump",
    },
    Package {
        name: "nmap",
        brings: Brings::Program("nmap"),
        purpose: "scans and evasions that are not of our making",
    },
];

/// What the benchmark compares with.
pub(crate) const BENCH: &[Package] = &[
    Package {
        name: "ipset",
        brings: Brings::Program("ipset"),
        purpose: "sets for iptables, measured beside the product",
    },
    Package {
        name: "iptables",
        brings: Brings::Program("iptables-restore"),
        purpose: "rules by iptables, measured beside the product",
    },
];

/// What builds images where nothing else does.
pub(crate) const BUILDAH: &[Package] = &[Package {
    name: "buildah",
    brings: Brings::Program("buildah"),
    purpose: "builds container images",
}];

/// What runs them in tests.
pub(crate) const CONTAINERS: &[Package] = &[
    Package {
        name: "podman",
        brings: Brings::Program("podman"),
        purpose: "runs the image in tests",
    },
    Package {
        name: "runc",
        brings: Brings::Program("runc"),
        purpose: "the runtime below, that of most nodes",
    },
];

/// What builds, or fetches what builds, the control plane of the tests.
pub(crate) const GO: &[Package] = &[
    Package {
        name: "golang-go",
        brings: Brings::Program("go"),
        purpose: "Go for the control plane of the tests",
    },
    CA_CERTIFICATES,
];

/// What starts other kernels.
pub(crate) const EMULATOR: &[Package] = &[Package {
    name: "qemu-system-x86",
    brings: Brings::Program("qemu-system-x86_64"),
    purpose: "starts other kernels in tests",
}];

/// What takes kernel packages apart.
pub(crate) const UNPACK: &[Package] = &[Package {
    name: "xz-utils",
    brings: Brings::Program("xz"),
    purpose: "unpacks kernel modules for tests",
}];

/// Parts of Debian's Rust, for who has no rustup.
pub(crate) const RUST_LINTS: &[Package] = &[
    Package {
        name: "rustfmt-web",
        brings: Brings::Program("rustfmt"),
        purpose: "the format check",
    },
    Package {
        name: "rust-web-clippy",
        brings: Brings::Program("cargo-clippy"),
        purpose: "the lints",
    },
];

/// Those of a table that are not there.
pub(crate) fn missing<'a>(table: impl IntoIterator<Item = &'a Package>) -> Vec<&'a Package> {
    table.into_iter().filter(|package| !present(package)).collect()
}

fn present(package: &Package) -> bool {
    match package.brings {
        Brings::Program(name) => find(name).is_some(),
        Brings::Path(path) => Path::new(path).exists(),
    }
}

/// Installs, having said what. As another user, or without apt, stops with the commands instead.
pub(crate) fn install(project: &Project, machine: &Machine, packages: &[&Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !machine.may_install() {
        bail!("missing: {}\nrun:\n{}", listed(packages), commands(packages));
    }
    refresh(project);
    add(project, packages)
}

/// Installs from the package lists as they are; only after `Machine::may_install`.
pub(crate) fn add(project: &Project, packages: &[&Package]) -> Result<()> {
    announce(&format!("installing Debian packages: {}", listed(packages)), "up to 3 minutes");
    run_as_progress(apt_get(project).args(INSTALL).args(names(packages)))
}

/// Whether this distribution has all of them. Only as good as the package lists on the machine.
pub(crate) fn installable(project: &Project, packages: &[&Package]) -> bool {
    let mut simulation = apt_get(project);
    simulation.args(INSTALL).arg("--simulate").args(names(packages));
    ask(&mut simulation).is_some()
}

/// Brings the package lists up to date. One broken source among many is no reason to stop here: the
/// installation itself shows what is missing.
pub(crate) fn refresh(project: &Project) {
    announce("reading the lists of Debian packages", "about 10 s");
    if let Err(error) = run_as_progress(apt_get(project).arg("update")) {
        eprintln!("warning: {error:#}");
    }
}

/// What to type, one command a line, indented.
pub(crate) fn commands(packages: &[&Package]) -> String {
    let names = names(packages).collect::<Vec<_>>().join(" ");
    format!("  sudo apt-get update\n  sudo apt-get {} {names}", INSTALL.join(" "))
}

const INSTALL: [&str; 3] = ["install", "--yes", "--no-install-recommends"];

fn apt_get(project: &Project) -> std::process::Command {
    let mut apt = foreign(project, "apt-get");
    // A machine that has just booted may be upgrading itself.
    apt.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn names<'a>(packages: &'a [&'a Package]) -> impl Iterator<Item = &'a str> {
    packages.iter().map(|package| package.name)
}

fn listed(packages: &[&Package]) -> String {
    let words = packages.iter().map(|package| format!("{} ({})", package.name, package.purpose));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Package =
        Package { name: "dash", brings: Brings::Program("sh"), purpose: "a shell" };
    const ABSENT: Package =
        Package { name: "none", brings: Brings::Path("/no/such/path"), purpose: "nothing" };

    #[test]
    fn only_absent_packages_are_missing() {
        let found = missing([&HERE, &ABSENT]);
        assert_eq!(names(&found).collect::<Vec<_>>(), ["none"]);
    }

    #[test]
    fn without_root_the_message_holds_the_exact_commands() {
        let user = Machine { root: false, apt: true, capabilities: 0 };
        let refusal = install(&Project::of_this_workspace(), &user, &[&HERE, &ABSENT]).unwrap_err();
        let text = refusal.to_string();
        assert!(text.contains("sudo apt-get update\n"), "{text}");
        assert!(
            text.contains("sudo apt-get install --yes --no-install-recommends dash none"),
            "{text}"
        );
    }

    #[test]
    fn every_package_says_its_purpose_and_has_no_other_elsewhere() {
        let tables = [
            BPF_RUST,
            BPF_SUPPORT,
            NETWORK,
            TROUBLE,
            BUILDAH,
            CONTAINERS,
            GO,
            EMULATOR,
            UNPACK,
            RUST_LINTS,
        ];
        let all: Vec<_> = tables.into_iter().flatten().collect();
        for package in &all {
            assert!(!package.purpose.is_empty(), "{}", package.name);
            let same = all.iter().filter(|other| other.name == package.name);
            assert!(same.clone().all(|other| other.purpose == package.purpose), "{}", package.name);
        }
    }
}
