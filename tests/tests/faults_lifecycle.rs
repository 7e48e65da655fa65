//! Agents end, crash and change under traffic; nothing is lost and nothing let through. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::fs;
use std::time::Duration;

use enforcer_tests::agent::{Installation, with_faults};
use enforcer_tests::faults::{alone, restricted, stream, tell, unharmed};
use enforcer_tests::onlooker::tcx_programs;
use enforcer_tests::stage::{NODE, Stage};

const LIMIT: Duration = Duration::from_secs(60);
/// Where an apply can die, but for what only a migration has.
const PLACES: [&str; 9] = [
    "a program is about to be loaded",
    "a program is pinned beside its former one",
    "words are about to be written",
    "half of the words are written",
    "an image is about to be in force",
    "an image is in force",
    "a program is about to be attached, replaced or taken away",
    "a link leads to this build's program",
    "what others left is about to go",
];
/// More places to die at than an apply has.
const ENOUGH: u32 = 400;

#[test]
fn a_stop_and_a_kill_and_the_starts_after_them() {
    let _alone = alone();
    for v6 in [false, true] {
        let stage = restricted().unwrap();
        let installation = stage.installation().unwrap();
        let agent = installation.start().unwrap();
        unharmed("stop and start", &stage, v6, |_| {
            agent.terminate()?;
            installation.start()?.terminate()?;
            Ok(())
        })
        .unwrap();
        let agent = installation.start().unwrap();
        unharmed("kill -9 and start", &stage, v6, |_| {
            agent.kill()?;
            installation.start()?.terminate()?;
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn a_crash_at_every_step_of_an_apply() {
    let _alone = alone();
    let mut stage = restricted().unwrap();
    let mut installation = stage.installation().unwrap();
    installation.use_binary(&with_faults().unwrap());
    installation.start().unwrap().terminate().unwrap();
    let stream = stream(&stage, false).unwrap();
    let mut places = 0;
    for fatal in 1..ENOUGH {
        // Another image each time, with the same verdicts for both clients.
        change_one_list(&mut stage, fatal);
        installation.use_environment(&[("ENFORCER_FAULT", &fatal.to_string())]);
        let mut agent = installation.launch().unwrap();
        if agent.wait_ready(LIMIT).is_ok() {
            break;
        }
        places = fatal;
        assert!(died_as_asked(&installation, fatal), "{}", installation.log());
    }
    // How many pages an apply writes depends on what the one before left: some of these were jumped over.
    for place in PLACES {
        let died = |log: &str| log.contains(&format!("at=\"{place}\""));
        if died(&installation.log()) {
            continue;
        }
        change_one_list(&mut stage, ENOUGH + places);
        places += 1;
        installation.use_environment(&[("ENFORCER_FAULT", place)]);
        assert!(installation.launch().unwrap().wait_ready(LIMIT).is_err(), "lived on at: {place}");
        assert!(died(&installation.log()), "never died at: {place}");
    }
    installation.use_environment(&[]);
    installation.start().unwrap().terminate().unwrap();
    let wanted = stream.progress().0.max(100_000);
    stream.wait_for(wanted, LIMIT).unwrap();
    let pairs = stream.stop().unwrap();
    tell(&format!("crash at each of {places} steps of an apply"), false, &pairs);
    assert!((20..ENOUGH - 1).contains(&places), "{places}");
    assert!(pairs.clean(), "{pairs}");
}

#[test]
fn an_upgrade_and_a_rollback_between_builds_of_one_abi_and_of_two() {
    let _alone = alone();
    for v6 in [false, true] {
        let stage = restricted().unwrap();
        let mut installation = stage.installation().unwrap();
        let release = fs::canonicalize(std::env::var_os("ENFORCER_BIN").unwrap()).unwrap();
        installation.start().unwrap().terminate().unwrap();
        unharmed("upgrade to another build and back", &stage, v6, |_| {
            installation.use_binary(&with_faults()?);
            installation.start()?.terminate()?;
            installation.use_binary(&release);
            installation.start()?.terminate()?;
            Ok(())
        })
        .unwrap();
        installation.use_binary(&with_faults().unwrap());
        unharmed("upgrade to a newer ABI", &stage, v6, |_| {
            installation.use_environment(&[("ENFORCER_ABI", "1000")]);
            installation.start()?.terminate()?;
            Ok(())
        })
        .unwrap();
        assert_eq!(folders(&installation), ["v1000"]);
        unharmed("rollback to the former ABI", &stage, v6, |_| {
            installation.use_environment(&[]);
            installation.use_binary(&release);
            installation.start()?.kill()?;
            Ok(())
        })
        .unwrap();
        assert_eq!(folders(&installation).len(), 1);
        assert_ne!(folders(&installation), ["v1000"]);
        assert_eq!(tcx_programs(&stage.network.node(NODE).ns, "eth0").unwrap(), 1);
    }
}

#[test]
fn a_crash_at_every_step_of_a_migration_to_another_abi() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let mut installation = stage.installation().unwrap();
    installation.use_binary(&with_faults().unwrap());
    installation.start().unwrap().terminate().unwrap();
    let stream = stream(&stage, false).unwrap();
    let mut places = 0;
    for fatal in 1..ENOUGH {
        // To and fro: every crash is in a migration.
        let abi = if fatal % 2 == 0 { "1001" } else { "1000" };
        installation
            .use_environment(&[("ENFORCER_FAULT", &fatal.to_string()), ("ENFORCER_ABI", abi)]);
        let mut agent = installation.launch().unwrap();
        if agent.wait_ready(LIMIT).is_ok() {
            break;
        }
        places = fatal;
    }
    // How many steps there are depends on where the one before died: this one may have been jumped over.
    let last = "a former ABI's folder is about to go";
    if !installation.log().contains(last) {
        installation.use_environment(&[("ENFORCER_FAULT", last), ("ENFORCER_ABI", "1002")]);
        assert!(installation.launch().unwrap().wait_ready(LIMIT).is_err(), "lived on at: {last}");
        assert!(installation.log().contains(last), "{}", installation.log());
        places += 1;
    }
    installation.use_environment(&[("ENFORCER_ABI", "1003")]);
    installation.start().unwrap().terminate().unwrap();
    let pairs = stream.stop().unwrap();
    tell(&format!("crash at each of {places} steps of a migration"), false, &pairs);
    assert_eq!(folders(&installation), ["v1003"]);
    assert!(pairs.clean(), "{pairs}");
}

#[test]
fn a_reboot_with_the_source_gone_lets_nobody_through_once_it_is_restored() {
    let _alone = alone();
    for restore in [true, false] {
        let stage = restricted().unwrap();
        let mut installation = stage.installation().unwrap();
        installation.start().unwrap().terminate().unwrap();
        installation.empty_bpffs().unwrap();
        assert_eq!(stage.surprises(&["listed", "unlisted"]), [""; 0], "the node is open");
        // Nobody answers there.
        let kubeconfig = stage.manifests.folder().join("nowhere.kubeconfig");
        fs::write(&kubeconfig, NOWHERE).unwrap();
        installation = installation.source(&format!("kubernetes={}", kubeconfig.display()));
        let scenario = if restore {
            installation.restore().unwrap();
            "reboot, source gone, enforcer restore"
        } else {
            "reboot, source gone, agent"
        };
        let agent = (!restore).then(|| {
            let agent = installation.launch().unwrap();
            let start = std::time::Instant::now();
            while agent.said("what was enforced last is in force again") == 0 {
                assert!(start.elapsed() < LIMIT, "{}", installation.log());
                std::thread::sleep(Duration::from_millis(5));
            }
            println!("enforced again {:?} after the agent's start", start.elapsed());
            agent
        });
        unharmed(scenario, &stage, false, |_| Ok(())).unwrap();
        assert_eq!(stage.surprises(&["listed"]), [""; 0]);
        if let Some(agent) = agent {
            assert!(agent.get("/readyz").unwrap().1.contains("stale since"));
        }
    }
}

/// A kubeconfig of an API server that is not there.
const NOWHERE: &str = "{apiVersion: v1, kind: Config, current-context: c, \
    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], \
    users: [{name: c, user: {token: t}}], contexts: [{name: c, context: {cluster: c, user: c}}]}";

fn change_one_list(stage: &mut Stage, number: u32) {
    let [_, _, high, low] = number.to_be_bytes();
    let more = format!("203.0.{high}.{low}/32");
    let listed = enforcer_tests::faults::LISTED.iter().copied();
    let ranges: Vec<&str> = listed.chain([more.as_str()]).collect();
    stage.cluster = stage.cluster.clone().allow(&ranges);
    stage.publish().unwrap();
}

fn died_as_asked(installation: &Installation, fatal: u32) -> bool {
    installation.log().contains(&format!("fault={fatal} "))
}

fn folders(installation: &Installation) -> Vec<String> {
    let entries = fs::read_dir(installation.bpffs()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The kernel has files of its own there.
    names.filter(|name| name.starts_with('v')).collect()
}
