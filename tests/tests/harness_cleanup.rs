//! Nothing of a run stays behind, however it ended. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use enforcer_tests::cleanup::{Scratch, sweep};
use enforcer_tests::netns::Netns;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_panic_takes_the_namespace_and_the_folder_away() {
    let paths = std::panic::catch_unwind(|| {
        let ns = Netns::new("panic").unwrap();
        let mut scratch = Scratch::new("panic").unwrap();
        let bpffs = scratch.bpffs("bpffs").unwrap();
        assert!(ns.path().exists() && bpffs.exists());
        std::panic::panic_any([ns.path(), scratch.path().to_owned()]);
    });
    let paths = paths.unwrap_err().downcast::<[std::path::PathBuf; 2]>().unwrap();
    for path in *paths {
        assert!(!path.exists(), "{}", path.display());
        assert!(!mounts().contains(path.to_str().unwrap()));
    }
}

#[test]
fn a_panic_inside_a_namespace_goes_on_outside() {
    let ns = Netns::new("inner-panic").unwrap();
    let result = std::panic::catch_unwind(|| ns.enter(|| panic!("inside")));
    assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "inside");
}

#[test]
fn only_the_thread_inside_moves() {
    let ns = Netns::new("thread").unwrap();
    let interfaces = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    ns.ip("link add only-here type bridge\n").unwrap();
    let before = interfaces();
    assert!(ns.enter(interfaces).contains("only-here"));
    assert_eq!(interfaces(), before);
    assert!(ns.run("ip", &["-o", "link"]).unwrap().contains("only-here"));
    let by_name = Command::new("ip").args(["-n", ns.name(), "-o", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&by_name.stdout).contains("only-here"));
}

#[test]
fn a_failing_command_says_which_where_and_why() {
    let ns = Netns::new("complaint").unwrap();
    let error = format!("{:#}", ns.ip("link set nothing up\n").unwrap_err());
    assert!(error.contains(ns.name()) && error.contains("Cannot find device"), "{error}");
}

#[test]
fn interrupting_a_run_removes_what_it_made() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, made) = run_that_holds();
        kill(pid(&child), signal).unwrap();
        let status = wait(&mut child);
        assert_eq!(status.code(), Some(128 + signal as i32));
        assert_gone(&made);
    }
}

#[test]
fn the_next_run_sweeps_up_after_one_that_was_killed() {
    let (mut child, made) = run_that_holds();
    kill(pid(&child), Signal::SIGKILL).unwrap();
    wait(&mut child);
    let [ns, folder, orphan] = &made[..] else { panic!("{made:?}") };
    assert!(Path::new(ns).exists() && Path::new(folder).exists() && Path::new(orphan).exists());
    // Another test's first namespace may have swept already, hence no look at what this returns.
    sweep().unwrap();
    assert_gone(&made);
}

/// Waits a little: a killed process does not end within the signal.
fn assert_gone(paths: &[String]) {
    let end = Instant::now() + LIMIT;
    for path in paths {
        while Path::new(path).exists() {
            assert!(Instant::now() < end, "{path} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!mounts().contains(path.as_str()), "{path} is still mounted");
    }
}

/// Starts this test binary again as a run of its own; returns it and the paths of what it made.
fn run_that_holds() -> (Child, Vec<String>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_run_that_holds_until_its_input_ends", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    // A shell's background job ignores SIGINT, and so would its children.
    // SAFETY: only sigaction(2) between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            for signal in [Signal::SIGINT, Signal::SIGTERM] {
                sigaction(signal, &default)?;
            }
            Ok(())
        });
    }
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("made ")).unwrap();
    let made = line.split_once("made ").unwrap().1.split(' ').map(str::to_owned).collect();
    (child, made)
}

#[test]
#[ignore = "started by the other tests of this file"]
fn a_run_that_holds_until_its_input_ends() {
    let ns = Netns::new("held").unwrap();
    let mut scratch = Scratch::new("held").unwrap();
    scratch.bpffs("bpffs").unwrap();
    let mut orphan = ns.command("sleep").arg("60").spawn().unwrap();
    // A zombie has no program any more.
    let orphan_path = format!("/proc/{}/exe", orphan.id());
    println!("made {} {} {orphan_path}", ns.path().display(), scratch.path().display());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    orphan.kill().unwrap();
    orphan.wait().unwrap();
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the run has not ended within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}
