//! A folder while people, editors and kubelets write into it.
//!
//! The clock asks so seldom here that a change that no event has shown fails a test.

mod faults;
mod writers;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;

const PATIENT: Duration = Duration::from_secs(10);
const SELDOM: Duration = Duration::from_secs(60);

/// A folder to write into. In memory where there is such a place: a busy disk can hold up a rename
/// for longer than the tests wait.
struct Ground {
    temporary: TempDir,
    folder: PathBuf,
}

impl Ground {
    fn new() -> Self {
        let temporary = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let folder = temporary.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        Self { temporary, folder }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes in place.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    /// Writes beside and renames.
    fn replace(&self, name: &str, text: &str) {
        let temporary = self.beside("next");
        fs::write(&temporary, text).unwrap();
        fs::rename(&temporary, self.file(name)).unwrap();
    }

    async fn open(&self) -> Manifests {
        Manifests::open_with(self.folder.clone(), SELDOM).await.unwrap()
    }
}

fn pod(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

fn pods(objects: &Objects) -> Vec<String> {
    objects.pods.keys().map(|key| key.name.to_string()).collect()
}

/// Waits until the folder says that there are these pods and nothing is wrong.
async fn settle(manifests: &mut Manifests, expected: &[&str]) {
    let settled = |objects: &Objects| pods(objects) == expected && objects.problems.is_empty();
    wait_until(manifests, settled).await;
}

async fn wait_until(manifests: &mut Manifests, wanted: impl Fn(&Objects) -> bool) -> Arc<Objects> {
    let mut objects = manifests.current();
    let all = async {
        while !wanted(&objects) {
            objects = manifests.changed().await;
        }
    };
    let timely = timeout(PATIENT, all).await;
    let names = pods(&objects);
    let names = names.get(..5).unwrap_or(&names);
    assert!(timely.is_ok(), "still {names:?} {:?}", objects.problems);
    objects
}

/// Asserts that the folder says nothing new for a while.
async fn stays(manifests: &mut Manifests, expected: &[&str]) {
    let news = timeout(Duration::from_millis(300), manifests.changed()).await;
    assert!(news.is_err(), "says {:?}", news.map(|objects| pods(&objects)));
    assert_eq!(pods(&manifests.current()), expected);
}

#[tokio::test]
async fn the_first_objects_are_there_at_once() {
    let ground = Ground::new();
    ground.write("a.yaml", &(pod("one") + &pod("two")));
    ground.write("b.yml", &pod("three"));
    ground.write("c.json", r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "four"}}"#);
    let mut manifests = ground.open().await;
    assert_eq!(pods(&manifests.current()), ["four", "one", "three", "two"]);
    assert_eq!(manifests.current().stale_since, None);
}

#[tokio::test]
async fn what_is_no_manifest_is_left_alone() {
    let ground = Ground::new();
    ground.write("README.md", "{ [ not yaml");
    ground.write(".hidden.yaml", "{ [ not yaml");
    ground.write("a.yaml~", "{ [ not yaml");
    ground.write("empty.yaml", "# nothing yet\n");
    fs::create_dir(ground.file("folder.yaml")).unwrap();
    fs::write(ground.file("folder.yaml").join("a.yaml"), pod("deep")).unwrap();
    let mut manifests = ground.open().await;
    assert_eq!(*manifests.current(), Objects::default());
}

#[tokio::test]
async fn a_change_is_there_long_before_the_clock_asks() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    let mut times = Vec::new();
    for round in 0..21 {
        let name = format!("round-{round}");
        let started = Instant::now();
        ground.write("a.yaml", &pod(&name));
        settle(&mut manifests, &[&name]).await;
        times.push(started.elapsed());
    }
    times.sort();
    let (median, slowest) = (times[10], times[20]);
    println!("21 changes: median {median:?}, slowest {slowest:?}");
    assert!(median < Duration::from_millis(200), "{median:?}");
}

#[tokio::test]
async fn the_clock_finds_what_no_event_has_shown() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    // What is written under another name sends its events there.
    fs::hard_link(ground.file("a.yaml"), ground.beside("a.yaml")).unwrap();
    let mut manifests = Manifests::open(ground.folder.clone()).await.unwrap();
    fs::write(ground.beside("a.yaml"), pod("two")).unwrap();
    settle(&mut manifests, &["two"]).await;
}

#[tokio::test]
async fn an_event_has_the_file_looked_at_that_it_names_and_a_symlink_all_of_them() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("a1"));
    ground.write("b.yaml", &pod("b1"));
    fs::hard_link(ground.file("b.yaml"), ground.beside("b.yaml")).unwrap();
    let mut manifests = ground.open().await;
    // No event says so.
    fs::write(ground.beside("b.yaml"), pod("b2")).unwrap();
    ground.replace("a.yaml", &pod("a2"));
    settle(&mut manifests, &["a2", "b1"]).await;
    stays(&mut manifests, &["a2", "b1"]).await;
    // Who knows what a symlink leads to.
    fs::write(ground.beside("target"), pod("c1")).unwrap();
    std::os::unix::fs::symlink(ground.beside("target"), ground.file("c.yaml")).unwrap();
    settle(&mut manifests, &["a2", "b2", "c1"]).await;
    fs::write(ground.beside("target"), pod("c2")).unwrap();
    settle(&mut manifests, &["a2", "b2", "c2"]).await;
}

#[tokio::test]
async fn files_come_change_and_go() {
    let ground = Ground::new();
    let mut manifests = ground.open().await;
    ground.write("a.yaml", &pod("one"));
    settle(&mut manifests, &["one"]).await;
    ground.write("b.yaml", &pod("two"));
    settle(&mut manifests, &["one", "two"]).await;
    fs::rename(ground.file("b.yaml"), ground.file("c.yaml")).unwrap();
    settle(&mut manifests, &["one", "two"]).await;
    ground.write("c.yaml", "# nothing\n");
    settle(&mut manifests, &["one"]).await;
    fs::remove_file(ground.file("a.yaml")).unwrap();
    settle(&mut manifests, &[]).await;
}

#[tokio::test]
async fn a_touch_is_no_change() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    ground.write("a.yaml", &pod("one"));
    ground.replace("a.yaml", &pod("one"));
    stays(&mut manifests, &["one"]).await;
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_nothing() {
    let ground = Ground::new();
    let mut manifests = ground.open().await;
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(5), manifests.changed()).await.is_err());
    }
    ground.write("a.yaml", &pod("one"));
    sleep(Duration::from_millis(200)).await;
    assert_eq!(pods(&timeout(PATIENT, manifests.changed()).await.unwrap()), ["one"]);
}

#[tokio::test]
async fn the_thread_ends_with_the_source() {
    let ground = Ground::new();
    let manifests = ground.open().await;
    let mut objects = manifests.objects.clone();
    drop(manifests);
    timeout(PATIENT, objects.changed()).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_at_the_start_is_an_error() {
    let ground = Ground::new();
    let missing = Manifests::open(ground.beside("missing")).await.unwrap_err();
    assert!(missing.to_string().starts_with("cannot read the manifest folder"), "{missing}");
    fs::write(ground.beside("file"), "").unwrap();
    Manifests::open(ground.beside("file")).await.unwrap_err();
}

#[tokio::test]
async fn a_file_of_ten_megabytes_is_read_and_a_change_in_it_is_quick() {
    let ground = Ground::new();
    let padding = format!("status: {{phase: '{}'}}\n", "x".repeat(900));
    let mut text: String = (0..10_500).map(|n| pod(&format!("pod-{n}")) + &padding).collect();
    assert!(text.len() > 10_000_000);
    ground.replace("a.yaml", &text);
    let started = Instant::now();
    let mut manifests = ground.open().await;
    println!("10 MB read in {:?}", started.elapsed());
    assert_eq!(manifests.current().pods.len(), 10_500);
    text.push_str(&pod("new"));
    ground.replace("a.yaml", &text);
    let started = Instant::now();
    let objects = timeout(Duration::from_secs(10), manifests.changed()).await.unwrap();
    assert_eq!(objects.pods.len(), 10_501);
    println!("a change in 10 MB is there after {:?}", started.elapsed());
}
