//! The tier `kernels`: the project's own tests on other kernels than this machine's, in QEMU.
//!
//! Input: the agent, the BPF object, Debian's cloud kernels. Output: one row for each kernel, and the
//! counts of the tests in all of them. Invariant: nothing is installed but QEMU; kernels are unpacked in
//! the user's cache, guests have no network and no disk, and each ends in bounded time.

mod debian;
mod guest;
mod initramfs;
mod module;
mod plan;
mod series;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow};

use self::guest::{Guest, Report};
use self::initramfs::Archive;
use self::plan::Programs;
use self::series::{SERIES, Series};
use crate::machine::Machine;
use crate::outcome::Counts;
use crate::packages;
use crate::project::Project;

/// Guests that run at the same time; each has one CPU, which this machine emulates with one.
const AT_ONCE: usize = 2;

/// An emulator that these kernels survive: QEMU 7.2, as Debian 12 has it, crashes guests.
const OLDEST_QEMU: u32 = 10;

/// Makes sure of an emulator.
pub(crate) fn emulator(project: &Project, machine: &Machine) -> Result<()> {
    if guest::emulator_version(project).is_some_and(|version| version >= OLDEST_QEMU) {
        return Ok(());
    }
    debian::install_emulator(project, machine)?;
    match guest::emulator_version(project) {
        Some(version) if version >= OLDEST_QEMU => Ok(()),
        Some(version) => Err(anyhow!("QEMU {version} is too old, {OLDEST_QEMU} is needed")),
        None => Err(anyhow!("{} does not start", guest::EMULATOR)),
    }
}

/// Makes sure of the kernels: those that the cache has stay as they are until it is emptied.
pub(crate) fn kernels(project: &Project, machine: &Machine) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(anyhow!("the kernels of this tier are for x86-64"));
    }
    let lacking: Vec<&Series> = SERIES.iter().filter(|series| !series.is_there()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    packages::install(project, machine, &packages::missing(packages::UNPACK))?;
    let archive = debian::Archive::open(project, machine)?;
    lacking.into_iter().try_for_each(|series| series.fetch(project, &archive))
}

/// Runs the tests on every kernel.
pub(crate) fn run(project: &Project) -> Result<Counts> {
    let programs = Programs::build(project)?;
    let folder = project.target().join("kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let common = Archive::common(project, &programs, &folder)?;
    let waiting = Mutex::new(SERIES.iter().rev().collect::<Vec<_>>());
    let done = Mutex::new(Vec::new());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.pop());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(series) = next() {
                    let report = run_one(project, series, &common, &folder);
                    let report = report
                        .unwrap_or_else(|error| Report::failed(series.name, format!("{error:#}")));
                    if let Ok(mut done) = done.lock() {
                        done.push(report);
                    }
                }
            });
        }
    });
    let mut reports = done.into_inner().map_err(|_| anyhow!("a thread has panicked"))?;
    reports.sort_by_key(|report| SERIES.iter().position(|series| series.name == report.series));
    println!("\n{}", guest::table(&reports));
    let mut counts = Counts::default();
    reports.iter().for_each(|report| counts.add(report.counts()));
    Ok(counts)
}

fn run_one(project: &Project, series: &Series, common: &Archive, folder: &Path) -> Result<Report> {
    let plan = plan::of(series.memory);
    let limit = Duration::from_secs(60 + plan.iter().map(|line| line.limit).sum::<u64>());
    let mut archive = common.clone();
    archive.text("/guest/plan", &plan::text(&plan));
    for (name, module) in series.modules()? {
        archive.file(&format!("/guest/modules/{name}"), &module)?;
    }
    let initramfs = folder.join(format!("{}.cpio", series.name));
    archive.write(&initramfs)?;
    let guest = Guest { series: series.name, kernel: series.image(), initramfs: initramfs.clone() };
    let expected: Vec<&str> = plan.iter().map(|line| line.name).collect();
    let report = guest.run(project, &expected, limit);
    fs::remove_file(&initramfs)
        .with_context(|| format!("cannot remove {}", initramfs.display()))?;
    report
}
