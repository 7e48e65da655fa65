//! A network namespace of our own, entered by single threads and child processes.
//!
//! Input: a label. Output: a [`Netns`], gone when dropped. Nothing here changes the mount
//! namespace (as `ip netns exec` does), so a bpffs of ours stays visible to what runs inside.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::cleanup::{self, Guard, Leftover, NETNS_FOLDER};
use crate::exec;

/// A network namespace with `lo` up, without duplicate address detection and without rp_filter.
///
/// Clones are handles of the same namespace; its name goes with the last of them.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<Name>,
    handle: Arc<OwnedFd>,
}

#[derive(Debug)]
struct Name {
    text: String,
    _guard: Guard,
}

impl Netns {
    /// Makes an empty namespace named `enf-PID-COUNTER-LABEL`.
    pub fn new(label: &str) -> Result<Netns> {
        cleanup::prepare()?;
        let name = cleanup::unique_name(label);
        let path = Path::new(NETNS_FOLDER).join(&name);
        fs::create_dir_all(NETNS_FOLDER).context("cannot create the folder of namespaces")?;
        let guard = Guard::new(Leftover::Namespace(path.clone()));
        fs::File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let handle = thread::scope(|s| join(s.spawn(|| unshare_onto(&path))))
            .with_context(|| format!("cannot make network namespace {name}"))?;
        let name = Name { text: name, _guard: guard };
        Ok(Netns { name: Arc::new(name), handle: Arc::new(handle) })
    }

    /// The name by which `ip -n NAME` finds it.
    pub fn name(&self) -> &str {
        &self.name.text
    }

    /// The file it is mounted on, for tools that take a path (`nsenter --net=PATH`).
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(self.name())
    }

    /// Runs `work` on a thread that has moved into this namespace, and waits for it.
    ///
    /// Sockets made there stay there, wherever they are used afterwards. A panic in `work` goes on
    /// in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|s| {
            join(s.spawn(|| {
                self.move_here();
                work()
            }))
        })
    }

    /// Starts a thread inside this namespace; threads it starts are inside too.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let handle = Arc::clone(&self.handle);
        let inside = move || {
            setns(&*handle, CloneFlags::CLONE_NEWNET).expect("root can enter its own namespace");
            work()
        };
        thread::Builder::new().spawn(inside).context("cannot start a thread")
    }

    /// A command that will run in this namespace, with our mount namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let handle = Arc::clone(&self.handle);
        let mut command = Command::new(program);
        let enter = move || setns(&*handle, CloneFlags::CLONE_NEWNET).map_err(Into::into);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a command to its end (at most 30 s) and returns its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        exec::run(command, "").with_context(|| format!("in namespace {}", self.name()))
    }

    /// Runs one `ip` with many commands, one a line (`addr add …`); stops at the first that fails.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        exec::run(command, batch)
            .with_context(|| format!("in namespace {}, ip commands:\n{batch}", self.name()))?;
        Ok(())
    }

    /// Applies nftables text in one transaction.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        exec::run(command, ruleset)
            .with_context(|| format!("in namespace {}, nft rules:\n{ruleset}", self.name()))?;
        Ok(())
    }

    /// Packets and bytes of a counter of the table `inet TABLE`, which begins anew.
    pub fn nft_counter(&self, table: &str, counter: &str) -> Result<(u64, u64)> {
        let text = self.run("nft", &["reset", "counter", "inet", table, counter])?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|it| *it == word)?;
            words.get(at + 1)?.parse().ok()
        };
        let both = after("packets").zip(after("bytes"));
        both.with_context(|| format!("no counter {counter} in {text}"))
    }

    /// Writes settings below `/proc/sys/net`, such as `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| write_settings(settings))
            .with_context(|| format!("in namespace {}", self.name()))
    }

    /// Leaves the checksums of what an interface sends to the next device (`ethtool -K … tx on`), or
    /// not.
    pub fn checksum_offload(&self, interface: &str, on: bool) -> Result<()> {
        self.enter(|| offload(interface, on))
            .with_context(|| format!("cannot set the offload of {interface} in {}", self.name()))
    }

    fn move_here(&self) {
        setns(&*self.handle, CloneFlags::CLONE_NEWNET).expect("root can enter its own namespace");
    }
}

/// Settings of every namespace: nothing waits, nothing is dropped or redirected behind our back.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// Moves the calling thread into a new namespace and mounts that on `path`.
fn unshare_onto(path: &Path) -> Result<OwnedFd> {
    const OWN: &str = "/proc/thread-self/ns/net";
    unshare(CloneFlags::CLONE_NEWNET).context("cannot unshare")?;
    write_settings(SETTINGS)?;
    loopback_up().context("cannot bring lo up")?;
    mount(Some(OWN), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount it on {}", path.display()))?;
    cleanup::open(Path::new(OWN))
}

fn write_settings(settings: &[(&str, &str)]) -> Result<()> {
    for (key, value) in settings {
        let path = Path::new("/proc/sys/net").join(key);
        fs::write(&path, value).with_context(|| format!("cannot set {key} to {value}"))?;
    }
    Ok(())
}

fn loopback_up() -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("cannot make a socket")?;
    // SAFETY: an all-zero ifreq is a valid value of that C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCSIFFLAGS reads the ifreq, which lives until the call returns.
    if unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) } != 0 {
        bail!(std::io::Error::last_os_error());
    }
    Ok(())
}

/// What SIOCETHTOOL takes (linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

fn offload(interface: &str, on: bool) -> Result<()> {
    const SET_TX_CHECKSUM: u32 = 0x17;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("cannot make a socket")?;
    let mut value = EthtoolValue { command: SET_TX_CHECKSUM, data: on.into() };
    // SAFETY: an all-zero ifreq is a valid value of that C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: SIOCETHTOOL reads the ifreq and the value, which live until the call returns.
    if unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, &request) } != 0 {
        bail!(std::io::Error::last_os_error());
    }
    Ok(())
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
