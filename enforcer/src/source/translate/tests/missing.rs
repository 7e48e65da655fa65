//! Objects that cannot be read, or are not there.

use super::*;

const BROKEN_CLUSTER: &str = "\
apiVersion: kubermatic.k8c.io/v1
kind: Cluster
metadata: {name: abc}
spec: {apiServerAllowedIPRanges: {cidrBlocks: 198.51.100.0/24}}";

const BROKEN_SEED: &str = "\
apiVersion: kubermatic.k8c.io/v1
kind: Seed
metadata: {name: europe, namespace: kubermatic}
spec: {defaultAPIServerAllowedIPRanges: 203.0.113.0/24}";

const BROKEN_SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: apiserver-external, namespace: cluster-abc}
spec: {ports: [{port: https}]}";

const BROKEN_NODE: &str = "\
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: none}";

fn seed(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: kubermatic.k8c.io/v1\nkind: Seed\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{}}"
    )
}

/// Translates with `--seed`.
fn with_seed(name: &str, documents: &[&str]) -> Translated {
    let settings = Settings { seed_name: Some(name.to_owned()), ..settings() };
    translate(&objects(documents), &settings, &this_node(), None)
}

fn seed_name(translated: &Translated) -> Option<&str> {
    translated.snapshot.seed.as_ref().map(|seed| seed.name.as_str())
}

#[test]
fn a_cluster_that_cannot_be_read_keeps_its_former_list_and_todays_frontends() {
    let translated = translated_after(&[CLUSTER], &[BROKEN_CLUSTER, API_SERVER_EXTERNAL]);
    let cluster = translated.cluster("abc");
    assert_eq!(list(cluster.allowed.as_ref()), Some((vec!["198.51.100.0/24".to_owned()], 1)));
    assert_eq!(frontends(cluster), ["tcp node 30443 ApiServerNodePort"]);
    assert_eq!(translated.problems.len(), 1);
    assert_eq!(translated.problems[0].cluster, Some(ClusterId("abc".to_owned())));
    assert_eq!(translated.problems[0].field, "spec.apiServerAllowedIPRanges.cidrBlocks");
}

#[test]
fn a_cluster_that_could_never_be_read_admits_exemptions_only() {
    let translated = translated(&[BROKEN_CLUSTER, API_SERVER_EXTERNAL]);
    let cluster = translated.cluster("abc");
    assert_eq!(list(cluster.allowed.as_ref()), Some((vec![], 1)));
    assert_eq!(cluster.strategy, ExposeStrategy::LoadBalancer);
    assert_eq!(frontends(cluster), ["tcp node 30443 ApiServerNodePort"]);
}

#[test]
fn a_cluster_that_is_gone_is_gone() {
    assert!(translated_after(&[CLUSTER], &[NODE]).snapshot.clusters.is_empty());
}

#[test]
fn nothing_is_gone_while_something_unknown_cannot_be_read() {
    let former = [CLUSTER, SEED, API_SERVER_EXTERNAL, NODE];
    let former = translated(&former).snapshot;
    let objects = Objects { incomplete: true, ..Objects::default() };
    let translated = translate(&objects, &settings(), &this_node(), Some(&former));
    assert_eq!(translated.snapshot, former);
    let first = translate(&objects, &settings(), &this_node(), None);
    assert_eq!(first.snapshot.clusters.len(), 0);
}

#[test]
fn what_can_be_read_goes_before_what_is_remembered() {
    let former = translated(&[CLUSTER, API_SERVER_EXTERNAL]).snapshot;
    let open = CLUSTER.replace("198.51.100.0/24", "198.51.100.7");
    let moved = API_SERVER_EXTERNAL.replace("30443", "30555");
    let mut objects = objects(&[&open, &moved]);
    objects.incomplete = true;
    let translated = translate(&objects, &settings(), &this_node(), Some(&former));
    let cluster = translated.cluster("abc");
    assert_eq!(list(cluster.allowed.as_ref()), Some((vec!["198.51.100.7/32".to_owned()], 1)));
    assert_eq!(frontends(cluster), ["tcp node 30555 ApiServerNodePort"]);
}

#[test]
fn a_service_that_cannot_be_read_keeps_its_former_frontends_and_no_others() {
    let former = [CLUSTER, API_SERVER_EXTERNAL, FRONT_LOAD_BALANCER];
    let translated = translated_after(&former, &[CLUSTER, BROKEN_SERVICE]);
    assert_eq!(frontends(translated.cluster("abc")), ["tcp node 30443 ApiServerNodePort"]);
    assert_eq!(translated.problems[0].cluster, Some(ClusterId("abc".to_owned())));
}

#[test]
fn a_pod_that_cannot_be_read_keeps_the_former_pods_of_its_cluster() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: cluster-abc, labels: \
               {app: apiserver}}\nstatus: {podIP: 10.0.0.1}";
    let broken = pod.replace("{podIP: 10.0.0.1}", "7");
    let translated = translated_after(&[CLUSTER, pod], &[CLUSTER, &broken]);
    assert_eq!(translated.cluster("abc").own_pods, addresses(&["10.0.0.1"]));
    assert_eq!(translated.cluster("abc").api_server_pods, addresses(&["10.0.0.1"]));
    assert!(translated_after(&[CLUSTER, pod], &[CLUSTER]).cluster("abc").own_pods.is_empty());
}

#[test]
fn a_node_that_cannot_be_read_keeps_what_it_had() {
    let kept = translated_after(&[NODE], &[BROKEN_NODE]);
    assert_eq!(kept.snapshot.nodes, translated(&[NODE]).snapshot.nodes);
    assert!(translated_after(&[NODE], &[]).snapshot.nodes.is_empty());
}

#[test]
fn a_seed_that_cannot_be_read_is_as_it_was() {
    let translated = translated_after(&[SEED], &[BROKEN_SEED]);
    let former = super::translated(&[SEED]).snapshot.seed;
    assert_eq!(translated.snapshot.seed, former);
    assert_eq!(translated.problems.len(), 1);
}

#[test]
fn a_seed_that_could_never_be_read_restricts_every_load_balancer() {
    let translated = translated(&[BROKEN_SEED]);
    let seed = translated.snapshot.seed.as_ref().unwrap();
    assert_eq!(list(seed.load_balancer_ranges.as_ref()), Some((vec![], 1)));
    assert_eq!(list(seed.default_ranges.as_ref()), Some((vec![], 1)));
}

#[test]
fn one_visible_seed_is_used_and_of_several_none_is_guessed() {
    let (one, two) = (seed("one", "kubermatic"), seed("two", "kubermatic"));
    assert_eq!(seed_name(&translated(&[&one])), Some("one"));
    let several = translated(&[&one, &two]);
    assert_eq!(seed_name(&several), None);
    assert_eq!(
        several.said(),
        [
            "Seed kubermatic/one: several Seeds are visible; choose one with --seed, only one used before counts"
        ]
    );
    assert_eq!(seed_name(&with_seed("two", &[&one, &two])), Some("two"));
    assert_eq!(with_seed("two", &[&one, &two]).said(), Vec::<String>::new());
    let second = translated_after(&[&one], &[&one, &two]);
    assert_eq!(seed_name(&second), Some("one"), "a second Seed does not take the first away");
    assert_eq!(second.problems.len(), 1);
    let unreadable = translated(&[&one, BROKEN_SEED]);
    assert_eq!(seed_name(&unreadable), None, "one that cannot be read is visible too");
}

#[test]
fn seeds_outside_kkps_namespace_count_only_where_it_holds_none() {
    let (inside, outside) = (seed("one", "kubermatic"), seed("two", "elsewhere"));
    let nowhere = "apiVersion: kubermatic.k8c.io/v1\nkind: Seed\nmetadata: {name: three}\nspec: {}";
    assert_eq!(seed_name(&translated(&[&inside, &outside])), Some("one"));
    assert_eq!(seed_name(&translated(&[&outside])), Some("two"));
    assert_eq!(seed_name(&translated(&[nowhere, &outside])), Some("three"));
}

#[test]
fn a_named_seed_that_is_not_there_is_reported() {
    let translated = with_seed("mars", &[SEED]);
    assert_eq!(seed_name(&translated), None);
    assert_eq!(translated.said(), ["Seed mars: is not there; its defaults are not used"]);
    assert_eq!(with_seed("mars", &[]).said().len(), 1);
}

#[test]
fn no_seed_at_all_is_no_problem() {
    assert_eq!(translated(&[CLUSTER]).said(), Vec::<String>::new());
}
