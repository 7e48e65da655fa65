//! Builds the BPF object and the agent that embeds it.
//!
//! Input: the workspace and a toolchain for BPF. Output: `target/bpf/enforcer.bpf.o` and
//! `target/release/enforcer`. Invariant: an unchanged BPF object keeps its file, so that the agent
//! is not built again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::child::{self, announce, cargo};
use crate::control_plane::ControlPlane;
use crate::image::{self, Architecture};
use crate::machine::Machine;
use crate::project::Project;
use crate::toolchain::{TARGET, Toolchain};
use crate::tools::bpf_linker;

/// Cargo profile of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Release,
    Dev,
}

/// `cargo xtask build`.
pub(crate) fn run(project: &Project, profile: Profile) -> Result<ExitCode> {
    BpfBuilder::prepare(project, &Machine::observe())?.object(project)?;
    let agent = agent(project, profile)?;
    let shown = agent.strip_prefix(project.root()).unwrap_or(&agent);
    eprintln!("==> built {}", shown.display());
    Ok(ExitCode::SUCCESS)
}

/// A compiler and a linker for BPF, both present.
#[derive(Debug)]
pub(crate) struct BpfBuilder {
    toolchain: Toolchain,
    linker: PathBuf,
}

impl BpfBuilder {
    /// Finds or sets up both. An error says what is missing and how to get it.
    pub(crate) fn prepare(project: &Project, machine: &Machine) -> Result<Self> {
        let toolchain =
            Toolchain::find(project, machine).context("cannot build the BPF program")?;
        Ok(Self { toolchain, linker: bpf_linker(project, machine, toolchain)? })
    }

    /// Compiles the product's program, also for kernels that take images only in parts; an error is one of the
    /// program, not of the machine.
    pub(crate) fn object(&self, project: &Project) -> Result<()> {
        announce("building the BPF program", "about 1 minute the first time");
        self.compile(project, "enforcer-ebpf", "bpf", &project.object())?;
        self.compile(project, "enforcer-ebpf", "bpf,parts", &project.object_in_parts())
    }

    /// Compiles the programs that only benchmarks load.
    pub(crate) fn bench_object(&self, project: &Project) -> Result<()> {
        announce("building the BPF programs of the benchmark", "about 10 s");
        self.compile(project, "bench-programs", "bpf", &project.bench_object())
    }

    fn compile(
        &self,
        project: &Project,
        binary: &str,
        features: &str,
        object: &Path,
    ) -> Result<()> {
        child::run(&mut self.cargo_build(project, binary, features))?;
        let built = target_of(project, features).join(TARGET).join("release").join(binary);
        copy_if_changed(&built, object)
    }

    fn cargo_build(&self, project: &Project, binary: &str, features: &str) -> Command {
        let mut command = self.toolchain.cargo_build(project);
        command
            .args(["--package", "enforcer-ebpf", "--bin", binary, "--features", features])
            .args(["--release", "--target", TARGET, "--target-dir"])
            .arg(target_of(project, features))
            .args(locked(project))
            .env("RUSTFLAGS", self.flags());
        // The workspace's release profile is made for the agent.
        for (setting, value) in [
            ("OPT_LEVEL", "3"),
            ("CODEGEN_UNITS", "1"),
            ("DEBUG", "2"),
            ("LTO", "off"),
            ("PANIC", "abort"),
        ] {
            command.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
        }
        command
    }

    /// BTF is made from debug information, and the kernel needs it for the maps. Version 3 of the
    /// instruction set (32 bit arithmetic, Linux 5.1) saves a third of the instructions.
    fn flags(&self) -> String {
        let linker = self.linker.display();
        format!("-C target-cpu=v3 -C debuginfo=2 -C link-arg=--btf -C linker={linker}")
    }
}

/// A folder for each set of features, so that none is built again for the other.
fn target_of(project: &Project, features: &str) -> PathBuf {
    match features {
        "bpf" => project.bpf_target(),
        other => project.bpf_target().join(other.replace(',', "-")),
    }
}

/// Builds the agent around the object, which must be there. That of a release is static, so that what
/// is tested is what an image holds.
pub(crate) fn agent(project: &Project, profile: Profile) -> Result<PathBuf> {
    match profile {
        Profile::Release => {
            copy_program(&static_agent(project, Architecture::here())?, &project.agent())?;
            Ok(project.agent())
        }
        Profile::Dev => {
            child::run(&mut agent_build(project))?;
            Ok(project.target().join("debug/enforcer"))
        }
    }
}

/// Builds the agent with places to die at, for tests: `target/debug/enforcer`.
pub(crate) fn agent_with_faults(project: &Project) -> Result<()> {
    child::run(agent_build(project).args(["--features", "faults"]))
}

/// Builds the agent as a program that needs no file but itself, without musl.
pub(crate) fn static_agent(project: &Project, architecture: Architecture) -> Result<PathBuf> {
    let target = architecture.target();
    let mut command = agent_build(project);
    // Procedural macros cannot be static: with a target named, the flags are not theirs.
    command
        .args(["--release", "--target", &target])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    if architecture != Architecture::here() {
        let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        command.env(linker, architecture.tool("gcc"));
    }
    child::run(&mut command)?;
    Ok(project.target().join(target).join("release/enforcer"))
}

fn agent_build(project: &Project) -> Command {
    announce("building the agent", "about 3 minutes the first time");
    let mut command = cargo(project);
    command.args(["build", "--package", "enforcer", "--target-dir"]).arg(project.target());
    command.args(locked(project)).env("ENFORCER_BPF_OBJECT", project.object());
    command
}

/// Two versions of cargo share the lock file: neither may rewrite it for the other.
pub(crate) fn locked(project: &Project) -> Option<&'static str> {
    project.has_lock_file().then_some("--locked")
}

/// The variables that tell test programs, demo and benchmark what to run.
pub(crate) fn with_product<'a>(command: &'a mut Command, project: &Project) -> &'a mut Command {
    command.env("ENFORCER_BIN", project.agent()).env("ENFORCER_BPF_OBJECT", project.object());
    command.env("ENFORCER_FAULTS_BIN", project.target().join("debug/enforcer"));
    // What is wrong with it is said where it is needed.
    if let Ok(control_plane) = ControlPlane::of(project) {
        command.env("ENFORCER_CONTROL_PLANE", control_plane.assets());
    }
    command.env("ENFORCER_IMAGE", image::archive(project, Architecture::here()));
    if let Some(crds) = project.real_crds() {
        command.env("ENFORCER_KKP_CRDS", crds);
    }
    command
}

/// Replaces a program, which may be running.
pub(crate) fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    fs::create_dir_all(to.parent().context("a program without a folder")?)
        .and_then(|()| fs::copy(from, &beside))
        .and_then(|_| fs::rename(&beside, to))
        .with_context(|| format!("cannot write {}", to.display()))
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_file() {
        let folder = std::env::temp_dir().join(format!("xtask-build-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("new"), folder.join("old"));
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let modified = || fs::metadata(&to).unwrap().modified().unwrap();

        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        fs::File::options().append(true).open(&to).unwrap().set_modified(long_ago).unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(modified(), long_ago);

        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_ne!(modified(), long_ago);
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_object_is_linked_with_btf_by_the_chosen_linker() {
        let compiler = crate::toolchain::Compiler { minor: 96, llvm: 22 };
        let builder = BpfBuilder {
            toolchain: Toolchain::Debian(compiler),
            linker: PathBuf::from("some/bpf-linker"),
        };
        let command = builder.cargo_build(&Project::of_this_workspace(), "enforcer-ebpf", "bpf");
        let env = |name: &str| {
            let (_, value) = command.get_envs().find(|(key, _)| *key == name)?;
            value.map(|value| value.to_string_lossy().into_owned())
        };
        let flags = env("RUSTFLAGS").unwrap();
        assert!(flags.contains("link-arg=--btf") && flags.contains("linker=some/bpf-linker"));
        assert_eq!(env("CARGO_PROFILE_RELEASE_PANIC").as_deref(), Some("abort"));
        assert_eq!(env("RUSTC_BOOTSTRAP").as_deref(), Some("1"));
        assert_eq!(env("RUSTUP_TOOLCHAIN"), None);
    }
}
