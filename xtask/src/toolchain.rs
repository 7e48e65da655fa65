//! Which Rust compiles the BPF program.
//!
//! Input: the compilers on this machine. Output: a `Toolchain`, set up if it can be. Invariant: the
//! choice is a pure function of `Facts`; what was refused is reported with the reason.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::child::{ask, foreign};
use crate::machine::Machine;
use crate::packages::{self, BPF_RUST, BPF_SUPPORT};
use crate::project::Project;

pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The workspace's `rust-version`.
const OLDEST_MINOR: u32 = 95;
/// The newest LLVM that the pinned bpf-linker reads.
const NEWEST_LLVM: u32 = 23;

/// A compiler that can build for BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustup's nightly, which compiles `core` itself from rust-src.
    Nightly(Compiler),
    /// Debian's rustc-web, which has `core` for BPF prebuilt.
    Debian(Compiler),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// 95 for Rust 1.95.
    pub(crate) minor: u32,
    /// Major version of the LLVM inside.
    pub(crate) llvm: u32,
}

/// What this machine has.
#[derive(Debug, Default)]
struct Facts {
    nightly: Option<Compiler>,
    nightly_has_source: bool,
    debian: Option<Compiler>,
    debian_has_core: bool,
}

/// Why neither compiler will do.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    nightly: String,
    debian: String,
}

impl Toolchain {
    /// Finds one, or installs Debian's where that is allowed and possible.
    pub(crate) fn find(project: &Project, machine: &Machine) -> Result<Self> {
        let refused = match choose(&Facts::observe(project)) {
            Ok(toolchain) => return Ok(toolchain),
            Err(refused) => refused,
        };
        if !machine.may_install() {
            bail!("{}", refused.with_commands());
        }
        packages::refresh(project);
        // The compiler's packages even if present: one that is too old is upgraded.
        let wanted: Vec<_> = BPF_RUST.iter().chain(packages::missing(BPF_SUPPORT)).collect();
        if !packages::installable(project, &wanted) {
            bail!("this distribution lacks the packages\n{}", refused.with_commands());
        }
        packages::add(project, &wanted)?;
        choose(&Facts::observe(project)).or_else(|refused| bail!("{}", refused.with_commands()))
    }

    pub(crate) fn compiler(self) -> Compiler {
        match self {
            Self::Nightly(compiler) | Self::Debian(compiler) => compiler,
        }
    }

    /// The start of a cargo command that builds for BPF.
    pub(crate) fn cargo_build(self, project: &Project) -> Command {
        match self {
            Self::Nightly(_) => {
                let mut command = foreign(project, "rustup");
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                command
            }
            Self::Debian(_) => {
                let mut command = foreign(project, DEBIAN_CARGO);
                command.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";

impl Facts {
    fn observe(project: &Project) -> Self {
        let nightly = |args: &[&str]| {
            let mut rustup = foreign(project, "rustup");
            // Asking for a toolchain must not install it.
            rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", "nightly", "rustc"]).args(args);
            ask(&mut rustup)
        };
        let sysroot = nightly(&["--print", "sysroot"]).unwrap_or_default();
        let debian = ask(foreign(project, DEBIAN_RUSTC).arg("-vV"));
        Self {
            nightly: nightly(&["-vV"]).as_deref().and_then(Compiler::parse),
            nightly_has_source: !sysroot.is_empty()
                && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library").is_dir(),
            debian: debian.as_deref().and_then(Compiler::parse),
            debian_has_core: Path::new(DEBIAN_CORE).is_dir() && Path::new(DEBIAN_CARGO).exists(),
        }
    }
}

impl Compiler {
    /// From the output of `rustc -vV`.
    fn parse(version: &str) -> Option<Self> {
        let field = |name| version.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            minor: field("release: 1.")?.split('.').next()?.parse().ok()?,
            llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
        })
    }

    fn refused(self) -> Option<String> {
        let Self { minor, llvm } = self;
        if minor < OLDEST_MINOR {
            return Some(format!("is Rust 1.{minor}, older than 1.{OLDEST_MINOR}"));
        }
        (llvm > NEWEST_LLVM)
            .then(|| format!("has LLVM {llvm}, newer than bpf-linker's {NEWEST_LLVM}"))
    }
}

/// rustup's nightly first: who has rust-src there has chosen it for this.
fn choose(facts: &Facts) -> Result<Toolchain, Refused> {
    let Facts { nightly, nightly_has_source, debian, debian_has_core } = facts;
    let nightly = match nightly {
        None => Err("is not installed".to_owned()),
        Some(_) if !nightly_has_source => Err("has no rust-src".to_owned()),
        Some(compiler) => compiler.refused().map_or(Ok(Toolchain::Nightly(*compiler)), Err),
    };
    let debian = match debian {
        None => Err("is not installed".to_owned()),
        Some(_) if !debian_has_core => Err(format!("has no cargo or no core for {TARGET}")),
        Some(compiler) => compiler.refused().map_or(Ok(Toolchain::Debian(*compiler)), Err),
    };
    nightly.or_else(|nightly| debian.map_err(|debian| Refused { nightly, debian }))
}

impl Refused {
    fn with_commands(&self) -> String {
        let Self { nightly, debian } = self;
        let packages: Vec<_> = BPF_RUST.iter().chain(BPF_SUPPORT).collect();
        format!(
            "no Rust that compiles for BPF: rustup's nightly {nightly}; Debian's rustc-web {debian}\n\
             either, with rustup:\n  \
             rustup toolchain install nightly --profile minimal --component rust-src\n\
             or, on Debian 12:\n{}\n\
             then run this command again",
            packages::commands(&packages)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FITTING: Compiler = Compiler { minor: 96, llvm: 22 };
    const OLD: Compiler = Compiler { minor: 85, llvm: 19 };
    const TOO_NEW: Compiler = Compiler { minor: 120, llvm: NEWEST_LLVM + 1 };

    #[test]
    fn a_nightly_with_source_comes_first() {
        let facts = Facts {
            nightly: Some(FITTING),
            nightly_has_source: true,
            debian: Some(FITTING),
            debian_has_core: true,
        };
        assert_eq!(choose(&facts), Ok(Toolchain::Nightly(FITTING)));
    }

    #[test]
    fn a_nightly_that_cannot_build_core_gives_way_to_debian() {
        for (nightly, nightly_has_source) in
            [(None, false), (Some(FITTING), false), (Some(OLD), true), (Some(TOO_NEW), true)]
        {
            let facts =
                Facts { nightly, nightly_has_source, debian: Some(FITTING), debian_has_core: true };
            assert_eq!(choose(&facts), Ok(Toolchain::Debian(FITTING)), "{facts:?}");
        }
    }

    #[test]
    fn an_unfit_debian_compiler_is_refused_with_the_reason() {
        let refusal = |debian, debian_has_core| {
            let facts = Facts { debian, debian_has_core, ..Facts::default() };
            choose(&facts).unwrap_err().debian
        };
        assert_eq!(refusal(None, true), "is not installed");
        assert!(refusal(Some(FITTING), false).contains("no core for bpfel-unknown-none"));
        assert!(refusal(Some(OLD), true).contains("1.85"));
        assert!(refusal(Some(TOO_NEW), true).contains("LLVM 24"));
    }

    #[test]
    fn a_refusal_holds_the_commands_of_both_ways() {
        let text = choose(&Facts::default()).unwrap_err().with_commands();
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
        assert!(text.contains("rustc-web cargo-web libstd-rust-web-dev-bpf"), "{text}");
        assert!(text.contains("llvm-22-dev"), "{text}");
    }

    #[test]
    fn versions_are_read_from_rustc() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(Compiler::parse(text), Some(Compiler { minor: 97, llvm: 22 }));
        assert_eq!(Compiler::parse("rustc 1.97.0\n"), None);
    }
}
