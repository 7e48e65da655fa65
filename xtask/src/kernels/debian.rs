//! Debian's archive, also of releases that this machine does not run.
//!
//! Input: the archive that apt of this machine uses. Output: packages by name. Invariant: sources and
//! lists of other releases are kept in the user's cache and used for what is asked here alone; apt's own
//! configuration stays as it is.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::child::{announce, ask, foreign, run_as_progress};
use crate::control_plane::cache;
use crate::machine::Machine;
use crate::packages::{self, EMULATOR};
use crate::project::Project;

/// Releases with a kernel of the tier, and whether it is in the archive of security updates.
const SUITES: &[(&str, Kind)] = &[
    ("bullseye", Kind::Main),
    ("bullseye-security", Kind::Security),
    ("bookworm", Kind::Main),
    ("bookworm-security", Kind::Security),
    ("trixie", Kind::Main),
    ("trixie-security", Kind::Security),
    ("trixie-backports", Kind::Main),
];

/// The release whose own QEMU does not do, and where it has a newer one.
const OLD_RELEASE: &str = "bookworm";
const OLD_RELEASE_SUITES: &[(&str, Kind)] =
    &[("bookworm", Kind::Main), ("bookworm-security", Kind::Security), (BACKPORTS, Kind::Main)];
const BACKPORTS: &str = "bookworm-backports";

/// Keys of all these releases, of Debian's package of that name, which every installation has.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Main,
    Security,
}

/// Lists of packages, in a folder of their own.
#[derive(Debug)]
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Reads the lists of all releases.
    pub(super) fn open(project: &Project, machine: &Machine) -> Result<Self> {
        Self::of(project, machine, "kernels", SUITES)
    }

    fn of(
        project: &Project,
        machine: &Machine,
        name: &str,
        suites: &[(&str, Kind)],
    ) -> Result<Self> {
        let archive = Self { folder: cache()?.join("debian").join(name) };
        for folder in ["lists/partial", "archives/partial"].map(|it| archive.folder.join(it)) {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mirrors = Mirrors::of_this_machine(project, machine)?;
        let sources = archive.sources();
        fs::write(&sources, mirrors.sources(suites))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        announce("reading the lists of other releases of Debian", "about 20 s");
        // A release that is gone from the archive is no reason to stop here: what is missing is said later.
        if let Err(error) = run_as_progress(archive.apt(project, "apt-get").arg("update")) {
            eprintln!("warning: {error:#}");
        }
        Ok(archive)
    }

    /// Names of the packages that this extended regular expression matches.
    pub(super) fn names(&self, project: &Project, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.apt(project, "apt-cache");
        let found = ask(search.args(["search", "--names-only", pattern]));
        let found = found.context("apt-cache search failed")?;
        Ok(found.lines().filter_map(|line| Some(line.split_once(" - ")?.0.to_owned())).collect())
    }

    /// Downloads a package into a folder.
    pub(super) fn download(&self, project: &Project, package: &str, into: &Path) -> Result<()> {
        let mut download = self.apt(project, "apt-get");
        run_as_progress(download.args(["download", package]).current_dir(into))
    }

    fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    fn apt(&self, project: &Project, name: &str) -> Command {
        let mut apt = foreign(project, name);
        let mut option = |key: &str, value: &Path| {
            apt.arg("-o").arg(format!("{key}={}", value.display()));
        };
        option("Dir::Etc::SourceList", &self.sources());
        option("Dir::Etc::SourceParts", Path::new("/dev/null"));
        option("Dir::State::Lists", &self.folder.join("lists"));
        option("Dir::Cache::Archives", &self.folder.join("archives"));
        apt.args(["-q", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
        // Lists alone, of which nobody reads descriptions; and the cache may be closed to apt's own user.
        apt.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"]);
        apt.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        apt.args(["-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"]);
        apt.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    }
}

/// Installs QEMU, where the release has one that is too old from its backports.
pub(super) fn install_emulator(project: &Project, machine: &Machine) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if codename(&release) != Some(OLD_RELEASE) {
        return packages::install(project, machine, &packages::missing(EMULATOR));
    }
    if !machine.may_install() {
        bail!(
            "{BACKPORTS} must be among the sources of apt; then run:\n  sudo apt-get update\n  sudo apt-get \
             install --yes --no-install-recommends -t {BACKPORTS} {}",
            EMULATOR.iter().map(|package| package.name).collect::<Vec<_>>().join(" ")
        );
    }
    let archive = Archive::of(project, machine, "emulator", OLD_RELEASE_SUITES)?;
    announce(&format!("installing QEMU from {BACKPORTS}"), "up to 3 minutes");
    let mut install = archive.apt(project, "apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "-t", BACKPORTS]);
    run_as_progress(install.args(EMULATOR.iter().map(|package| package.name)))
}

fn codename(os_release: &str) -> Option<&str> {
    let mut lines = os_release.lines();
    lines.find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(|name| name.trim_matches('"'))
}

/// Where this machine's apt finds Debian.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    main: String,
    security: String,
}

impl Mirrors {
    fn of_this_machine(project: &Project, machine: &Machine) -> Result<Self> {
        if !machine.apt {
            bail!("Debian's archive is reached by apt, which is not here");
        }
        let targets = || {
            let mut apt = foreign(project, "apt-get");
            apt.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]);
            ask(apt.arg("Created-By: Packages")).unwrap_or_default()
        };
        if let Some(mirrors) = Self::read(&targets()) {
            return Ok(mirrors);
        }
        // Without lists apt does not know whose archives they are.
        if machine.may_install() {
            packages::refresh(project);
        }
        Self::read(&targets()).context("apt of this machine does not use Debian's archive")
    }

    /// From lines `origin|label|address`.
    fn read(targets: &str) -> Option<Self> {
        let of = |label: &str| {
            let begin = format!("Debian|{label}|");
            targets.lines().find_map(|line| line.strip_prefix(&begin)).map(str::to_owned)
        };
        let main = of("Debian")?;
        // Mirrors have it beside the rest.
        let beside = || format!("{}-security", main.trim_end_matches('/'));
        Some(Self { security: of("Debian-Security").unwrap_or_else(beside), main })
    }

    fn sources(&self, suites: &[(&str, Kind)]) -> String {
        let mut text = String::new();
        for (suite, kind) in suites {
            let archive = match kind {
                Kind::Main => &self.main,
                Kind::Security => &self.security,
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "deb [signed-by={KEYS}] {archive} {suite} main");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_own_archives_are_told_from_others() {
        let targets = "Google|x|http://other.example/\nDebian|Debian|http://mirror.example/debian/\n\
                       Debian|Debian-Security|http://mirror.example/security/\n";
        let mirrors = Mirrors::read(targets).unwrap();
        assert_eq!(mirrors.main, "http://mirror.example/debian/");
        assert_eq!(mirrors.security, "http://mirror.example/security/");
        assert_eq!(Mirrors::read("Ubuntu|Ubuntu|http://mirror.example/ubuntu/\n"), None);
        let main_only = Mirrors::read("Debian|Debian|http://mirror.example/debian/\n").unwrap();
        assert_eq!(main_only.security, "http://mirror.example/debian-security");
    }

    #[test]
    fn every_suite_is_a_source_and_is_checked_with_debians_keys() {
        let mirrors = Mirrors { main: "http://m/debian".into(), security: "http://m/sec".into() };
        let sources = mirrors.sources(SUITES);
        assert_eq!(sources.lines().count(), SUITES.len());
        assert!(sources.lines().all(|line| line.contains(KEYS)), "{sources}");
        assert!(sources.contains("http://m/sec bullseye-security main\n"), "{sources}");
        assert!(sources.contains("http://m/debian trixie-backports main\n"), "{sources}");
    }

    #[test]
    fn the_release_is_read_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=debian\n"), None);
    }
}
