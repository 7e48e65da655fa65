//! Plans of links: what is attached, replaced and taken away, and in which order.

use super::*;

fn interface(index: u32, side: Side) -> Interface {
    Interface { index, name: format!("if{index}"), link: LinkLayer::Ethernet, side }
}

fn current(interface: &Interface) -> Attachments {
    Hook::ALL
        .map(|hook| {
            ((interface.index, hook), Attachment::Current { program: interface.program(hook) })
        })
        .into()
}

/// What the executor would do, on paper.
fn carry_out(attachments: &mut Attachments, step: &LinkStep) {
    match step {
        LinkStep::Attach { interface, hook } => {
            let program = interface.program(*hook);
            let before =
                attachments.insert((interface.index, *hook), Attachment::Current { program });
            assert_eq!(before, None, "two programs at one place: {step:?}");
        }
        LinkStep::Replace { interface, hook } | LinkStep::Retake { interface, hook } => {
            let program = interface.program(*hook);
            let before =
                attachments.insert((interface.index, *hook), Attachment::Current { program });
            assert!(before.is_some(), "nothing to replace: {step:?}");
        }
        LinkStep::Detach { index, hook } => {
            assert!(attachments.remove(&(*index, *hook)).is_some(), "nothing there: {step:?}");
        }
    }
}

#[test]
fn whatever_hangs_there_the_plan_leads_to_what_is_wanted_and_then_to_nothing_more() {
    let (up, pod) = (interface(2, Side::Uplink), interface(7, Side::Pod));
    let wrong = Attachment::Current { program: interface(7, Side::Uplink).program(Hook::Ingress) };
    let states = [
        None,
        Some(wrong),
        Some(Attachment::Former),
        Some(Attachment::Displaced),
        Some(Attachment::Dangling),
    ];
    let wanted: Attachments = current(&up).into_iter().chain(current(&pod)).collect();
    for number in 0..125 {
        let [a, b, c] = [number / 25, number / 5 % 5, number % 5].map(|state: usize| states[state]);
        let mut attachments: Attachments = [
            ((2, Hook::Ingress), a),
            ((7, Hook::Ingress), b),
            ((7, Hook::Egress), c),
            ((9, Hook::Ingress), Some(Attachment::Former)),
        ]
        .into_iter()
        .filter_map(|(place, attachment)| Some((place, attachment?)))
        .collect();
        let interfaces = [up.clone(), pod.clone()];
        for step in plan_links(&attachments, &interfaces) {
            carry_out(&mut attachments, &step);
        }
        assert_eq!(attachments, wanted);
        assert_eq!(plan_links(&attachments, &interfaces), []);
    }
}

#[test]
fn an_interface_that_turns_from_pod_to_uplink_is_replaced_in_place_on_ingress_alone() {
    let (pod, uplink) = (interface(7, Side::Pod), interface(7, Side::Uplink));
    let steps = plan_links(&current(&pod), std::slice::from_ref(&uplink));
    assert_eq!(steps, [LinkStep::Replace { interface: uplink, hook: Hook::Ingress }]);
}

#[test]
fn uplinks_come_before_pods_judging_before_recording_and_taking_away_last() {
    let interfaces =
        [interface(3, Side::Pod), interface(4, Side::Uplink), interface(5, Side::Uplink)];
    let gone = ((9, Hook::Ingress), Attachment::Former);
    let order: Vec<_> = plan_links(&[gone].into(), &interfaces)
        .into_iter()
        .map(|step| match step {
            LinkStep::Attach { interface, hook } => ("attach", interface.index, hook),
            LinkStep::Replace { interface, hook } => ("replace", interface.index, hook),
            LinkStep::Retake { interface, hook } => ("retake", interface.index, hook),
            LinkStep::Detach { index, hook } => ("detach", index, hook),
        })
        .collect();
    let wanted = [
        ("attach", 4, Hook::Ingress),
        ("attach", 5, Hook::Ingress),
        ("attach", 4, Hook::Egress),
        ("attach", 5, Hook::Egress),
        ("attach", 3, Hook::Ingress),
        ("attach", 3, Hook::Egress),
        ("detach", 9, Hook::Ingress),
    ];
    assert_eq!(order, wanted);
}

#[test]
fn every_program_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Program::ALL.map(Program::name).into();
    assert_eq!(names.len(), Program::ALL.len());
}
