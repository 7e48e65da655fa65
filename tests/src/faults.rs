//! Something breaks while numbered pairs of an allowed and a denied SYN are under way.
//!
//! Input: a scenario's name and what happens. Output: a line of the table that `cargo xtask test --tier
//! faults` shows, and a panic where an allowed SYN was lost or a denied one was let through.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::pairs::{Lane, PairStream, Pairs};
use crate::stage::Stage;

/// Ranges of the client `listed`.
pub const LISTED: &[&str] = &["198.51.100.0/24", "2001:db8:51::/64"];
/// Pairs of every scenario, at least.
pub const PAIRS: u64 = 100_000;
/// How each line of the table begins; xtask looks for it.
pub const MARK: &str = "scenario |";
/// How a line begins of what opens the node by itself until it is undone.
pub const ATTACK: &str = "attack |";

const RATE: u32 = 50_000;
const SETTLED: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(300);

/// One scenario at a time: two streams on one machine take each other's CPU.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A seed whose cluster admits the client `listed` only.
pub fn restricted() -> Result<Stage> {
    let mut stage = Stage::customary()?;
    stage.cluster = stage.cluster.allow(LISTED);
    stage.publish()?;
    Ok(stage)
}

/// A stream from both clients to node `seed-1`.
pub fn stream(stage: &Stage, v6: bool) -> Result<PairStream> {
    let network = &stage.network;
    PairStream::start(
        Lane::new(network.host("listed"), stage.frontend("VIP", v6)),
        Lane::new(network.host("unlisted"), stage.frontend("bypass nodePort", v6)),
        &[network.pod("apiserver"), network.pod("envoy")],
        RATE,
    )
}

/// Lets something happen under a stream of at least [`PAIRS`], a quarter of them before and a quarter
/// behind it.
fn under_pairs(
    stage: &Stage,
    v6: bool,
    happens: impl FnOnce(&PairStream) -> Result<()>,
) -> Result<Pairs> {
    let stream = stream(stage, v6)?;
    stream.wait_for(PAIRS / 4, LIMIT)?;
    happens(&stream)?;
    let rest = (stream.progress().0 + PAIRS / 4).max(PAIRS);
    stream.wait_for(rest, LIMIT)?;
    let pairs = stream.stop()?;
    ensure!(pairs.sniffer_drops == 0, "the harness itself missed packets: {pairs}");
    Ok(pairs)
}

/// Lets something happen by which nothing may be lost or let through, and prints the line of the table.
pub fn unharmed(
    scenario: &str,
    stage: &Stage,
    v6: bool,
    happens: impl FnOnce(&PairStream) -> Result<()>,
) -> Result<()> {
    let pairs = under_pairs(stage, v6, happens)?;
    tell(scenario, v6, &pairs);
    ensure!(pairs.clean() && pairs.sent >= PAIRS, "{scenario}: {pairs}");
    Ok(())
}

/// Lets root do what opens the node, until `undone` returns: nothing may be lost, and what is let through
/// is let through before that. Then [`unharmed`] for as many pairs again.
#[allow(clippy::print_stdout, reason = "the table is what the tier is for")]
pub fn attacked(
    attack: &str,
    stage: &Stage,
    v6: bool,
    undone: impl FnOnce() -> Result<Duration>,
) -> Result<()> {
    let mut open_for = Duration::ZERO;
    let pairs = under_pairs(stage, v6, |stream| {
        open_for = undone()?;
        let (_, before) = stream.progress();
        std::thread::sleep(SETTLED);
        let (_, after) = stream.progress();
        ensure!(before == after, "{attack}: {} let through after it was undone", after - before);
        Ok(())
    })?;
    let Pairs { sent, lost, let_through, .. } = pairs;
    let open_for = open_for.as_millis();
    println!("{ATTACK} {attack} | {sent} | {lost} | {let_through} while it lasted | {open_for} ms");
    ensure!(lost == 0, "{attack}: {pairs}");
    unharmed(&format!("after \"{attack}\""), stage, v6, |_| Ok(()))
}

/// Prints a line of the table.
#[allow(clippy::print_stdout, reason = "the table is what the tier is for")]
pub fn tell(scenario: &str, v6: bool, pairs: &Pairs) {
    let Pairs { sent, lost, let_through, longest_pause, .. } = pairs;
    let family = if v6 { "IPv6" } else { "IPv4" };
    let pause = longest_pause.as_secs_f64() * 1e3;
    println!("{MARK} {scenario}, {family} | {sent} | {lost} | {let_through} | {pause:.1} ms");
}
