//! `plan`: whatever the kernel holds, every prefix of the steps leaves the old image in force or the new
//! one, all steps lead to what is wanted, and then there is nothing more to do.

use std::collections::BTreeSet;

use enforcer_policy::{
    image::Assignment,
    model::Side,
    plan::{
        Attachment, Attachments, Bank, Desired, Hook, Interface, LinkLayer, LinkStep, Observed,
        Program, Step, plan,
    },
};

use crate::bytes::Draw;

/// Words of the images here: some pages and a rest. What a plan does depends on which pages differ; with
/// the kernel's 16 MiB a run would do nothing but copy.
const WORDS: usize = 8 * 512 + 3;

/// The bytes say what the kernel holds and what is wanted.
pub fn run(data: &[u8]) {
    let mut draw = Draw(data);
    let active = [None, Some(Bank::A), Some(Bank::B)][draw.below(3)];
    let mut banks = [bank(&mut draw), bank(&mut draw)];
    let image = image(&mut draw);
    let mut counters = Assignment::default();
    counters.fresh = fresh(&mut draw);
    let (mut links, interfaces) = (attachments(&mut draw), interfaces(&mut draw));
    let desired = Desired { words: &image, counters: &counters, interfaces: &interfaces };

    let steps = plan(&observed(active, &banks, &links), &desired);
    let before = active.map(|bank| banks[index(bank)].clone());
    let mut now = active;
    for step in &steps {
        match step {
            Step::ResetCounters { slot } => assert!(counters.fresh.contains(slot)),
            Step::Write { bank, words } => {
                assert_ne!(Some(*bank), now, "a bank in force is never written");
                let differs = banks[index(*bank)][words.clone()] != image[words.clone()];
                assert!(differs, "what is there already is not written again");
                banks[index(*bank)][words.clone()].copy_from_slice(&image[words.clone()]);
            }
            Step::Activate { bank } => {
                assert!(banks[index(*bank)] == image, "it is whole before it counts");
                now = Some(*bank);
            }
            Step::Link(step) => {
                let whole = now.is_some_and(|bank| banks[index(bank)] == image);
                assert!(whole, "the image counts before a packet can meet it");
                carry_out(&mut links, step);
            }
        }
        if now == active {
            let same = before.as_ref() == now.map(|bank| &banks[index(bank)]);
            assert!(same, "the image in force does not change");
        }
    }
    assert!(now.is_some_and(|bank| banks[index(bank)] == image));
    let wanted: Attachments = (interfaces.iter())
        .flat_map(|interface| {
            Hook::ALL.map(|hook| {
                let program = interface.program(hook);
                ((interface.index, hook), Attachment::Current { program })
            })
        })
        .collect();
    assert_eq!(links, wanted);
    assert_eq!(plan(&observed(now, &banks, &links), &desired), []);
}

fn observed<'a>(
    active: Option<Bank>,
    banks: &'a [Vec<u64>; 2],
    links: &Attachments,
) -> Observed<'a> {
    Observed { active, banks: [&banks[0], &banks[1]], links: links.clone() }
}

fn index(bank: Bank) -> usize {
    match bank {
        Bank::A => 0,
        Bank::B => 1,
    }
}

/// Zeroes, as a new map has, or what some image has.
fn bank(draw: &mut Draw<'_>) -> Vec<u64> {
    if draw.below(8) == 0 { vec![0; WORDS] } else { image(draw) }
}

/// One of three images, with other words where the bytes say so: pages that differ lie apart, side by
/// side and at both ends.
fn image(draw: &mut Draw<'_>) -> Vec<u64> {
    let mut words = vec![draw.below(3) as u64; WORDS];
    for _ in 0..draw.below(6) {
        let at = draw.below(255) << 8 | draw.below(255);
        words[at % WORDS] ^= 1 << draw.below(64);
    }
    words
}

fn fresh(draw: &mut Draw<'_>) -> BTreeSet<u32> {
    (0..draw.below(4)).map(|_| draw.below(16) as u32).collect()
}

fn attachments(draw: &mut Draw<'_>) -> Attachments {
    let attachments = (0..draw.below(9)).map(|_| {
        let place = (draw.below(6) as u32, Hook::ALL[draw.below(2)]);
        let attachment = match draw.below(4) {
            0 => Attachment::Former,
            1 => Attachment::Dangling,
            2 => Attachment::Displaced,
            _ => {
                Attachment::Current { program: Program::ALL[draw.below(Program::ALL.len() as u8)] }
            }
        };
        (place, attachment)
    });
    attachments.collect()
}

/// Each number once.
fn interfaces(draw: &mut Draw<'_>) -> Vec<Interface> {
    let one = |index: u32, draw: &mut Draw<'_>| Interface {
        index,
        name: format!("if{index}"),
        link: [LinkLayer::Ethernet, LinkLayer::Raw][draw.below(2)],
        side: [Side::Uplink, Side::Pod][draw.below(2)],
    };
    let chosen = draw.byte();
    let mut list: Vec<Interface> =
        (0..6).filter(|bit| chosen >> bit & 1 != 0).map(|index| one(index, draw)).collect();
    if draw.below(2) == 1 {
        list.reverse();
    }
    list
}

/// What the executor would do, on paper.
fn carry_out(links: &mut Attachments, step: &LinkStep) {
    match step {
        LinkStep::Attach { interface, hook } => {
            let program = interface.program(*hook);
            let place = (interface.index, *hook);
            let before = links.insert(place, Attachment::Current { program });
            assert_eq!(before, None, "two programs at one place: {step:?}");
        }
        LinkStep::Replace { interface, hook } | LinkStep::Retake { interface, hook } => {
            let program = interface.program(*hook);
            let place = (interface.index, *hook);
            let before = links.insert(place, Attachment::Current { program });
            assert!(before.is_some(), "nothing to replace: {step:?}");
        }
        LinkStep::Detach { index, hook } => {
            assert!(links.remove(&(*index, *hook)).is_some(), "nothing there: {step:?}");
        }
    }
}
