//! Network namespaces of tests, and the node as it is watched in one.
//!
//! Namespaces here have no name: they go with the last thread inside, also when a test fails.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    collections::BTreeSet,
    io::Write,
    net::IpAddr,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use enforcer::node::{NodeState, NodeWatch, Selection, watch};
use enforcer_policy::model::Side;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::{geteuid, getpid, gettid},
};
use tokio::{sync::watch as channel, time::timeout};

/// Far beyond what any change takes, for slow machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test on a thread with a network namespace of its own.
pub(crate) fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    assert!(geteuid().is_root(), "makes network namespaces: run as root");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(test());
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Another namespace, for the far ends of pairs; gone when dropped.
pub(crate) struct Elsewhere {
    pub(crate) path: String,
    _end: mpsc::Sender<()>,
}

pub(crate) fn elsewhere() -> Elsewhere {
    let (end, ended) = mpsc::channel::<()>();
    let (started, thread_id) = mpsc::channel();
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        started.send(gettid()).unwrap();
        let _ = ended.recv();
    });
    let thread_id = thread_id.recv().unwrap();
    Elsewhere { path: format!("/proc/{}/task/{thread_id}/ns/net", getpid()), _end: end }
}

/// Runs one `ip` with many commands, one a line, in the namespace of this thread.
pub(crate) fn ip(batch: &str) {
    run(Command::new("ip").args(["-batch", "-"]), batch);
}

impl Elsewhere {
    /// The same, in this one.
    pub(crate) fn ip(&self, batch: &str) {
        let net = format!("--net={}", self.path);
        run(Command::new("nsenter").args([net.as_str(), "ip", "-batch", "-"]), batch);
    }
}

fn run(command: &mut Command, batch: &str) {
    let mut ip = command.stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "ip commands:\n{batch}");
}

pub(crate) struct Watched {
    pub(crate) states: channel::Receiver<Arc<NodeState>>,
    pub(crate) watch: NodeWatch,
    pub(crate) node_addresses: channel::Sender<BTreeSet<IpAddr>>,
}

impl Watched {
    pub(crate) async fn new(selection: Selection) -> Self {
        let (node_addresses, receiver) = channel::channel(BTreeSet::new());
        let watch = watch(selection, receiver).await.unwrap();
        Self { states: watch.states(), watch, node_addresses }
    }

    pub(crate) async fn auto() -> Self {
        Self::new(Selection::Auto).await
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl Fn(&NodeState) -> bool) {
        let reached = timeout(PATIENCE, self.states.wait_for(|state| reached(state))).await;
        let in_time = reached.map(|open| drop(open.unwrap())).is_ok();
        assert!(in_time, "{what}: {:#?}", self.states.borrow());
    }

    /// As uplinks and tunnels.
    pub(crate) async fn guards(&mut self, wanted: &[&str]) {
        self.until(&format!("guards {wanted:?}"), |state| names(state) == wanted).await;
    }

    pub(crate) async fn guards_pods(&mut self, wanted: &[&str]) {
        let same = |state: &NodeState| of_side(state, Side::Pod) == wanted;
        self.until(&format!("guards pods at {wanted:?}"), same).await;
    }

    pub(crate) async fn answers_at(&mut self, wanted: &[&str]) {
        let wanted: BTreeSet<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let same = |state: &NodeState| state.addresses == wanted;
        self.until(&format!("answers at {wanted:?}"), same).await;
    }
}

pub(crate) fn names(state: &NodeState) -> Vec<&str> {
    of_side(state, Side::Uplink)
}

pub(crate) fn of_side(state: &NodeState, side: Side) -> Vec<&str> {
    let interfaces = state.interfaces.iter().filter(|interface| interface.side == side);
    interfaces.map(|interface| interface.name.as_str()).collect()
}
