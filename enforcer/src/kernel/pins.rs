//! The folder of pins: found or mounted, root-only, one agent at a time.
//!
//! ```text
//! BPFFS/v1/IMAGES GRACE COUNTERS REASONS              maps
//! BPFFS/v1/program-ingress-uplink-ethernet …          programs, for `test_run` by others
//! BPFFS/v1/links/INTERFACE-NUMBER-ingress …-egress    links of TCX
//! ```
//! The number in the folder's name is the ABI's, so that builds of different ABIs never meet in a map.
//! Links of another ABI's folder are taken over, one by one, and the folder goes when none is left:
//! [`Pins::present_link`], [`Pins::adopt_link`], [`Pins::retire_other_versions`].

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use enforcer_ebpf::abi::ABI_VERSION;
use enforcer_policy::plan::{Hook, Program};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount as mount_at, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::KernelError;
use crate::fault;

/// Source name of a file system that the agent mounted itself, as /proc/self/mountinfo shows it.
const MOUNT_SOURCE: &str = "enforcer";

/// Where distributions mount the BPF file system.
const SYSTEM_BPFFS: &str = "/sys/fs/bpf";

/// Paths of all pins, held against other agents while it lives.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    /// Folders that agents of other ABIs left.
    others: Vec<PathBuf>,
    _lock: Flock<File>,
}

impl Pins {
    /// Finds or makes the folder below `bpffs`, and locks it.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        mount(bpffs)?;
        let folder = version_folder(bpffs);
        for folder in [bpffs, &folder, &folder.join("links")] {
            make_folder(folder).map_err(|source| KernelError::Pin {
                action: "create",
                path: folder.into(),
                source,
            })?;
        }
        let lock = File::open(bpffs).map_err(|source| KernelError::Pin {
            action: "open",
            path: bpffs.into(),
            source,
        })?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => {
                let mut others = list(bpffs)?;
                others.retain(|path| is_version_folder(path) && *path != folder);
                Ok(Self { folder, others, _lock: lock })
            }
            Err((_, Errno::EWOULDBLOCK)) => Err(KernelError::Locked { path: bpffs.into() }),
            Err((_, errno)) => {
                Err(KernelError::Pin { action: "lock", path: bpffs.into(), source: errno.into() })
            }
        }
    }

    /// Pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Pin of a map, for readers that hold no lock.
    #[must_use]
    pub fn map_below(bpffs: &Path, name: &str) -> PathBuf {
        version_folder(bpffs).join(name)
    }

    /// Pin of a program.
    #[must_use]
    pub fn program(&self, program: Program) -> PathBuf {
        program_in(&self.folder, program)
    }

    /// Pin of the link on a hook of an interface.
    #[must_use]
    pub fn link(&self, interface: u32, hook: Hook) -> PathBuf {
        link_in(&self.folder, interface, hook)
    }

    /// Pin of the link on a hook of an interface, or the one that an agent of another ABI left there.
    #[must_use]
    pub fn present_link(&self, interface: u32, hook: Hook) -> PathBuf {
        let own = self.link(interface, hook);
        if own.exists() {
            return own;
        }
        let others = self.others.iter().map(|folder| link_in(folder, interface, hook));
        others.into_iter().find(|path| path.exists()).unwrap_or(own)
    }

    /// Moves the pin of a link of another ABI's agent into this one's folder.
    pub(super) fn adopt_link(&self, interface: u32, hook: Hook) -> Result<(), KernelError> {
        let (own, present) = (self.link(interface, hook), self.present_link(interface, hook));
        if own != present {
            fs::rename(&present, &own).map_err(|source| failed("move", &present, source))?;
        }
        Ok(())
    }

    /// Pins a link, in place of one that may be pinned there; that one goes.
    pub(super) fn put_link(
        &self,
        interface: u32,
        hook: Hook,
        pin: impl FnOnce(&Path) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let (path, present) = (self.link(interface, hook), self.present_link(interface, hook));
        if !present.exists() {
            return pin(&path);
        }
        let beside = self.folder.join("link-new");
        remove_file(&beside)?;
        pin(&beside)?;
        fault::point("a second link is pinned beside the first");
        fs::rename(&beside, &path).map_err(|source| failed("replace", &path, source))?;
        if present != path {
            remove_file(&present)?;
        }
        Ok(())
    }

    /// Interface numbers and hooks of all pinned links, those of other ABIs' agents included.
    pub fn links(&self) -> Result<BTreeSet<(u32, Hook)>, KernelError> {
        let mut links = links_in(&self.folder)?;
        for folder in &self.others {
            links.extend(links_in(folder)?);
        }
        Ok(links)
    }

    /// Whether agents of other ABIs left something.
    #[must_use]
    pub fn has_other_versions(&self) -> bool {
        !self.others.is_empty()
    }

    /// Removes what agents of other ABIs left, to be called when every interface is guarded by this one.
    pub(super) fn retire_other_versions(&mut self) -> Result<(), KernelError> {
        for folder in std::mem::take(&mut self.others) {
            fault::point("a former ABI's folder is about to go");
            let pins = remove(&folder)?;
            tracing::info!(folder = %folder.display(), pins, "a former ABI's pins are gone");
        }
        Ok(())
    }
}

/// Pin of a program, for readers that hold no lock.
pub(super) fn program_below(bpffs: &Path, program: Program) -> PathBuf {
    program_in(&version_folder(bpffs), program)
}

fn program_in(folder: &Path, program: Program) -> PathBuf {
    folder.join(format!("program-{}", program.name().replace('_', "-")))
}

/// Interface numbers and hooks of all pinned links, for readers that hold no lock.
pub(super) fn links_below(bpffs: &Path) -> Result<BTreeSet<(u32, Hook)>, KernelError> {
    links_in(&version_folder(bpffs))
}

/// Pin of a link, for readers that hold no lock.
pub(super) fn link_below(bpffs: &Path, interface: u32, hook: Hook) -> PathBuf {
    link_in(&version_folder(bpffs), interface, hook)
}

fn link_in(folder: &Path, interface: u32, hook: Hook) -> PathBuf {
    folder.join("links").join(format!("{interface}-{}", hook_name(hook)))
}

fn links_in(folder: &Path) -> Result<BTreeSet<(u32, Hook)>, KernelError> {
    let folder = folder.join("links");
    let mut links = BTreeSet::new();
    // An agent that was ended early may have left a folder without this one.
    if !folder.exists() {
        return Ok(links);
    }
    for path in list(&folder)? {
        let name = path.file_name().and_then(|name| name.to_str());
        links.extend(name.and_then(link_place));
    }
    Ok(links)
}

const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => "ingress",
        Hook::Egress => "egress",
    }
}

fn link_place(name: &str) -> Option<(u32, Hook)> {
    let (index, hook) = name.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|known| hook_name(*known) == hook)?;
    Some((index.parse().ok()?, hook))
}

/// Makes sure that `bpffs` lies on a BPF file system.
pub(super) fn mount(bpffs: &Path) -> Result<(), KernelError> {
    ensure_bpffs(bpffs).map_err(|source| KernelError::BpfFs { path: bpffs.into(), source })
}

/// Removes a pin if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| failed("remove", path, source)),
    }
}

/// Removes every pin, which detaches and frees what was pinned. Says how many there were.
pub(super) fn clean(bpffs: &Path) -> Result<usize, KernelError> {
    if !bpffs.exists() {
        return Ok(0);
    }
    let lock = match Flock::lock(
        File::open(bpffs).map_err(|source| KernelError::Pin {
            action: "open",
            path: bpffs.into(),
            source,
        })?,
        FlockArg::LockExclusiveNonblock,
    ) {
        Ok(lock) => lock,
        Err((_, _)) => return Err(KernelError::Locked { path: bpffs.into() }),
    };
    let mut removed = 0;
    for entry in list(bpffs)? {
        if is_version_folder(&entry) {
            removed += remove(&entry)?;
        }
    }
    drop(lock);
    let mounted_here = is_own_mount(bpffs);
    if mounted_here {
        umount2(bpffs, MntFlags::MNT_DETACH)
            .map_err(|errno| failed("unmount", bpffs, errno.into()))?;
    }
    // A folder that others use too stays.
    if bpffs != Path::new(SYSTEM_BPFFS) {
        let _ = fs::remove_dir(bpffs);
    }
    Ok(removed)
}

fn version_folder(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{}", fault::abi().unwrap_or(ABI_VERSION)))
}

fn is_version_folder(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn remove(path: &Path) -> Result<usize, KernelError> {
    if !path.is_dir() {
        fs::remove_file(path).map_err(|source| failed("remove", path, source))?;
        return Ok(1);
    }
    let mut removed = 0;
    for entry in list(path)? {
        removed += remove(&entry)?;
    }
    fs::remove_dir(path).map_err(|source| failed("remove", path, source))?;
    Ok(removed)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = fs::read_dir(folder).map_err(|source| failed("list", folder, source))?;
    entries
        .map(|entry| {
            entry.map(|entry| entry.path()).map_err(|source| failed("list", folder, source))
        })
        .collect()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Pin { action, path: path.into(), source }
}

fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Makes sure that `path` lies on a BPF file system, mounting one if there is none.
fn ensure_bpffs(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if statfs(existing)?.filesystem_type() == BPF_FS_MAGIC {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|folder| *folder != existing).collect();
        return missing.into_iter().rev().try_for_each(make_folder);
    }
    let below_system = path.starts_with(SYSTEM_BPFFS) && path != Path::new(SYSTEM_BPFFS);
    let target = if below_system { Path::new(SYSTEM_BPFFS) } else { path };
    if !target.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(target)?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at(Some(MOUNT_SOURCE), target, Some("bpf"), flags, Some("mode=0700"))?;
    if below_system { ensure_bpffs(path) } else { Ok(()) }
}

/// Whether `path` is the root of a file system that an agent mounted.
fn is_own_mount(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let is_root = match (path.metadata(), path.parent().map(Path::metadata)) {
        (Ok(own), Some(Ok(parent))) => own.dev() != parent.dev(),
        _ => false,
    };
    is_root
        && fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| {
            mounts.lines().any(|line| {
                let mut fields = line.split(' ');
                let target = fields.nth(4);
                let mut behind = line.rsplit(" - ").next().unwrap_or_default().split(' ');
                target == path.to_str()
                    && behind.next() == Some("bpf")
                    && behind.next() == Some(MOUNT_SOURCE)
            })
        })
}
