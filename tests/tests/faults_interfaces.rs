//! Interfaces come, go and change their names under traffic; nothing is lost and nothing let through on
//! those that stay, and new ones are guarded soon. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::time::{Duration, Instant};

use enforcer_tests::faults::{alone, restricted, unharmed};
use enforcer_tests::netns::Netns;
use enforcer_tests::onlooker::{await_tcx_programs, tcx_programs};
use enforcer_tests::stage::NODE;

const LIMIT: Duration = Duration::from_secs(60);
const BURST: usize = 200;

#[test]
fn an_uplink_that_is_renamed_under_traffic_stays_guarded() {
    let _alone = alone();
    for v6 in [false, true] {
        let stage = restricted().unwrap();
        let node = &stage.network.node(NODE).ns;
        let installation = stage.installation().unwrap().interfaces("auto");
        let mut agent = installation.start().unwrap();
        unharmed("uplink renamed, and back", &stage, v6, |_| {
            for name in [["eth0", "uplink0"], ["uplink0", "eth0"]] {
                let [from, to] = name;
                node.ip(&format!("link set {from} name {to}"))?;
                agent.wait_ready(LIMIT)?;
                await_tcx_programs(node, to, 1)?;
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    }
}

#[test]
fn another_uplink_that_goes_down_and_up_and_is_made_again_is_guarded_each_time() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let elsewhere = Netns::new("elsewhere").unwrap();
    let far = elsewhere.name();
    let installation = stage.installation().unwrap().interfaces("auto");
    let mut agent = installation.start().unwrap();
    unharmed("another uplink down, up, renamed, made again", &stage, false, |_| {
        let add = |more: &str| {
            format!(
                "link add up1 {more} type veth peer name far1 netns {far}\n\
                 addr add 192.0.2.1/24 dev up1\nlink set up1 up"
            )
        };
        node.ip(&add(""))?;
        await_tcx_programs(node, "up1", 1)?;
        node.ip("link set up1 down\nlink set up1 up")?;
        await_tcx_programs(node, "up1", 1)?;
        node.ip("link set up1 down\nlink set up1 name up2\nlink set up2 up")?;
        await_tcx_programs(node, "up2", 1)?;
        let index = node.enter(|| nix::net::if_::if_nametoindex("up2"))?;
        // The same name, then the same number as well.
        node.ip(&format!("link del up2\n{}", add("")))?;
        await_tcx_programs(node, "up1", 1)?;
        node.ip(&format!("link del up1\n{}", add(&format!("index {index}"))))?;
        await_tcx_programs(node, "up1", 1)?;
        node.ip("link del up1")?;
        agent.wait_ready(LIMIT).map(drop)
    })
    .unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn a_burst_of_veths_costs_the_uplink_nothing() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let node = &stage.network.node(NODE).ns;
    let elsewhere = Netns::new("elsewhere").unwrap();
    let installation = stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    let name = |number: usize| format!("burst{number}");
    unharmed("200 veths come and go", &stage, false, |_| {
        let add = |number: usize| {
            format!(
                "link add {} type veth peer name far{number} netns {}\n",
                name(number),
                elsewhere.name()
            )
        };
        let begin = Instant::now();
        node.ip(&(0..BURST).map(add).collect::<String>())?;
        let made = begin.elapsed();
        let mut waiting: Vec<String> = (0..BURST).map(name).collect();
        while !waiting.is_empty() && begin.elapsed() < LIMIT {
            waiting.retain(|it| tcx_programs(node, it).is_ok_and(|programs| programs == 0));
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{BURST} veths made in {made:?}, all guarded after {:?}", begin.elapsed());
        anyhow::ensure!(waiting.is_empty(), "not guarded: {waiting:?}");
        node.ip(&(0..BURST).map(|it| format!("link del {}\n", name(it))).collect::<String>())
    })
    .unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}
