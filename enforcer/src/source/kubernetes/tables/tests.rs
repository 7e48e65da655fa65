use enforcer_policy::model::SeedNode;
use serde_json::{Value, json};

use super::*;
use crate::source::{
    kubernetes::{seen::Item, table::GRACE, watches::all},
    objects::decode,
};

const HOME: &str = "guard";
const HALF: Hold = Hold { percent: 50 };

/// Tables and a clock that stands still.
struct World {
    tables: Tables,
    watches: Vec<Watch>,
    now: Instant,
    clock: SystemTime,
}

impl World {
    fn new(former: Option<&Snapshot>) -> Self {
        let (watches, clock) = (all("n1", "kubermatic", false), SystemTime::UNIX_EPOCH);
        let tables = Tables::new(&watches, HALF, Some(HOME.to_owned()), former, clock);
        Self { tables, watches, now: Instant::now(), clock }
    }

    fn number(&self, name: &str) -> usize {
        self.watches.iter().position(|watch| watch.name == name).unwrap()
    }

    fn hear(&mut self, watch: &str, heard: Heard) {
        self.tables.hear(self.number(watch), heard, self.now, self.clock);
    }

    fn list(&mut self, watch: &str, objects: &[Value]) {
        self.hear(watch, Heard::Begin);
        for object in objects {
            self.hear(watch, Heard::Listed(item(object)));
        }
        self.hear(watch, Heard::Finished);
    }

    /// Every watch but these finishes an empty list.
    fn list_others(&mut self, listed: &[&str]) {
        for name in self.watches.iter().map(|watch| watch.name.clone()).collect::<Vec<_>>() {
            if !listed.contains(&name.as_str()) {
                self.list(&name, &[]);
            }
        }
    }

    /// What is published once it has been quiet.
    fn published(&mut self) -> Option<Objects> {
        self.now += GATHER;
        self.tables.take(self.now)
    }
}

fn item(value: &Value) -> Item {
    let text = |at| value.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let key = Key::new(text("/metadata/namespace"), text("/metadata/name"));
    Item { key, decoded: decode(value).map(|object| object.expect("a known kind")) }
}

fn cluster(name: &str, range: &str) -> Value {
    json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": name},
        "spec": {"apiServerAllowedIPRanges": {"cidrBlocks": [range]}},
    })
}

fn namespace(name: &str, release: &str) -> Value {
    let annotations = json!({ RELEASE: release });
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "annotations": annotations},
    })
}

const CLUSTERS: &str = "clusters.kubermatic.k8c.io";

#[test]
fn nothing_counts_as_read_before_every_watch_has_finished_a_list() {
    let mut world = World::new(None);
    world.list(CLUSTERS, &[cluster("a", "192.0.2.0/24")]);
    let objects = world.published().unwrap();
    assert!(objects.unread && objects.incomplete && objects.stale_since.is_some());
    assert!(objects.clusters.is_empty());
    world.list_others(&[CLUSTERS]);
    let objects = world.published().unwrap();
    assert!(!objects.unread && !objects.incomplete && objects.stale_since.is_none());
    assert_eq!(objects.clusters.len(), 1);
}

#[test]
fn changes_within_ten_milliseconds_are_published_once_and_no_later() {
    let mut world = World::new(None);
    world.list_others(&[]);
    world.published().unwrap();
    world.now += GATHER;
    let first = world.now;
    world.hear(CLUSTERS, Heard::Changed(item(&cluster("a", "192.0.2.0/24"))));
    world.now += QUIET / 2;
    world.hear(CLUSTERS, Heard::Changed(item(&cluster("b", "192.0.2.0/24"))));
    assert_eq!(world.tables.due(), Some(first + QUIET));
    assert_eq!(world.tables.take(world.now), None);
    assert_eq!(world.tables.take(first + QUIET).unwrap().clusters.len(), 2);
    assert_eq!(world.tables.due(), None);
}

#[test]
fn what_changes_a_hundred_times_a_second_is_published_thirty_times() {
    let mut world = World::new(None);
    world.list_others(&[]);
    world.published().unwrap();
    let mut published = 0;
    for number in 0..100 {
        world.now += Duration::from_millis(10);
        let range = format!("192.0.2.{number}/32");
        world.hear(CLUSTERS, Heard::Changed(item(&cluster("a", &range))));
        published += usize::from(world.tables.take(world.now).is_some());
    }
    assert!((25..=34).contains(&published), "{published}");
    assert!(world.published().is_some(), "the last one counts too");
}

#[test]
fn a_status_that_changes_publishes_nothing() {
    let mut world = World::new(None);
    world.list(CLUSTERS, &[cluster("a", "192.0.2.0/24")]);
    world.list_others(&[CLUSTERS]);
    world.published().unwrap();
    let mut churned = cluster("a", "192.0.2.0/24");
    churned["status"] = json!({"phase": "Updating", "conditions": {"x": {"status": "True"}}});
    churned["metadata"]["resourceVersion"] = json!("12");
    world.hear(CLUSTERS, Heard::Changed(item(&churned)));
    assert_eq!(world.published(), None);
}

#[test]
fn what_is_lost_is_stale_until_every_watch_has_listed_anew() {
    let mut world = World::new(None);
    world.list(CLUSTERS, &[cluster("a", "192.0.2.0/24")]);
    world.list_others(&[CLUSTERS]);
    world.published().unwrap();
    let lost = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    world.tables.disconnected("connection refused", world.now, lost);
    let objects = world.published().unwrap();
    assert_eq!((objects.stale_since, objects.clusters.len()), (Some(lost), 1));
    assert!(objects.problems.iter().any(|problem| problem.object.name == "API server"));
    // Later attempts that fail move neither the time nor anything else.
    world.tables.disconnected("connection refused", world.now, lost + LATER);
    assert_eq!(world.published(), None);
    world.tables.connected(world.now);
    assert_eq!(world.published().unwrap().stale_since, Some(lost));
    world.list_others(&[CLUSTERS]);
    assert_eq!(world.published().unwrap().stale_since, Some(lost));
    world.list(CLUSTERS, &[cluster("a", "192.0.2.0/24")]);
    let objects = world.published().unwrap();
    assert_eq!((objects.stale_since, objects.problems.len()), (None, 0));
}

const LATER: Duration = Duration::from_secs(60);

#[test]
fn a_watch_that_is_refused_is_reported_and_stale_and_hides_no_other() {
    let mut world = World::new(None);
    world.list_others(&[]);
    world.published().unwrap();
    let reason = "the API server says 403: nodes is forbidden".to_owned();
    world.hear("nodes", Heard::Failed { reason, answered: true });
    world.hear(CLUSTERS, Heard::Changed(item(&cluster("a", "192.0.2.0/24"))));
    let objects = world.published().unwrap();
    assert!(objects.stale_since.is_some());
    assert_eq!(objects.clusters.len(), 1);
    let problem = objects.problems.first().unwrap().to_string();
    assert!(problem.contains("watch nodes") && problem.contains("403"), "{problem}");
    world.list("nodes", &[]);
    assert!(world.published().unwrap().problems.is_empty());
}

#[test]
fn a_kind_that_the_api_server_does_not_know_is_reported_and_blocks_nothing() {
    let mut world = World::new(None);
    let templates = "clustertemplates.kubermatic.k8c.io";
    world.list_others(&[templates]);
    world.hear(templates, Heard::UnknownKind);
    let objects = world.published().unwrap();
    assert!(!objects.unread && objects.stale_since.is_none());
    assert!(objects.problems.first().unwrap().to_string().contains("CRDs"));
}

#[test]
fn the_kinds_of_an_emptied_seed_are_held() {
    let mut world = World::new(None);
    world.list(CLUSTERS, &[cluster("a", "192.0.2.0/24")]);
    world.list_others(&[CLUSTERS]);
    world.published().unwrap();
    world.hear(CLUSTERS, Heard::UnknownKind);
    let objects = world.published().unwrap();
    assert_eq!(objects.clusters.len(), 1);
    let problems: Vec<String> = objects.problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|problem| problem.contains("lacks 1 of 1")), "{problems:?}");
}

#[test]
fn a_new_value_of_the_annotation_and_nothing_else_lets_go_what_is_held() {
    let mut world = World::new(None);
    let clusters = ["a", "b"].map(|name| cluster(name, "192.0.2.0/24"));
    world.list(CLUSTERS, &clusters);
    world.list("namespaces", &[namespace(HOME, "before")]);
    world.list_others(&[CLUSTERS, "namespaces"]);
    world.list(CLUSTERS, &[]);
    assert_eq!(world.published().unwrap().clusters.len(), 2);
    world.hear("namespaces", Heard::Changed(item(&namespace(HOME, "before"))));
    world.hear("namespaces", Heard::Changed(item(&namespace("other", "now"))));
    assert_eq!(world.published().unwrap().clusters.len(), 2);
    world.hear("namespaces", Heard::Changed(item(&namespace(HOME, "now"))));
    let objects = world.published().unwrap();
    assert_eq!((objects.clusters.len(), objects.problems.len()), (0, 0));
}

#[test]
fn after_a_restart_an_annotation_that_was_there_already_lets_go_nothing() {
    let mut former = Snapshot::default();
    former.nodes.insert("n1".to_owned(), SeedNode::default());
    for order in [["nodes", "namespaces"], ["namespaces", "nodes"]] {
        let mut world = World::new(Some(&former));
        for watch in order {
            let namespaces = [namespace(HOME, "old")];
            world.list(watch, if watch == "nodes" { &[] } else { &namespaces });
        }
        world.list_others(&["nodes", "namespaces"]);
        let failed = world.published().unwrap().failed;
        assert_eq!(failed, [Kind::Node.reference("", "n1")].into(), "{order:?}");
        world.hear("namespaces", Heard::Changed(item(&namespace(HOME, "new"))));
        assert!(world.published().unwrap().failed.is_empty());
    }
}

#[test]
fn the_end_of_a_grace_period_is_published_without_any_event() {
    let mut world = World::new(None);
    let watch = "services front-loadbalancer";
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "cluster-a", "name": "front-loadbalancer"},
    });
    world.list(watch, &[service]);
    world.list_others(&[watch]);
    world.published().unwrap();
    world.hear(watch, Heard::Deleted(Key::new("cluster-a", "front-loadbalancer")));
    assert_eq!(world.published().unwrap().services.len(), 1);
    world.now = world.tables.due().unwrap();
    assert_eq!(world.tables.take(world.now), None, "the end is a change like others");
    assert_eq!(world.published().unwrap().services.len(), 0);
    assert!(world.now.elapsed() < GRACE * 2);
}
