//! Which events mean what.

use std::{fs::File, io::Write, thread};

use tempfile::TempDir;

use super::*;

/// A watched folder.
fn watched() -> (TempDir, Watch) {
    let folder = TempDir::new().unwrap();
    let mut watch = Watch::new().unwrap();
    let wanted = BTreeSet::from([folder.path().canonicalize().unwrap()]);
    assert_eq!(watch.follow(&wanted), wanted);
    assert!(watch.sees(&wanted));
    (folder, watch)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[test]
fn our_own_reading_is_no_news() {
    let (folder, mut watch) = watched();
    fs::write(folder.path().join("a"), "x").unwrap();
    assert_eq!(watch.wait(soon()), Woken::Changed);
    fs::read(folder.path().join("a")).unwrap();
    fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(watch.wait(soon()), Woken::Deadline);
}

#[test]
fn a_file_is_being_written_until_it_is_closed_replaced_or_removed() {
    let (folder, mut watch) = watched();
    let path = folder.path().canonicalize().unwrap().join("a");
    let other = folder.path().join("b");
    let open = || {
        let mut file = File::create(&path).unwrap();
        file.write_all(b"x").unwrap();
        file
    };
    let file = open();
    assert!(watch.writing(&path).is_some());
    drop(file);
    assert_eq!(watch.writing(&path), None, "closed");

    let file = open();
    File::create(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(watch.writing(&path), None, "replaced");
    drop(file);

    let file = open();
    fs::remove_file(&path).unwrap();
    assert_eq!(watch.writing(&path), None, "removed");
    drop(file);
}

#[test]
fn a_file_that_was_truncated_is_known_to_be_at_once() {
    let (folder, mut watch) = watched();
    let path = folder.path().canonicalize().unwrap().join("a");
    for _ in 0..1000 {
        fs::write(&path, "x").unwrap();
        let file = File::create(&path).unwrap();
        assert!(watch.writing(&path).is_some());
        drop(file);
        assert!(watch.writing(&path).is_none());
    }
}

#[test]
fn lost_events_leave_no_writer_behind() {
    let mut news = News::default();
    let path = PathBuf::from("/folder/a.yaml");
    news.note(AddWatchFlags::IN_MODIFY, Some(path.clone()), Instant::now());
    assert!(news.writing.contains_key(&path));
    news.note(AddWatchFlags::IN_Q_OVERFLOW, None, Instant::now());
    assert!(news.writing.is_empty());
    assert!(news.events.is_some());
}

#[test]
fn a_folder_that_was_moved_or_removed_is_watched_anew() {
    let (folder, mut watch) = watched();
    let path = folder.path().canonicalize().unwrap();
    let wanted = BTreeSet::from([path.clone()]);
    assert!(watch.follow(&wanted).is_empty());
    fs::remove_dir(&path).unwrap();
    assert!(watch.follow(&wanted).is_empty());
    assert!(!watch.sees(&wanted));
    fs::create_dir(&path).unwrap();
    assert_eq!(watch.follow(&wanted), wanted);
    assert!(watch.follow(&BTreeSet::new()).is_empty());
    assert!(!watch.sees(&wanted));
}

#[test]
fn a_wait_ends_with_quiet_with_patience_with_the_deadline_or_with_the_source() {
    let (folder, mut watch) = watched();
    assert_eq!(watch.wait(soon()), Woken::Deadline);

    let started = Instant::now();
    fs::write(folder.path().join("a.yaml"), "x").unwrap();
    assert_eq!(watch.wait(started + Duration::from_secs(9)), Woken::Changed);
    assert!(started.elapsed() >= QUIET, "{:?}", started.elapsed());
    assert_eq!(watch.wait(soon()), Woken::Deadline, "news is told once");

    // Written beside and renamed: nothing of it came in parts.
    fs::write(folder.path().join(".next"), "y").unwrap();
    fs::rename(folder.path().join(".next"), folder.path().join("a.yaml")).unwrap();
    watch.drain();
    assert!(!watch.news.in_parts);
    let started = Instant::now();
    assert_eq!(watch.wait(started + Duration::from_secs(9)), Woken::Changed);
    let named = folder.path().canonicalize().unwrap().join("a.yaml");
    let heard = watch.start_look();
    assert!(heard.named.contains(&named) && !heard.elsewhere);
    assert!(heard.renamed.contains(&named));
    // Whoever writes to it afterwards, writes it in parts.
    fs::write(&named, "z").unwrap();
    assert!(!watch.start_look().renamed.contains(&named));
    assert!(watch.news.in_parts);
    assert_eq!(watch.wait(started + Duration::from_secs(9)), Woken::Changed);

    let now = Instant::now();
    watch.news.events = now.checked_sub(PATIENCE).zip(Some(now));
    assert_eq!(watch.wait(now), Woken::Changed, "events that do not end");

    let stop = watch.stop();
    let stopper = thread::spawn(move || drop(stop));
    assert_eq!(watch.wait(Instant::now() + Duration::from_secs(9)), Woken::Stopped);
    stopper.join().unwrap();
}
