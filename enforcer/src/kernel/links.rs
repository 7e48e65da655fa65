//! Links: the programs' places on interfaces, pinned by interface number.

use std::{fs, io, path::Path};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
    sys::SyscallError,
};
use enforcer_policy::plan::{Attachment, Interface};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{KernelError, Pins};

/// What hangs on an interface, as its pin shows.
pub(super) fn observe(pins: &Pins, index: u32, current: &[u32]) -> Result<Attachment, KernelError> {
    let failed = |source| KernelError::Link { action: "read", index, source: Box::new(source) };
    let link = FdLink::from(PinnedLink::from_pin(pins.link(index)).map_err(failed)?);
    let program = link.info().map_err(failed)?.program_id();
    Ok(if current.contains(&program) { Attachment::Current } else { Attachment::Former })
}

/// Attaches first in the chain, and pins the link.
pub(super) fn attach(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
) -> Result<(), KernelError> {
    let Interface { index, name, link: _ } = interface;
    let failed = |source| program_error("attach", interface, source);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(name, TcAttachType::Ingress, first).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    // aya attaches by name: if the name has gone to another interface meanwhile, dropping the link
    // detaches it again.
    if if_nametoindex(name.as_str()) != Ok(*index) {
        return Err(KernelError::InterfaceGone { name: name.clone(), index: *index });
    }
    pin(pins, link, *index)
}

/// Replaces the program of a pinned link; no packet goes unseen in between.
pub(super) fn replace(
    pins: &Pins,
    program: &mut SchedClassifier,
    interface: &Interface,
) -> Result<(), KernelError> {
    let index = interface.index;
    let link_error = |source| KernelError::Link { action: "open", index, source: Box::new(source) };
    let link = PinnedLink::from_pin(pins.link(index)).map_err(link_error)?;
    let link = SchedClassifierLink::try_from(FdLink::from(link)).map_err(link_error)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps it; dropping the handle must not detach.
            let link = program
                .take_link(id)
                .map_err(|source| program_error("replace", interface, source))?;
            drop(link);
            Ok(())
        }
        // The interface of this link is gone, and its number was given to another one.
        Err(ProgramError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(Errno::ENOLINK as i32) =>
        {
            unpin(pins, index)?;
            Err(KernelError::InterfaceGone { name: interface.name.clone(), index })
        }
        Err(source) => Err(program_error("replace", interface, source)),
    }
}

/// Removes the pin, which detaches.
pub(super) fn unpin(pins: &Pins, index: u32) -> Result<(), KernelError> {
    remove(&pins.link(index))
}

/// Removes a pin if it is there.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| KernelError::Pin {
            action: "remove",
            path: path.into(),
            source,
        }),
    }
}

fn pin(pins: &Pins, link: SchedClassifierLink, index: u32) -> Result<(), KernelError> {
    let link = FdLink::try_from(link).map_err(|source: LinkError| KernelError::Link {
        action: "take",
        index,
        source: Box::new(source),
    })?;
    let path = pins.link(index);
    let pinned = link
        .pin(&path)
        .map_err(|source| KernelError::PinObject { path, source: Box::new(source) })?;
    drop(pinned);
    Ok(())
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
