//! Links of TCX: the programs' places on interfaces, pinned by interface number and hook.

use std::io;

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
    sys::SyscallError,
};
use enforcer_policy::plan::{Attachment, Attachments, Hook, Interface};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{KernelError, Pins, attach::ProgramIds, pins, query};
use crate::fault;

/// Number of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Whether this kernel has TCX: one that does not know the hook does not understand the question.
pub(super) fn is_supported() -> bool {
    let answer = query::links(LOOPBACK, Hook::Ingress);
    !answer.is_err_and(|error| error.raw_os_error() == Some(Errno::EINVAL as i32))
}

/// What hangs on the interfaces, as the pins and the interfaces show.
pub(super) fn observe(pins: &Pins, current: &ProgramIds) -> Result<Attachments, KernelError> {
    let links = pins.links()?.into_iter();
    links.map(|place| Ok((place, observe_one(pins, place, current)?))).collect()
}

fn observe_one(
    pins: &Pins,
    (index, hook): (u32, Hook),
    current: &ProgramIds,
) -> Result<Attachment, KernelError> {
    let failed = |source| KernelError::Link { action: "read", index, source: Box::new(source) };
    let link = FdLink::from(PinnedLink::from_pin(pins.present_link(index, hook)).map_err(failed)?);
    let info = link.info().map_err(failed)?;
    // An error: there is no interface of that number.
    let chain = query::chain(index, hook).unwrap_or_default();
    let place = chain.iter().position(|hung| hung.link == info.id());
    Ok(match current.get(&info.program_id()) {
        _ if place.is_none() => Attachment::Dangling,
        _ if place != Some(0) => Attachment::Displaced,
        Some(program) => Attachment::Current { program: *program },
        None => Attachment::Former,
    })
}

/// Whether a program of ours is the first that packets meet at this hook; and which one is if not.
pub(super) fn is_first(
    interface: &Interface,
    hook: Hook,
    current: &ProgramIds,
) -> Result<(), Option<u32>> {
    // An error: the interface is gone, as the node will say.
    let Ok(chain) = query::chain(interface.index, hook) else { return Ok(()) };
    let first = chain.first().map(|hung| hung.program);
    let wanted = interface.program(hook);
    match first {
        Some(first) if current.get(&first) == Some(&wanted) => Ok(()),
        other => Err(other),
    }
}

/// Whether a program hangs there already: the kernel refuses it a second place on one hook.
pub(super) fn hangs(program: u32, interface: &Interface, hook: Hook) -> bool {
    let chain = query::chain(interface.index, hook).unwrap_or_default();
    chain.iter().any(|hung| hung.program == program)
}

/// Attaches first in the chain, and pins the link in place of a former one, which goes with its pin.
pub(super) fn attach(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
) -> Result<(), KernelError> {
    let Interface { index, name, link: _, side: _ } = interface;
    let failed = |source| program_error("attach", interface, source);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(name, attach_type(hook), first).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // aya attaches by name: if the name has gone to another interface meanwhile, dropping the link
    // detaches it again.
    if if_nametoindex(name.as_str()) != Ok(*index) {
        return Err(KernelError::InterfaceGone { name: name.clone(), index: *index });
    }
    pin(pins, link, *index, hook)
}

/// Replaces the program of a pinned link; no packet goes unseen in between.
pub(super) fn replace(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
    hook: Hook,
) -> Result<(), KernelError> {
    let index = interface.index;
    let link_error = |source| KernelError::Link { action: "open", index, source: Box::new(source) };
    let link = PinnedLink::from_pin(pins.present_link(index, hook)).map_err(link_error)?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(link_error)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps it; dropping the handle must not detach.
            let link = program
                .take_link(id)
                .map_err(|source| program_error("replace", interface, source))?;
            drop(link);
            fault::point("a link leads to this build's program");
            pins.adopt_link(index, hook)
        }
        // The interface of this link is gone, and its number was given to another one.
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            detach(pins, index, hook)?;
            Err(KernelError::InterfaceGone { name: interface.name.clone(), index })
        }
        Err(source) => Err(program_error("replace", interface, source)),
    }
}

/// Removes the pin, which detaches.
pub(super) fn detach(pins: &Pins, index: u32, hook: Hook) -> Result<(), KernelError> {
    pins::remove_file(&pins.present_link(index, hook))
}

fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

fn pin(pins: &Pins, link: SchedClassifierLink, index: u32, hook: Hook) -> Result<(), KernelError> {
    let link = FdLink::try_from(link).map_err(|source: LinkError| KernelError::Link {
        action: "take",
        index,
        source: Box::new(source),
    })?;
    pins.put_link(index, hook, |path| {
        let pinned = link.pin(path).map_err(|source| KernelError::PinObject {
            path: path.into(),
            source: Box::new(source),
        })?;
        drop(pinned);
        Ok(())
    })
}

fn program_error(action: &'static str, interface: &Interface, source: ProgramError) -> KernelError {
    let gone = |io_error: &io::Error| {
        matches!(
            io_error.raw_os_error().map(Errno::from_raw),
            Some(Errno::ENODEV | Errno::ENXIO | Errno::ENOLINK)
        )
    };
    let is_gone = if let ProgramError::SyscallError(SyscallError { io_error, .. })
    | ProgramError::TcError(aya::programs::TcError::IoError(io_error)) = &source
    {
        gone(io_error)
    } else {
        false
    };
    if is_gone {
        return KernelError::InterfaceGone { name: interface.name.clone(), index: interface.index };
    }
    KernelError::Program { action, name: interface.name.clone(), source: Box::new(source) }
}
