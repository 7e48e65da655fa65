//! Starting, asking and ending agents, with a stand-in for the binary. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enforcer_tests::agent::Installation;
use enforcer_tests::cleanup::Scratch;
use enforcer_tests::netns::Netns;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn an_agent_that_ends_before_it_is_ready_shows_its_log() {
    let (ns, scratch) = (Netns::new("agent").unwrap(), Scratch::new("agent").unwrap());
    let lines = "echo \"told: $*\"\necho cannot read manifests >&2\nexit 2\n";
    let installation = installation(&ns, &scratch, lines).arguments(&["--mode", "audit"]);
    let error = format!("{:#}", installation.start().unwrap_err());
    assert!(error.contains("exit status: 2") && error.contains("cannot read manifests"), "{error}");
    assert!(error.contains("told: run --source manifests="), "{error}");
    assert!(error.contains("--node seed-1") && error.contains("--mode audit"), "{error}");
    let mut agent = installation.launch().unwrap();
    assert_eq!(agent.wait(LIMIT).unwrap().code(), Some(2));
}

#[test]
fn an_agent_is_ready_when_it_says_so_and_ends_by_signal() {
    let (ns, scratch) = (Netns::new("agent").unwrap(), Scratch::new("agent").unwrap());
    let installation = installation(&ns, &scratch, &stand_in());
    let agent = installation.start().unwrap();
    assert_eq!(agent.get("/healthz").unwrap(), (200, "ok".into()));
    assert_eq!(agent.get("/nothing").unwrap().0, 404);
    assert_eq!(agent.metric("polls_total", &[("page", "readyz")]).unwrap(), 3.0);
    assert!(agent.metric("polls_total", &[("page", "other")]).is_err());
    let process = format!("/proc/{}", agent.pid().unwrap());
    let stopped = agent.terminate().unwrap();
    assert_eq!(stopped.status.signal(), Some(libc_sigterm()));
    assert!(stopped.took < LIMIT && !Path::new(&process).exists());

    let again = installation.start().unwrap();
    assert_eq!(again.kill().unwrap().status.signal(), Some(9));
    let dropped = installation.start().unwrap();
    let process = format!("/proc/{}", dropped.pid().unwrap());
    drop(dropped);
    assert!(!Path::new(&process).exists());
}

#[test]
fn pins_outlive_agents_but_not_a_reboot_or_the_installation() {
    let (ns, scratch) = (Netns::new("agent").unwrap(), Scratch::new("agent").unwrap());
    let installation = installation(&ns, &scratch, "mkdir -p \"${11}/pin\"\nexit 0\n");
    let bpffs = installation.bpffs().to_owned();
    installation.launch().unwrap().wait(LIMIT).unwrap();
    assert!(bpffs.join("pin").exists(), "{}", installation.log());
    installation.empty_bpffs().unwrap();
    assert!(bpffs.exists() && !bpffs.join("pin").exists());
    drop(installation);
    assert!(!bpffs.exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bpffs.to_str().unwrap()));
}

#[test]
fn commands_of_the_agent_end_in_time_and_report() {
    let (ns, scratch) = (Netns::new("agent").unwrap(), Scratch::new("agent").unwrap());
    let lines = "case $1 in clean) exit 0;; debug) echo \"$2\";; *) echo bad >&2; exit 1;; esac\n";
    let installation = installation(&ns, &scratch, lines);
    installation.clean().unwrap();
    assert_eq!(installation.debug(&["status"]).unwrap().text, "status\n");
    assert!(format!("{:#}", installation.restore().unwrap_err()).contains("bad"));
    assert_eq!(installation.enforcer(&["--version"]).unwrap().status.code(), Some(1));
}

/// An installation whose binary is a shell script with these lines.
fn installation(ns: &Netns, scratch: &Scratch, lines: &str) -> Installation {
    let script: PathBuf = scratch.path().join("enforcer");
    fs::write(&script, format!("#!/bin/sh\n{lines}")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    Installation::of(&script, ns, "seed-1", scratch.path()).unwrap()
}

/// A script that becomes [`a_stand_in_that_serves_http`].
fn stand_in() -> String {
    let program = std::env::current_exe().unwrap();
    format!("exec {} --exact a_stand_in_that_serves_http --ignored\n", program.display())
}

#[test]
#[ignore = "started by the other tests of this file, in a namespace of theirs"]
fn a_stand_in_that_serves_http() {
    let listener = TcpListener::bind("127.0.0.1:9464").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut polls, end) = (0, Instant::now() + LIMIT);
    while Instant::now() < end {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut line).unwrap();
        reader.lines().map(Result::unwrap).find(String::is_empty).unwrap();
        let (status, body) = match line.split(' ').nth(1).unwrap() {
            "/readyz" => {
                polls += 1;
                (if polls < 3 { "503 wait" } else { "200 OK" }, "not yet".to_owned())
            }
            "/healthz" => ("200 OK", "ok".to_owned()),
            "/metrics" => ("200 OK", format!("polls_total{{page=\"readyz\"}} {polls}\n")),
            _ => ("404 none", String::new()),
        };
        write!(stream, "HTTP/1.0 {status}\r\n\r\n{body}").unwrap();
    }
}

fn libc_sigterm() -> i32 {
    nix::sys::signal::Signal::SIGTERM as i32
}
