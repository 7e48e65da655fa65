//! The image as a node runs it: under podman and runc, in the namespace of a node of the topology.
//!
//! Input: the archive that `cargo xtask image` made. Output: a [`Store`] with the image, from which
//! [`Container`]s come and go. Invariant: everything of podman's lies on one mount of this test, so
//! one unmount takes it away.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::cleanup::{Guard, Leftover, Scratch, unique_name};
use crate::exec;
use crate::netns::Netns;

/// The environment variable that names the archive of the image.
pub const IMAGE: &str = "ENFORCER_IMAGE";
/// What the agent may do, and nothing else; the same as in deploy/.
pub const CAPABILITIES: [&str; 3] = ["BPF", "NET_ADMIN", "PERFMON"];
const LIMIT: Duration = Duration::from_secs(120);

/// A store of images and containers of its own, with the image of [`IMAGE`] in it.
#[derive(Debug)]
pub struct Store {
    image: String,
    folder: PathBuf,
    _mount: Guard,
    _scratch: Scratch,
}

impl Store {
    /// Loads the image.
    pub fn new() -> Result<Store> {
        let archive = archive()?;
        let scratch = Scratch::new("containers")?;
        let folder = scratch.folder("podman")?;
        let guard = Guard::new(Leftover::Mount(folder.clone()));
        mount(Some("podman"), &folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0700"))
            .context("cannot mount a tmpfs for containers")?;
        let mut store = Store { image: String::new(), folder, _mount: guard, _scratch: scratch };
        store.podman(&["load", "--input", &archive.display().to_string()])?;
        let images = store.podman(&["images", "--quiet", "--no-trunc"])?;
        let mut images = images.split_whitespace();
        let (Some(image), None) = (images.next(), images.next()) else {
            bail!("{} holds not one image", archive.display());
        };
        store.image = image.to_owned();
        Ok(store)
    }

    /// A container that is not started yet.
    pub fn container(&self, ns: &Netns) -> Plan<'_> {
        let capabilities = CAPABILITIES.to_vec();
        Plan {
            store: self,
            ns: ns.clone(),
            capabilities,
            mounts: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// What the image says about itself, as `podman image inspect` prints it.
    pub fn inspect_image(&self) -> Result<Value> {
        let text = self.podman(&["image", "inspect", &self.image])?;
        let all: Value = serde_json::from_str(&text).context("podman prints no JSON")?;
        all.get(0).cloned().context("podman knows no such image")
    }

    fn podman(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.podman_output(arguments)?;
        if !status.success() {
            let complaint = String::from_utf8_lossy(&stderr);
            bail!("podman {} failed: {}", arguments.join(" "), complaint.trim_end());
        }
        String::from_utf8(stdout).context("podman printed no text")
    }

    fn podman_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("podman");
        command.args(self.options()).args(arguments);
        exec::output(command, "", LIMIT)
    }

    fn options(&self) -> Vec<String> {
        // A driver for every file system, and nothing of systemd, which few test machines run.
        let mut options: Vec<String> = [
            ["--storage-driver", "vfs"],
            ["--cgroup-manager", "cgroupfs"],
            ["--events-backend", "file"],
            ["--runtime", "runc"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        for (option, folder) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            options.extend([option.to_owned(), self.folder.join(folder).display().to_string()]);
        }
        options
    }

    /// `podman` with all that makes it use this store, for a shell; paths of tests hold nothing to be quoted.
    pub fn command_line(&self) -> String {
        format!("podman {}", self.options().join(" "))
    }
}

/// The file named by [`IMAGE`].
fn archive() -> Result<PathBuf> {
    const HINT: &str = "set it to what `cargo xtask image` prints";
    let Some(path) = std::env::var_os(IMAGE).map(PathBuf::from) else {
        bail!("{IMAGE} is not set: {HINT}");
    };
    if !path.exists() {
        bail!("{IMAGE} names {}, which is not there: {HINT}", path.display());
    }
    Ok(path)
}

/// What a container is given.
#[derive(Debug)]
pub struct Plan<'a> {
    store: &'a Store,
    ns: Netns,
    capabilities: Vec<&'static str>,
    mounts: Vec<String>,
    variables: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Takes one of [`CAPABILITIES`] away.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Plan<'a> {
        self.capabilities.retain(|kept| *kept != capability);
        self
    }

    /// A folder of the host, as a hostPath.
    #[must_use]
    pub fn mount(mut self, from: &Path, to: &str, options: &str) -> Plan<'a> {
        self.mounts.push(format!("{}:{to}:{options}", from.display()));
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Plan<'a> {
        self.variables.push(format!("{name}={value}"));
        self
    }

    /// Starts it with these arguments.
    pub fn run(self, arguments: &[&str]) -> Result<Container<'a>> {
        let Plan { store, ns, capabilities, mounts, variables } = self;
        let name = unique_name("container");
        let network = format!("ns:{}", ns.path().display());
        let mut podman = vec!["run", "--detach", "--name", &name, "--network", &network];
        podman.extend(["--cap-drop", "ALL"]);
        podman.extend(capabilities.iter().flat_map(|capability| ["--cap-add", capability]));
        podman.extend(["--security-opt", "no-new-privileges"]);
        podman.extend(["--security-opt", "seccomp=unconfined"]);
        podman.extend(["--read-only", "--read-only-tmpfs=false"]);
        // A test may itself run where limits cannot be raised.
        podman.extend(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]);
        podman.extend(mounts.iter().flat_map(|mount| ["--volume", mount]));
        podman.extend(variables.iter().flat_map(|variable| ["--env", variable]));
        podman.push(&store.image);
        podman.extend(arguments);
        let container = Container { store, name: name.clone(), _process: None };
        store.podman(&podman)?;
        container.guarded()
    }
}

/// A container; removed when dropped.
#[derive(Debug)]
pub struct Container<'a> {
    store: &'a Store,
    name: String,
    _process: Option<Guard>,
}

impl Container<'_> {
    /// Its process ends with this run, also on a signal; conmon follows it.
    fn guarded(mut self) -> Result<Self> {
        if let Some(pid) = self.pid()? {
            self._process = Some(Guard::new(Leftover::Process(pid)));
        }
        Ok(self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of its process, while that runs.
    pub fn pid(&self) -> Result<Option<i32>> {
        let pid = self.state("Pid")?.as_i64().and_then(|pid| i32::try_from(pid).ok());
        Ok(pid.filter(|pid| *pid > 0))
    }

    /// Whether its process runs.
    pub fn runs(&self) -> Result<bool> {
        Ok(self.state("Running")? == true)
    }

    /// Ends it as a kubelet does; its exit code.
    pub fn stop(&mut self) -> Result<i64> {
        self.store.podman(&["stop", "--time", "20", &self.name])?;
        self.ended(LIMIT)
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn ended(&mut self, limit: Duration) -> Result<i64> {
        let end = Instant::now() + limit;
        while self.runs()? {
            if Instant::now() > end {
                bail!("the container has not ended within {limit:?}: {}", self.log()?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(guard) = self._process.take() {
            guard.disarm();
        }
        self.state("ExitCode")?.as_i64().context("podman names no exit code")
    }

    /// What it has printed.
    pub fn log(&self) -> Result<String> {
        let Output { stdout, stderr, .. } = self.store.podman_output(&["logs", &self.name])?;
        let text = [stdout, stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn state(&self, field: &str) -> Result<Value> {
        let format = "{{json .State}}";
        let text = self.store.podman(&["container", "inspect", "--format", format, &self.name])?;
        let state: Value = serde_json::from_str(&text).context("podman prints no JSON")?;
        state.get(field).cloned().with_context(|| format!("podman says nothing about {field}"))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(&self.log().unwrap_or_default());
        }
        // Also unmounts what podman mounted for it.
        self.store.podman(&["rm", "--force", "--time", "0", &self.name]).ok();
        if let Some(guard) = self._process.take() {
            guard.disarm();
        }
    }
}

/// A failing test shows what the container said.
#[allow(clippy::print_stderr)]
fn show(text: &str) {
    eprintln!("the container of this test: {text}");
}
