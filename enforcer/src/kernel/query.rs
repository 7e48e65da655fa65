//! Which links hang on a hook of an interface, asked of the interface itself.
//!
//! A pinned link does not say whether its interface is still there: the number may belong to
//! another one. aya's query asks for each program besides, which needs CAP_SYS_ADMIN; numbers alone
//! need CAP_NET_ADMIN.

use std::io;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd};
use enforcer_policy::plan::Hook;

/// As many as the kernel allows on one hook (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// What hangs on a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hung {
    /// Number of the program.
    pub(super) program: u32,
    /// Number of its link; 0 for a program without one.
    pub(super) link: u32,
}

/// Numbers of the links on this hook, in their order; 0 for a program without a link.
pub(super) fn links(index: u32, hook: Hook) -> io::Result<Vec<u32>> {
    Ok(chain(index, hook)?.into_iter().map(|hung| hung.link).collect())
}

/// Everything on this hook, in the order in which packets meet it.
pub(super) fn chain(index: u32, hook: Hook) -> io::Result<Vec<Hung>> {
    let mut programs = [0u32; MOST];
    let mut links = [0u32; MOST];
    // SAFETY: a union of integers, for which all zeroes is a value.
    let mut request = unsafe { std::mem::zeroed::<bpf_attr>() };
    request.query.__bindgen_anon_1.target_ifindex = index;
    request.query.attach_type = match hook {
        Hook::Ingress => bpf_attach_type::BPF_TCX_INGRESS as u32,
        Hook::Egress => bpf_attach_type::BPF_TCX_EGRESS as u32,
    };
    request.query.__bindgen_anon_2.prog_cnt = MOST as u32;
    request.query.prog_ids = programs.as_mut_ptr() as u64;
    request.query.link_ids = links.as_mut_ptr() as u64;
    // SAFETY: the kernel reads `request` and writes at most `MOST` numbers into each array; all of
    // them live until it returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_PROG_QUERY as libc::c_long,
            &raw mut request,
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written how many there are.
    let count = unsafe { request.query.__bindgen_anon_2.prog_cnt };
    let hung = programs.into_iter().zip(links).map(|(program, link)| Hung { program, link });
    Ok(hung.take(count as usize).collect())
}
