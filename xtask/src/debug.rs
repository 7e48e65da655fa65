//! `cargo xtask debug`: `enforcer debug` on this machine, or where an agent's pod runs.
//!
//! Input: a place and the arguments of `enforcer debug`. Output: that program's own output and exit code.
//! Invariant: xtask becomes the program, so that Ctrl-C reaches it; nothing is built or changed.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::child::{become_program, program};
use crate::project::Project;

/// Label of the agents' pods (deploy/base).
const LABEL: &str = "app.kubernetes.io/name=enforcer";

/// Where to ask.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// In this pod of an agent, through `kubectl exec`
    #[arg(long, value_name = "NAME", conflicts_with = "node")]
    pod: Option<String>,
    /// In the agent's pod on this node, through `kubectl exec`
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Namespace of the agents
    #[arg(long, value_name = "NAME", default_value = "enforcer-system")]
    namespace: String,
}

/// Runs it.
pub(crate) fn run(project: &Project, place: &Place, args: &[OsString]) -> Result<ExitCode> {
    let pod = match (&place.pod, &place.node) {
        (Some(pod), _) => format!("pod/{pod}"),
        (None, Some(node)) => pod_on(project, &place.namespace, node)?,
        (None, None) => {
            if !project.agent().exists() {
                bail!("there is no agent yet; run: cargo xtask build");
            }
            return Err(become_program(program(project, project.agent()).arg("debug").args(args)));
        }
    };
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    Err(become_program(exec(&mut kubectl(project), &place.namespace, &pod, terminal, args)))
}

/// The user's own kubectl, with the user's own kubeconfig and working folder.
fn kubectl(project: &Project) -> Command {
    let mut kubectl = program(project, "kubectl");
    if let Ok(here) = std::env::current_dir() {
        kubectl.current_dir(here);
    }
    kubectl
}

fn exec<'a>(
    kubectl: &'a mut Command,
    namespace: &str,
    pod: &str,
    terminal: bool,
    args: &[OsString],
) -> &'a mut Command {
    kubectl.args(["--namespace", namespace, "exec"]);
    if terminal {
        kubectl.args(["--stdin", "--tty"]);
    } else if reads_stdin(args) {
        kubectl.arg("--stdin");
    }
    kubectl.args([pod, "--container", "enforcer", "--", "/enforcer", "debug"]).args(args)
}

/// Only then is standard input given away: a loop in a shell may need its own.
fn reads_stdin(args: &[OsString]) -> bool {
    let pair = |pair: &[OsString]| pair[0] == "--questions" && pair[1] == "-";
    args.windows(2).any(pair) || args.iter().any(|argument| argument == "--questions=-")
}

/// The agent's pod on a node.
fn pod_on(project: &Project, namespace: &str, node: &str) -> Result<String> {
    let mut kubectl = kubectl(project);
    kubectl.args(["--namespace", namespace, "get", "pods", "--selector", LABEL, "--output=name"]);
    kubectl.arg(format!("--field-selector=spec.nodeName={node},status.phase=Running"));
    let output = kubectl.stderr(Stdio::inherit()).output().context("cannot run kubectl")?;
    if !output.status.success() {
        bail!("kubectl cannot list the agents' pods");
    }
    let names = String::from_utf8(output.stdout).context("kubectl's answer is no text")?;
    match names.lines().collect::<Vec<_>>()[..] {
        [pod] => Ok(pod.to_owned()),
        [] => bail!("no agent runs on node {node} (Namespace {namespace}, {LABEL})"),
        _ => bail!("several pods on node {node}; choose one with --pod: {names}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_asked_with_the_arguments_as_they_are() {
        let args = ["explain", "192.0.2.1", "c1", "--output", "json"].map(OsString::from);
        let mut kubectl = Command::new("kubectl");
        let command = exec(&mut kubectl, "enforcer-system", "pod/enforcer-x", false, &args);
        assert!(!reads_stdin(&args));
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(
            words.join(" "),
            "--namespace enforcer-system exec pod/enforcer-x --container enforcer -- /enforcer debug \
             explain 192.0.2.1 c1 --output json"
        );
    }

    #[test]
    fn standard_input_is_handed_on_where_questions_come_from_there() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (args, reads) in [
            ("explain --questions - c1", true),
            ("explain c1 --questions=-", true),
            ("explain --questions /tmp/questions", false),
            ("explain 192.0.2.1 c1", false),
        ] {
            assert_eq!(reads_stdin(&words(args)), reads, "{args}");
        }
    }
}
