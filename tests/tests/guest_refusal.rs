//! A kernel that lacks something: the agent says what and what to do, and touches nothing. Runs in virtual
//! machines only (tier `kernels`), on a kernel that counts BPF maps as locked memory (before Linux 5.11).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::time::Duration;

use enforcer_tests::agent::Installation;
use enforcer_tests::manifests::Manifests;
use enforcer_tests::netns::Netns;

const LIMIT: Duration = Duration::from_secs(60);
/// What a process may lock if nobody says otherwise.
static LITTLE: libc::rlimit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
/// CAP_SYS_RESOURCE (linux/capability.h), with which the agent would give itself more.
const SYS_RESOURCE: libc::c_ulong = 24;

#[test]
fn a_kernel_that_lacks_something_is_refused_by_name_before_anything_is_attached() {
    let node = Netns::new("refusal").unwrap();
    node.ip("link add eth0 type dummy\nlink set eth0 up").unwrap();
    let manifests = Manifests::new().unwrap();
    let installation = Installation::new(&node, "seed-1", manifests.folder()).unwrap();
    lock_little();
    let mut agent = installation.launch().unwrap();
    assert_eq!(agent.wait(LIMIT).unwrap().code(), Some(1), "{}", installation.log());
    let log = installation.log();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let refusal = format!(
        "this node's kernel, Linux {}, has no accounting of BPF maps without RLIMIT_MEMLOCK",
        release.trim()
    );
    let said: Vec<&str> = log.lines().filter(|line| line.contains(&refusal)).collect();
    assert_eq!(said.len(), 1, "{log}");
    println!("{}", said[0]);
    assert!(said[0].contains("RLIMIT_MEMLOCK unlimited"), "{log}");
    let disciplines = node.run("tc", &["qdisc", "show", "dev", "eth0"]).unwrap();
    assert!(!disciplines.contains("clsact"), "{disciplines}");
}

/// From now on this process and those that it starts may lock little memory, and may not change that.
fn lock_little() {
    // SAFETY: numbers, and a structure that lives until the call returns.
    let done = unsafe {
        (
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const LITTLE),
            libc::prctl(libc::PR_CAPBSET_DROP, SYS_RESOURCE),
        )
    };
    assert_eq!(done, (0, 0), "{}", std::io::Error::last_os_error());
}
