//! The task: what it publishes and what it keeps.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn hosts(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn until(names: &mut Names, what: &str, reached: impl Fn(&Found) -> bool) {
    let mut found = names.current();
    while !reached(&found) {
        found = tokio::time::timeout(LIMIT, names.changed()).await.expect(what);
    }
}

#[tokio::test]
async fn the_systems_resolver_is_asked_and_what_it_says_outlives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let mut names = Names::start(state.clone());
    assert!(names.current().is_empty());
    names.want(&hosts(&["localhost"]));
    let knows = |found: &Found| {
        found.get("localhost").is_some_and(|found| found.iter().all(IpAddr::is_loopback))
    };
    until(&mut names, "knows localhost", knows).await;
    // It is saved before it is published.
    drop(names);
    assert!(knows(&Names::start(state).current()));
}

static FAILS: AtomicBool = AtomicBool::new(false);

async fn sometimes(host: String) -> io::Result<BTreeSet<IpAddr>> {
    if host == "slow.example.com" {
        std::future::pending::<()>().await;
    }
    match FAILS.load(Ordering::SeqCst) {
        true => Err(io::Error::other("no such host")),
        false => Ok([IpAddr::from([192, 0, 2, 1])].into()),
    }
}

#[tokio::test]
async fn a_slow_name_holds_up_no_other_and_a_failure_empties_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(folder.path()).unwrap();
    let mut names = Names::start_with(state.clone(), sometimes);
    names.want(&hosts(&["slow.example.com", "good.example.com"]));
    until(&mut names, "knows the good one", |found| found.contains_key("good.example.com")).await;
    drop(names);
    FAILS.store(true, Ordering::SeqCst);
    let mut names = Names::start_with(state, sometimes);
    names.want(&hosts(&["good.example.com"]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let known = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(names.current().get("good.example.com"), Some(&known));
}
