//! Running one short command: text in, text out, bounded, its complaint kept on failure.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `command` with `input` on its standard input; its standard output, or an error with its
/// standard error if it fails or takes more than 30 s.
pub fn run(command: Command, input: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = output(command, input, LIMIT)?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {}", output.status, complaint.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed no text"))
}

/// Runs `command` to its end, whatever its exit status, within `limit`.
pub fn output(mut command: Command, input: &str, limit: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    let mut stdin = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program that stops reading says why on its standard error.
            if let Some(stdin) = stdin.as_mut() {
                stdin.write_all(input.as_bytes()).ok();
            }
            drop(stdin);
            sender.send(child.wait_with_output()).ok();
        });
        match receiver.recv_timeout(limit) {
            Ok(output) => output.with_context(|| format!("cannot wait for {program}")),
            Err(_) => {
                kill(pid, Signal::SIGKILL).ok();
                bail!("{program} has not ended within {limit:?}")
            }
        }
    })
}
