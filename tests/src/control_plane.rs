//! A real control plane: etcd and kube-apiserver, RBAC on, KKP's CRDs installed.
//!
//! Input: a namespace and an address in it. Output: a [`ControlPlane`], whose processes end when it
//! is dropped. It runs in a network namespace of the test, so ports are fixed and nothing outside
//! reaches it: [`ControlPlane::beside`] puts it on the nodes' own network, where agents reach it as
//! in a real seed; [`ControlPlane::alone`] is for tests without a network.
//!
//! There is no controller manager: what controllers would make (EndpointSlices, Pods of a DaemonSet,
//! ServiceAccounts named `default`) a test applies itself, and a Namespace that is deleted stays in
//! phase Terminating.

mod client;
mod credentials;
mod objects;
mod process;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

pub use self::client::Client;
use self::credentials::Credentials;
pub use self::objects::{NAME, NAMESPACE};
use self::process::Process;
use crate::addresses::{CONTROL_PLANE, Dual};
use crate::cleanup::Scratch;
use crate::netns::Netns;
use crate::topology::Network;

/// The environment variable that names the folder with etcd, kube-apiserver and kubectl.
pub const ASSETS: &str = "ENFORCER_CONTROL_PLANE";
/// The environment variable that names the folder with KKP's own CRDs; narrow ones serve without.
pub const REAL_CRDS: &str = "ENFORCER_KKP_CRDS";
/// The API server's port until a test chooses another.
pub const PORT: u16 = 6443;
/// On an idle machine it takes 4 s.
const READY_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// etcd and kube-apiserver; both end when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    ns: Netns,
    address: Dual,
    port: u16,
    assets: PathBuf,
    credentials: Credentials,
    // Dropped in this order: the API server before etcd, both before their folder.
    api_server: Option<Process>,
    etcd: Option<Process>,
    scratch: Scratch,
}

impl ControlPlane {
    /// In a namespace of its own, with KKP's CRDs.
    pub fn alone() -> Result<ControlPlane> {
        let ns = Netns::new("control-plane")?;
        let [v4, v6] = CONTROL_PLANE.both();
        ns.ip(&format!("addr add {v4}/32 dev lo\naddr add {v6}/128 dev lo\n"))?;
        ControlPlane::start(&ns, CONTROL_PLANE)
    }

    /// On the nodes' network, at [`CONTROL_PLANE`], with KKP's CRDs.
    pub fn beside(network: &mut Network) -> Result<ControlPlane> {
        let ns = network.add_neighbour("control-plane", CONTROL_PLANE)?.ns.clone();
        ControlPlane::start(&ns, CONTROL_PLANE)
    }

    fn start(ns: &Netns, address: Dual) -> Result<ControlPlane> {
        let assets = assets()?;
        let scratch = Scratch::new("control-plane")?;
        for folder in ["etcd", "home", "kubeconfigs"] {
            scratch.folder(folder)?;
        }
        let loopback = Dual::of("127.0.0.1", "::1");
        let names: Vec<IpAddr> = [address.both(), loopback.both()].concat();
        let credentials = Credentials::make(scratch.path(), &names)?;
        let mut control_plane = ControlPlane {
            ns: ns.clone(),
            address,
            port: PORT,
            assets,
            credentials,
            api_server: None,
            etcd: None,
            scratch,
        };
        control_plane.start_etcd()?;
        control_plane.start_api_server()?;
        control_plane.install_crds()?;
        Ok(control_plane)
    }

    /// The namespace that it runs in.
    pub fn ns(&self) -> &Netns {
        &self.ns
    }

    /// Where clients connect to, now.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address.v4, self.port)
    }

    /// The certificate authority that clients check it against.
    pub fn authority(&self) -> &Path {
        &self.credentials.authority
    }

    /// The path of etcd, kube-apiserver or kubectl.
    pub fn program(&self, name: &str) -> PathBuf {
        self.assets.join(name)
    }

    /// Starts the API server again, at the port it had, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        self.launch_api_server()?;
        self.wait_ready()
    }

    /// Starts the API server again at another port; kubeconfigs made before lead nowhere.
    pub fn start_api_server_at(&mut self, port: u16) -> Result<()> {
        self.port = port;
        self.start_api_server()
    }

    /// Ends the API server in an orderly way: clients see their watches end.
    pub fn stop_api_server(&mut self) -> Result<()> {
        let process = self.api_server.take().context("the API server does not run")?;
        process.end(Signal::SIGTERM, STOP_LIMIT)
    }

    /// Kills the API server.
    pub fn kill_api_server(&mut self) -> Result<()> {
        let process = self.api_server.take().context("the API server does not run")?;
        process.end(Signal::SIGKILL, STOP_LIMIT)
    }

    /// Forgets every object, CRDs included. The API server is stopped by it and stays so.
    pub fn wipe(&mut self) -> Result<()> {
        if self.api_server.is_some() {
            self.kill_api_server()?;
        }
        let etcd = self.etcd.take().context("etcd does not run")?;
        etcd.end(Signal::SIGKILL, STOP_LIMIT)?;
        let data = self.scratch.path().join("etcd");
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        self.scratch.folder("etcd")?;
        self.start_etcd()
    }

    /// Process ids of what runs.
    pub fn pids(&self) -> Vec<i32> {
        [&self.api_server, &self.etcd].into_iter().flatten().filter_map(Process::pid).collect()
    }

    fn start_etcd(&mut self) -> Result<()> {
        let mut command = self.ns.command(self.program("etcd"));
        command.arg("--data-dir").arg(self.scratch.path().join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            // Nothing here is to survive the machine.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]);
        self.etcd = Some(Process::start(command, &self.scratch.path().join("etcd.log"))?);
        Ok(())
    }

    fn launch_api_server(&mut self) -> Result<()> {
        if self.api_server.is_some() {
            bail!("the API server runs already");
        }
        let Credentials { authority: _, certificate, key, issuer_key, issuer_public_key, tokens } =
            &self.credentials;
        let mut command = self.ns.command(self.program("kube-apiserver"));
        let mut file = |flag: &str, path: &Path| {
            command.arg(format!("--{flag}={}", path.display()));
        };
        file("tls-cert-file", certificate);
        file("tls-private-key-file", key);
        file("service-account-key-file", issuer_public_key);
        file("service-account-signing-key-file", issuer_key);
        file("token-auth-file", tokens);
        command.args([
            &format!("--secure-port={}", self.port),
            &format!("--advertise-address={}", self.address.v4),
            "--bind-address=::",
            "--etcd-servers=http://127.0.0.1:2379",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            // It lets no Pod in whose ServiceAccount no controller has made.
            "--disable-admission-plugins=ServiceAccount",
            "--shutdown-delay-duration=0s",
        ]);
        let log = self.scratch.path().join("kube-apiserver.log");
        self.api_server = Some(Process::start(command, &log)?);
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_LIMIT;
        loop {
            for process in [&mut self.api_server, &mut self.etcd].into_iter().flatten() {
                process.must_run()?;
            }
            let Err(last) = self.kubectl(&["get", "--raw=/readyz"]) else { return Ok(()) };
            if Instant::now() > end {
                bail!("the API server is not ready after {READY_LIMIT:?}: {last:#}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The folder named by [`ASSETS`].
fn assets() -> Result<PathBuf> {
    const HINT: &str = "set it to what `cargo xtask control-plane` prints";
    let Some(assets) = std::env::var_os(ASSETS).map(PathBuf::from) else {
        bail!("{ASSETS} is not set: {HINT}");
    };
    for name in ["etcd", "kube-apiserver", "kubectl"] {
        if !assets.join(name).exists() {
            bail!("{ASSETS} names {}, which has no {name}: {HINT}", assets.display());
        }
    }
    Ok(assets)
}
