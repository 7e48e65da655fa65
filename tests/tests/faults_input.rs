//! What the agent reads and writes breaks under traffic; nothing is lost and nothing let through. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use enforcer_tests::agent::{Agent, Installation, with_faults};
use enforcer_tests::faults::{LISTED, alone, restricted, unharmed};
use enforcer_tests::stage::{MANIFEST, Stage};
use enforcer_tests::yaml;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_manifest_that_is_truncated_and_written_in_pieces_counts_once_it_is_whole() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let path = stage.manifests.folder().join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    unharmed("manifest truncated and rewritten in place, ten times", &stage, false, |_| {
        for round in 0..10 {
            let mut file = File::create(&path)?;
            // Longer than any wait for quiet; between documents, where half a file is a whole one.
            let half = text[..text.len() / 2].rfind("\n---\n").context("one document only")?;
            sleep(Duration::from_millis(60));
            file.write_all(&text.as_bytes()[..half])?;
            sleep(Duration::from_millis(if round % 2 == 0 { 150 } else { 5 }));
            file.write_all(&text.as_bytes()[half..])?;
        }
        Ok(())
    })
    .unwrap();
    assert_enforces_edits(stage, &agent);
}

#[test]
fn a_manifest_that_is_replaced_while_it_is_read_is_never_read_in_part() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let objects = stage.objects();
    // Long enough that a reader is mostly in the middle of one.
    let filler: String = (0..200_000).map(|line| format!("# {line}\n")).collect();
    let text = format!("{filler}---\n{}", yaml::documents(&objects));
    unharmed("manifest replaced a hundred times while it is read", &stage, false, |_| {
        for _ in 0..100 {
            stage.manifests.put_text(MANIFEST, &text)?;
            sleep(Duration::from_millis(7));
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(agent.metric("enforcer_problems", &[]).unwrap(), 0.0);
    assert_enforces_edits(stage, &agent);
}

#[test]
fn a_folder_and_a_file_that_may_not_be_read_any_more_keep_what_they_said() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let folder = stage.manifests.folder().to_owned();
    let file = folder.join(MANIFEST);
    let allow = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    unharmed("permission for folder and file lost and given back", &stage, false, |_| {
        for (path, mode) in [(&folder, 0o700), (&file, 0o600)] {
            agent.after("WARN", || {
                allow(path, 0)?;
                // A file whose content has not changed is not read again.
                if path == &file {
                    File::options().append(true).open(path)?.write_all(b"# more\n")?;
                }
                Ok(())
            })?;
            sleep(Duration::from_millis(300));
            allow(path, mode)?;
        }
        wait("nothing is wrong", || Ok(agent.metric("enforcer_problems", &[])? == 0.0))
    })
    .unwrap();
    assert_enforces_edits(stage, &agent);
}

#[test]
fn a_full_disk_costs_the_state_and_nothing_else() {
    let _alone = alone();
    let mut stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    fs::create_dir_all(installation.state()).unwrap();
    let disk = Disk::small(installation.state()).unwrap();
    let agent = installation.start().unwrap();
    wait("the snapshot is saved", || Ok(saved(&installation).is_some())).unwrap();
    let before = saved(&installation);
    disk.fill().unwrap();
    unharmed("disk full, edits, disk free", &stage, false, |_| {
        agent.after("state is not saved", || {
            agent.enforces(|| change(&stage, "203.0.113.200/32")).map(drop)
        })?;
        ensure!(saved(&installation) == before, "half of a snapshot is none");
        disk.free()?;
        agent.enforces(|| change(&stage, "203.0.113.201/32"))?;
        wait("the snapshot is saved again", || Ok(saved(&installation) != before))
    })
    .unwrap();
    // What is saved is whole: it is enforced without any source.
    stage.cluster = stage.cluster.allow(&[LISTED, &["203.0.113.201/32"]].concat());
    agent.terminate().unwrap();
    installation.empty_bpffs().unwrap();
    installation.restore().unwrap();
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
}

#[test]
fn a_source_that_flaps_a_hundred_times_a_second_is_gathered() {
    let _alone = alone();
    let stage = restricted().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    let before = agent.said("image in force");
    let changes = 500;
    unharmed("manifest flapping 100 times a second", &stage, false, |_| {
        let begin = Instant::now();
        for number in 0..changes {
            change(&stage, if number % 2 == 0 { "203.0.113.202/32" } else { "203.0.113.203/32" })?;
            let due = begin + Duration::from_millis(10) * (number + 1);
            sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    })
    .unwrap();
    sleep(Duration::from_millis(500));
    let images = agent.said("image in force") - before;
    println!("{changes} changes, {images} images");
    assert!(images <= changes as usize / 4, "{images} images of {changes} changes");
    assert_enforces_edits(stage, &agent);
}

#[test]
fn a_clock_that_jumps_a_day_forth_and_back_changes_no_verdict_and_loses_no_edit() {
    let _alone = alone();
    let mut stage = restricted().unwrap();
    let mut installation = stage.installation().unwrap();
    // The release is linked statically: nothing can be put before its C library.
    installation.use_binary(&with_faults().unwrap());
    let clock = stage.manifests.folder().with_file_name("clock");
    fs::write(&clock, "+0\n").unwrap();
    installation.use_environment(&[
        ("LD_PRELOAD", fake_time().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // The kernel's own clocks jump with no one.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let agent = installation.start().unwrap();
    let mut jumps = 0;
    unharmed("clock a day forth, two back, and right again", &stage, false, |_| {
        for jump in ["+1d", "-1d", "+0"] {
            // By a rename: half a line is no time.
            let draft = clock.with_extension("new");
            fs::write(&draft, format!("{jump}\n"))?;
            fs::rename(&draft, &clock)?;
            jumps += 1;
            agent.enforces(|| change(&stage, &format!("203.0.113.{jumps}/32")))?;
            let (status, page) = agent.get("/readyz")?;
            ensure!(status == 200, "after {jump}: {page}");
            let age = agent.metric("enforcer_source_age_seconds", &[])?;
            ensure!((0.0..60.0).contains(&age), "after {jump} the source is {age} s old");
        }
        Ok(())
    })
    .unwrap();
    // The clock really jumped: it stamps the log.
    let log = installation.log();
    let days = log.lines().filter_map(|line| line.get(..10)).filter(|day| day.starts_with("20"));
    let days: std::collections::BTreeSet<&str> = days.collect();
    assert!(days.len() >= 3, "{days:?}");
    stage.cluster = stage.cluster.allow(LISTED);
    assert_enforces_edits(stage, &agent);
}

/// Admits the listed client and one more range.
fn change(stage: &Stage, more: &str) -> Result<()> {
    let ranges = [LISTED, &[more]].concat();
    let mut objects = stage.objects();
    let changed = stage.cluster.clone().allow(&ranges).cluster();
    let is_it = |object: &serde_json::Value| {
        object["kind"] == changed["kind"]
            && object["metadata"]["name"] == changed["metadata"]["name"]
    };
    for object in objects.iter_mut().filter(|object| is_it(object)) {
        *object = changed.clone();
    }
    stage.manifests.put(MANIFEST, &objects)
}

fn assert_enforces_edits(mut stage: Stage, agent: &Agent) {
    stage.cluster = stage.cluster.allow(&["203.0.113.0/24", "2001:db8:113::/64"]);
    agent.enforces(|| stage.publish()).unwrap();
    assert_eq!(stage.surprises(&["unlisted"]), [""; 0]);
}

fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        ensure!(begin.elapsed() < LIMIT, "not so within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The snapshot on disk.
fn saved(installation: &Installation) -> Option<Vec<u8>> {
    fs::read(installation.state().join("snapshot.json")).ok()
}

/// libfaketime: what a process takes for the time of day, by a file.
fn fake_time() -> Result<&'static str> {
    const PLACES: [&str; 2] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    ];
    PLACES.into_iter().find(|path| Path::new(path).exists()).context("libfaketime is missing")
}

/// A file system of its own, that can be full. Unmounted when dropped.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn small(at: &'a Path) -> Result<Self> {
        let options = Some("size=256k,mode=700");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), options)?;
        Ok(Self(at))
    }

    /// Leaves no room for one byte.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        while file.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}
