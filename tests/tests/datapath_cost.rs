//! What loading and running the programs costs stays within bounds that no machine's speed moves: counts
//! of the verifier, and ratios to an empty program. Margins are wide; `cargo xtask bench` says how it
//! really is. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod judged;

use std::os::fd::AsFd;

use enforcer::kernel::{Attach, Kernel, Layout};
use enforcer_policy::{
    model::Side,
    plan::{LinkLayer, Program},
};
use enforcer_tests::{
    cleanup::Scratch,
    floor::{Floor, nanoseconds},
    packets::Packet,
};
use judged::{enforce, small};

/// Instructions that the verifier looked at when this was last written, by program. Another kernel
/// counts differently, somewhat.
const VERIFIED: &str = include_str!("../verified-instructions.txt");
/// Factor by which a program may outgrow that file.
const GROWTH: u32 = 2;
/// Factor by which a ratio may exceed its budget in docs/PERFORMANCE.md.
const MARGIN: f64 = 1.6;
const ROUNDS: usize = 15;
const PACKETS: u32 = 20_000;

#[test]
fn no_program_asks_much_more_of_the_verifier_than_it_did() {
    let mut scratch = Scratch::new("verified").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    let known: Vec<(&str, u32)> = VERIFIED
        .lines()
        .map(|line| {
            let (name, count) = line.split_once(' ').unwrap();
            (name, count.parse().unwrap())
        })
        .collect();
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, Program::ALL.map(Program::name), "the file has a line for every program");
    for (program, (name, before)) in Program::ALL.into_iter().zip(known) {
        let info = kernel.program(program).unwrap().info().unwrap();
        let now = info.verified_instruction_count().unwrap();
        println!("{name} {now}");
        assert!(now <= before * GROWTH, "{name}: {now} instructions, {before} in the file");
    }
}

#[test]
fn a_packet_costs_no_more_than_its_budget_and_a_margin() {
    let mut scratch = Scratch::new("cost").unwrap();
    let mut kernel = Kernel::open(&scratch.bpffs("pins").unwrap()).unwrap();
    costs_at_most(&mut kernel, MARGIN);
}

#[test]
fn images_in_parts_as_older_kernels_have_them_cost_no_more_than_half_as_much_again() {
    let mut scratch = Scratch::new("cost-parts").unwrap();
    let bpffs = scratch.bpffs("pins").unwrap();
    let mut kernel = Kernel::open_laid_out(&bpffs, Attach::Auto, Layout::Parts).unwrap();
    costs_at_most(&mut kernel, MARGIN * 1.5);
}

fn costs_at_most(kernel: &mut Kernel, margin: f64) {
    enforce(kernel, &small::snapshot("203.0.113.0/24"));
    let floor = Floor::load().unwrap();
    let uplink = Program::Ingress { side: Side::Uplink, link: LinkLayer::Ethernet };
    for (what, from, to, budget) in [
        ("unguarded port", "203.0.113.7:50000", "192.0.2.10:8080", 1.25),
        ("admitted", "203.0.113.7:50000", "192.0.2.10:30000", 1.8),
        ("denied", "198.51.100.7:50000", "192.0.2.10:30000", 1.8 * 1.4),
    ] {
        let packet = Packet::tcp(from.parse().unwrap(), to.parse().unwrap());
        let frame = packet.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        // In turn, and the best of each: what disturbs makes it slower, never faster.
        let (mut least, mut least_floor) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            least_floor = least_floor.min(floor.nanoseconds(&frame, PACKETS).unwrap());
            let program = kernel.program(uplink).unwrap().fd().unwrap();
            least = least.min(nanoseconds(program.as_fd(), &frame, PACKETS).unwrap());
        }
        let ratio = least / least_floor;
        println!("{what}: {least:.1} ns, {ratio:.2} times an empty program");
        assert!(ratio <= budget * margin, "{what}: {ratio:.2}, budget {budget}");
    }
}
