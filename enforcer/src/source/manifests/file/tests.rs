//! What a file leaves in force when a part of it cannot be read.

use super::*;

fn pod(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

fn broken_pod(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: 7\n")
}

const NOT_YAML: &str = "---\n{ [ ]\n";

/// Takes contents one after the other and says what the last one leaves.
fn after(contents: &[String]) -> Objects {
    let hasher = RandomState::new();
    let mut file = File::new("a.yaml", Notation::Yaml);
    for content in contents {
        let content = file.parse(content, &hasher);
        file.take(content);
    }
    let mut objects = Objects::default();
    objects.add_all(file.present());
    file.add_failures(&mut objects);
    objects.keep_all(file.kept());
    objects
}

fn pods(objects: &Objects) -> Vec<&str> {
    objects.pods.keys().map(|key| &*key.name).collect()
}

#[test]
fn what_a_readable_content_does_not_hold_is_gone() {
    let objects = after(&[pod("one") + &pod("two"), pod("two")]);
    assert_eq!(pods(&objects), ["two"]);
    assert!(objects.problems.is_empty() && !objects.incomplete);
}

#[test]
fn a_wrong_object_keeps_its_former_version_and_no_other() {
    let objects = after(&[pod("one") + &pod("two"), broken_pod("one")]);
    assert_eq!(pods(&objects), ["one"]);
    assert_eq!(objects.failed.len(), 1);
    assert!(!objects.incomplete);
}

#[test]
fn a_content_that_is_not_yaml_keeps_everything() {
    let objects = after(&[pod("one") + &pod("two"), pod("two") + NOT_YAML]);
    assert_eq!(pods(&objects), ["one", "two"]);
    assert!(!objects.incomplete, "what it may hold is known from before");
    assert_eq!(objects.problems.len(), 1);
}

#[test]
fn what_is_kept_stays_kept_until_a_content_can_be_read() {
    let broken = NOT_YAML.to_owned();
    let objects = after(&[pod("one"), broken.clone(), broken.clone() + &pod("two"), broken]);
    assert_eq!(pods(&objects), ["one", "two"]);
    let objects = after(&[pod("one"), NOT_YAML.to_owned(), pod("two")]);
    assert_eq!(pods(&objects), ["two"]);
}

#[test]
fn a_file_that_could_never_be_read_leaves_everything_possible() {
    assert!(after(&[NOT_YAML.to_owned()]).incomplete);
    assert!(!after(&[NOT_YAML.to_owned(), pod("one")]).incomplete);
    assert!(!after(&[broken_pod("one")]).incomplete, "it says which object it is");
}

#[test]
fn an_object_that_moved_to_another_file_is_taken_from_there() {
    let hasher = RandomState::new();
    let mut old = File::new("a.yaml", Notation::Yaml);
    old.take(old.parse(&pod("one"), &hasher));
    old.take(old.parse(NOT_YAML, &hasher));
    let mut new = File::new("b.yaml", Notation::Yaml);
    new.take(new.parse(&pod("one"), &hasher));
    let mut objects = Objects::default();
    let files = [&old, &new];
    objects.add_all(files.iter().flat_map(|file| file.present()));
    for file in files {
        file.add_failures(&mut objects);
    }
    objects.keep_all(files.iter().flat_map(|file| file.kept()));
    let stored: Vec<&str> = objects.pods.values().map(|stored| &*stored.file).collect();
    assert_eq!(stored, ["b.yaml"]);
    assert_eq!(objects.problems.len(), 1, "the broken file, and no duplicate");
}

#[test]
fn an_object_that_is_defined_twice_counts_as_the_first_says() {
    let objects = after(&[pod("one") + "status: {podIP: 10.0.0.1}\n" + &pod("one")]);
    let ips: Vec<&str> =
        objects.pods.values().map(|stored| &*stored.object.status.pod_ip).collect();
    assert_eq!(ips, ["10.0.0.1"]);
    let problem = objects.problems.first().unwrap();
    assert_eq!((&problem.kind, &*problem.value), (&ProblemKind::Duplicate, "first in a.yaml"));
}

#[test]
fn documents_that_stay_the_same_are_not_parsed_again() {
    let hasher = RandomState::new();
    let mut file = File::new("a.yaml", Notation::Yaml);
    file.take(file.parse(&(pod("one") + &pod("two")), &hasher));
    let next = file.parse(&(pod("zero") + &pod("two")), &hasher);
    let is_known = |document: &Arc<Document>| {
        file.content.0.iter().any(|(_, known)| Arc::ptr_eq(known, document))
    };
    let known: Vec<bool> = next.0.iter().map(|(_, document)| is_known(document)).collect();
    assert_eq!(known, [false, true]);
}

#[test]
fn only_a_whole_content_loses_nothing() {
    let hasher = RandomState::new();
    let mut file = File::new("a.yaml", Notation::Yaml);
    file.take(file.parse(&pod("one"), &hasher));
    let loses_nothing = |text: &str| file.would_lose_nothing(&file.parse(text, &hasher));
    assert!(loses_nothing(&(pod("one") + &pod("two"))));
    assert!(!loses_nothing(&pod("two")));
    assert!(!loses_nothing(&(pod("one") + NOT_YAML)));
    assert!(!loses_nothing(""));
}
