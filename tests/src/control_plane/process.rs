//! One long-running process with a log, ended with the value that stands for it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cleanup::{Guard, Leftover};

#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    /// None once it has been waited for.
    child: Option<(Child, Guard)>,
}

impl Process {
    /// Starts it with its output at the end of `log`, and without our environment.
    pub(super) fn start(mut command: Command, log: &Path) -> Result<Process> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let (out, err) = (open().context("cannot open a log")?, open()?);
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = program.to_string_lossy().into_owned();
        command.env_clear().stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let guard = Guard::new(Leftover::Process(child.id().cast_signed()));
        Ok(Process { name, log: log.into(), child: Some((child, guard)) })
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|(child, _)| child.id().cast_signed())
    }

    /// Fails with the end of the log if it has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status})\n{}", self.name, self.tail()),
        }
    }

    /// Sends a signal and waits for the end, whatever the exit status.
    pub(super) fn end(mut self, signal: Signal, limit: Duration) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot end {}", self.name))?;
        let end = Instant::now() + limit;
        while self.ended()?.is_none() {
            if Instant::now() > end {
                bail!("{} has not ended within {limit:?}\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Its exit status if it has ended; from then on its process id is nobody's.
    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some((child, _)) = &mut self.child else { bail!("{} has ended", self.name) };
        let status = child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        if status.is_some()
            && let Some((_, guard)) = self.child.take()
        {
            guard.disarm();
        }
        Ok(status)
    }

    fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(30)..];
        format!("its log ends with:\n{}", last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some((mut child, guard)) = self.child.take() {
            child.kill().ok();
            // The id is ours until the wait below.
            guard.disarm();
            child.wait().ok();
        }
    }
}
