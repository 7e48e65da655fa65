//! `cargo xtask control-plane`: etcd, kube-apiserver and kubectl for the tests.
//!
//! Input: `KUBEBUILDER_ASSETS`, or the Go program in tests/control-plane. Output: a folder with the
//! three programs. Invariant: what is built lies in the user's cache under a digest of its sources,
//! so one build serves every checkout and none is ever stale.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::child::{announce, run_as_progress};
use crate::go::Go;
use crate::machine::Machine;
use crate::project::Project;

/// As setup-envtest names them.
const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];
/// The name of the built program beside its links.
const BUILT: &str = "control-plane";

/// Where the programs come from.
#[derive(Debug)]
pub(crate) enum ControlPlane {
    /// A folder that the user named.
    Given(PathBuf),
    /// A folder in the cache, there or still to be built.
    Own { assets: PathBuf, sources: PathBuf, version: String },
}

/// `cargo xtask control-plane`: prints the folder.
#[expect(clippy::print_stdout, reason = "the answer of a command line tool")]
pub(crate) fn run(project: &Project) -> Result<ExitCode> {
    let control_plane = ControlPlane::of(project)?;
    if !control_plane.is_there() {
        let go = Go::find(project, &Machine::observe())?;
        control_plane.build(project, &go)?;
    }
    println!("{}", control_plane.assets().display());
    Ok(ExitCode::SUCCESS)
}

impl ControlPlane {
    /// What this environment and these sources ask for; builds nothing.
    pub(crate) fn of(project: &Project) -> Result<Self> {
        if let Some(given) = env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
            return Self::given(Path::new(&given));
        }
        let sources = project.root().join("tests/control-plane");
        let mut digest = Sha256::new();
        digest.update(env::consts::ARCH);
        for name in SOURCES {
            digest.update(read(&sources.join(name))?);
        }
        let digest: String =
            digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let version =
            kubernetes(&read(&sources.join("go.mod"))?).context("go.mod names no Kubernetes")?;
        let assets = cache()?.join(format!("control-plane/{version}-{digest}"));
        Ok(Self::Own { assets, sources, version })
    }

    fn given(assets: &Path) -> Result<Self> {
        for name in PROGRAMS {
            if !assets.join(name).exists() {
                bail!("KUBEBUILDER_ASSETS names {}, which has no {name}", assets.display());
            }
        }
        Ok(Self::Given(assets.to_path_buf()))
    }

    /// The folder with the programs.
    pub(crate) fn assets(&self) -> &Path {
        match self {
            Self::Given(assets) | Self::Own { assets, .. } => assets,
        }
    }

    pub(crate) fn is_there(&self) -> bool {
        PROGRAMS.iter().all(|name| self.assets().join(name).exists())
    }

    /// Builds what is not there.
    pub(crate) fn build(&self, project: &Project, go: &Go) -> Result<()> {
        let Self::Own { assets, sources, version } = self else { return Ok(()) };
        announce(
            &format!("building etcd, kube-apiserver and kubectl {version}, once"),
            "about 10 minutes on 2 cores",
        );
        let parent = assets.parent().context("a cache without a folder")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        // Beside its place, so that a build that is interrupted is never taken for done.
        let draft = parent.join(format!(".{}-{}", std::process::id(), version));
        fs::create_dir_all(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
        let mut build = go.command(project, sources);
        build.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"]);
        // The tracing of gRPC keeps the linker from dropping what nothing calls.
        build.args(["-tags", "grpcnotrace", "-ldflags"]);
        build.arg(linker_flags(version)).arg("-o").arg(draft.join(BUILT)).arg(".");
        let built =
            run_as_progress(&mut build).context("cannot build the control plane").and_then(|()| {
                for name in PROGRAMS {
                    std::os::unix::fs::symlink(BUILT, draft.join(name))
                        .context("cannot make a link")?;
                }
                // Another run may have been faster.
                fs::rename(&draft, assets)
                    .or_else(|error| if self.is_there() { Ok(()) } else { Err(error) })
                    .with_context(|| {
                        format!("cannot put the control plane into {}", assets.display())
                    })
            });
        if draft.exists() {
            fs::remove_dir_all(&draft)
                .with_context(|| format!("cannot remove {}", draft.display()))?;
        }
        built
    }
}

/// Without these the API server calls itself v0.0.0, and clients refuse it.
fn linker_flags(version: &str) -> String {
    let package = "k8s.io/component-base/version";
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!(
        "-s -w -X {package}.gitVersion={version} -X {package}.gitMajor={major} \
         -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
    )
}

/// The required version of Kubernetes in a go.mod.
fn kubernetes(module: &str) -> Option<String> {
    let line = module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))?;
    Some(line.split_whitespace().next()?.to_owned())
}

/// This project's folder in the user's cache.
pub(crate) fn cache() -> Result<PathBuf> {
    let of = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("api-server-access-enforcer"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_module() {
        let module = "module x\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n";
        assert_eq!(kubernetes(module).as_deref(), Some("v1.37.2"));
        assert_eq!(kubernetes("module x\n"), None);
        assert!(linker_flags("v1.37.2").contains("gitMinor=37 "));
    }

    #[test]
    fn parts_of_kubernetes_are_replaced_by_the_same_version() {
        let module = Project::of_this_workspace().root().join("tests/control-plane/go.mod");
        let text = fs::read_to_string(module).unwrap();
        let version = kubernetes(&text).unwrap().replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = text.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20, "{replaced:?}");
        assert!(replaced.iter().all(|line| line.ends_with(&version)), "{version}: {replaced:?}");
    }

    #[test]
    fn an_incomplete_folder_of_the_user_is_refused() {
        let folder = env::temp_dir().join(format!("xtask-assets-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("etcd"), "").unwrap();
        let refusal = ControlPlane::given(&folder).unwrap_err().to_string();
        assert!(refusal.contains("has no kube-apiserver"), "{refusal}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
