//! Documents are read one by one, whatever stands beside them.

use std::time::{Duration, Instant};

use super::*;
use crate::source::objects::Kind;

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n")
}

fn read(text: &str, notation: Notation) -> Vec<Document> {
    split(text, notation).into_iter().map(|section| Document::read(section, notation)).collect()
}

fn names(documents: &[Document]) -> Vec<String> {
    let objects = documents.iter().flat_map(|document| &document.objects);
    objects.map(|object| object.metadata().name.to_string()).collect()
}

fn texts(text: &str) -> Vec<&str> {
    split(text, Notation::Yaml).into_iter().map(|section| section.text).collect()
}

#[test]
fn a_file_is_cut_at_its_markers() {
    let cases: [(&str, &[&str]); 12] = [
        ("", &[]),
        ("# nothing\n\n---\n---\n# still nothing\n", &[]),
        ("a: 1", &["a: 1"]),
        ("a: 1\n---\nb: 2\n", &["a: 1\n", "---\nb: 2\n"]),
        ("---\na: 1\n---\n---\nb: 2\n", &["---\na: 1\n", "---\nb: 2\n"]),
        ("a: 1\r\n---\r\nb: 2\r\n", &["a: 1\r\n", "---\r\nb: 2\r\n"]),
        ("# c\n%YAML 1.2\n---\na: 1\n", &["# c\n%YAML 1.2\n---\na: 1\n"]),
        ("a: 1\n...\n%YAML 1.2\n---\nb: 2\n", &["a: 1\n...\n", "%YAML 1.2\n---\nb: 2\n"]),
        ("--- {a: 1}\n--- {b: 2}\n", &["--- {a: 1}\n", "--- {b: 2}\n"]),
        ("a: |\n  x\n  ---\n  y\n", &["a: |\n  x\n  ---\n  y\n"]),
        ("---a: 1\n----\n", &["---a: 1\n----\n"]),
        ("\u{feff}a: 1\n", &["a: 1\n"]),
    ];
    for (text, expected) in cases {
        assert_eq!(texts(text), expected, "{text:?}");
    }
}

#[test]
fn an_error_in_one_document_hides_none_of_the_others() {
    let text = format!("{}---\na: [\n---\n{}", pod("one"), pod("two"));
    let documents = read(&text, Notation::Yaml);
    assert_eq!(names(&documents), ["one", "two"]);
    assert!(documents[1].opaque);
}

#[test]
fn an_error_names_the_line_of_the_file_and_the_object_that_is_meant() {
    let text = format!("{}---\n{}spec: [\n", pod("one"), pod("two"));
    let documents = read(&text, Notation::Yaml);
    let failure = &documents[1].failures[0];
    assert_eq!(failure.object, Some(Kind::Pod.reference("", "two")));
    assert!(failure.reason.starts_with("line "), "{}", failure.reason);
    let line: u64 = failure.reason["line ".len()..].split(',').next().unwrap().parse().unwrap();
    assert!((9..=11).contains(&line), "{}", failure.reason);
}

#[test]
fn what_is_no_kubernetes_object_is_refused() {
    for text in ["just some words\n", "- a\n- b\n", "42\n", "a: 1\n", "\"quoted\"\n"] {
        let documents = read(text, Notation::Yaml);
        assert!(documents[0].opaque, "{text:?}");
        assert_eq!(documents[0].failures.len(), 1, "{text:?}");
    }
}

#[test]
fn lists_are_unrolled_and_typed_ones_lend_their_type() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: one}}\n";
    assert_eq!(names(&read(list, Notation::Yaml)), ["one"]);
    let typed = "apiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: one}}\n- {metadata: {name: two}}\n";
    assert_eq!(names(&read(typed, Notation::Yaml)), ["one", "two"]);
    let foreign = "apiVersion: v1\nkind: SecretList\nitems:\n- {metadata: {name: one}}\n";
    assert_eq!(read(foreign, Notation::Yaml), [Document::default()]);
    let empty = "apiVersion: v1\nkind: List\nitems: null\n";
    assert_eq!(read(empty, Notation::Yaml), [Document::default()]);
}

#[test]
fn a_wrong_element_of_a_list_hides_none_of_the_others() {
    let list = "apiVersion: v1\nkind: PodList\nitems:\n\
                - {metadata: {name: one}}\n- {metadata: {}}\n- 7\n- {metadata: {name: two}}\n";
    let documents = read(list, Notation::Yaml);
    assert_eq!(names(&documents), ["one", "two"]);
    let fields: Vec<&str> = documents[0].failures.iter().map(|failure| &*failure.field).collect();
    assert_eq!(fields, ["items[1].metadata.name", "items[2]"]);
    assert!(documents[0].opaque);
}

#[test]
fn an_object_that_says_its_name_is_not_opaque() {
    let text = format!("{}spec: {{hostNetwork: maybe}}\n", pod("one"));
    let documents = read(&text, Notation::Yaml);
    assert!(!documents[0].opaque);
    assert_eq!(documents[0].failures[0].field, "spec.hostNetwork");
}

#[test]
fn json_is_read_alone_in_a_row_and_inside_yaml() {
    let one = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}"#;
    assert_eq!(names(&read(one, Notation::Json)), ["one"]);
    assert_eq!(names(&read(&format!("{one}\n{one}"), Notation::Json)), ["one", "one"]);
    assert_eq!(names(&read(one, Notation::Yaml)), ["one"]);
    assert_eq!(
        names(&read(&format!("---\n{one}\n---\n{}", pod("two")), Notation::Yaml)),
        ["one", "two"]
    );
    let cut = read(&one[..one.len() - 3], Notation::Json);
    assert!(cut[0].opaque && cut[0].objects.is_empty());
}

#[test]
fn documents_of_foreign_kinds_are_not_even_parsed() {
    for text in [
        "apiVersion: v1\nkind: Secret\ndata: [\n",
        "kind: 'ConfigMap' # ours\napiVersion: \"v1\"\ndata: {1: {2: 3}}\n",
        "apiVersion: apps/v1\nkind: Deployment\nspec: &a [*a]\n",
    ] {
        assert_eq!(read(text, Notation::Yaml), [Document::default()], "{text:?}");
    }
}

#[test]
fn a_document_that_names_two_kinds_is_parsed() {
    let text = format!("apiVersion: v1\nkind: Secret\n{}", pod("one"));
    assert!(read(&text, Notation::Yaml)[0].opaque);
}

#[test]
fn aliases_are_followed_and_merged() {
    let text = "apiVersion: v1\nkind: List\nitems:\n\
        - &one {apiVersion: v1, kind: Pod, metadata: {name: one}}\n\
        - {<<: *one, metadata: {name: two}}\n";
    assert_eq!(names(&read(text, Notation::Yaml)), ["one", "two"]);
}

#[test]
fn bombs_end_soon_and_with_an_error() {
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, former) in ('b'..='z').zip('a'..) {
        let aliases = vec![format!("*{former}"); 9].join(",");
        laughs.push_str(&format!("{name}: &{name} [{aliases}]\n"));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 10_000].join(","));
    let deep = "[".repeat(1 << 20);
    let block = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    let own = "a: &a [*a]\n".to_owned();
    for bomb in [laughs, long, deep, block, own] {
        let started = Instant::now();
        let documents = read(&bomb, Notation::Yaml);
        assert!(documents[0].opaque, "{}", &bomb[..40.min(bomb.len())]);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{} took {took:?}", &bomb[..10]);
    }
}

#[test]
fn noise_is_never_more_than_an_error() {
    for noise in
        ["\u{0}\u{1}\u{2}", "\t\t:\t", "? ? ?", "!!binary x", "&a", "*a", "%", "--- |", "{", "]"]
    {
        for document in read(noise, Notation::Yaml) {
            assert!(document.objects.is_empty(), "{noise:?}");
        }
    }
}
