//! `translate`: no documents make it panic, the same ones always mean the same, and one that becomes
//! unreadable takes no restriction away.

use enforcer::source::{
    EgressSettings, GuardPods, Learned, Limits, Objects, Settings, Translated, objects::decode,
    store::Key, translate,
};
use enforcer_policy::{
    compile::compile,
    model::{ObjectRef, Options, Snapshot, ThisNode},
};
use serde_json::Value;

/// The bytes are YAML documents, as a folder of manifests holds them.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let objects = objects(text);
    let first = translated(&objects, None);
    assert_eq!(translated(&objects, None), first, "equal input, equal output");
    let again = translated(&objects, Some(&first.snapshot));
    assert_eq!(again.snapshot, first.snapshot, "what was enforced changes nothing by itself");
    let _ = compile(&first.snapshot);
    for key in objects.clusters.keys() {
        lose(&objects, key, &first.snapshot);
    }
}

/// One Cluster that can no longer be read keeps what it had, and so do the others.
fn lose(objects: &Objects, key: &Key, former: &Snapshot) {
    let mut objects = objects.clone();
    objects.clusters.remove(key);
    objects.failed.insert(ObjectRef {
        kind: "Cluster".to_owned(),
        namespace: String::new(),
        name: key.name.to_string(),
    });
    let after = translated(&objects, Some(former)).snapshot;
    for (id, cluster) in &former.clusters {
        let now = after.clusters.get(id).unwrap_or_else(|| panic!("{id} is gone"));
        assert_eq!(now.allowed, cluster.allowed, "{id}");
        assert_eq!(now.frontends, cluster.frontends, "{id}");
    }
}

/// Documents as objects; what is none is left out.
pub(crate) fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    let file = "fuzz.yaml".into();
    for document in text.split("\n---\n") {
        let Ok(value) = serde_saphyr::from_str::<Value>(document) else { continue };
        match decode(&value) {
            Ok(Some(object)) => objects.add(&object, &file),
            Ok(None) => {}
            Err(failure) => {
                let unnamed = ObjectRef {
                    kind: "Document".to_owned(),
                    namespace: String::new(),
                    name: String::new(),
                };
                let named = failure.object.clone().unwrap_or(unnamed);
                objects.fail(&failure, named, &file);
            }
        }
    }
    objects
}

fn translated(objects: &Objects, former: Option<&Snapshot>) -> Translated {
    let settings = Settings {
        options: Options::default(),
        seed_name: None,
        kubermatic_namespace: "kubermatic".to_owned(),
        guard_pods: GuardPods::On,
        egress: EgressSettings::default(),
        limits: Limits::default(),
    };
    let this_node = ThisNode { name: "node-1".to_owned(), ..ThisNode::default() };
    translate(objects, &settings, &this_node, &Learned::default(), former)
}
