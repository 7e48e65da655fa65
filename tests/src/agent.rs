//! The real agent: its binary, started in a node's namespace on a bpffs and a state folder of its
//! own, driven by signals and HTTP as an operator would.
//!
//! An [`Installation`] outlives its agents: what they pinned stays until it is dropped.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cleanup::{Guard, Leftover, Scratch, mount_bpffs, unmount_bpffs};
use crate::netns::Netns;
use crate::slow::patience;
use crate::{exec, http};

/// The environment variable that names the agent's binary.
pub const BINARY: &str = "ENFORCER_BIN";
/// The environment variable that names the build with places to die at.
const BINARY_WITH_FAULTS: &str = "ENFORCER_FAULTS_BIN";
/// Loopback of the node's own namespace, so no two agents meet.
const LISTEN: &str = "127.0.0.1:9464";
const READY_LIMIT: Duration = Duration::from_secs(20);
/// The end of a process waits for the kernel's last reader of file events; on a machine with more
/// work than CPUs that took more than 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
/// What the agent logs when it has changed what the kernel enforces.
const IN_FORCE: &str = "image in force";

/// Where one node's agents run and what they leave behind between runs.
#[derive(Debug)]
pub struct Installation {
    binary: PathBuf,
    ns: Netns,
    node: String,
    source: String,
    interfaces: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    bpffs: PathBuf,
    state: PathBuf,
    log: PathBuf,
    // Last: unmounts and removes all of the above.
    _scratch: Scratch,
}

impl Installation {
    /// For node `node`, which is the namespace `ns`, reading manifests from `folder`; runs the
    /// binary that [`BINARY`] names.
    pub fn new(ns: &Netns, node: &str, folder: &Path) -> Result<Installation> {
        Installation::of(&binary()?, ns, node, folder)
    }

    /// The same with another binary.
    pub fn of(binary: &Path, ns: &Netns, node: &str, folder: &Path) -> Result<Installation> {
        let mut scratch = Scratch::new(&format!("agent-{node}"))?;
        Ok(Installation {
            binary: binary.into(),
            ns: ns.clone(),
            node: node.into(),
            source: format!("manifests={}", folder.display()),
            interfaces: "eth0".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            bpffs: scratch.bpffs("bpffs")?,
            state: scratch.folder("state")?,
            log: scratch.path().join("agent.log"),
            _scratch: scratch,
        })
    }

    /// Sets `--interfaces`, `eth0` else.
    #[must_use]
    pub fn interfaces(mut self, interfaces: &str) -> Installation {
        self.interfaces = interfaces.into();
        self
    }

    /// Reads from another source.
    #[must_use]
    pub fn source(mut self, source: &str) -> Installation {
        self.source = source.into();
        self
    }

    /// Adds arguments to `enforcer run`.
    #[must_use]
    pub fn arguments(mut self, more: &[&str]) -> Installation {
        self.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Runs agents with these arguments from now on, instead of those added before.
    pub fn use_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Gives agents these variables from now on, instead of those given before.
    pub fn use_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// Runs another build from now on.
    pub fn use_binary(&mut self, binary: &Path) {
        self.binary = binary.into();
    }

    /// The folder of the pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The folder of `--state`.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Everything that the agents of this installation have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts an agent and waits until it is ready, at most 20 s.
    pub fn start(&self) -> Result<Agent> {
        let mut agent = self.launch()?;
        agent.wait_ready(patience(READY_LIMIT))?;
        Ok(agent)
    }

    /// Starts an agent, and kills it when it has kept what it enforces and what it says of itself.
    pub fn start_and_kill(&self) -> Result<()> {
        let agent = self.start()?;
        let end = Instant::now() + CHANGE_LIMIT;
        while !["snapshot.json", "account.json"].iter().all(|it| self.state.join(it).exists()) {
            if Instant::now() > end {
                bail!("the agent keeps nothing in {}", self.state.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        agent.kill().map(drop)
    }

    /// Starts an agent without waiting for anything.
    pub fn launch(&self) -> Result<Agent> {
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let (out, err) = (open().context("cannot open the agent's log")?, open()?);
        let mut command = self.ns.command(&self.binary);
        command.args(["run", "--source", &self.source, "--node", &self.node]);
        command.args(["--interfaces", &self.interfaces, "--listen", LISTEN]);
        command.arg("--bpffs").arg(&self.bpffs).arg("--state").arg(&self.state);
        command.args(&self.arguments);
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start the agent {}", self.binary.display()))?;
        let guard = Guard::new(Leftover::Process(child.id().cast_signed()));
        let listen = LISTEN.parse().context("the listen address")?;
        let (ns, log) = (self.ns.clone(), self.log.clone());
        Ok(Agent { ns, listen, log, started: Instant::now(), child: Some((child, guard)) })
    }

    /// Runs `enforcer ARGUMENTS` in the node's namespace to its end, whatever the exit code.
    pub fn enforcer(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.ns.command(&self.binary);
        command.args(arguments);
        exec::output(command, "", patience(READY_LIMIT))
    }

    /// Runs `enforcer debug ARGUMENTS --bpffs … --state …` to its end, whatever the exit code.
    pub fn debug(&self, arguments: &[&str]) -> Result<Answered> {
        let output = exec::output(self.debugging(arguments), "", patience(READY_LIMIT))?;
        let text = |bytes| String::from_utf8(bytes).context("the answer is no text");
        Ok(Answered {
            code: output.status.code(),
            text: text(output.stdout)?,
            error: text(output.stderr)?,
        })
    }

    /// `enforcer debug ARGUMENTS --bpffs … --state …` in the node's namespace, to be run.
    pub fn debugging(&self, arguments: &[&str]) -> Command {
        let mut command = self.ns.command(&self.binary);
        command.arg("debug").args(arguments).arg("--bpffs").arg(&self.bpffs);
        command.arg("--state").arg(&self.state);
        command
    }

    /// Runs `enforcer clean`: nothing of the agent stays in the kernel.
    pub fn clean(&self) -> Result<()> {
        self.on_folders("clean")
    }

    /// Runs `enforcer restore`: the image on disk is enforced again.
    pub fn restore(&self) -> Result<()> {
        let mut command = self.ns.command(&self.binary);
        command.args(["restore", "--interfaces", &self.interfaces]);
        command.arg("--bpffs").arg(&self.bpffs).arg("--state").arg(&self.state);
        exec::run(command, "")?;
        Ok(())
    }

    fn on_folders(&self, command_name: &str) -> Result<()> {
        let mut command = self.ns.command(&self.binary);
        command.arg(command_name);
        command.arg("--bpffs").arg(&self.bpffs).arg("--state").arg(&self.state);
        exec::run(command, "")?;
        Ok(())
    }

    /// What a reboot does to pins: an empty bpffs in place of the former.
    pub fn empty_bpffs(&self) -> Result<()> {
        unmount_bpffs(&self.bpffs)?;
        mount_bpffs(&self.bpffs)
    }
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub text: String,
    /// Its standard error.
    pub error: String,
}

impl Answered {
    /// Its standard output, read as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.text)
            .with_context(|| format!("no JSON: {} {}", self.text, self.error))
    }
}

/// The binary named by [`BINARY`].
fn binary() -> Result<PathBuf> {
    const HINT: &str =
        "run `cargo xtask build`, then set it to the path of target/release/enforcer";
    named(BINARY, HINT)
}

/// The build with places to die at, another one than [`BINARY`]; it takes `ENFORCER_FAULT` and
/// `ENFORCER_ABI` from its environment.
pub fn with_faults() -> Result<PathBuf> {
    const HINT: &str = "run `cargo xtask test --tier faults`";
    named(BINARY_WITH_FAULTS, HINT)
}

fn named(variable: &str, hint: &str) -> Result<PathBuf> {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
        bail!("{variable} is not set: {hint}");
    };
    fs::canonicalize(&path)
        .with_context(|| format!("{variable} names {}, which is not there: {hint}", path.display()))
}

/// One running agent; killed when dropped, its pins stay.
#[derive(Debug)]
pub struct Agent {
    ns: Netns,
    listen: SocketAddr,
    log: PathBuf,
    started: Instant,
    /// None once it has been waited for.
    child: Option<(Child, Guard)>,
}

/// How an agent ended.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
}

impl Agent {
    /// Its process id, while it has not been waited for.
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|(child, _)| child.id().cast_signed())
    }

    /// Waits until `/readyz` says 200; returns the time since the start.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                bail!("the agent ended before it was ready ({status})\n{}", self.tail());
            }
            let last = match self.get("/readyz") {
                Ok((200, _)) => return Ok(self.started.elapsed()),
                Ok((status, body)) => format!("/readyz says {status}: {body}"),
                Err(e) => format!("{e:#}"),
            };
            if Instant::now() > end {
                bail!("the agent is not ready after {limit:?}: {last}\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the agent ends by itself, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the agent has not ended within {limit:?}\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it with SIGTERM, as a kubelet does.
    pub fn terminate(mut self) -> Result<Stopped> {
        self.stop(Signal::SIGTERM)
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) -> Result<Stopped> {
        self.stop(Signal::SIGKILL)
    }

    /// Sends a signal without waiting.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("the agent has ended")?;
        kill(Pid::from_raw(pid), signal).context("cannot signal the agent")
    }

    /// Gets a page of its HTTP server: status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.ns, self.listen, path)
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        match self.get("/metrics")? {
            (200, page) => Ok(page),
            (status, body) => bail!("/metrics says {status}: {body}"),
        }
    }

    /// The one sample of `/metrics` with this name and at least these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        http::sample(&self.metrics()?, name, labels)
    }

    /// The sum of all samples of `/metrics` with this name and at least these labels: what is zero may
    /// not be there.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        Ok(http::samples(&self.metrics()?, name, labels).iter().sum::<f64>() as u64)
    }

    /// Packets by reason of their verdict, for these reasons; zero where there were none.
    pub fn verdicts(&self, reasons: &[&'static str]) -> Result<BTreeMap<&'static str, u64>> {
        let count = |reason| self.count("enforcer_verdicts_total", &[("reason", reason)]);
        reasons.iter().map(|reason| Ok((*reason, count(reason)?))).collect()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How often it has said something, in all agents' lines of this installation.
    pub fn said(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// Makes a change and waits until it says something once more, at most 30 s; how long that took.
    pub fn after(&self, words: &str, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.after_within(CHANGE_LIMIT, words, change)
    }

    fn after_within(
        &self,
        limit: Duration,
        words: &str,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let before = self.said(words);
        let start = Instant::now();
        change()?;
        while self.said(words) == before {
            if start.elapsed() > patience(limit) {
                bail!("the agent has not said {words:?} within {limit:?}\n{}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(start.elapsed())
    }

    /// Makes a change that gives another image, and waits until that is in force.
    pub fn enforces(&self, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        self.after(IN_FORCE, change)
    }

    /// The same for a change that takes long to read.
    pub fn enforces_within(
        &self,
        limit: Duration,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        self.after_within(limit, IN_FORCE, change)
    }

    fn stop(&mut self, signal: Signal) -> Result<Stopped> {
        let start = Instant::now();
        self.signal(signal)?;
        let status = self.wait(patience(STOP_LIMIT))?;
        Ok(Stopped { status, took: start.elapsed() })
    }

    /// Its exit status if it has ended; from then on its process id is nobody's.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some((child, _)) = &mut self.child else { bail!("the agent has been waited for") };
        let status = child.try_wait().context("cannot wait for the agent")?;
        if status.is_some()
            && let Some((_, guard)) = self.child.take()
        {
            guard.disarm();
        }
        Ok(status)
    }

    /// The last lines of the log, for an error message.
    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        format!("its log ends with:\n{}", last.join("\n"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some((mut child, guard)) = self.child.take() {
            child.kill().ok();
            // The id is ours until the wait below.
            guard.disarm();
            child.wait().ok();
        }
        if std::thread::panicking() {
            show(&self.tail());
        }
    }
}

/// A failing test shows what the agent said.
#[allow(clippy::print_stderr)]
fn show(text: &str) {
    eprintln!("the agent of this test: {text}");
}
