//! The first process of a virtual machine that runs test programs on another kernel (tier `kernels`).
//!
//! Input: `/guest/modules`, in the order in which the kernel takes them, and `/guest/plan`, one program a
//! line. Output, on the console: what the programs say, and lines that begin with `guest:`. It ends by
//! switching the machine off, whatever happens.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the console is all there is")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// What programs find in their environment besides what the plan gives them.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/tmp"),
    ("RUST_BACKTRACE", "0"),
    ("RUST_TEST_THREADS", "1"),
];

fn main() {
    if getpid() != Pid::from_raw(1) {
        eprintln!(
            "this is the first process of a virtual machine; `cargo xtask test --tier kernels` starts it"
        );
        std::process::exit(2);
    }
    if let Err(error) = run() {
        println!("guest: error: {error:#}");
    }
    println!("guest: end");
    // SAFETY: two system calls without arguments that point anywhere.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn run() -> Result<()> {
    file_systems()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("no osrelease")?;
    println!("guest: kernel {}", release.trim());
    for module in listed(Path::new("/guest/modules"))? {
        load(&module)?;
    }
    let plan = fs::read_to_string("/guest/plan").context("cannot read the plan")?;
    for line in plan.lines() {
        let program = Planned::of(line)?;
        let begin = Instant::now();
        println!("guest: program {} begins", program.name);
        let end = program.run()?;
        let seconds = begin.elapsed().as_secs_f64();
        println!("guest: program {} ended with {end} after {seconds:.1} s", program.name);
    }
    Ok(())
}

fn file_systems() -> Result<()> {
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {kind} on {at}"))?;
    }
    Ok(())
}

/// Files of a folder by name.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut files: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    Ok(files)
}

fn load(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("cannot open {}", module.display()))?;
    // SAFETY: the file is open, and the parameters are an empty string.
    let done = unsafe {
        libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0 as libc::c_int)
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot load {}", module.display())),
    }
}

/// A line of the plan: seconds, name, variables as NAME=VALUE, then the command.
struct Planned<'a> {
    limit: Duration,
    name: &'a str,
    environment: Vec<(&'a str, &'a str)>,
    command: Vec<&'a str>,
}

impl<'a> Planned<'a> {
    fn of(line: &'a str) -> Result<Planned<'a>> {
        let mut words = line.split_whitespace();
        let limit = words.next().context("an empty line of the plan")?;
        let limit = Duration::from_secs(limit.parse().context("the limit of a program")?);
        let name = words.next().context("a program without a name")?;
        let (mut environment, mut command) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(variable) if command.is_empty() => environment.push(variable),
                _ => command.push(word),
            }
        }
        Ok(Planned { limit, name, environment, command })
    }

    /// Runs it to its end, or ends it and all that it started at its limit. Reaps what others left behind.
    fn run(&self) -> Result<String> {
        let Some((program, arguments)) = self.command.split_first() else {
            bail!("program {} has no command", self.name)
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let group = Pid::from_raw(child.id().cast_signed());
        let end = Instant::now() + self.limit;
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)).context("cannot wait")? {
                WaitStatus::Exited(pid, code) if pid == group => return Ok(format!("code {code}")),
                WaitStatus::Signaled(pid, signal, _) if pid == group => {
                    return Ok(signal.to_string());
                }
                WaitStatus::StillAlive if Instant::now() > end => {
                    killpg(group, Signal::SIGKILL).ok();
                    waitpid(group, None).ok();
                    return Ok(format!("nothing within {} s", self.limit.as_secs()));
                }
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(10)),
                WaitStatus::Exited(..)
                | WaitStatus::Signaled(..)
                | WaitStatus::Stopped(..)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_)
                | WaitStatus::Continued(_) => {}
            }
        }
    }
}
