//! What a tier needs of the machine, and how it is met.
//!
//! Input: a need. Output: nothing, or why it is not met. Invariant: each need is met once a run;
//! what is only missing is told apart from what is broken.

use std::env;

use crate::build::{self, BpfBuilder, Profile};
use crate::child::{announce, ask, cargo, program, run_as_progress};
use crate::control_plane::ControlPlane;
use crate::go::Go;
use crate::image::{Architecture, Engine};
use crate::kernels;
use crate::machine::{Machine, find};
use crate::packages::{self, Brings, CONTAINERS, NETWORK, RUST_LINTS, TROUBLE};
use crate::project::Project;
use crate::tools::cargo_deny;

/// Something without which a tier says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Root,
    /// Capabilities to load and attach BPF programs.
    LoadBpf,
    MountBpffs,
    NetworkNamespaces,
    /// A program of the package table.
    Program(&'static str),
    /// A part of the Rust distribution, by rustup's name.
    Component(&'static str),
    CargoDeny,
    BpfObject,
    Agent,
    /// The agent with places to die at, another build than the one of a release.
    AgentWithFaults,
    /// The image for this machine, as an archive.
    Image,
    /// etcd, kube-apiserver and kubectl.
    ControlPlane,
    /// QEMU.
    Emulator,
    /// Kernels of other releases, in the cache.
    OtherKernels,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unmet {
    /// This machine lacks it: the tier cannot run. `how` says how to get it, if we know.
    Missing { what: String, how: Option<String> },
    /// The project's own code does not build: the tier fails.
    Broken(String),
}

/// Meets needs, and remembers the answers.
pub(crate) struct Needs<'a> {
    project: &'a Project,
    machine: Machine,
    answers: Vec<(Need, Result<(), Unmet>)>,
}

impl<'a> Needs<'a> {
    pub(crate) fn of(project: &'a Project) -> Self {
        Self { project, machine: Machine::observe(), answers: Vec::new() }
    }

    /// What is not met. Nothing is built for a tier that cannot run anyhow, and to a user who is not
    /// root only that is said, not what follows from it.
    pub(crate) fn unmet(&mut self, needs: &[Need]) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        for need in needs {
            let idle = match need {
                Need::BpfObject
                | Need::Agent
                | Need::AgentWithFaults
                | Need::CargoDeny
                | Need::ControlPlane
                | Need::Emulator
                | Need::OtherKernels
                | Need::Image => !unmet.is_empty(),
                Need::LoadBpf | Need::MountBpffs | Need::NetworkNamespaces => !self.machine.root,
                Need::Root | Need::Program(_) | Need::Component(_) => false,
            };
            if !idle {
                unmet.extend(self.meet(*need).err());
            }
        }
        unmet
    }

    fn meet(&mut self, need: Need) -> Result<(), Unmet> {
        if let Some((_, answer)) = self.answers.iter().find(|(known, _)| *known == need) {
            return answer.clone();
        }
        let answer = self.try_to_meet(need);
        self.answers.push((need, answer.clone()));
        answer
    }

    fn try_to_meet(&self, need: Need) -> Result<(), Unmet> {
        let Self { project, machine, answers: _ } = self;
        match need {
            Need::Root => available(machine.root, "root"),
            Need::LoadBpf => available(
                machine.may_load_bpf(),
                "CAP_NET_ADMIN with CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN",
            ),
            Need::MountBpffs => available(can_mount_bpffs(project), "to mount bpffs"),
            Need::NetworkNamespaces => {
                available(can_unshare(project, "--net", "true"), "to make network namespaces")
            }
            Need::Program(name) => self.program(name),
            Need::Component(name) => self.component(name),
            Need::CargoDeny => cargo_deny(project).map(drop).map_err(missing("cargo-deny")),
            Need::BpfObject => BpfBuilder::prepare(project, machine)
                .map_err(missing("Rust for BPF and bpf-linker"))?
                .object(project)
                .map_err(broken),
            Need::Image => {
                let engine = Engine::find(project, machine).map_err(missing("buildah"))?;
                engine.build(project, Architecture::here()).map(drop).map_err(broken)
            }
            Need::ControlPlane => self.control_plane(),
            Need::Emulator => kernels::emulator(project, machine).map_err(missing("QEMU")),
            Need::OtherKernels => {
                kernels::kernels(project, machine).map_err(missing("kernels of Debian"))
            }
            Need::AgentWithFaults => build::agent_with_faults(project).map_err(broken),
            Need::Agent => build::agent(project, Profile::Release).map(drop).map_err(broken),
        }
    }

    fn program(&self, name: &str) -> Result<(), Unmet> {
        let Self { project, machine, answers: _ } = self;
        let package: Vec<_> = NETWORK
            .iter()
            .chain(CONTAINERS)
            .chain(TROUBLE)
            .filter(|package| matches!(package.brings, Brings::Program(program) if program == name))
            .collect();
        packages::install(project, machine, &packages::missing(package)).map_err(missing(name))?;
        available(find(name).is_some(), name)
    }

    fn control_plane(&self) -> Result<(), Unmet> {
        let Self { project, machine, answers: _ } = self;
        let what = missing("etcd, kube-apiserver and kubectl");
        let control_plane = ControlPlane::of(project).map_err(&what)?;
        if control_plane.is_there() {
            return Ok(());
        }
        let go = Go::find(project, machine).map_err(&what)?;
        control_plane.build(project, &go).map_err(broken)
    }

    fn component(&self, name: &'static str) -> Result<(), Unmet> {
        let Self { project, machine, answers: _ } = self;
        let subcommand = if name == "rustfmt" { "fmt" } else { name };
        let has = || ask(cargo(project).args([subcommand, "--version"])).is_some();
        if has() {
            return Ok(());
        }
        // Set by rustup's cargo; without it, Rust came from elsewhere.
        if let Ok(toolchain) = env::var("RUSTUP_TOOLCHAIN") {
            announce(&format!("adding {name} to the Rust toolchain"), "about 20 s");
            let mut rustup = program(project, "rustup");
            rustup.args(["component", "add", "--toolchain", &toolchain, name]);
            run_as_progress(&mut rustup).map_err(missing(name))?;
        } else {
            packages::install(project, machine, &packages::missing(RUST_LINTS))
                .map_err(missing(name))?;
        }
        available(has(), name)
    }
}

/// Tried in a mount namespace of its own, so nothing stays.
fn can_mount_bpffs(project: &Project) -> bool {
    can_unshare(project, "--mount", "mount -t bpf bpf \"$1\"")
}

fn can_unshare(project: &Project, kind: &str, script: &str) -> bool {
    let mut trial = program(project, "unshare");
    trial.args([kind, "sh", "-ec", script, "sh"]).arg(env::temp_dir());
    ask(&mut trial).is_some()
}

fn available(there: bool, what: &str) -> Result<(), Unmet> {
    if there { Ok(()) } else { Err(Unmet::Missing { what: what.to_owned(), how: None }) }
}

fn missing(what: &str) -> impl Fn(anyhow::Error) -> Unmet {
    move |error| Unmet::Missing { what: what.to_owned(), how: Some(format!("{error:#}")) }
}

fn broken(error: anyhow::Error) -> Unmet {
    Unmet::Broken(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking(what: &str) -> Unmet {
        Unmet::Missing { what: what.to_owned(), how: None }
    }

    #[test]
    fn nothing_is_built_for_a_tier_that_cannot_run() {
        let project = Project::of_this_workspace();
        let mut needs = Needs::of(&project);
        needs.machine.root = false;
        let unmet = needs.unmet(&[Need::Root, Need::BpfObject, Need::Agent]);
        assert_eq!(unmet, [lacking("root")]);
    }

    #[test]
    fn every_missing_thing_is_named() {
        let project = Project::of_this_workspace();
        let mut needs = Needs::of(&project);
        needs.machine = Machine { root: true, apt: false, capabilities: 0 };
        let unmet = needs.unmet(&[Need::Root, Need::LoadBpf, Need::Program("no-such-program")]);
        assert_eq!(unmet.len(), 2, "{unmet:?}");
    }

    #[test]
    fn what_only_root_may_do_is_not_listed_beside_root() {
        let project = Project::of_this_workspace();
        let mut needs = Needs::of(&project);
        needs.machine = Machine { root: false, apt: false, capabilities: 0 };
        let unmet = needs.unmet(&[Need::Root, Need::LoadBpf, Need::MountBpffs]);
        assert_eq!(unmet, [lacking("root")]);
    }
}
