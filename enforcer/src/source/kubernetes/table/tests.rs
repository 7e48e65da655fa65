use std::slice;

use serde_json::{Value, json};

use super::*;
use crate::source::objects::decode;

const HALF: Hold = Hold { percent: 50 };

fn item(value: &Value) -> Item {
    let text = |at| value.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let key = Key::new(text("/metadata/namespace"), text("/metadata/name"));
    let decoded = decode(value).map(|object| object.expect("a kind that is known"));
    Item { key, decoded }
}

fn service(name: &str, external: &str) -> Item {
    item(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "cluster-a", "name": name},
        "spec": {"externalIPs": [external]},
    }))
}

fn broken(name: &str) -> Item {
    item(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "cluster-a", "name": name}, "spec": {"ports": 1},
    }))
}

fn node(name: &str) -> Item {
    item(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}))
}

fn list(table: &mut Table, items: &[Item], now: Instant) -> bool {
    table.begin();
    for item in items {
        table.list(item.clone());
    }
    table.finish(HALF, now)
}

fn names(table: &Table) -> Vec<String> {
    let mut objects = Objects::default();
    table.add_to(&mut objects);
    let services = objects.services.into_keys().map(|key| key.name.to_string());
    services.chain(objects.nodes.into_keys().map(|key| key.name.to_string())).collect()
}

fn failed(table: &Table) -> Vec<String> {
    let mut objects = Objects::default();
    table.add_to(&mut objects);
    objects.failed.into_iter().map(|object| object.name).collect()
}

fn services() -> Table {
    Table::new(Kind::Service, BTreeSet::new())
}

#[test]
fn a_list_counts_once_it_is_finished_and_then_as_a_whole() {
    let (mut table, now) = (services(), Instant::now());
    list(&mut table, &[service("a", "192.0.2.1"), service("b", "192.0.2.2")], now);
    table.begin();
    table.list(service("c", "192.0.2.3"));
    assert_eq!(names(&table), ["a", "b"]);
    table.list(service("b", "192.0.2.2"));
    assert!(table.finish(HALF, now));
    assert!(table.expire(now + GRACE));
    assert_eq!(names(&table), ["b", "c"]);
}

#[test]
fn a_list_that_was_cut_short_leaves_no_trace() {
    let (mut table, now) = (services(), Instant::now());
    list(&mut table, &[service("a", "192.0.2.1")], now);
    table.begin();
    table.list(service("b", "192.0.2.2"));
    assert!(!list(&mut table, &[service("a", "192.0.2.1")], now));
    assert_eq!(names(&table), ["a"]);
}

#[test]
fn what_is_read_and_stays_the_same_is_no_change() {
    let (mut table, now) = (services(), Instant::now());
    assert!(list(&mut table, &[service("a", "192.0.2.1")], now), "the first list is one");
    assert!(!list(&mut table, &[service("a", "192.0.2.1")], now));
    assert!(!table.apply(service("a", "192.0.2.1")));
    assert!(table.apply(service("a", "192.0.2.9")));
    assert!(!table.delete(&Key::new("cluster-a", "unknown"), now));
}

#[test]
fn an_object_that_can_no_longer_be_read_keeps_its_last_good_version() {
    let (mut table, now) = (services(), Instant::now());
    list(&mut table, &[service("a", "192.0.2.1"), broken("b")], now);
    assert!(table.apply(broken("a")));
    assert_eq!(names(&table), ["a"]);
    assert_eq!(failed(&table), ["a", "b"]);
    // Also where the next list says it.
    list(&mut table, &[broken("a"), broken("b")], now);
    assert_eq!(names(&table), ["a"]);
    assert!(table.apply(service("a", "192.0.2.1")));
    assert_eq!(failed(&table), ["b"]);
}

#[test]
fn a_service_outlives_its_end_for_a_moment_and_a_node_does_not() {
    let (mut table, now) = (services(), Instant::now());
    list(&mut table, &[service("a", "192.0.2.1")], now);
    assert!(table.delete(&Key::new("cluster-a", "a"), now));
    assert_eq!(names(&table), ["a"]);
    assert_eq!(table.next_expiry(), Some(now + GRACE));
    assert!(!table.expire(now + GRACE / 2));
    assert!(table.expire(now + GRACE));
    assert_eq!(names(&table), [""; 0]);

    let mut table = Table::new(Kind::Node, BTreeSet::new());
    list(&mut table, &[node("n1"), node("n2")], now);
    assert!(table.delete(&Key::new("", "n1"), now));
    assert_eq!(names(&table), ["n2"]);
}

#[test]
fn a_service_that_is_made_anew_within_the_grace_period_is_the_new_one() {
    let (mut table, now) = (services(), Instant::now());
    list(&mut table, &[service("a", "192.0.2.1")], now);
    table.delete(&Key::new("cluster-a", "a"), now);
    assert!(table.apply(service("a", "192.0.2.9")));
    assert_eq!(table.next_expiry(), None);
    let mut objects = Objects::default();
    table.add_to(&mut objects);
    let stored = &objects.services[&Key::new("cluster-a", "a")];
    assert_eq!(stored.object.spec.external_ips, ["192.0.2.9"]);
}

#[test]
fn a_list_that_lacks_most_is_held_until_all_of_it_is_back() {
    let mut table = Table::new(Kind::Node, BTreeSet::new());
    let now = Instant::now();
    let all = ["n1", "n2", "n3"].map(node);
    list(&mut table, &all, now);
    assert!(list(&mut table, slice::from_ref(&all[0]), now), "that it is held is news");
    assert_eq!(table.held(), Some((2, 3)));
    assert_eq!(names(&table), ["n1", "n2", "n3"]);
    // No later list and no time lets it go, only its return.
    list(&mut table, &all[..2], now);
    table.expire(now + GRACE * 100);
    assert_eq!(names(&table), ["n1", "n2", "n3"]);
    assert!(table.held().is_some());
    assert!(table.apply(node("n3")));
    assert_eq!(table.held(), None);
    assert!(table.delete(&Key::new("", "n3"), now), "an ordinary deletion counts again");
    assert_eq!(names(&table), ["n1", "n2"]);
}

#[test]
fn a_list_that_lacks_half_is_not_held_and_the_last_object_is() {
    let now = Instant::now();
    let mut table = Table::new(Kind::Node, BTreeSet::new());
    list(&mut table, &["n1", "n2"].map(node), now);
    assert!(list(&mut table, &[node("n1")], now));
    assert_eq!((table.held(), names(&table)), (None, vec!["n1".to_owned()]));
    list(&mut table, &[], now);
    assert_eq!((table.held(), names(&table)), (Some((1, 1)), vec!["n1".to_owned()]));
    assert!(table.release());
    assert_eq!((table.held(), names(&table)), (None, vec![]));
    table.finish(Hold { percent: 0 }, now);
    assert_eq!(table.held(), None);
}

#[test]
fn a_first_list_is_compared_with_what_was_there_before_the_restart() {
    let now = Instant::now();
    let reference = || ["n1", "n2", "n3"].map(|name| Key::new("", name)).into_iter().collect();
    let mut table = Table::new(Kind::Node, reference());
    list(&mut table, &[node("n1")], now);
    assert_eq!(table.held(), Some((2, 3)));
    assert_eq!(
        (names(&table), failed(&table)),
        (vec!["n1".into()], vec!["n2".into(), "n3".into()])
    );
    table.apply(node("n2"));
    table.apply(node("n3"));
    assert_eq!((table.held(), failed(&table)), (None, vec![]));

    let mut table = Table::new(Kind::Node, reference());
    list(&mut table, &["n1", "n2"].map(node), now);
    assert_eq!((table.held(), failed(&table)), (None, vec![]), "one of three may have gone");
}

#[test]
fn endpoints_are_compared_by_namespace_and_self_made_namespaces_count_for_nothing() {
    let now = Instant::now();
    let reference = ["cluster-a", "cluster-b"].map(|namespace| Key::new(namespace, ""));
    let mut table = Table::new(Kind::EndpointSlice, reference.into_iter().collect());
    list(&mut table, &[], now);
    assert_eq!(table.held(), Some((2, 2)));
    let slice = |namespace: &str| {
        item(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": namespace, "name": "x"},
        }))
    };
    table.apply(slice("cluster-a"));
    assert!(table.held().is_some());
    table.apply(slice("cluster-b"));
    assert_eq!(table.held(), None);

    let namespace =
        |name| item(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    let mut table = Table::new(Kind::Namespace, BTreeSet::new());
    let all = ["default", "kube-system", "kube-public", "cluster-a"].map(namespace);
    list(&mut table, &all, now);
    list(&mut table, &all[..3], now);
    assert_eq!(table.held(), Some((1, 1)));
}
