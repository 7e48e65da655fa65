//! What a run must take away with it, however it ends: a return, a panic, Ctrl-C or kill -9.
//!
//! Whatever outlives this process (names, mounts, folders, processes) is registered here before it
//! is made. Its [`Guard`] removes it when dropped; on SIGINT, SIGTERM and SIGHUP a thread removes
//! everything; [`sweep`] removes what a killed run left behind, told by the process id in its name.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::{Pid, geteuid, pipe2};

/// Where named network namespaces live, so that `ip -n NAME` finds ours.
pub(crate) const NETNS_FOLDER: &str = "/run/netns";
const PREFIX: &str = "enf-";

/// Checks that we are root, and does what [`tidy`] does.
///
/// Fails with a message that names what is missing; a test that needs root fails by it.
pub fn prepare() -> Result<()> {
    if !geteuid().is_root() {
        bail!("this needs root: it creates network namespaces, raw sockets and BPF mounts");
    }
    tidy()
}

/// Once per process: sweeps up after dead runs and installs the signal hook.
pub fn tidy() -> Result<()> {
    static ONCE: OnceLock<Result<(), String>> = OnceLock::new();
    let once = ONCE.get_or_init(|| {
        sweep().and_then(|_| on_signals()).map_err(|e| format!("cannot prepare the harness: {e:#}"))
    });
    once.clone().map_err(|message| anyhow!(message))
}

/// A name no other object of this or another living process has: `enf-PID-COUNTER-LABEL`.
pub fn unique_name(label: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{count}-{label}", std::process::id())
}

/// Something outside this process that must not outlive it, in the order of removal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A child process, ended with SIGKILL.
    Process(i32),
    /// A mount point.
    Mount(PathBuf),
    /// A named network namespace: a mount on a file, which goes too.
    Namespace(PathBuf),
    /// A folder with everything in it.
    Folder(PathBuf),
}

impl Leftover {
    /// Removes it; what is gone already is no error.
    fn remove(&self) {
        // Nobody is left to hear about a failure: the next run's sweep tries again.
        match self {
            Leftover::Process(pid) => kill(Pid::from_raw(*pid), Signal::SIGKILL).ok(),
            Leftover::Mount(path) => umount2(path, MntFlags::MNT_DETACH).ok(),
            Leftover::Namespace(path) => {
                umount2(path, MntFlags::MNT_DETACH).ok();
                fs::remove_file(path).ok()
            }
            Leftover::Folder(path) => fs::remove_dir_all(path).ok(),
        };
    }
}

static REGISTRY: Mutex<BTreeSet<Leftover>> = Mutex::new(BTreeSet::new());

fn registry() -> MutexGuard<'static, BTreeSet<Leftover>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes one [`Leftover`] when dropped.
#[derive(Debug)]
#[must_use = "dropping the guard removes what it guards"]
pub struct Guard(Leftover);

impl Guard {
    /// Registers `leftover`; call it before making the thing, so that no signal falls in between.
    pub fn new(leftover: Leftover) -> Guard {
        registry().insert(leftover.clone());
        Guard(leftover)
    }

    /// Forgets the thing without removing it: somebody else has (a child that was waited for).
    pub fn disarm(self) {
        registry().remove(&self.0);
        std::mem::forget(self);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut registry = registry();
        if registry.remove(&self.0) {
            self.0.remove();
        }
    }
}

/// A private temporary folder (mode 0700), removed when dropped, with what is mounted on it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    // Dropped in this order: mounts before the folder they are in.
    mounts: Vec<Guard>,
    _folder: Guard,
}

impl Scratch {
    /// Makes an empty folder in the system's temporary folder.
    pub fn new(label: &str) -> Result<Scratch> {
        tidy()?;
        let path = std::env::temp_dir().join(unique_name(label));
        let folder = Guard::new(Leftover::Folder(path.clone()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create folder {}", path.display()))?;
        Ok(Scratch { path, mounts: Vec::new(), _folder: folder })
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the subfolder `name` and returns its path.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create folder {}", path.display()))?;
        Ok(path)
    }

    /// Makes the subfolder `name` with a BPF filesystem of its own mounted on it; needs root.
    pub fn bpffs(&mut self, name: &str) -> Result<PathBuf> {
        prepare()?;
        let path = self.folder(name)?;
        self.mounts.push(Guard::new(Leftover::Mount(path.clone())));
        mount_bpffs(&path)?;
        Ok(path)
    }
}

/// Mounts a new, empty BPF filesystem.
pub(crate) fn mount_bpffs(path: &Path) -> Result<()> {
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs on {}", path.display()))
}

/// Unmounts a BPF filesystem: what was pinned there and nobody else holds is gone.
pub(crate) fn unmount_bpffs(path: &Path) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", path.display()))
}

/// Removes everything registered so far, processes first, those inside our namespaces too.
pub fn remove_all() {
    clear(&mut registry());
}

fn clear(registry: &mut BTreeSet<Leftover>) {
    for leftover in std::mem::take(registry) {
        if let Leftover::Namespace(path) = &leftover {
            processes_in(path).into_iter().for_each(|pid| Leftover::Process(pid).remove());
        }
        leftover.remove();
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP remove everything and exit with 128 + signal.
///
/// A signal that somebody else handles or ignores stays theirs. Children do not inherit the hook.
pub fn on_signals() -> Result<()> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot create a pipe")?;
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::Release);
    std::thread::Builder::new()
        .name("cleanup".into())
        .spawn(move || wait_for_signal(reader))
        .context("cannot start the cleanup thread")?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        hook(signal).with_context(|| format!("cannot handle {signal}"))?;
    }
    *done = true;
    Ok(())
}

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

fn hook(signal: Signal) -> nix::Result<()> {
    let handler = SigHandler::Handler(note_signal);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only loads an atomic and calls write(2), which is async-signal-safe.
    let former = unsafe { sigaction(signal, &action) }?;
    if !matches!(former.handler(), SigHandler::SigDfl) {
        // SAFETY: puts back the action that was there a moment ago.
        unsafe { sigaction(signal, &former) }?;
    }
    Ok(())
}

extern "C" fn note_signal(signal: libc::c_int) {
    let fd: RawFd = SIGNAL_PIPE.load(Ordering::Acquire);
    let byte = signal as u8;
    // SAFETY: `byte` outlives the call; the descriptor stays open for the life of the process.
    unsafe { libc::write(fd, (&raw const byte).cast(), 1) };
}

fn wait_for_signal(reader: OwnedFd) {
    let mut signal = [0u8];
    // SAFETY: the descriptor is ours alone; File takes it over from OwnedFd.
    let mut pipe = unsafe { fs::File::from_raw_fd(reader.into_raw_fd()) };
    if pipe.read_exact(&mut signal).is_ok() {
        // The lock is held until exit: nothing new can be made, and no Drop races with us.
        let mut registry = registry();
        clear(&mut registry);
        std::process::exit(128 + i32::from(signal[0]));
    }
}

/// Removes what dead processes of earlier runs left behind; returns the names of what it removed.
pub fn sweep() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, path) in stale(Path::new(NETNS_FOLDER))? {
        for pid in processes_in(&path) {
            Leftover::Process(pid).remove();
        }
        Leftover::Namespace(path).remove();
        removed.push(name);
    }
    for (name, path) in stale(&std::env::temp_dir())? {
        for mount in mounts_below(&path)? {
            Leftover::Mount(mount).remove();
        }
        Leftover::Folder(path).remove();
        removed.push(name);
    }
    Ok(removed)
}

/// Entries of `folder` that are ours by name and owner, and whose process has ended.
fn stale(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot list {}", folder.display())),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(pid) = owner(&name) else { continue };
        let ours = entry.metadata().is_ok_and(|m| m.uid() == geteuid().as_raw());
        if ours && !Path::new("/proc").join(pid.to_string()).exists() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// The process id in a name made by [`unique_name`].
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('-')?;
    rest.split_once('-')?.0.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Other processes whose network namespace is the one mounted at `path`, one of ours: children of
/// this run or of a dead one.
fn processes_in(path: &Path) -> Vec<i32> {
    let Ok(target) = fs::metadata(path) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let others = pids.filter(|pid| pid.unsigned_abs() != std::process::id());
    others
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .is_ok_and(|m| m.ino() == target.ino() && m.dev() == target.dev())
        })
        .collect()
}

/// Mount points at or below `folder`, innermost first.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    below.reverse();
    Ok(below)
}

/// Opens `path` as a descriptor that children do not inherit.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    let file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_process() {
        assert_eq!(owner(&unique_name("seed-1")), Some(std::process::id()));
        assert_eq!(owner("enf-12-3-x"), Some(12));
    }

    #[test]
    fn a_name_of_somebody_else_is_left_alone() {
        for name in ["enf-", "enf-12", "enf-x-1-a", "enf-1-x-a", "cni-1-2-3", "enf-12-3"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
