//! What the agent may do: no more than it needs from now on.
//!
//! Input: the capabilities that it was started with, root's mostly. Output: those in [`NEEDED`] of them,
//! for the calling thread and all that it starts. To be called when a BPF file system is mounted, and
//! before other threads are there: capabilities belong to threads.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// Maps, programs and links; interfaces and their events; pointers in programs.
const NEEDED: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Gives everything else up. Where a capability is missing from the start, it is missed later, by whatever
/// needs it.
pub(crate) fn give_up() -> Result<(), CapsError> {
    // Before Linux 5.8 there is neither BPF nor PERFMON: root's own rights are all there is.
    if !NEEDED.iter().all(|needed| caps::runtime::thread_all_supported().contains(needed)) {
        return Ok(());
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::all() {
            if !NEEDED.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    let kept: CapsHashSet = NEEDED.into_iter().filter(|it| permitted.contains(it)).collect();
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}
