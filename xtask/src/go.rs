//! Which Go builds the control plane of the tests.
//!
//! Input: the Go on this machine, if any. Output: one of the pinned version. Invariant: a Go that is
//! too old only fetches the pinned one, as the Go module that it is published as.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::child::{announce, ask, foreign, shown};
use crate::machine::{Machine, find};
use crate::packages::{self, GO};
use crate::project::Project;

/// The Go that builds, where the machine's own is older; at least the `go` line of
/// tests/control-plane/go.mod.
const PINNED: &str = "1.26.8";
const NEEDED_MINOR: u32 = 26;
/// From here on a Go can turn itself into another version.
const SWITCHING_MINOR: u32 = 21;
/// Where Go's own archives are unpacked, whether or not PATH says so.
const CUSTOMARY: &str = "/usr/local/go/bin/go";

/// A Go that can build the control plane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Go {
    program: PathBuf,
    /// `GOTOOLCHAIN`: which version it runs as.
    version: String,
}

/// How a Go of some version gets to the pinned one.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    AsItIs,
    Switch,
    Fetch,
}

impl Go {
    /// Finds one, or installs Debian's, which is old and fetches the pinned one.
    pub(crate) fn find(project: &Project, machine: &Machine) -> Result<Self> {
        let present =
            || find("go").or_else(|| Some(CUSTOMARY.into()).filter(|go: &PathBuf| go.exists()));
        if present().is_none() {
            packages::install(project, machine, &packages::missing(GO)).with_context(|| {
                format!("no Go: install {PINNED} or newer, or any Go, which fetches that one")
            })?;
        }
        let program = present().context("no Go, although its package is installed")?;
        let said = ask(foreign(project, &program).arg("version").env("GOTOOLCHAIN", "local"));
        let minor = said.as_deref().and_then(minor);
        let minor = minor.with_context(|| format!("{} says no version", program.display()))?;
        Ok(match way(minor) {
            Way::AsItIs => Self { program, version: "local".to_owned() },
            Way::Switch => Self { program, version: format!("go{PINNED}") },
            Way::Fetch => {
                let fetched = fetch(project, &program)?.join("bin/go");
                Self { program: fetched, version: "local".to_owned() }
            }
        })
    }

    /// The start of a go command in `folder`; programs come out static.
    pub(crate) fn command(&self, project: &Project, folder: &Path) -> Command {
        let mut command = foreign(project, &self.program);
        command
            .current_dir(folder)
            .env("GOTOOLCHAIN", &self.version)
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0")
            .env_remove("GOROOT");
        command
    }
}

fn way(minor: u32) -> Way {
    match minor {
        NEEDED_MINOR.. => Way::AsItIs,
        SWITCHING_MINOR.. => Way::Switch,
        _ => Way::Fetch,
    }
}

/// 26 of "go version go1.26.8 linux/amd64".
fn minor(said: &str) -> Option<u32> {
    said.split_once(" go1.")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What a Go that switches does by itself, step by step.
fn fetch(project: &Project, old: &Path) -> Result<PathBuf> {
    announce(&format!("fetching Go {PINNED}"), "about 1 minute");
    let module = format!("golang.org/toolchain@v0.0.1-go{PINNED}.linux-{}", architecture()?);
    let mut download = foreign(project, old);
    download.args(["mod", "download", "-json", &module]).current_dir("/").env("GO111MODULE", "on");
    let output = download
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(&download)))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{} failed: {}", shown(&download), answer.trim());
    }
    let root = PathBuf::from(field(&answer, "Dir").context("go names no folder")?);
    // Modules are unpacked without leave to run anything.
    for folder in ["bin".to_owned(), format!("pkg/tool/linux_{}", architecture()?)] {
        allow_to_run(&root.join(folder))?;
    }
    Ok(root)
}

fn allow_to_run(folder: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555))
            .with_context(|| format!("cannot make {} executable", path.display()))?;
    }
    Ok(())
}

/// A string of the flat object that `go mod download -json` prints.
fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\": \""))?;
    rest.split('"').next()
}

/// As Go calls the machine's.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no published Go for {other} is known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_go_builds_a_newer_one_switches_and_an_old_one_fetches() {
        let of = |said| way(minor(said).unwrap());
        assert_eq!(of("go version go1.26.8 linux/amd64"), Way::AsItIs);
        assert_eq!(of("go version go1.27rc1 linux/amd64"), Way::AsItIs);
        assert_eq!(of("go version go1.21.0 linux/arm64"), Way::Switch);
        assert_eq!(of("go version go1.19.8 linux/amd64"), Way::Fetch);
        assert_eq!(minor("go version devel +abc"), None);
    }

    #[test]
    fn the_folder_of_a_module_is_read_from_gos_answer() {
        let answer =
            "{\n\t\"Path\": \"golang.org/toolchain\",\n\t\"Dir\": \"/m/golang.org/x\"\n}\n";
        assert_eq!(field(answer, "Dir"), Some("/m/golang.org/x"));
        assert_eq!(field(answer, "Zip"), None);
    }

    #[test]
    fn the_pinned_go_is_new_enough_for_the_module() {
        let pinned = minor(&format!("go version go{PINNED} linux/amd64")).unwrap();
        let module = Project::of_this_workspace().root().join("tests/control-plane/go.mod");
        let text = fs::read_to_string(module).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("go 1.")).unwrap();
        assert_eq!(line.split('.').next().unwrap().parse(), Ok(NEEDED_MINOR));
        assert!(pinned >= NEEDED_MINOR);
    }
}
