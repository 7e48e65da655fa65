//! A stage whose agents read a real API server, with the rights that `deploy/base` gives them.
//!
//! Input: a [`Stage`]. Output: a [`Watched`]: the same stage, its objects in the API server as well
//! as a DaemonSet's ServiceAccount, with whose token an [`Installation`] runs. Invariant: an agent
//! has no other rights than in a real seed, so that a missing verb fails a test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

use crate::agent::{Agent, Installation};
use crate::control_plane::{Client, ControlPlane, NAME};
use crate::netns::Netns;
use crate::stage::{NODE, Stage};

pub use crate::control_plane::NAMESPACE;

/// Name of the agents' kubeconfig.
const KUBECONFIG: &str = "agent";

/// A stage and the API server that its agents read.
#[derive(Debug)]
pub struct Watched {
    /// The API server; ends before the network that it is in.
    pub api: ControlPlane,
    /// The stage. What it publishes as manifests nobody reads: [`Watched::publish`] does it here.
    pub stage: Stage,
}

impl Watched {
    /// [`Stage::customary`] with an API server beside it, its objects written.
    pub fn customary() -> Result<Watched> {
        Watched::on(Stage::customary()?)
    }

    /// The same with any stage.
    pub fn on(mut stage: Stage) -> Result<Watched> {
        let api = ControlPlane::beside(&mut stage.network)?;
        let watched = Watched { api, stage };
        watched.grant()?;
        watched.publish()?;
        Ok(watched)
    }

    /// Applies `deploy/base` as an administrator does, and gives the agents a token.
    pub fn grant(&self) -> Result<()> {
        self.api.deploy("base")?;
        self.write_kubeconfig()?;
        Ok(())
    }

    /// Writes the agents' kubeconfig anew: a new token, and where the API server is now.
    pub fn write_kubeconfig(&self) -> Result<PathBuf> {
        let token = self.api.token(NAMESPACE, NAME)?;
        self.api.kubeconfig(KUBECONFIG, &token)
    }

    /// An administrator's client of the API server as it is now.
    pub fn admin(&self) -> Result<Client> {
        self.api.client()
    }

    /// Writes all objects of the stage.
    pub fn publish(&self) -> Result<()> {
        self.admin()?.apply(&self.stage.objects())
    }

    /// An installation of the agent on node `seed-1`.
    pub fn installation(&self) -> Result<Installation> {
        self.installation_on(NODE)
    }

    /// An installation of the agent on any node.
    pub fn installation_on(&self, node: &str) -> Result<Installation> {
        self.installation_with(node, &self.write_kubeconfig()?)
    }

    /// The same with a kubeconfig of its own.
    pub fn installation_with(&self, node: &str, kubeconfig: &Path) -> Result<Installation> {
        let ns = &self.stage.network.node(node).ns;
        let installation = Installation::new(ns, node, Path::new(""))?;
        Ok(installation
            .source(&format!("kubernetes={}", kubeconfig.display()))
            .arguments(&["--namespace", NAMESPACE]))
    }
}

/// What an agent says about the age of what it enforces: the line of `/readyz`, if there is one.
pub fn staleness(agent: &Agent) -> Result<Option<String>> {
    let (_, page) = agent.get("/readyz")?;
    Ok(page.lines().find(|line| line.starts_with("stale since")).map(str::to_owned))
}

/// A relay on a node's loopback before the API server, which counts what goes through it.
#[derive(Debug)]
pub struct Meter {
    counted: Arc<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// What went through a [`Meter`], TLS included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Connections made.
    pub connections: u64,
    /// Bytes to the API server.
    pub up: u64,
    /// Bytes from it.
    pub down: u64,
}

impl Meter {
    /// Where it listens.
    pub const AT: &str = "127.0.0.1:16443";

    /// Starts one in a node's namespace. It ends with the process.
    pub fn start(node: &Netns, to: SocketAddr) -> Result<Meter> {
        let listener = node.enter(|| TcpListener::bind(Self::AT)).context("cannot listen")?;
        let counted = Arc::new(Counted::default());
        let counts = Arc::clone(&counted);
        node.spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(to) else { continue };
                counts.connections.fetch_add(1, Ordering::Relaxed);
                relay(client, server, &counts);
            }
        })?;
        Ok(Meter { counted })
    }

    /// What went through so far.
    pub fn flow(&self) -> Flow {
        let Counted { connections, up, down } = &*self.counted;
        let [connections, up, down] =
            [connections, up, down].map(|counter| counter.load(Ordering::Relaxed));
        Flow { connections, up, down }
    }
}

impl std::ops::Sub for Flow {
    type Output = Flow;

    fn sub(self, former: Flow) -> Flow {
        Flow {
            connections: self.connections - former.connections,
            up: self.up - former.up,
            down: self.down - former.down,
        }
    }
}

fn relay(client: TcpStream, server: TcpStream, counts: &Arc<Counted>) {
    let pipe = |from: &TcpStream, to: &TcpStream, counter: fn(&Counted) -> &AtomicU64| {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let counts = Arc::clone(counts);
        std::thread::spawn(move || pump(from, to, counter(&counts)));
    };
    pipe(&client, &server, |counted| &counted.up);
    pipe(&server, &client, |counted| &counted.down);
}

fn pump(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        counter.fetch_add(u64::try_from(read).unwrap_or_default(), Ordering::Relaxed);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The other direction ends too.
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}
