//! Others take our programs' places, or see packets first; what they do is noticed within a second, said
//! and undone. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::faults::{alone, attacked, restricted, unharmed};
use enforcer_tests::onlooker::{Onlooker, await_tcx_programs, detach_pinned, tcx_programs};
use enforcer_tests::stage::NODE;

const LIMIT: Duration = Duration::from_secs(20);
/// Noticed and taken back within this time, on a machine with nothing else to do; the look comes every
/// half second.
const SOON: Duration = Duration::from_secs(1);
const RETAKEN: &str = "took our program's place";

#[test]
fn a_program_that_comes_before_ours_and_accepts_everything_is_noticed_and_left_behind() {
    let _alone = alone();
    for v6 in [false, true] {
        let stage = restricted().unwrap();
        let node = &stage.network.node(NODE).ns;
        let installation = stage.installation().unwrap();
        let agent = installation.start().unwrap();
        let mut intruder = Onlooker::accepting().unwrap();
        // While it is first, what it lets through is its own doing: counted, and over within a second.
        attacked("a program before ours accepts everything", &stage, v6, || {
            retaken(&agent, || intruder.attach_tcx_first(node, "eth0"))
        })
        .unwrap();
        assert_eq!(tcx_programs(node, "eth0").unwrap(), 2);
        assert!(agent.metric("enforcer_places_retaken_total", &[]).unwrap() >= 1.0);
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
        unharmed("that program, behind ours by now, detached", &stage, v6, |_| {
            intruder.detach();
            Ok(())
        })
        .unwrap();
        await_tcx_programs(node, "eth0", 1).unwrap();
        // The place of a program that was attached a second time is one like any other.
        agent.kill().unwrap();
        unharmed("a start after a place was retaken", &stage, v6, |_| {
            installation.start()?.terminate()?;
            Ok(())
        })
        .unwrap();
        await_tcx_programs(node, "eth0", 1).unwrap();
    }
}

#[test]
fn retaking_a_place_from_a_program_that_passes_everything_on_loses_and_lets_through_nothing() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let mut others = [(); 2].map(|()| Onlooker::of_window(1).unwrap());
    unharmed("our place retaken, twice", &stage, false, |_| {
        for other in &mut others {
            retaken(&agent, || other.attach_tcx_first(node, "eth0"))?;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(tcx_programs(node, "eth0").unwrap(), 3);
}

#[test]
fn a_program_of_ours_that_is_detached_replaced_or_unpinned_is_back_within_a_second() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let pin = pinned_ingress(&installation);
    let intruder = Onlooker::accepting().unwrap();
    let attacks: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("our link detached", &|| detach_pinned(&pin)),
        ("our program replaced", &|| intruder.usurp(&pin)),
        ("our pin removed", &|| Ok(std::fs::remove_file(&pin)?)),
    ];
    for (scenario, attack) in attacks {
        // The node is open until it is noticed: that is the attack; nothing allowed is ever cut.
        attacked(scenario, &stage, false, || retaken(&agent, attack)).unwrap();
        assert_eq!(stage.surprises(&["listed"]), [""; 0], "{scenario}");
    }
}

#[test]
fn a_flushed_clsact_is_made_again_within_a_second() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap().arguments(&["--attach", "clsact"]);
    let agent = installation.start().unwrap();
    attacked("clsact flushed", &stage, false, || {
        retaken(&agent, || node.run("tc", &["qdisc", "del", "dev", "eth0", "clsact"]).map(drop))
    })
    .unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn a_filter_before_ours_is_left_behind() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let mut scratch = enforcer_tests::cleanup::Scratch::new("filter").unwrap();
    let pin = scratch.bpffs("bpffs").unwrap().join("accepting");
    let installation = stage.installation().unwrap().arguments(&["--attach", "clsact"]);
    let agent = installation.start().unwrap();
    let intruder = Onlooker::accepting().unwrap();
    attacked("a filter before ours accepts everything", &stage, false, || {
        retaken(&agent, || intruder.attach_clsact_first(node, "eth0", &pin))
    })
    .unwrap();
    agent.terminate().unwrap();
    unharmed("a start after a filter's place was retaken", &stage, false, |_| {
        installation.start()?.terminate()?;
        Ok(())
    })
    .unwrap();
}

#[test]
fn whoever_comes_again_and_again_ends_the_fight_and_is_named() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let mut intruders: Vec<Onlooker> = Vec::new();
    let begin = Instant::now();
    let reason = loop {
        let mut intruder = Onlooker::of_window(1).unwrap();
        intruder.attach_tcx_first(node, "eth0").unwrap();
        intruders.push(intruder);
        std::thread::sleep(Duration::from_millis(700));
        let (status, text) = agent.get("/readyz").unwrap();
        if status == 503 && text.contains("took our program's place") {
            break text;
        }
        assert!(begin.elapsed() < LIMIT, "{}", installation.log());
    };
    assert!(reason.contains("bpftool prog show id"), "{reason}");
    // Whoever stops fighting is left behind in the end.
    let start = Instant::now();
    while agent.get("/readyz").unwrap().0 != 200 {
        assert!(start.elapsed() < LIMIT, "{}", installation.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn a_foreign_xdp_program_makes_the_node_not_enforceable_until_it_is_gone_or_tolerated() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let mut installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let mut xdp = Onlooker::of_xdp().unwrap();
    unharmed("a foreign XDP program attached and removed", &stage, false, |_| {
        xdp.attach_xdp(node, "eth0")?;
        let said = until(&agent, 503)?;
        ensure!(said.contains("XDP") && said.contains("xdp off"), "{said}");
        ensure!(agent.metric("enforcer_interfaces_unguarded", &[])? >= 1.0, "no metric");
        xdp.detach();
        until(&agent, 200).map(drop)
    })
    .unwrap();
    agent.terminate().unwrap();
    installation.use_arguments(&["--tolerate", "xdp"]);
    xdp.attach_xdp(node, "eth0").unwrap();
    let _agent = installation.start().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

/// Waits until `/readyz` has this status; what it says.
fn until(agent: &Agent, status: u16) -> Result<String> {
    let start = Instant::now();
    loop {
        let (now, text) = agent.get("/readyz")?;
        if now == status {
            return Ok(text);
        }
        ensure!(start.elapsed() < LIMIT, "/readyz says {now}: {text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes trouble, and waits until the agent has undone it.
fn retaken(agent: &Agent, trouble: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    let noticed = agent.after(RETAKEN, trouble)?;
    // What the harness and other programs take comes on top.
    ensure!(noticed < SOON * 3, "noticed only after {noticed:?}");
    // Said before it is done.
    std::thread::sleep(Duration::from_millis(50));
    until(agent, 200)?;
    println!("noticed after {noticed:?}, undone after {:?}", start.elapsed());
    Ok(start.elapsed())
}

/// The pin of the link at the ingress of `eth0`, the only guarded interface.
fn pinned_ingress(installation: &Installation) -> PathBuf {
    let folders = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let is_version = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('v');
    let version = folders(installation.bpffs()).into_iter().find(is_version).unwrap();
    let pins = folders(&version.join("links"));
    pins.into_iter().find(|pin| pin.to_str().unwrap().ends_with("-ingress")).unwrap()
}
