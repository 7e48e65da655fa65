//! What goes wrong with files and folders.

use enforcer_policy::problem::ProblemKind;

use super::*;

fn kinds(objects: &Objects) -> Vec<&ProblemKind> {
    objects.problems.iter().map(|problem| &problem.kind).collect()
}

fn is_unreadable(objects: &Objects) -> bool {
    matches!(kinds(objects)[..], [ProblemKind::UnreadableFile { .. }])
}

fn is_misshapen(objects: &Objects) -> bool {
    matches!(kinds(objects)[..], [ProblemKind::WrongShape { .. }])
}

#[tokio::test]
async fn a_file_that_is_not_yaml_keeps_what_it_said() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    ground.write("a.yaml", "{ [ not yaml");
    let objects = wait_until(&mut manifests, is_misshapen).await;
    assert_eq!(pods(&objects), ["one"]);
    let said = objects.problems.first().unwrap().to_string();
    let path = ground.file("a.yaml");
    let start = format!("{}: Document 1: cannot be understood (line 1", path.display());
    assert!(said.starts_with(&start), "{said}");
    ground.write("a.yaml", &pod("two"));
    settle(&mut manifests, &["two"]).await;
}

#[tokio::test]
async fn a_wrong_object_is_reported_with_file_object_field_and_value() {
    let ground = Ground::new();
    let text = "apiVersion: kubermatic.k8c.io/v1\nkind: Cluster\nmetadata: {name: abc}\n\
                spec: {apiServerAllowedIPRanges: {cidrBlocks: 10.0.0.0/8}}\n";
    ground.write("a.yaml", &(text.to_owned() + &pod("one")));
    let mut manifests = ground.open().await;
    let objects = manifests.current();
    assert_eq!(pods(&objects), ["one"]);
    let said = format!(
        "{}: Cluster abc spec.apiServerAllowedIPRanges.cidrBlocks = \"10.0.0.0/8\": cannot be \
         understood (invalid type: string \"10.0.0.0/8\", expected a sequence); the last good \
         version is kept",
        ground.file("a.yaml").display()
    );
    assert_eq!(objects.problems.first().unwrap().to_string(), said);
}

#[tokio::test]
async fn a_file_that_is_no_text_keeps_what_it_said() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    fs::write(ground.file("a.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    let objects = wait_until(&mut manifests, is_unreadable).await;
    assert_eq!(pods(&objects), ["one"]);
    fs::remove_file(ground.file("a.yaml")).unwrap();
    settle(&mut manifests, &[]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_what_it_said() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    // Permissions do not stop root; a symlink to itself stops everybody.
    let temporary = ground.beside("loop");
    symlink(ground.file("a.yaml"), &temporary).unwrap();
    fs::rename(&temporary, ground.file("a.yaml")).unwrap();
    let objects = wait_until(&mut manifests, is_unreadable).await;
    assert_eq!(pods(&objects), ["one"]);
    assert_eq!(objects.stale_since, None, "the folder as such can be read");
    ground.replace("a.yaml", &pod("two"));
    settle(&mut manifests, &["two"]).await;
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_blocks_nothing() {
    let ground = Ground::new();
    ground.write("b.yaml", &pod("one"));
    let status = std::process::Command::new("mkfifo").arg(ground.file("a.yaml")).status().unwrap();
    assert!(status.success());
    let mut manifests = ground.open().await;
    assert!(is_unreadable(&manifests.current()));
    ground.write("b.yaml", &pod("two"));
    wait_until(&mut manifests, |objects| pods(objects) == ["two"]).await;
}

#[tokio::test]
async fn a_file_larger_than_the_limit_is_not_read() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    let file = fs::OpenOptions::new().write(true).open(ground.file("a.yaml")).unwrap();
    file.set_len(reading::LIMIT + 1).unwrap();
    drop(file);
    let objects = wait_until(&mut manifests, is_unreadable).await;
    assert_eq!(pods(&objects), ["one"]);
}

#[tokio::test]
async fn a_file_that_could_never_be_read_leaves_everything_possible() {
    let ground = Ground::new();
    symlink("nowhere", ground.file("a.yaml")).unwrap();
    let mut manifests = ground.open().await;
    assert!(manifests.current().incomplete);
    ground.replace("a.yaml", &pod("one"));
    settle(&mut manifests, &["one"]).await;
    assert!(!manifests.current().incomplete);
}

#[tokio::test]
async fn a_folder_that_is_gone_changes_nothing_and_is_read_again_when_it_is_back() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    fs::rename(&ground.folder, ground.beside("away")).unwrap();
    let objects = wait_until(&mut manifests, |objects| objects.stale_since.is_some()).await;
    assert_eq!(pods(&objects), ["one"]);
    assert!(is_unreadable(&objects));
    sleep(Duration::from_millis(100)).await;
    fs::create_dir(&ground.folder).unwrap();
    let objects = wait_until(&mut manifests, |objects| objects.stale_since.is_none()).await;
    assert_eq!(pods(&objects), ["one"], "an empty folder is given time to be filled");
    ground.write("a.yaml", &pod("two"));
    settle(&mut manifests, &["two"]).await;
    ground.write("a.yaml", &pod("three"));
    settle(&mut manifests, &["three"]).await;
}

#[tokio::test]
async fn a_folder_that_is_removed_and_made_again_is_watched_again() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    for name in ["two", "three", "four"] {
        fs::remove_dir_all(&ground.folder).unwrap();
        fs::create_dir(&ground.folder).unwrap();
        ground.write("a.yaml", &pod(name));
        settle(&mut manifests, &[name]).await;
    }
    ground.write("a.yaml", &pod("five"));
    settle(&mut manifests, &["five"]).await;
}

#[tokio::test]
async fn a_folder_that_comes_back_empty_is_empty_in_the_end() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    fs::remove_dir_all(&ground.folder).unwrap();
    fs::create_dir(&ground.folder).unwrap();
    stays(&mut manifests, &["one"]).await;
    let objects = timeout(Duration::from_secs(4), manifests.changed()).await.unwrap();
    assert_eq!(pods(&objects), Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_is_replaced_by_rename() {
    let ground = Ground::new();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = ground.open().await;
    for name in ["two", "three"] {
        let next = ground.beside(name);
        fs::create_dir(&next).unwrap();
        fs::write(next.join("b.yaml"), pod(name)).unwrap();
        fs::rename(&ground.folder, ground.beside(&format!("before-{name}"))).unwrap();
        fs::rename(&next, &ground.folder).unwrap();
        settle(&mut manifests, &[name]).await;
    }
    ground.write("b.yaml", &pod("four"));
    settle(&mut manifests, &["four"]).await;
}

#[tokio::test]
async fn a_symlink_to_the_folder_is_swapped() {
    let ground = Ground::new();
    let link = ground.beside("current");
    symlink(&ground.folder, &link).unwrap();
    ground.write("a.yaml", &pod("one"));
    let mut manifests = Manifests::open_with(link.clone(), SELDOM).await.unwrap();
    let next = ground.beside("next-folder");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("a.yaml"), pod("two")).unwrap();
    symlink(&next, ground.beside("swap")).unwrap();
    fs::rename(ground.beside("swap"), &link).unwrap();
    settle(&mut manifests, &["two"]).await;
    fs::write(next.join("a.yaml"), pod("three")).unwrap();
    settle(&mut manifests, &["three"]).await;
}
