//! What the programs in force would do with a packet, without doing it: nothing is counted or told.
//!
//! Input: a [`Probe`], made into an Ethernet frame. Output: [`Explained`] by the pinned program of the last
//! agent, so that the answer is the kernel's and not a second opinion.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use enforcer_ebpf::abi::Explained;
use enforcer_policy::{
    model::{Protocol, Side},
    plan::{Explain, Program},
};
use etherparse::{Ethernet2Header, PacketBuilder, PacketBuilderStep};

use super::{KernelError, pins};

/// A packet that somebody might send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who sends it.
    pub from: SocketAddr,
    /// Where to; of the same family.
    pub to: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What it does to its connection.
    pub step: Step,
}

/// Parts of a TCP connection; with UDP they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its first segment.
    Open,
    /// A segment with data.
    Data,
}

/// The programs that explain.
pub struct DryRun {
    uplink: SchedClassifier,
    pod: SchedClassifier,
    leaving: SchedClassifier,
}

impl DryRun {
    /// Opens the pinned programs.
    pub fn open(bpffs: &Path) -> Result<Self, KernelError> {
        let open = |explain| {
            let program = Program::Explain(explain);
            let path = pins::program_below(bpffs, program);
            SchedClassifier::from_pin(path).map_err(|source| failed("open", program, source))
        };
        Ok(Self {
            uplink: open(Explain::Ingress(Side::Uplink))?,
            pod: open(Explain::Ingress(Side::Pod))?,
            leaving: open(Explain::Leaving)?,
        })
    }

    /// What would become of a packet that comes in on this side.
    pub fn enters(&self, side: Side, probe: &Probe) -> Result<Explained, KernelError> {
        let program = match side {
            Side::Uplink => &self.uplink,
            Side::Pod => &self.pod,
        };
        run(program, Explain::Ingress(side), &frame(probe, [2, 0, 0, 0, 0, 1]))
    }

    /// What would become of a packet of the gated pod behind this interface, as far as its own policy goes.
    pub fn leaves(&self, interface: u32, probe: &Probe) -> Result<Explained, KernelError> {
        let [a, b, c, d] = interface.to_be_bytes();
        run(&self.leaving, Explain::Leaving, &frame(probe, [a, b, c, d, 0, 0]))
    }
}

fn run(
    program: &SchedClassifier,
    explain: Explain,
    frame: &[u8],
) -> Result<Explained, KernelError> {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    let result = program
        .test_run(options)
        .map_err(|source| failed("run", Program::Explain(explain), source))?;
    Ok(Explained::from(result.return_value))
}

/// The frame; its addresses mean nothing but what [`DryRun::leaves`] says.
fn frame(probe: &Probe, sender: [u8; 6]) -> Vec<u8> {
    let Probe { from, to, protocol, step } = *probe;
    let link = PacketBuilder::ethernet2(sender, [2, 0, 0, 0, 0, 2]);
    let ip = network(link, from.ip(), to.ip());
    let payload: &[u8] = match step {
        Step::Open => &[],
        Step::Data => b"hello",
    };
    let mut bytes = Vec::new();
    // Nothing can be too long or cut short here: the bytes grow as they are written.
    let _ = match (protocol, step) {
        (Protocol::Tcp, Step::Open) => {
            ip.tcp(from.port(), to.port(), 1, 64_000).syn().write(&mut bytes, payload)
        }
        (Protocol::Tcp, Step::Data) => {
            ip.tcp(from.port(), to.port(), 1, 64_000).psh().ack(1).write(&mut bytes, payload)
        }
        (Protocol::Udp, _) => ip.udp(from.port(), to.port()).write(&mut bytes, payload),
    };
    bytes
}

fn network(
    link: PacketBuilderStep<Ethernet2Header>,
    from: IpAddr,
    to: IpAddr,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (from, to) => {
            let v6 = |address| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            link.ipv6(v6(from), v6(to), 64)
        }
    }
}

fn failed(
    action: &'static str,
    program: Program,
    source: aya::programs::ProgramError,
) -> KernelError {
    KernelError::Program { action, name: program.name().to_owned(), source: Box::new(source) }
}
