//! Where the list of a cluster may stand.

use super::*;

/// A cluster `abc` with this strategy, annotation and list.
fn cluster(strategy: &str, annotation: Option<&str>, field: Option<&str>) -> String {
    let annotations = annotation
        .map_or("{}".to_owned(), |text| format!("{{enforcer.k8c.io/allowed-ip-ranges: {text:?}}}"));
    let field = field.map_or("null".to_owned(), |list| format!("{{cidrBlocks: {list}}}"));
    format!(
        "apiVersion: kubermatic.k8c.io/v1\nkind: Cluster\n\
         metadata: {{name: abc, annotations: {annotations}}}\n\
         spec: {{exposeStrategy: {strategy}, apiServerAllowedIPRanges: {field}}}\n\
         status: {{namespaceName: x}}"
    )
}

fn ranges(nets: &[&str]) -> Option<(Vec<String>, usize)> {
    Some((nets.iter().map(|net| (*net).to_owned()).collect(), nets.len()))
}

#[test]
fn the_annotation_stands_for_the_list_where_kkp_refuses_one() {
    let translated = translated(&[&cluster("NodePort", Some("198.51.100.0/24, 10.1.2.3/8"), None)]);
    let allowed = translated.cluster("abc").allowed.as_ref();
    assert_eq!(list(allowed), ranges(&["198.51.100.0/24", "10.0.0.0/8"]));
    assert_eq!(
        allowed.unwrap().origin.to_string(),
        "Cluster abc metadata.annotations[enforcer.k8c.io/allowed-ip-ranges]"
    );
    assert_eq!(translated.said(), Vec::<String>::new());
}

#[test]
fn an_empty_annotation_is_absent_and_one_without_a_valid_entry_is_not() {
    for (text, expected) in [
        ("", None),
        (" ", None),
        ("nonsense", Some((vec![], 1))),
        (",", Some((vec![], 2))),
        ("10.0.0.0/8,", Some((vec!["10.0.0.0/8".to_owned()], 2))),
    ] {
        let translated = translated(&[&cluster("NodePort", Some(text), None)]);
        assert_eq!(list(translated.cluster("abc").allowed.as_ref()), expected, "{text:?}");
    }
    let wrong = translated(&[&cluster("NodePort", Some("10.0.0.0/8,nonsense"), None)]);
    assert_eq!(
        wrong.said(),
        ["0.yaml: Cluster abc metadata.annotations[enforcer.k8c.io/allowed-ip-ranges][1] = \
         \"nonsense\": not an address range; left out"]
    );
}

#[test]
fn with_strategy_load_balancer_the_annotation_is_ignored_and_reported() {
    for field in [None, Some("[198.51.100.0/24]")] {
        let translated = translated(&[&cluster("LoadBalancer", Some("10.0.0.0/8"), field)]);
        let expected = field.and_then(|_| ranges(&["198.51.100.0/24"]));
        assert_eq!(list(translated.cluster("abc").allowed.as_ref()), expected);
        assert_eq!(
            translated.said(),
            ["0.yaml: Cluster abc metadata.annotations[enforcer.k8c.io/allowed-ip-ranges] = \
             \"10.0.0.0/8\": not enforced: strategy LoadBalancer has \
             spec.apiServerAllowedIPRanges.cidrBlocks, which counts"]
        );
    }
}

#[test]
fn a_list_that_kkp_would_refuse_counts_unless_the_annotation_is_there() {
    let alone = translated(&[&cluster("NodePort", None, Some("[198.51.100.0/24]"))]);
    assert_eq!(list(alone.cluster("abc").allowed.as_ref()), ranges(&["198.51.100.0/24"]));
    assert_eq!(alone.said(), Vec::<String>::new());
    let both = translated(&[&cluster("NodePort", Some("10.0.0.0/8"), Some("[198.51.100.0/24]"))]);
    assert_eq!(list(both.cluster("abc").allowed.as_ref()), ranges(&["10.0.0.0/8"]));
    assert_eq!(
        both.said(),
        [
            "0.yaml: Cluster abc spec.apiServerAllowedIPRanges.cidrBlocks: not enforced: the annotation \
         enforcer.k8c.io/allowed-ip-ranges counts instead"
        ]
    );
}

#[test]
fn where_the_strategy_is_not_known_whichever_list_is_there_counts() {
    let one = |annotation, field| {
        let translated = translated(&[&cluster("Telepathy", annotation, field)]);
        list(translated.cluster("abc").allowed.as_ref())
    };
    assert_eq!(one(Some("10.0.0.0/8"), None), ranges(&["10.0.0.0/8"]));
    assert_eq!(one(None, Some("[198.51.100.0/24]")), ranges(&["198.51.100.0/24"]));
    let both = one(Some("10.0.0.0/8"), Some("[198.51.100.0/24]"));
    assert_eq!(both, ranges(&["198.51.100.0/24"]));
    let unread_seed = "apiVersion: kubermatic.k8c.io/v1\nkind: Seed\nmetadata: {name: eu}\nspec: 7";
    let translated = translated(&[&cluster("''", Some("10.0.0.0/8"), None), unread_seed]);
    assert_eq!(list(translated.cluster("abc").allowed.as_ref()), ranges(&["10.0.0.0/8"]));
}

#[test]
fn a_list_with_strategy_tunneling_is_kept_and_said_not_to_hold_on_the_shared_proxy() {
    let said = |documents: &[&str]| {
        let translated = translated(documents);
        let problems = translated.problems.iter();
        let not_enforced = |kind: &ProblemKind| matches!(kind, ProblemKind::NotEnforced { .. });
        problems.filter(|problem| not_enforced(&problem.kind)).count()
    };
    let listed = cluster("Tunneling", Some("10.0.0.0/8"), None);
    assert_eq!(said(&[&listed]), 1);
    assert_eq!(
        list(translated(&[&listed]).cluster("abc").allowed.as_ref()),
        ranges(&["10.0.0.0/8"])
    );
    assert_eq!(said(&[&cluster("Tunneling", None, None)]), 0);
    assert_eq!(said(&[&cluster("Tunneling", None, Some("[]"))]), 0, "empty, and no defaults");
    assert_eq!(said(&[&cluster("Tunneling", None, Some("[]")), SEED]), 1, "the Seed's defaults");
    assert_eq!(said(&[&cluster("Tunneling", None, None), SEED]), 0, "no list: no defaults");
    let always = Settings {
        options: Options { seed_defaults: SeedDefaults::Always, ..Options::default() },
        ..settings()
    };
    let documents = objects(&[&cluster("Tunneling", None, None), SEED]);
    assert_eq!(translate(&documents, &always, &this_node(), None).problems.len(), 1);
    assert_eq!(said(&[&cluster("NodePort", Some("10.0.0.0/8"), None)]), 0);
}
