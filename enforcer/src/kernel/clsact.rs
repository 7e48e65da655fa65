//! Filters of clsact: the programs' places on interfaces where the kernel has no TCX.
//!
//! Input: steps at one hook of one interface of this network namespace. Output: which filters of
//! ours there are, listed by the kernel at each call. A filter stays until it is taken away or its
//! interface goes; it has priority 1, and among filters of one priority the newest is first.
//!
//! What is ours is told by the handle. Whether the queueing discipline below is ours too, the name
//! of the filter says: the kernel has no other place for it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::programs::SchedClassifier;
use enforcer_policy::plan::{Attachment, Attachments, Hook, Interface};
use nix::errno::Errno;
use rtnetlink::{
    packet_core::{
        DecodeError, Emitable as _, NLM_F_CREATE, NLM_F_EXCL, NlaBuffer, NlasIterator, parse_u32,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
    },
};

use super::{KernelError, attach::ProgramIds, features};
use crate::netlink::{RequestError, Requests, Whole};

/// Names filters as ours: "enf", 1 or 2. A second one stands at a hook while a place is retaken.
const HANDLES: [u32; 2] = [0x656e_6601, 0x656e_6602];

/// The first priority that there is.
const PRIORITY: u32 = 1;

/// At the end of the name of a filter whose queueing discipline we made.
const OWN_DISCIPLINE: &str = "+clsact";

/// How often a listing that changed underneath is asked for again.
const ATTEMPTS: usize = 8;

/// From `linux/pkt_cls.h`.
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;

/// The filters of this network namespace.
pub(super) struct Filters {
    requests: Requests,
}

/// A filter of ours.
struct Filter {
    index: u32,
    hook: Hook,
    program: u32,
    handle: u32,
    own_discipline: bool,
    /// Whether packets meet it before all other filters.
    first: bool,
}

/// Where a filter stands, or is to stand.
struct Place<'a> {
    interface: &'a Interface,
    hook: Hook,
    handle: u32,
    own_discipline: bool,
}

/// Takes away every filter of ours in this network namespace. Says how many there were.
pub(super) fn clean() -> Result<usize, KernelError> {
    let mut filters = Filters::open()?;
    let ours = filters.ours()?;
    for Filter { index, hook, .. } in &ours {
        filters.detach(*index, *hook)?;
    }
    Ok(ours.len())
}

/// Where filters of ours are in this network namespace.
pub(super) fn places() -> Result<Vec<(u32, Hook)>, KernelError> {
    let ours = Filters::open()?.ours()?;
    Ok(ours.iter().map(|filter| (filter.index, filter.hook)).collect())
}

impl Filters {
    pub(super) fn open() -> Result<Self, KernelError> {
        let requests = Requests::open().map_err(|source| failed("list", 0, source))?;
        Ok(Self { requests })
    }

    /// What hangs on the interfaces.
    pub(super) fn observe(&mut self, current: &ProgramIds) -> Result<Attachments, KernelError> {
        let attachment = |filter: &Filter| match current.get(&filter.program) {
            _ if !filter.first => Attachment::Displaced,
            Some(program) => Attachment::Current { program: *program },
            None => Attachment::Former,
        };
        // Where there are two, the first counts.
        let ours = self.ours()?;
        let places = ours.iter().rev();
        Ok(places.map(|filter| ((filter.index, filter.hook), attachment(filter))).collect())
    }

    /// Adds a filter, first in line, and the queueing discipline where there is none.
    pub(super) fn attach(
        &mut self,
        program: &SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let index = interface.index;
        let own_discipline = match self.add_discipline(index) {
            Ok(()) => true,
            Err(error) if is(&error, Errno::EEXIST) => {
                self.ours_on(index)?.iter().any(|filter| filter.own_discipline)
            }
            Err(error) => {
                let lacks = features::of_discipline(error);
                return Err(lacks.unwrap_or_else(|error| at(interface, "add", error)));
            }
        };
        let [handle, _] = HANDLES;
        let place = Place { interface, hook, handle, own_discipline };
        self.put(program, &place, NLM_F_CREATE | NLM_F_EXCL).map_err(|error| {
            features::of_filter(error).unwrap_or_else(|error| at(interface, "add", error))
        })
    }

    /// Whether the first filter of a hook is ours; if not, the number of our program that stands
    /// further behind, or none.
    pub(super) fn is_first(
        &mut self,
        interface: &Interface,
        hook: Hook,
        current: &ProgramIds,
    ) -> Result<Result<(), Option<u32>>, KernelError> {
        let ours = self.ours_at(interface.index, hook)?;
        let wanted = interface.program(hook);
        let good = |filter: &Filter| filter.first && current.get(&filter.program) == Some(&wanted);
        Ok(if ours.iter().any(good) { Ok(()) } else { Err(ours.first().map(|it| it.program)) })
    }

    /// Adds another filter of ours before all others, then takes the former ones away.
    pub(super) fn retake(
        &mut self,
        program: &SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let index = interface.index;
        let ours = self.ours_at(index, hook)?;
        let own_discipline = ours.iter().any(|filter| filter.own_discipline);
        let free = |handle: &u32| !ours.iter().any(|filter| filter.handle == *handle);
        let handle = HANDLES.into_iter().find(free);
        // Two of ours, neither first: an earlier agent was ended in between.
        let handle = match (handle, ours.last()) {
            (Some(handle), _) => handle,
            (None, Some(last)) => {
                self.remove(index, hook, last.handle)?;
                last.handle
            }
            (None, None) => return Err(failed("list", index, io::ErrorKind::NotFound.into())),
        };
        let place = Place { interface, hook, handle, own_discipline };
        self.put(program, &place, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|error| at(interface, "add", error))?;
        let former = ours.iter().filter(|filter| filter.handle != handle);
        former.map(|filter| filter.handle).try_for_each(|it| self.remove(index, hook, it))
    }

    /// Gives our filter another program; no packet goes unseen in between.
    pub(super) fn replace(
        &mut self,
        program: &SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<(), KernelError> {
        let own_discipline =
            self.ours_on(interface.index)?.iter().any(|filter| filter.own_discipline);
        let ours = self.ours_at(interface.index, hook)?;
        let handle = ours.first().map_or(HANDLES[0], |filter| filter.handle);
        let place = Place { interface, hook, handle, own_discipline };
        self.put(program, &place, 0).map_err(|error| at(interface, "replace", error))
    }

    /// Takes our filter away, and with the last of all filters a queueing discipline that we made.
    /// Nothing is wrong where the interface or the filter is gone already.
    pub(super) fn detach(&mut self, index: u32, hook: Hook) -> Result<(), KernelError> {
        let own_discipline = self.ours_on(index)?.iter().any(|filter| filter.own_discipline);
        for handle in HANDLES {
            self.remove(index, hook, handle)?;
        }
        // Others may add a filter between look and removal; they find clsact gone and make theirs.
        if own_discipline && self.count(index)? == 0 {
            let request = RouteNetlinkMessage::DelQueueDiscipline(discipline_message(index));
            match self.requests.change(request, 0) {
                Err(error) if is_gone(&error) => {}
                changed => changed.map_err(|source| failed("remove", index, source))?,
            }
        }
        Ok(())
    }

    /// Takes one filter of ours away; nothing is wrong where it is gone.
    fn remove(&mut self, index: u32, hook: Hook, handle: u32) -> Result<(), KernelError> {
        let message = filter_message(index, hook, handle);
        match self.requests.change(RouteNetlinkMessage::DelTrafficFilter(message), 0) {
            Err(error) if is_gone(&error) => Ok(()),
            changed => changed.map_err(|source| failed("remove", index, source)),
        }
    }

    fn put(&mut self, program: &SchedClassifier, place: &Place<'_>, flags: u16) -> io::Result<()> {
        let Place { interface, hook, handle, own_discipline } = *place;
        let descriptor = program.fd().map_err(io::Error::other)?.as_fd().as_raw_fd();
        let mut name = interface.program(hook).name().to_owned();
        if own_discipline {
            name.push_str(OWN_DISCIPLINE);
        }
        let mut message = filter_message(interface.index, hook, handle);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(descriptor.cast_unsigned())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        self.requests.change(RouteNetlinkMessage::NewTrafficFilter(message), flags)
    }

    fn add_discipline(&mut self, index: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(discipline_message(index));
        self.requests.change(request, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Every filter of ours.
    fn ours(&mut self) -> Result<Vec<Filter>, KernelError> {
        let mut found = Vec::new();
        for index in self.interfaces()? {
            found.extend(self.ours_on(index)?);
        }
        Ok(found)
    }

    fn ours_on(&mut self, index: u32) -> Result<Vec<Filter>, KernelError> {
        let mut found = Vec::new();
        for hook in Hook::ALL {
            found.extend(self.ours_at(index, hook)?);
        }
        Ok(found)
    }

    /// Filters of ours at a hook, in the order in which packets meet them.
    fn ours_at(&mut self, index: u32, hook: Hook) -> Result<Vec<Filter>, KernelError> {
        let request = || RouteNetlinkMessage::GetTrafficFilter(listing(index, hook));
        let all = self.list(index, request, |payload| {
            // A message without a handle introduces a priority.
            let is_filter = u32::from(TcHeader::parse(payload)?.handle) != 0;
            Ok(is_filter.then_some(filter(payload, index, hook)?))
        })?;
        let places = all.into_iter().enumerate();
        let ours = places.filter_map(|(at, filter)| Some(Filter { first: at == 0, ..filter? }));
        Ok(ours.collect())
    }

    /// Filters of anybody on an interface.
    fn count(&mut self, index: u32) -> Result<usize, KernelError> {
        let mut count = 0;
        for hook in Hook::ALL {
            let request = || RouteNetlinkMessage::GetTrafficFilter(listing(index, hook));
            count += self.list(index, request, |_| Ok(Some(())))?.len();
        }
        Ok(count)
    }

    /// Numbers of the interfaces that have a clsact.
    fn interfaces(&mut self) -> Result<Vec<u32>, KernelError> {
        let request = || RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        self.list(0, request, |payload| {
            let header = TcHeader::parse(payload)?;
            let is_clsact = is_of_kind(payload, &header, b"clsact\0")?;
            Ok(is_clsact.then_some(header.index.cast_unsigned()))
        })
    }

    fn list<T>(
        &mut self,
        index: u32,
        request: impl Fn() -> RouteNetlinkMessage,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let listed = self.requests.list(request(), |payload| {
                found.extend(read(payload)?);
                Ok(())
            });
            match listed {
                Ok(Whole::Yes) => return Ok(found),
                Ok(Whole::No) => {}
                // The interface has no clsact, or is gone.
                Err(RequestError::Refused(error)) if is_gone(&error) => return Ok(Vec::new()),
                Err(RequestError::Refused(source)) => return Err(failed("list", index, source)),
                Err(RequestError::Malformed(source)) => {
                    return Err(failed("read", index, io::Error::other(source)));
                }
            }
        }
        Err(failed("list", index, io::ErrorKind::ResourceBusy.into()))
    }
}

/// The filter of ours in a message; `None` where it is another's.
fn filter(payload: &[u8], index: u32, hook: Hook) -> Result<Option<Filter>, DecodeError> {
    let header = TcHeader::parse(payload)?;
    let handle = u32::from(header.handle);
    let ours = HANDLES.contains(&handle) && header.info >> 16 == PRIORITY;
    if !ours || !is_of_kind(payload, &header, b"bpf\0")? {
        return Ok(None);
    }
    let (mut program, mut own_discipline) = (0, false);
    for attribute in attributes(payload, &header) {
        let attribute = attribute?;
        if attribute.kind() != libc::TCA_OPTIONS {
            continue;
        }
        for option in NlasIterator::new(attribute.value()) {
            let option: NlaBuffer<&[u8]> = option?;
            match option.kind() {
                TCA_BPF_ID => program = parse_u32(option.value())?,
                TCA_BPF_NAME => {
                    let name = String::from_utf8_lossy(option.value());
                    own_discipline = name.trim_end_matches('\0').ends_with(OWN_DISCIPLINE);
                }
                _ => {}
            }
        }
    }
    Ok(Some(Filter { index, hook, program, handle, own_discipline, first: false }))
}

fn is_of_kind(payload: &[u8], header: &TcHeader, kind: &[u8]) -> Result<bool, DecodeError> {
    for attribute in attributes(payload, header) {
        let attribute = attribute?;
        if attribute.kind() == libc::TCA_KIND {
            return Ok(attribute.value() == kind);
        }
    }
    Ok(false)
}

fn attributes<'a>(payload: &'a [u8], header: &TcHeader) -> NlasIterator<&'a [u8]> {
    NlasIterator::new(payload.get(header.buffer_len()..).unwrap_or_default())
}

/// Asks for the filters of a hook.
fn listing(index: u32, hook: Hook) -> TcMessage {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
    message
}

/// A filter of ours at a hook.
fn filter_message(index: u32, hook: Hook, handle: u32) -> TcMessage {
    let mut message = listing(index, hook);
    message.header.handle = handle.into();
    message.header.info = PRIORITY << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}

fn discipline_message(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// No such interface, no clsact on it (EINVAL, as the kernel says for a parent that is not there),
/// or no such filter.
fn is_gone(error: &io::Error) -> bool {
    [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL].into_iter().any(|errno| is(error, errno))
}

fn at(interface: &Interface, action: &'static str, error: io::Error) -> KernelError {
    let Interface { index, name, link: _, side: _ } = interface;
    if is(&error, Errno::ENODEV) {
        return KernelError::InterfaceGone { name: name.clone(), index: *index };
    }
    failed(action, *index, error)
}

fn failed(action: &'static str, index: u32, source: io::Error) -> KernelError {
    KernelError::Filter { action, index, source }
}
