//! What the kernel must have, found by trying: what was refused, and why.
//!
//! Input: an error of loading or attaching. Output: the same, or [`KernelError::Lacks`] where the kernel is
//! too old or built without something. Nothing is asked of a kernel that takes everything, so none is
//! refused that would do.

use std::io;

use aya::{
    EbpfError,
    maps::{Array, MapData, MapError},
    programs::{ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use enforcer_ebpf::abi::{MAP_EVENTS, MAP_IMAGES, PART_BYTES};
use nix::{
    errno::Errno,
    sys::{
        resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
        utsname::uname,
    },
};

use super::{KernelError, Layout};

/// The oldest Linux on which everything is known to work.
const OLDEST: &str = "5.10";

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Feature {
    name: &'static str,
    /// The first Linux with it.
    since: &'static str,
    remedy: Remedy,
}

/// What to do without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    NewerKernel,
    /// By the module of this name.
    Module(&'static str),
    Option(&'static str),
}

const MAPPED_ARRAYS: Feature = Feature::new("BPF arrays that can be mapped into memory", "5.5");
const RINGS: Feature = Feature::new("BPF ring buffers", "5.8");
const CLASSIFIERS: Feature = Feature::new("BPF programs for traffic control", "4.1");
/// Before, maps had to fit into what a process may lock.
const ACCOUNTING: Feature = Feature {
    remedy: Remedy::Option("or start the enforcer with RLIMIT_MEMLOCK unlimited"),
    ..Feature::new("accounting of BPF maps without RLIMIT_MEMLOCK", "5.11")
};
const TCX: Feature = Feature {
    remedy: Remedy::Option("or leave --attach to auto"),
    ..Feature::new("TCX, which --attach tcx asks for", "6.6")
};
const DISCIPLINE: Feature = Feature {
    remedy: Remedy::Module("sch_ingress"),
    ..Feature::new("queueing discipline clsact", "4.5")
};
const FILTER: Feature =
    Feature { remedy: Remedy::Module("cls_bpf"), ..Feature::new("filters of BPF programs", "4.1") };

/// What the programs call that some kernels that have all of the above do not know.
const HELPERS: [(BpfHelper, Feature); 5] = [
    (BpfHelper::BPF_FUNC_skb_change_tail, Feature::new("bpf_skb_change_tail", "4.9")),
    (BpfHelper::BPF_FUNC_sk_fullsock, Feature::new("bpf_sk_fullsock", "5.1")),
    (BpfHelper::BPF_FUNC_skc_lookup_tcp, Feature::new("bpf_skc_lookup_tcp", "5.2")),
    (BpfHelper::BPF_FUNC_jiffies64, Feature::new("bpf_jiffies64", "5.6")),
    (BpfHelper::BPF_FUNC_ringbuf_reserve, Feature::new("bpf_ringbuf_reserve", "5.8")),
];

impl Feature {
    const fn new(name: &'static str, since: &'static str) -> Self {
        Self { name, since, remedy: Remedy::NewerKernel }
    }

    fn remedy(self) -> String {
        let update =
            format!("update the node's kernel (the enforcer works on Linux {OLDEST} and newer)");
        match self.remedy {
            Remedy::NewerKernel => update,
            Remedy::Module(module) => format!("give the node the kernel's module {module}"),
            Remedy::Option(other) => format!("{update}, {other}"),
        }
    }
}

/// How images can lie in a map here: before commit 63b8ce77b15e (Linux 6.0) the kernel refuses values that
/// one allocation may not hold.
pub(super) fn layout() -> Layout {
    const LARGE: usize = PART_BYTES + 8;
    match Array::<MapData, [u8; LARGE]>::create(1, 0) {
        Err(MapError::CreateError { io_error, .. })
            if io_error.raw_os_error() == Some(Errno::E2BIG as i32) =>
        {
            Layout::Parts
        }
        // Another error is one of the map itself, and said there.
        _ => Layout::Whole,
    }
}

/// Lets this process lock what memory it likes, if it may: before Linux 5.11 maps count as that.
pub(super) fn lock_memory() {
    if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::debug!(%errno, "the limit of locked memory stays");
    }
}

/// Why the object cannot be opened.
pub(super) fn of_object(source: EbpfError) -> KernelError {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = &source
        && let Some(feature) = of_map(name, io_error)
    {
        return lacks(feature, Box::new(source));
    }
    KernelError::Load(Box::new(source))
}

/// Why a program cannot be loaded.
pub(super) fn of_program(name: &str, source: ProgramError) -> KernelError {
    let name = name.to_owned();
    let ProgramError::LoadError { io_error, verifier_log } = &source else {
        return KernelError::Program { action: "load", name, source: Box::new(source) };
    };
    if let Some(feature) = missing() {
        return lacks(feature, Box::new(source));
    }
    let refusals = [Errno::EACCES, Errno::EINVAL, Errno::E2BIG, Errno::ENOSPC];
    if !refusals.into_iter().any(|errno| io_error.raw_os_error() == Some(errno as i32)) {
        return KernelError::Program { action: "load", name, source: Box::new(source) };
    }
    let log = verifier_log.to_string();
    tracing::debug!(program = name, %log, "the verifier's log");
    KernelError::Verifier { name, kernel: release(), complaint: complaint(&log) }
}

/// The first of what programs need that this kernel does not know; a question without an answer counts as
/// known.
fn missing() -> Option<Feature> {
    let classifier = ProgramType::SchedClassifier;
    if is_program_supported(classifier).is_ok_and(|known| !known) {
        return Some(CLASSIFIERS);
    }
    let unknown = |helper| is_helper_supported(classifier, helper).is_ok_and(|known| !known);
    HELPERS.into_iter().find(|(helper, _)| unknown(*helper)).map(|(_, feature)| feature)
}

/// `--attach tcx` on a kernel without it.
pub(super) fn no_tcx() -> KernelError {
    lacks(TCX, Box::new(io::Error::from(Errno::EINVAL)))
}

/// Why a queueing discipline cannot be added, if it is that the kernel has none of this kind.
pub(super) fn of_discipline(source: io::Error) -> Result<KernelError, io::Error> {
    of_kind(DISCIPLINE, source)
}

/// Why a filter cannot be added, if it is that the kernel has none of this kind.
pub(super) fn of_filter(source: io::Error) -> Result<KernelError, io::Error> {
    of_kind(FILTER, source)
}

/// The kernel finds no code of a kind by its name, and no module either (`net/sched`).
fn of_kind(feature: Feature, source: io::Error) -> Result<KernelError, io::Error> {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(lacks(feature, Box::new(source))),
        _ => Err(source),
    }
}

fn of_map(name: &str, error: &io::Error) -> Option<Feature> {
    match (name, error.raw_os_error().map(Errno::from_raw)?) {
        (MAP_IMAGES, Errno::EINVAL) => Some(MAPPED_ARRAYS),
        (MAP_EVENTS, Errno::EINVAL) => Some(RINGS),
        // The right is there if a small one is granted.
        (_, Errno::EPERM) if locks_little() && Array::<MapData, u32>::create(1, 0).is_ok() => {
            Some(ACCOUNTING)
        }
        _ => None,
    }
}

/// Whether this process may lock less memory than there is.
fn locks_little() -> bool {
    getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(limit, _)| limit != RLIM_INFINITY)
}

fn lacks(
    feature: Feature,
    source: Box<dyn std::error::Error + Send + Sync + 'static>,
) -> KernelError {
    let Feature { name, since, remedy: _ } = feature;
    KernelError::Lacks { feature: name, since, kernel: release(), remedy: feature.remedy(), source }
}

/// The kernel's release, as `uname -r` says it.
fn release() -> String {
    uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a log of the verifier ends with: the sentence before its statistics.
fn complaint(log: &str) -> String {
    let statistics = |line: &&str| !line.trim().is_empty() && !line.starts_with("processed ");
    log.lines().rev().find(statistics).unwrap_or("it does not say why").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::chain;

    fn refused(map: &str, errno: Errno) -> String {
        let error = MapError::CreateError { name: map.to_owned(), io_error: errno.into() };
        chain(&of_object(EbpfError::MapError(error)))
    }

    #[test]
    fn a_map_that_is_refused_names_what_the_kernel_lacks_and_what_to_do() {
        let said = refused(MAP_EVENTS, Errno::EINVAL);
        let begin = format!("this node's kernel, Linux {}, has no BPF ring buffers", release());
        assert!(said.starts_with(&begin), "{said}");
        assert!(said.contains("came with Linux 5.8"), "{said}");
        assert!(said.contains("update the node's kernel"), "{said}");
        assert!(refused(MAP_IMAGES, Errno::EINVAL).contains("mapped into memory"));
        assert!(refused(MAP_IMAGES, Errno::ENOMEM).starts_with("cannot load the BPF object"));
    }

    #[test]
    fn a_kind_that_the_kernel_does_not_know_is_named_with_its_module() {
        let said = chain(&of_discipline(Errno::ENOENT.into()).unwrap());
        assert!(said.contains("give the node the kernel's module sch_ingress"), "{said}");
        let said = chain(&of_filter(Errno::ENOENT.into()).unwrap());
        assert!(said.contains("module cls_bpf"), "{said}");
        assert!(of_filter(Errno::ENODEV.into()).is_err());
    }

    #[test]
    fn who_asks_for_tcx_without_it_is_told_of_the_option() {
        assert!(chain(&no_tcx()).contains("or leave --attach to auto"));
    }

    #[test]
    fn the_verifiers_last_sentence_is_what_counts() {
        let log = "0: (bf) r6 = r1\ninvalid read from stack R10 off=-168 size=4\nprocessed 235380 insns\n\n";
        assert_eq!(complaint(log), "invalid read from stack R10 off=-168 size=4");
        assert_eq!(complaint(""), "it does not say why");
    }
}
