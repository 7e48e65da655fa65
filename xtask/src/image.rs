//! `cargo xtask image`: the agent as a container image.
//!
//! Input: a static agent and deploy/Dockerfile. Output: `target/image/enforcer-VERSION-ARCH.tar`,
//! which podman, docker and containerd load. Invariant: what buildah or podman need meanwhile lies in
//! `target/image` too, and nothing in their own stores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::build::{self, BpfBuilder};
use crate::child::{ask, cargo, program, run_as_progress};
use crate::machine::{Machine, find};
use crate::packages::{self, BUILDAH};
use crate::project::Project;

/// The version of the agent and of xtask alike.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A kind of machine that an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// As Rust calls it.
    pub(crate) rust: &'static str,
    /// As images call it.
    oci: &'static str,
}

const X86_64: Architecture = Architecture { rust: "x86_64", oci: "amd64" };
const AARCH64: Architecture = Architecture { rust: "aarch64", oci: "arm64" };

/// What builds images here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Buildah,
    Podman,
    Docker,
}

/// `cargo xtask image`: prints the paths of the archives.
#[expect(clippy::print_stdout, reason = "the answer of a command line tool")]
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let machine = Machine::observe();
    BpfBuilder::prepare(project, &machine)?.object(project)?;
    let engine = Engine::find(project, &machine)?;
    println!("{}", engine.build(project, Architecture::here())?.display());
    for other in [X86_64, AARCH64].into_iter().filter(|other| *other != Architecture::here()) {
        match other.lacks(project) {
            None => println!("{}", engine.build(project, other)?.display()),
            Some(what) => eprintln!("==> no image for {}: it needs {what}", other.rust),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where buildah and podman keep images and what runs.
fn store(project: &Project) -> PathBuf {
    project.images().join("store")
}

fn run_folder(project: &Project) -> PathBuf {
    project.images().join("run")
}

/// Where the image of an architecture lies.
pub(crate) fn archive(project: &Project, architecture: Architecture) -> PathBuf {
    project.images().join(format!("enforcer-{VERSION}-{}.tar", architecture.oci))
}

impl Architecture {
    /// That of this machine.
    pub(crate) fn here() -> Self {
        let here = |known: &Self| known.rust == std::env::consts::ARCH;
        let other = Self { rust: std::env::consts::ARCH, oci: std::env::consts::ARCH };
        [X86_64, AARCH64].into_iter().find(here).unwrap_or(other)
    }

    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.rust)
    }

    /// A tool of GNU for it, such as the compiler that links.
    pub(crate) fn tool(self, name: &str) -> String {
        let prefix = format!("{}-linux-gnu-", self.rust);
        format!("{}{name}", if self == Self::here() { "" } else { &prefix })
    }

    /// What is not here to build for it from another one.
    fn lacks(self, project: &Project) -> Option<String> {
        let (target, compiler) = (self.target(), self.tool("gcc"));
        if find(&compiler).is_none() {
            return Some(format!(
                "{compiler} (Debian: gcc-{}-linux-gnu)",
                self.rust.replace('_', "-")
            ));
        }
        let mut rustc = cargo(project);
        rustc.args(["rustc", "--package", "enforcer", "--lib", "--target", &target]);
        let folder = ask(rustc.args(["--print", "target-libdir"]))?;
        let installed = Path::new(folder.trim()).is_dir();
        (!installed).then(|| format!("Rust's library (rustup target add {target})"))
    }
}

impl Engine {
    /// The first that answers; installs buildah if none does and it may.
    pub(crate) fn find(project: &Project, machine: &Machine) -> Result<Self> {
        if let Some(engine) = Self::present(project) {
            return Ok(engine);
        }
        packages::install(project, machine, &packages::missing(BUILDAH))
            .context("no buildah, no podman, no docker that answers")?;
        Self::present(project).context("buildah does not start")
    }

    /// Builds the agent and its image for one architecture; the archive's path.
    pub(crate) fn build(self, project: &Project, architecture: Architecture) -> Result<PathBuf> {
        let agent = build::static_agent(project, architecture)?;
        let folder = project.images();
        let context = folder.join(architecture.oci);
        fs::create_dir_all(&context)
            .with_context(|| format!("cannot create {}", context.display()))?;
        let mut strip = program(project, architecture.tool("strip"));
        run_as_progress(
            strip.arg("--strip-debug").arg(agent).arg("-o").arg(context.join("enforcer")),
        )?;
        let archive = archive(project, architecture);
        // Engines refuse to write over a former one.
        if archive.exists() {
            fs::remove_file(&archive)
                .with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        let commands = self.commands(project, architecture, &context, &archive);
        let built = commands.into_iter().try_for_each(|mut command| run_as_progress(&mut command));
        for meanwhile in
            [store(project), run_folder(project)].into_iter().filter(|path| path.exists())
        {
            fs::remove_dir_all(&meanwhile)
                .with_context(|| format!("cannot remove {}", meanwhile.display()))?;
        }
        built.map(|()| archive)
    }

    fn present(project: &Project) -> Option<Self> {
        // docker is often a client without a daemon.
        let answers = |name, question| ask(program(project, name).arg(question)).is_some();
        [
            (Self::Buildah, "buildah", "--version"),
            (Self::Podman, "podman", "--version"),
            (Self::Docker, "docker", "info"),
        ]
        .into_iter()
        .find_map(|(engine, name, question)| answers(name, question).then_some(engine))
    }

    /// One builds, the next writes the archive.
    fn commands(
        self,
        project: &Project,
        architecture: Architecture,
        context: &Path,
        archive: &Path,
    ) -> [Command; 2] {
        let name = format!("enforcer:{VERSION}");
        let start = |engine: &str, words: &[&str]| {
            let mut command = program(project, engine);
            if self != Self::Docker {
                // A driver that works on every file system; the image is one file.
                command.args(["--storage-driver", "vfs", "--root"]).arg(store(project));
                command.arg("--runroot").arg(run_folder(project));
            }
            command.args(words);
            command
        };
        let file = project.root().join("deploy/Dockerfile");
        let mut build = match self {
            Self::Buildah => start("buildah", &["bud", "--isolation", "chroot"]),
            Self::Podman => start("podman", &["build", "--isolation", "chroot"]),
            Self::Docker => start("docker", &["build"]),
        };
        build.args([
            "--platform",
            &format!("linux/{}", architecture.oci),
            "--tag",
            &name,
            "--file",
        ]);
        build.arg(file).arg(context);
        let write = match self {
            Self::Buildah => {
                let mut push = start("buildah", &["push", &name]);
                push.arg(format!("docker-archive:{}:{name}", archive.display()));
                push
            }
            Self::Podman | Self::Docker => {
                let engine = if self == Self::Podman { "podman" } else { "docker" };
                let mut save = start(engine, &["save", "--output"]);
                save.arg(archive).arg(&name);
                save
            }
        };
        [build, write]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::shown;

    fn commands(engine: Engine) -> [String; 2] {
        let project = Project::of_this_workspace();
        let archive = Path::new("a.tar");
        engine.commands(&project, AARCH64, Path::new("context"), archive).map(|c| shown(&c))
    }

    #[test]
    fn every_engine_builds_for_the_platform_and_writes_the_same_archive() {
        for engine in [Engine::Buildah, Engine::Podman, Engine::Docker] {
            let [build, write] = commands(engine);
            assert!(build.contains("--platform linux/arm64 --tag enforcer:"), "{build}");
            assert!(build.ends_with("deploy/Dockerfile context"), "{build}");
            assert!(write.contains("a.tar") && write.contains("enforcer:"), "{write}");
        }
    }

    #[test]
    fn buildah_and_podman_keep_to_the_folder_of_this_project() {
        for engine in [Engine::Buildah, Engine::Podman] {
            for command in commands(engine) {
                assert!(command.contains("target/image/store"), "{command}");
            }
        }
        assert!(!commands(Engine::Docker)[0].contains("target/image/store"));
    }

    #[test]
    fn a_machine_without_a_cross_compiler_is_told_its_package() {
        let unknown = Architecture { rust: "mips_64", oci: "mips" };
        let lacks = unknown.lacks(&Project::of_this_workspace()).unwrap();
        assert!(lacks.contains("gcc-mips-64-linux-gnu"), "{lacks}");
    }
}
