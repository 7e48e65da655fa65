//! Ways to write into the folder.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

/// A folder as the kubelet mounts a ConfigMap: files are symlinks through `..data`.
struct ConfigMap<'a>(&'a Ground);

impl ConfigMap<'_> {
    fn publish(&self, version: &str, files: &[(&str, String)]) {
        let Self(ground) = self;
        let next = ground.file(&format!("..{version}"));
        fs::create_dir(&next).unwrap();
        for (name, text) in files {
            fs::write(next.join(name), text).unwrap();
        }
        let former = fs::read_link(ground.file("..data")).ok();
        symlink(format!("..{version}"), ground.file("..data_tmp")).unwrap();
        fs::rename(ground.file("..data_tmp"), ground.file("..data")).unwrap();
        for (name, _) in files {
            if fs::symlink_metadata(ground.file(name)).is_err() {
                symlink(Path::new("..data").join(name), ground.file(name)).unwrap();
            }
        }
        if let Some(former) = former {
            let kept: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
            for entry in fs::read_dir(ground.folder.join(&former)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if !kept.contains(&&*name) {
                    fs::remove_file(ground.file(&name)).unwrap();
                }
            }
            fs::remove_dir_all(ground.folder.join(former)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_file_is_replaced_by_rename() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    for name in ["two", "three", "four"] {
        ground.replace("a.yaml", &pod(name));
        settle(&mut manifests, &[name]).await;
    }
}

#[tokio::test]
async fn a_file_that_is_removed_and_made_again_was_never_gone() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        let started = Instant::now();
        fs::remove_file(ground.file("a.yaml")).unwrap();
        sleep(Duration::from_millis(5)).await;
        ground.write("a.yaml", &pod("one"));
        longest = longest.max(started.elapsed());
        sleep(Duration::from_millis(30)).await;
    }
    let was_gone = timeout(Duration::from_millis(200), manifests.changed()).await.is_ok();
    assert!(!was_gone || longest > folder::REMOVED, "gone after {longest:?}");
    settle(&mut manifests, &["one"]).await;
}

#[tokio::test]
async fn a_config_map_is_swapped_atomically() {
    let ground = Ground::new();
    let map = ConfigMap(&ground);
    map.publish("one", &[("a.yaml", pod("one")), ("b.yaml", pod("same"))]);
    let mut manifests = ground.open().await;
    assert_eq!(pods(&manifests.current()), ["one", "same"]);
    map.publish("two", &[("a.yaml", pod("two")), ("b.yaml", pod("same"))]);
    settle(&mut manifests, &["same", "two"]).await;
    map.publish("three", &[("b.yaml", pod("same")), ("c.yaml", pod("three"))]);
    settle(&mut manifests, &["same", "three"]).await;
    map.publish("four", &[("b.yaml", pod("four"))]);
    settle(&mut manifests, &["four"]).await;
}

#[tokio::test]
async fn a_file_behind_a_symlink_is_watched_where_it_is() {
    let ground = Ground::new();
    fs::create_dir(ground.beside("elsewhere")).unwrap();
    let target = ground.beside("elsewhere").join("a.yaml");
    fs::write(&target, pod("one")).unwrap();
    symlink(&target, ground.file("a.yaml")).unwrap();
    let mut manifests = ground.open().await;
    fs::write(&target, pod("two")).unwrap();
    settle(&mut manifests, &["two"]).await;
}

#[tokio::test]
async fn a_half_written_file_is_not_looked_at_while_it_is_open() {
    let ground = Ground::new();
    ground.write("a.yaml", &(pod("one") + &pod("two")));
    let mut manifests = ground.open().await;
    let mut file = fs::File::create(ground.file("a.yaml")).unwrap();
    stays(&mut manifests, &["one", "two"]).await;
    file.write_all(pod("one").as_bytes()).unwrap();
    stays(&mut manifests, &["one", "two"]).await;
    file.write_all(pod("three").as_bytes()).unwrap();
    drop(file);
    settle(&mut manifests, &["one", "three"]).await;
}

#[tokio::test]
async fn a_half_written_file_holds_up_no_other() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    let file = fs::File::create(ground.file("a.yaml")).unwrap();
    ground.write("b.yaml", &pod("two"));
    settle(&mut manifests, &["one", "two"]).await;
    drop(file);
    ground.write("a.yaml", &pod("three"));
    settle(&mut manifests, &["three", "two"]).await;
}

#[tokio::test]
async fn a_file_that_is_empty_is_given_time_to_be_filled() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    ground.write("a.yaml", "");
    stays(&mut manifests, &["one"]).await;
    let objects = timeout(Duration::from_secs(4), manifests.changed()).await.unwrap();
    assert_eq!(pods(&objects), Vec::<String>::new());
}

/// Runs `change` again and again while the folder is looked at: for a second, or until something was
/// said. Counts what was said.
async fn flap(manifests: &mut Manifests, change: impl Fn(u32) + Send + 'static) -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                change(round);
                round += 1;
            }
        }
    });
    let started = Instant::now();
    let mut said = 0;
    while started.elapsed() < Duration::from_secs(if said == 0 { 10 } else { 1 }) {
        let news = timeout(Duration::from_millis(100), manifests.changed()).await;
        if let Ok(objects) = news {
            assert_eq!((objects.pods.len(), objects.problems.len()), (1, 0), "{objects:?}");
            said += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    said
}

#[tokio::test]
async fn a_folder_that_never_rests_is_read_now_and_then() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("start"));
    let mut manifests = ground.open().await;
    let (next, file) = (ground.beside("next"), ground.file("a.yaml"));
    let said = flap(&mut manifests, move |round| {
        fs::write(&next, pod(&format!("round-{round}"))).unwrap();
        fs::rename(&next, &file).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    })
    .await;
    println!("flapping by rename: {said} readings in a second");
    assert!((1..=50).contains(&said), "{said}");
    ground.replace("a.yaml", &pod("end"));
    settle(&mut manifests, &["end"]).await;
}

#[tokio::test]
async fn a_file_that_is_rewritten_without_rest_is_never_seen_empty() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("start"));
    let mut manifests = ground.open().await;
    let file = ground.file("a.yaml");
    let said = flap(&mut manifests, move |round| {
        let text = format!("{}status: {{podIP: 10.0.0.{}}}\n", pod("start"), round % 250);
        fs::write(&file, text).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    })
    .await;
    println!("flapping in place: {said} readings in a second");
    assert!(said > 0, "read at last");
    ground.write("a.yaml", &pod("end"));
    settle(&mut manifests, &["end"]).await;
}
