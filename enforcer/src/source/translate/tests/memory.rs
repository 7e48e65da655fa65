//! What a translator remembers changes no result, and spares what is unchanged.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_policy::model::ObjectRef;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::json;

use super::*;
use crate::source::objects::{Kind, Object};

const CLUSTERS: [&str; 3] = ["a", "b", "c"];

/// One change of the seed's objects.
#[derive(Clone, Debug)]
enum Edit {
    Put(Value),
    Remove(Kind, String, String),
    /// An object is there and cannot be read any more, or can be again.
    Fail(Kind, String, String),
    Incomplete(bool),
    /// The next snapshot is not put in force.
    Refused,
}

fn put(kind: &str, namespace: &str, name: &str, rest: &Value) -> Edit {
    let version = match kind {
        "Cluster" | "Seed" => "kubermatic.k8c.io/v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        _core => "v1",
    };
    let mut value = json!({"apiVersion": version, "kind": kind});
    let mut metadata = json!({"name": name, "namespace": namespace});
    let map = value.as_object_mut().unwrap();
    for (key, rest) in rest.as_object().unwrap() {
        match key.as_str() {
            "labels" | "annotations" => metadata[key] = rest.clone(),
            _field => drop(map.insert(key.clone(), rest.clone())),
        }
    }
    map.insert("metadata".to_owned(), metadata);
    Edit::Put(value)
}

fn a_cluster() -> impl Strategy<Value = Edit> {
    let lists = [json!(null), json!([]), json!(["192.0.2.0/24"]), json!(["x", "10.0.0.0/8"])];
    let strategies = ["LoadBalancer", "NodePort", "Tunneling", "", "Odd"];
    // Two clusters may name one namespace, and one may name none.
    let namespaces = ["cluster-a", "cluster-b", "cluster-c", ""];
    (
        select(CLUSTERS.to_vec()),
        select(lists.to_vec()),
        select(strategies.to_vec()),
        select(namespaces.to_vec()),
        any::<bool>(),
    )
        .prop_map(|(name, list, strategy, namespace, gate)| {
            let mut spec =
                json!({"exposeStrategy": strategy, "features": {"apiserverNetworkPolicy": gate}});
            if !list.is_null() {
                spec["apiServerAllowedIPRanges"] = json!({"cidrBlocks": list});
            }
            let annotations = match gate {
                true => json!({"enforcer.k8c.io/allowed-ip-ranges": "198.51.100.0/24,y"}),
                false => json!({}),
            };
            let status = json!({"namespaceName": namespace});
            let rest = json!({"spec": spec, "status": status, "annotations": annotations});
            put("Cluster", "", name, &rest)
        })
}

fn namespaces() -> impl Strategy<Value = String> {
    select(CLUSTERS.to_vec()).prop_map(|name| format!("cluster-{name}"))
}

fn a_service() -> impl Strategy<Value = Edit> {
    let names = ["apiserver-external", "front-loadbalancer", "konnectivity-server"];
    let types = ["NodePort", "LoadBalancer", "ClusterIP"];
    let at = prop_oneof![
        (namespaces(), select(names.to_vec())),
        Just(("kubermatic".to_owned(), "nodeport-proxy"))
    ];
    (at, select(types.to_vec()), 30_000..30_004_u16).prop_map(|((namespace, name), kind, port)| {
        let ports = json!([{"name": "secure", "port": 443, "targetPort": port, "nodePort": port}]);
        let spec = json!({"type": kind, "ports": ports, "clusterIPs": ["10.96.0.9"]});
        let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
        put("Service", &namespace, name, &json!({"spec": spec, "status": status}))
    })
}

fn a_slice() -> impl Strategy<Value = Edit> {
    let at = prop_oneof![
        (namespaces(), Just("apiserver-external")),
        Just(("kubermatic".to_owned(), "nodeport-proxy"))
    ];
    // In the node's pod range, outside of it, and a node's own.
    let addresses = ["10.1.0.7", "172.20.0.7", "192.0.2.1"];
    (at, select(addresses.to_vec())).prop_map(|((namespace, service), address)| {
        let rest = json!({
            "addressType": "IPv4", "labels": {"kubernetes.io/service-name": service},
            "ports": [{"name": "secure", "port": 6443, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "nodeName": "node-1"}],
        });
        put("EndpointSlice", &namespace, "one", &rest)
    })
}

fn a_pod() -> impl Strategy<Value = Edit> {
    let addresses = ["10.1.0.8", "172.20.0.8"];
    (namespaces(), select(addresses.to_vec()), any::<bool>()).prop_map(
        |(namespace, address, here)| {
            let node = if here { "node-1" } else { "node-2" };
            let rest = json!({
                "labels": {"app": "apiserver"}, "spec": {"nodeName": node},
                "status": {"podIP": address, "phase": "Running"},
            });
            put("Pod", &namespace, "p", &rest)
        },
    )
}

fn of_the_seed() -> impl Strategy<Value = Edit> {
    let nodes = any::<bool>().prop_map(|wide| {
        let range = if wide { "172.16.0.0/12" } else { "10.1.0.0/16" };
        let status = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
        put("Node", "", "node-1", &json!({"spec": {"podCIDRs": [range]}, "status": status}))
    });
    let seeds = select(vec!["LoadBalancer", "NodePort"]).prop_map(|strategy| {
        let spec = json!({
            "exposeStrategy": strategy, "defaultAPIServerAllowedIPRanges": ["10.9.0.0/16"],
        });
        put("Seed", "kubermatic", "s", &json!({"spec": spec}))
    });
    let modes = (namespaces(), select(vec!["audit", "enforce", "odd"])).prop_map(|(name, mode)| {
        let annotations = json!({"enforcer.k8c.io/mode": mode});
        put("Namespace", "", &name, &json!({"annotations": annotations}))
    });
    prop_oneof![1 => nodes, 1 => seeds, 3 => modes]
}

fn losses() -> impl Strategy<Value = Edit> {
    let named = prop_oneof![
        select(CLUSTERS.to_vec()).prop_map(|name| (Kind::Cluster, String::new(), name.to_owned())),
        namespaces().prop_map(|at| (Kind::Service, at, "apiserver-external".to_owned())),
        namespaces().prop_map(|at| (Kind::EndpointSlice, at, "one".to_owned())),
        namespaces().prop_map(|at| (Kind::Pod, at, "p".to_owned())),
        namespaces().prop_map(|name| (Kind::Namespace, String::new(), name)),
        Just((Kind::Service, "kubermatic".to_owned(), "nodeport-proxy".to_owned())),
    ];
    (named, any::<bool>()).prop_map(|((kind, namespace, name), fails)| match fails {
        true => Edit::Fail(kind, namespace, name),
        false => Edit::Remove(kind, namespace, name),
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => a_cluster(),
        4 => a_service(),
        2 => a_slice(),
        2 => a_pod(),
        2 => of_the_seed(),
        3 => losses(),
        1 => any::<bool>().prop_map(Edit::Incomplete),
        1 => Just(Edit::Refused),
    ]
}

/// Objects that are there, each decoded once.
#[derive(Default)]
struct World {
    there: BTreeMap<ObjectRef, Object>,
    failed: BTreeSet<ObjectRef>,
    incomplete: bool,
}

impl World {
    /// Whether what comes of it is put in force.
    fn make(&mut self, edit: Edit) -> bool {
        match edit {
            Edit::Put(value) => {
                let object = decode(&value).unwrap().unwrap();
                self.failed.remove(&object.reference());
                self.there.insert(object.reference(), object);
            }
            Edit::Remove(kind, namespace, name) => {
                let object = kind.reference(&namespace, &name);
                self.failed.remove(&object);
                self.there.remove(&object);
            }
            Edit::Fail(kind, namespace, name) => {
                let object = kind.reference(&namespace, &name);
                if !self.failed.remove(&object) {
                    self.there.remove(&object);
                    self.failed.insert(object);
                }
            }
            Edit::Incomplete(incomplete) => self.incomplete = incomplete,
            Edit::Refused => return false,
        }
        true
    }

    fn objects(&self, file: &Arc<str>) -> Arc<Objects> {
        let mut objects = Objects { incomplete: self.incomplete, ..Objects::default() };
        objects.add_all(self.there.values().map(|object| (object, file)));
        objects.failed.extend(self.failed.iter().cloned());
        Arc::new(objects)
    }
}

proptest! {
    #[test]
    fn what_is_remembered_changes_no_result(
        begin in vec(edit(), 12),
        edits in vec(edit(), 1..24),
        tight in any::<bool>(),
    ) {
        let limits =
            if tight { Limits { ranges: 1, addresses: 1, ..Limits::default() } } else { Limits::default() };
        let settings = Settings { limits, ..settings() };
        let file: Arc<str> = "a.yaml".into();
        let mut world = World::default();
        for edit in begin {
            world.make(edit);
        }
        let mut translator = Translator::default();
        let (mut former, learned): (Option<Snapshot>, _) = (None, Learned::default());
        for edit in edits {
            let is_put_in_force = world.make(edit.clone());
            let objects = world.objects(&file);
            let one = translator
                .translate(&objects, &settings, &this_node(), &learned, former.as_ref());
            let other = translate(&objects, &settings, &this_node(), former.as_ref());
            prop_assert_eq!(&one, &other, "after {:?}", edit);
            if is_put_in_force {
                former = Some(one.snapshot);
            }
        }
    }
}

#[test]
fn a_cluster_that_nothing_touched_is_the_former_snapshots_own() {
    let file: Arc<str> = "a.yaml".into();
    let mut world = World::default();
    let cluster = |name: &str, list: Value| {
        let spec = json!({
            "exposeStrategy": "NodePort", "apiServerAllowedIPRanges": {"cidrBlocks": list},
        });
        let status = json!({"namespaceName": format!("cluster-{name}")});
        put("Cluster", "", name, &json!({"spec": spec, "status": status}))
    };
    for name in CLUSTERS {
        world.make(cluster(name, json!(["10.0.0.0/8"])));
    }
    let mut translator = Translator::default();
    let mut translate = |world: &World, former: Option<&Snapshot>| {
        let objects = world.objects(&file);
        let learned = Learned::default();
        translator.translate(&objects, &settings(), &this_node(), &learned, former).snapshot
    };
    let first = translate(&world, None);
    world.make(cluster("b", json!(["192.0.2.0/24"])));
    let second = translate(&world, Some(&first));
    let of = |snapshot: &Snapshot, id: &str| snapshot.clusters[&ClusterId(id.into())].clone();
    for (id, is_same) in [("a", true), ("b", false), ("c", true)] {
        assert_eq!(Arc::ptr_eq(&of(&first, id), &of(&second, id)), is_same, "{id}");
    }
    // A snapshot that was read from the disk is another one, and becomes the only one.
    let read: Snapshot = serde_json::from_value(serde_json::to_value(&second).unwrap()).unwrap();
    let third = translate(&world, Some(&read));
    assert!(CLUSTERS.iter().all(|id| Arc::ptr_eq(&of(&read, id), &of(&third, id))));
}
