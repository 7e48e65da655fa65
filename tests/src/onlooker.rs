//! Somebody else's programs behind ours: they count the packets of one mark that reach them.
//!
//! Written in BPF instructions, so that no compiler for BPF is needed. The mark is the TCP window,
//! which nothing on the way changes. What is counted is let through to whoever comes next.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// A program that counts IPv4 and IPv6 TCP packets of one window; gone when dropped, except where
/// it hangs in a clsact filter.
#[derive(Debug)]
pub struct Onlooker {
    map: OwnedFd,
    program: OwnedFd,
    link: Option<OwnedFd>,
}

impl Onlooker {
    /// Loads it; it hangs nowhere yet.
    pub fn of_window(window: u16) -> Result<Onlooker> {
        let map = create_map().context("cannot create a BPF map")?;
        let program = load(&program(window, map.as_raw_fd())).context("cannot load a program")?;
        Ok(Onlooker { map, program, link: None })
    }

    /// Loads one that counts nothing and ends the chain with "let through": whoever comes behind it is
    /// never asked.
    pub fn accepting() -> Result<Onlooker> {
        Self::answering(SCHED_CLS, ACCEPT)
    }

    /// Loads a program of XDP that passes everything on.
    pub fn of_xdp() -> Result<Onlooker> {
        Self::answering(XDP, XDP_PASS)
    }

    fn answering(kind: u32, answer: i32) -> Result<Onlooker> {
        let map = create_map().context("cannot create a BPF map")?;
        let code = [op(0xb7, 0, 0, answer), op(0x95, 0, 0, 0)];
        let program = load_as(kind, &code).context("cannot load a program")?;
        Ok(Onlooker { map, program, link: None })
    }

    /// Attaches it first in the TCX chain of an interface's ingress.
    pub fn attach_tcx_first(&mut self, ns: &Netns, interface: &str) -> Result<()> {
        self.attach(ns, interface, TCX_INGRESS, BEFORE)
    }

    /// Attaches one of [`Onlooker::of_xdp`] to an interface, in the kernel's generic way.
    pub fn attach_xdp(&mut self, ns: &Netns, interface: &str) -> Result<()> {
        self.attach(ns, interface, XDP_HOOK, XDP_GENERIC)
    }

    /// Detaches it.
    pub fn detach(&mut self) {
        self.link = None;
    }

    /// Puts it in the place of the program that a pinned link leads to, as whoever is root may do.
    pub fn usurp(&self, pin: &Path) -> Result<()> {
        let link = open_pin(pin)?;
        let program = self.program.as_raw_fd().cast_unsigned();
        let link = link.as_raw_fd().cast_unsigned();
        bpf(LINK_UPDATE, LinkUpdate { link, program, flags: 0, former: 0 })
            .with_context(|| format!("cannot replace the program of {}", pin.display()))
            .map(drop)
    }

    /// Attaches it last in the TCX chain of an interface's ingress.
    pub fn attach_tcx(&mut self, ns: &Netns, interface: &str) -> Result<()> {
        self.attach(ns, interface, TCX_INGRESS, 0)
    }

    fn attach(&mut self, ns: &Netns, interface: &str, attach: u32, flags: u32) -> Result<()> {
        let program = self.program.as_raw_fd().cast_unsigned();
        let link = ns.enter(|| {
            let target = nix::net::if_::if_nametoindex(interface)?;
            let attributes = LinkCreate { program, target, attach, flags };
            descriptor(LINK_CREATE, attributes)
        });
        self.link = Some(link.with_context(|| format!("cannot attach to {interface}"))?);
        Ok(())
    }

    /// Attaches it to an interface's ingress the old way: a clsact qdisc and a filter. `pin` is a
    /// path on a BPF filesystem for the time of the call.
    pub fn attach_clsact(&self, ns: &Netns, interface: &str, pin: &Path) -> Result<()> {
        self.attach_filter(ns, interface, pin, &[])
    }

    /// The same, before all filters that are there.
    pub fn attach_clsact_first(&self, ns: &Netns, interface: &str, pin: &Path) -> Result<()> {
        self.attach_filter(ns, interface, pin, &["prio", "1"])
    }

    fn attach_filter(&self, ns: &Netns, interface: &str, pin: &Path, place: &[&str]) -> Result<()> {
        let text = pin.to_str().context("the path of the pin")?;
        let path = CString::new(text)?;
        let program = self.program.as_raw_fd().cast_unsigned();
        bpf(OBJ_PIN, ObjPin { path: address(path.as_ptr()), object: program, flags: 0 })
            .with_context(|| format!("cannot pin {text}"))?;
        if !ns.run("tc", &["qdisc", "show", "dev", interface])?.contains("clsact") {
            ns.run("tc", &["qdisc", "add", "dev", interface, "clsact"])?;
        }
        let filter = ["filter", "add", "dev", interface, "ingress"];
        let what = ["bpf", "direct-action", "pinned", text];
        let added = ns.run("tc", &[&filter[..], place, &what].concat());
        std::fs::remove_file(pin).with_context(|| format!("cannot remove {text}"))?;
        added.map(drop)
    }

    /// Packets counted so far.
    pub fn seen(&self) -> Result<u64> {
        let (key, mut count) = (0u32, 0u64);
        let attributes = MapLookup {
            map: self.map.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: address(&raw const key),
            value: address(&raw mut count),
            flags: 0,
        };
        bpf(MAP_LOOKUP, attributes).context("cannot read a BPF map")?;
        Ok(count)
    }
}

/// Detaches a pinned link from its interface and leaves the pin, as whoever is root may do.
pub fn detach_pinned(pin: &Path) -> Result<()> {
    let link = open_pin(pin)?;
    bpf(LINK_DETACH, LinkDetach { link: link.as_raw_fd().cast_unsigned() })
        .with_context(|| format!("cannot detach {}", pin.display()))
        .map(drop)
}

fn open_pin(pin: &Path) -> Result<OwnedFd> {
    let text = pin.to_str().context("the path of the pin")?;
    let path = CString::new(text)?;
    let open = ObjPin { path: address(path.as_ptr()), object: 0, flags: 0 };
    descriptor(OBJ_GET, open).with_context(|| format!("cannot open {text}"))
}

/// How many programs hang in the TCX chain of an interface's ingress.
pub fn tcx_programs(ns: &Netns, interface: &str) -> Result<usize> {
    chain_length(ns, interface, TCX_INGRESS)
}

/// How many programs hang in the TCX chain of an interface's egress.
pub fn tcx_egress_programs(ns: &Netns, interface: &str) -> Result<usize> {
    chain_length(ns, interface, TCX_EGRESS)
}

fn chain_length(ns: &Netns, interface: &str, attach: u32) -> Result<usize> {
    let mut ids = [0u32; 64];
    let mut attributes = ProgramQuery {
        target: 0,
        attach,
        query_flags: 0,
        attach_flags: 0,
        ids: address(ids.as_mut_ptr()),
        count: ids.len() as u32,
        padding: 0,
        more: [0; 4],
    };
    ns.enter(|| {
        attributes.target = nix::net::if_::if_nametoindex(interface)?;
        bpf_in_place(PROGRAM_QUERY, &mut attributes)
    })
    .with_context(|| format!("cannot ask for the programs on {interface}"))?;
    Ok(attributes.count as usize)
}

/// Waits, at most 10 s, until so many programs hang there: the kernel detaches one a moment after
/// its last pin is gone.
pub fn await_tcx_programs(ns: &Netns, interface: &str, count: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = tcx_programs(ns, interface)?;
        if now == count {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(10) {
            bail!("{now} programs hang on {interface}, not {count}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

// From include/uapi/linux/bpf.h, as are the structures below.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const PROGRAM_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROGRAM_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;
const XDP_HOOK: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const ARRAY: u32 = 2;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const BEFORE: u32 = 1 << 3;
const XDP_GENERIC: u32 = 1 << 1;
const ACCEPT: i32 = 0;
const XDP_PASS: i32 = 2;

/// A part of `union bpf_attr`: plain words without padding, zero where nothing is wanted.
///
/// # Safety
/// Implementors are `repr(C)`, of integers only, and have no padding.
pub(crate) unsafe trait Attributes {}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct MapLookup {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
struct ObjPin {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
struct ProgramQuery {
    target: u32,
    attach: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    more: [u64; 4],
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    former: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

// SAFETY: integers in C's order; explicit padding where 64-bit words follow an odd count of 32.
unsafe impl Attributes for MapCreate {}
// SAFETY: as above.
unsafe impl Attributes for MapLookup {}
// SAFETY: as above.
unsafe impl Attributes for ProgramLoad {}
// SAFETY: as above.
unsafe impl Attributes for ObjPin {}
// SAFETY: as above.
unsafe impl Attributes for ProgramQuery {}
// SAFETY: as above.
unsafe impl Attributes for LinkCreate {}
// SAFETY: as above.
unsafe impl Attributes for LinkUpdate {}
// SAFETY: as above.
unsafe impl Attributes for LinkDetach {}

fn bpf<A: Attributes>(command: libc::c_long, mut attributes: A) -> io::Result<libc::c_long> {
    bpf_in_place(command, &mut attributes)
}

pub(crate) fn bpf_in_place<A: Attributes>(
    command: libc::c_long,
    attributes: &mut A,
) -> io::Result<libc::c_long> {
    // SAFETY: the attributes live until the call returns and their size is right; the kernel reads
    // and writes only what the pointers in them lead to, which callers keep alive.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor<A: Attributes>(command: libc::c_long, attributes: A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: a fresh descriptor that nobody else owns; they fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub(crate) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

fn create_map() -> io::Result<OwnedFd> {
    descriptor(MAP_CREATE, MapCreate { kind: ARRAY, key_size: 4, value_size: 8, entries: 1 })
}

pub(crate) fn load(code: &[Instruction]) -> Result<OwnedFd> {
    load_as(SCHED_CLS, code)
}

fn load_as(kind: u32, code: &[Instruction]) -> Result<OwnedFd> {
    let mut log = vec![0u8; 1 << 16];
    let attributes = ProgramLoad {
        kind,
        instructions: code.len() as u32,
        code: address(code.as_ptr()),
        license: address(c"GPL".as_ptr()),
        log_level: 1,
        log_size: log.len() as u32,
        log: address(log.as_mut_ptr()),
    };
    descriptor(PROGRAM_LOAD, attributes).or_else(|error| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        bail!("{error}: {}", String::from_utf8_lossy(&log[..end]))
    })
}

/// One instruction of BPF.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

pub(crate) const fn op(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// Counts in the first entry of `map`, passes on.
fn program(window: u16, map: i32) -> [Instruction; 23] {
    const LOAD_16: u8 = 0x28;
    const LOAD_8: u8 = 0x30;
    const IF_EQUAL: u8 = 0x15;
    const UNLESS_EQUAL: u8 = 0x55;
    const TCP: i32 = 6;
    const NEXT: i32 = -1;
    // Jumps to 21, the end, from where they stand.
    let end = |at: i16| 20 - at;
    [
        op(0xbf, 0x16, 0, 0),       // r6 = packet, for the loads below
        op(LOAD_16, 0, 0, 12),      // EtherType
        op(IF_EQUAL, 0, 5, 0x86dd), // to 8
        op(UNLESS_EQUAL, 0, end(3), 0x0800),
        op(LOAD_8, 0, 0, 14 + 9),
        op(UNLESS_EQUAL, 0, end(5), TCP),
        op(LOAD_16, 0, 0, 14 + 20 + 14),
        op(0x05, 0, 3, 0), // to 11
        op(LOAD_8, 0, 0, 14 + 6),
        op(UNLESS_EQUAL, 0, end(9), TCP),
        op(LOAD_16, 0, 0, 14 + 40 + 14),
        op(UNLESS_EQUAL, 0, end(11), window as i32),
        op(0x62, 0x0a, -4, 0), // key on the stack = 0
        op(0xbf, 0xa2, 0, 0),  // r2 = stack
        op(0x07, 0x02, 0, -4), // r2 -= 4
        op(0x18, 0x11, 0, map),
        op(0, 0, 0, 0),
        op(0x85, 0, 0, 1), // look up
        op(IF_EQUAL, 0, end(18), 0),
        op(0xb7, 0x01, 0, 1),
        op(0xdb, 0x10, 0, 0), // *r0 += 1, atomically
        op(0xb7, 0, 0, NEXT),
        op(0x95, 0, 0, 0),
    ]
}
