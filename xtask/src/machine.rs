//! Facts about the machine that xtask runs on.
//!
//! Input: /proc, /etc/os-release, PATH. Output: a `Machine`. Invariant: reads only, changes nothing.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::{env, fs};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What decides which tiers can run here and who may install packages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) root: bool,
    /// Debian or a distribution built from it, with apt-get.
    pub(crate) apt: bool,
    /// Effective capabilities, one bit each.
    pub(crate) capabilities: u64,
}

impl Machine {
    pub(crate) fn observe() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            // The owner of /proc/self is the effective user.
            root: fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0),
            apt: is_debian(&os) && find("apt-get").is_some(),
            capabilities: effective_capabilities(&status),
        }
    }

    pub(crate) fn may_install(&self) -> bool {
        self.root && self.apt
    }

    /// Loading and attaching with pointer arithmetic: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
    pub(crate) fn may_load_bpf(&self) -> bool {
        let has = |bit: u32| self.capabilities >> bit & 1 == 1;
        has(CAP_NET_ADMIN) && (has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON))
    }
}

/// Whether CI asks that nothing be left out.
pub(crate) fn ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}

/// PATH with the folders of system programs, which `su` and users without `-` leave out.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    for system in ["/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&system) {
            folders.push(system);
        }
    }
    env::join_paths(folders).unwrap_or(path)
}

/// The program of this name that a child would start.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|path| runs(path))
}

fn runs(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|ids| ids.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu")
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_is_built_from_it_have_apt() {
        assert!(is_debian("NAME=x\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nID_LIKE=\"rhel\"\n"));
        assert!(!is_debian("VARIANT_ID=debian\n"));
    }

    #[test]
    fn loading_needs_net_admin_and_either_bpf_with_perfmon_or_sys_admin() {
        let with = |bits: &[u32]| Machine {
            root: true,
            apt: false,
            capabilities: bits.iter().fold(0, |all, bit| all | 1 << bit),
        };
        assert!(with(&[CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON]).may_load_bpf());
        assert!(with(&[CAP_NET_ADMIN, CAP_SYS_ADMIN]).may_load_bpf());
        assert!(!with(&[CAP_NET_ADMIN, CAP_BPF]).may_load_bpf());
        assert!(!with(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN]).may_load_bpf());
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        assert_eq!(effective_capabilities("CapPrm:\tff\nCapEff:\t0000000000001000\n"), 1 << 12);
        assert_eq!(effective_capabilities("CapPrm:\tff\n"), 0);
    }

    #[test]
    fn only_executable_files_are_programs() {
        assert!(find("sh").is_some());
        assert!(find("a-program-that-nobody-has").is_none());
        assert!(!runs(Path::new("/etc/passwd")));
        assert!(!runs(Path::new("/usr")));
    }
}
