//! What a packet costs: a program that does nothing, and the time that any program takes.
//!
//! Input: a frame. Output: nanoseconds of this thread's CPU time per packet (`BPF_PROG_TEST_RUN`), so
//! that what else the machine does counts little.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

use crate::onlooker::{Attributes, address, bpf_in_place, load, op};

/// A program that passes every packet on.
#[derive(Debug)]
pub struct Floor {
    program: OwnedFd,
}

impl Floor {
    /// Loads it.
    pub fn load() -> Result<Floor> {
        let code = [op(0xb7, 0, 0, -1), op(0x95, 0, 0, 0)]; // r0 = TC_ACT_UNSPEC; exit
        Ok(Floor { program: load(&code).context("cannot load the empty program")? })
    }

    /// Nanoseconds per packet of the empty program.
    pub fn nanoseconds(&self, frame: &[u8], packets: u32) -> Result<f64> {
        nanoseconds(self.program.as_fd(), frame, packets)
    }
}

/// Nanoseconds per packet of a TC program.
pub fn nanoseconds(program: BorrowedFd<'_>, frame: &[u8], packets: u32) -> Result<f64> {
    let mut run = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        returned: 0,
        size: frame.len() as u32,
        size_after: 0,
        data: address(frame.as_ptr()),
        data_after: 0,
        repeat: packets,
        duration: 0,
        context_size: 0,
        context_size_after: 0,
        context: 0,
        context_after: 0,
    };
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    let begin = std::time::Duration::from(clock_gettime(clock)?);
    bpf_in_place(TEST_RUN, &mut run).context("cannot run the program")?;
    let took = std::time::Duration::from(clock_gettime(clock)?) - begin;
    Ok(took.as_secs_f64() * 1e9 / f64::from(packets))
}

// From include/uapi/linux/bpf.h.
const TEST_RUN: libc::c_long = 10;

#[repr(C)]
struct TestRun {
    program: u32,
    returned: u32,
    size: u32,
    size_after: u32,
    data: u64,
    data_after: u64,
    repeat: u32,
    duration: u32,
    context_size: u32,
    context_size_after: u32,
    context: u64,
    context_after: u64,
}

// SAFETY: integers in C's order without padding.
unsafe impl Attributes for TestRun {}
