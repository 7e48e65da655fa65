//! What comes and goes leaves nothing behind: programs, maps, links, pins, descriptors, memory. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use aya::programs::{loaded_links, loaded_programs};
use enforcer_ebpf::abi::{ABI_VERSION, MAP_IMAGES};
use enforcer_tests::agent::{Agent, Installation};
use enforcer_tests::stage::{NODE, Stage};

const LIMIT: Duration = Duration::from_secs(30);
const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
const OTHERS: [&str; 2] = ["192.0.2.0/24", "2001:db8:77::/64"];
/// What an allocator may keep for later.
const SPARE_KIB: u64 = 4_096;

#[test]
fn pods_edits_and_restarts_leave_nothing_behind() {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&LISTED);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap().interfaces("auto");
    let mut agent = installation.start().unwrap();
    // A first round of everything: what is made once and kept is no leak.
    pods(&mut stage, &mut agent, 1);
    edits(&mut stage, &agent, 20);
    let before = Held::settled(&installation, &agent);
    let memory = resident_kib(&agent);

    pods(&mut stage, &mut agent, 50);
    compare("1,000 pods", &before, &installation, &agent);
    edits(&mut stage, &agent, 1_000);
    compare("1,000 edits", &before, &installation, &agent);
    assert!(resident_kib(&agent) < memory + SPARE_KIB, "{memory} KiB before");
    for restart in 0..100 {
        if restart % 2 == 0 { agent.kill() } else { agent.terminate() }.unwrap();
        agent = installation.start().unwrap();
    }
    compare("100 restarts", &before, &installation, &agent);
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);

    let images = image_map(&installation);
    agent.terminate().unwrap();
    installation.clean().unwrap();
    let start = Instant::now();
    while !programs_of(images).is_empty() && start.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(programs_of(images), [].into(), "after clean");
}

/// Rounds of 20 pods that come, are guarded, and go.
fn pods(stage: &mut Stage, agent: &mut Agent, rounds: usize) {
    for _ in 0..rounds {
        let names: Vec<String> = (0..20).map(|number| format!("leak{number}")).collect();
        for name in &names {
            stage.network.add_pod(NODE, name).unwrap();
        }
        agent.wait_ready(LIMIT).unwrap();
        for name in &names {
            stage.network.remove_pod(NODE, name).unwrap();
        }
    }
    agent.wait_ready(LIMIT).unwrap();
}

/// Edits, each of which gives another image; the last one leads back. `number` is even.
fn edits(stage: &mut Stage, agent: &Agent, number: usize) {
    for edit in 0..number {
        let ranges = if edit % 2 == 0 { [LISTED, OTHERS].concat() } else { LISTED.to_vec() };
        stage.cluster = stage.cluster.clone().allow(&ranges);
        agent.enforces(|| stage.publish()).unwrap();
    }
}

/// What one installation holds of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    programs: usize,
    maps: usize,
    links: usize,
    pins: BTreeSet<String>,
    descriptors: usize,
}

impl Held {
    /// What is held when that has not changed for half a second: the kernel frees with a delay.
    fn settled(installation: &Installation, agent: &Agent) -> Held {
        let start = Instant::now();
        let mut last = Held::now(installation, agent);
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(500) && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
            let now = Held::now(installation, agent);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }

    fn now(installation: &Installation, agent: &Agent) -> Held {
        let images = image_map(installation);
        let programs = programs_of(images);
        let infos = loaded_programs().flatten().filter(|info| programs.contains(&info.id()));
        let maps: BTreeSet<u32> =
            infos.filter_map(|info| info.map_ids().ok().flatten()).flatten().collect();
        let links = loaded_links().flatten();
        let links = links.filter(|link| programs.contains(&link.program_id())).count();
        let process = agent.pid().unwrap();
        Held {
            programs: programs.len(),
            maps: maps.len(),
            links,
            pins: pins(installation.bpffs()),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        }
    }
}

fn compare(what: &str, before: &Held, installation: &Installation, agent: &Agent) {
    let start = Instant::now();
    let mut now = Held::settled(installation, agent);
    while now != *before && start.elapsed() < LIMIT {
        now = Held::settled(installation, agent);
    }
    let memory = resident_kib(agent);
    let Held { programs, maps, links, pins, descriptors } = &now;
    println!(
        "after {what}: {programs} programs, {maps} maps, {links} links, {} pins, {descriptors} \
         descriptors, {memory} KiB resident",
        pins.len()
    );
    assert_eq!(now, *before, "after {what}");
}

/// Numbers of the programs that use a map, in anybody's hands.
fn programs_of(map: u32) -> BTreeSet<u32> {
    let uses = |maps: Option<Vec<u32>>| maps.is_some_and(|maps| maps.contains(&map));
    let programs = loaded_programs().flatten();
    programs.filter(|info| info.map_ids().is_ok_and(uses)).map(|info| info.id()).collect()
}

/// Number of the map of images, which no other installation uses.
fn image_map(installation: &Installation) -> u32 {
    let pin = installation.bpffs().join(format!("v{ABI_VERSION}")).join(MAP_IMAGES);
    MapData::from_pin(pin).unwrap().info().unwrap().id()
}

fn pins(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pins(&path));
        } else {
            found.insert(path.display().to_string());
        }
    }
    found
}

fn resident_kib(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
