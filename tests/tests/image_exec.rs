//! `cargo xtask debug --pod|--node`: from the operator's shell into the agent's container and back.
//!
//! What lists pods is the real kubectl and a real API server; what runs the command in the container is the
//! container runtime. In between, where a kubelet would take the API server's request, stands a script in
//! the place of `kubectl exec`: words, standard input, output, exit codes and a terminal go all the way, the
//! request's own protocol does not. Needs root and podman.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod terminal;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use enforcer_tests::cleanup::Scratch;
use enforcer_tests::container::Store;
use enforcer_tests::control_plane::{NAME, NAMESPACE};
use enforcer_tests::stage::NODE;
use enforcer_tests::survey::SILENCE;
use enforcer_tests::talk::{Outcome, connect};
use enforcer_tests::watched::Watched;
use enforcer_tests::{exec, http};
use serde_json::{Value, json};

use terminal::Terminal;

const LIMIT: Duration = Duration::from_secs(60);
const POD: &str = "enforcer-x7k2p";

/// A shell of an operator.
struct Shell<'a> {
    watched: &'a Watched,
    /// Where `kubectl` is the script.
    path: PathBuf,
}

/// What came back.
#[derive(Debug)]
struct Back {
    code: Option<i32>,
    text: String,
    error: String,
}

impl Shell<'_> {
    fn debug(&self, words: &[&str], input: &str) -> Back {
        let output = exec::output(self.command(words), input, LIMIT).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Back { code: output.status.code(), text: text(output.stdout), error: text(output.stderr) }
    }

    fn command(&self, words: &[&str]) -> Command {
        // As an operator reaches the API server, from its own network.
        let mut command = self.watched.api.ns().command(xtask());
        let path = format!("{}:{}", self.path.display(), std::env::var("PATH").unwrap());
        command.arg("debug").args(words);
        command.env("PATH", path).env("KUBECONFIG", self.watched.api.admin().unwrap());
        command
    }
}

/// Built with the tests of the workspace.
fn xtask() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let xtask = deps.parent().and_then(Path::parent).unwrap().join("xtask");
    assert!(xtask.exists(), "no {}: run `cargo build --package xtask`", xtask.display());
    xtask
}

/// `kubectl`, but that `exec` is what a kubelet has the container runtime do.
fn script(folder: &Path, kubectl: &Path, runtime: &str, container: &str) {
    let text = format!(
        r#"#!/bin/sh
# kubectl --namespace NAMESPACE exec [--stdin [--tty]] pod/NAME --container enforcer -- COMMAND...
[ "$3" = exec ] || exec {kubectl} "$@"
[ "$2" = {NAMESPACE} ] || {{ echo "namespace $2" >&2; exit 9; }}
shift 3
how=
[ "$1" = --stdin ] && {{ how=--interactive; shift; }}
[ "$1" = --tty ] && {{ how="$how --tty"; shift; }}
[ "$1 $2 $3 $4" = "pod/{POD} --container enforcer --" ] || {{ echo "no $1" >&2; exit 9; }}
shift 4
exec {runtime} exec $how {container} "$@"
"#,
        kubectl = kubectl.display(),
    );
    let path = folder.join("kubectl");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn words_standard_input_output_and_exit_codes_go_into_the_container_and_back() {
    let mut watched = Watched::customary().unwrap();
    watched.stage.cluster = watched.stage.cluster.clone().allow(&["198.51.100.0/24"]);
    watched.publish().unwrap();
    let store = Store::new().unwrap();
    let mut scratch = Scratch::new("exec").unwrap();
    let (bpffs, state) = (scratch.bpffs("bpffs").unwrap(), scratch.folder("state").unwrap());
    let ns = &watched.stage.network.node(NODE).ns;
    watched.stage.publish().unwrap();
    let container = store
        .container(ns)
        .mount(&bpffs, "/sys/fs/bpf", "rw")
        .mount(&state, "/var/lib/enforcer", "rw")
        .mount(watched.stage.manifests.folder(), "/etc/enforcer", "ro")
        .run(&[
            "run",
            "--source",
            "manifests=/etc/enforcer",
            "--node",
            NODE,
            "--interfaces",
            "eth0",
        ])
        .unwrap();
    wait(|| {
        let ready = http::get(ns, "127.0.0.1:9464".parse().unwrap(), "/readyz");
        ready.is_ok_and(|(status, _)| status == 200)
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": NAMESPACE, "name": POD, "labels": {"app.kubernetes.io/name": NAME},
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "enforcer", "image": "enforcer"}]},
        "status": {"phase": "Running"},
    });
    watched.admin().unwrap().put(&pod).unwrap();
    let path = scratch.folder("bin").unwrap();
    let kubectl = watched.api.program("kubectl");
    script(&path, &kubectl, &store.command_line(), container.name());
    let shell = Shell { watched: &watched, path };

    let vip = watched.stage.frontend("VIP", false).to_string();
    for place in [["--node", NODE], ["--pod", POD]] {
        let ask = |words: &[&str], input: &str| shell.debug(&[&place[..], words].concat(), input);
        let allowed = ask(&["explain", "198.51.100.7", "->", &vip, "--output", "json"], "");
        assert_eq!(allowed.code, Some(0), "{allowed:?}");
        let json: Value = serde_json::from_str(&allowed.text).unwrap();
        assert_eq!(json["verdicts"][0]["range"], "198.51.100.0/24");
        assert_eq!(ask(&["explain", "203.0.113.7", &vip], "").code, Some(3));
        let unknown = ask(&["show", "no such cluster $HOME"], "");
        assert_eq!(unknown.code, Some(1), "{unknown:?}");
        assert!(unknown.error.contains("there is no cluster no such cluster $HOME"), "{unknown:?}");
        assert_eq!(ask(&["show"], "").code, Some(2));
        assert_eq!(ask(&["status"], "").code, Some(0));
        let questions = format!("198.51.100.7 {vip}\n203.0.113.7 {vip}\n");
        let many = ask(&["explain", "--questions", "-", "--output", "json"], &questions);
        assert_eq!((many.code, many.text.lines().count()), (Some(3), 2), "{many:?}");
    }
    let nowhere = shell.debug(&["--node", "seed-9", "status"], "");
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.error.contains("no agent runs on node seed-9"), "{nowhere:?}");
    // On a terminal it is one all the way: its size and its changes, Ctrl-C, the screen as it was.
    let mut terminal = Terminal::run(shell.command(&["--pod", POD, "drops", "--follow"]), 130, 24);
    terminal.wait("0 denied packets shown");
    assert!(terminal.screen().alternate_screen());
    let unlisted = &watched.stage.network.host("unlisted").ns;
    let to = watched.stage.frontend("VIP", false);
    assert_eq!(connect(unlisted, None, to, SILENCE), Outcome::TimedOut);
    terminal.wait("1 denied packet");
    assert!(terminal.screen().contents().contains("DESTINATION"));
    terminal.resize(80, 24);
    terminal.wait("CONNECTION");
    terminal.press(b"\x03");
    assert_eq!(terminal.ended(), Some(0));
    assert!(!terminal.screen().alternate_screen());
    assert_eq!(terminal.screen().contents(), Terminal::BEFORE);
    // What is not enforced is told from there as well.
    for pin in fs::read_dir(bpffs.join("enforcer")).unwrap().flatten() {
        fs::remove_dir_all(pin.path()).ok();
    }
    assert_eq!(shell.debug(&["--pod", POD, "status"], "").code, Some(4));
}

fn wait(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
}
