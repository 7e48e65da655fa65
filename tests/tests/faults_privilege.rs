//! What the agent may do while it runs. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use enforcer_tests::faults::restricted;

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF.
const NEEDED: u64 = 1 << 12 | 1 << 38 | 1 << 39;

#[test]
fn every_thread_of_an_agent_that_root_started_has_three_capabilities_and_can_get_no_other() {
    let mut stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid().unwrap())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for (set, expected) in [
            ("CapInh", 0),
            ("CapPrm", NEEDED),
            ("CapEff", NEEDED),
            ("CapBnd", NEEDED),
            ("CapAmb", 0),
        ] {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{set}:")));
            let held = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
            assert_eq!(held, expected, "{set}: {status}");
        }
        threads += 1;
    }
    assert!(threads >= 2, "{threads}");
    // What it has left is enough for whatever comes.
    stage.cluster = stage.cluster.clone().allow(&["203.0.113.0/24", "2001:db8:113::/64"]);
    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
}

#[test]
fn pins_state_and_socket_are_the_owners_alone() {
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let _agent = installation.start().unwrap();
    let mut sockets = 0;
    let versions = fs::read_dir(installation.bpffs()).unwrap().map(|entry| entry.unwrap().path());
    let is_version = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with('v');
    let version = versions.into_iter().find(|path| is_version(path)).unwrap();
    for folder in [version.as_path(), installation.state()] {
        assert_eq!(others_rights(folder), 0, "{}", folder.display());
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(others_rights(&path), 0, "{}", path.display());
            sockets += usize::from(fs::metadata(&path).unwrap().file_type().is_socket());
        }
    }
    assert_eq!(sockets, 1);
}

/// What group and others may do.
fn others_rights(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o077
}
