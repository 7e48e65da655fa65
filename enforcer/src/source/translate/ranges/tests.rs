//! How people write ranges.

use enforcer_policy::model::ObjectRef;
use proptest::prelude::*;

use super::*;

fn read(entries: &[&str]) -> (RangeList, Vec<enforcer_policy::problem::Problem>) {
    let object =
        ObjectRef { kind: "Cluster".to_owned(), namespace: String::new(), name: "abc".to_owned() };
    let mut report = Report::default();
    let place = Place { object: &object, file: "a.yaml", field: "spec.list" };
    let list = list(entries.iter().copied(), place, &mut report);
    (list, report.take())
}

#[test]
fn every_way_to_write_a_range_means_the_same_range() {
    let cases = [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("  10.0.0.0/8\t", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("::/0", "::/0"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
        ("::10.1.2.3/128", "::10.1.2.3/128"),
    ];
    for (written, meant) in cases {
        assert_eq!(range(written), Some(meant.parse().unwrap()), "{written:?}");
    }
}

#[test]
fn what_is_no_range_is_none() {
    for written in [
        "",
        " ",
        "/",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0/8",
        "10.0.0.0 /8",
        "::/129",
        "example.com",
        "10.0.0.0/255.0.0.0",
        "010.0.0.1",
        "fe80::1%eth0",
        "10.0.0.0/8,",
        "１０.0.0.0/8",
    ] {
        assert_eq!(range(written), None, "{written:?}");
    }
}

#[test]
fn an_invalid_entry_is_left_out_and_named_by_its_position() {
    let (list, problems) = read(&["10.0.0.0/8", "nonsense", "192.0.2.1"]);
    let ranges: Vec<(String, u32)> =
        list.ranges.iter().map(|range| (range.net.to_string(), range.position)).collect();
    assert_eq!(ranges, [("10.0.0.0/8".to_owned(), 0), ("192.0.2.1/32".to_owned(), 2)]);
    assert_eq!(list.written, 3);
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["a.yaml: Cluster abc spec.list[1] = \"nonsense\": not an address range; left out"]
    );
}

#[test]
fn a_list_of_invalid_entries_is_not_an_empty_list() {
    assert_eq!((read(&["x", "y"]).0.written, read(&["x", "y"]).0.ranges.len()), (2, 0));
    assert_eq!((read(&[]).0.written, read(&[]).0.ranges.len()), (0, 0));
}

proptest! {
    #[test]
    fn garbage_is_counted_and_never_more(entries in prop::collection::vec(".{0,40}", 0..8)) {
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let (list, problems) = read(&entries);
        prop_assert_eq!(list.written, entries.len());
        prop_assert_eq!(list.ranges.len() + problems.len(), entries.len());
    }

    #[test]
    fn what_looks_like_a_range_is_canonical_or_none(text in "[0-9a-f:./]{1,24}") {
        if let Some(net) = range(&text) {
            prop_assert_eq!(net, net.trunc());
            prop_assert_eq!(range(&net.to_string()), Some(net));
        }
    }
}
