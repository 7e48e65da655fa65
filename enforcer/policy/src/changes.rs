//! What is different between two snapshots, object by object: for the log and for `debug diff`.
//!
//! Input: the snapshot before and the one after. Output: [`Change`]s, clusters in order, then what concerns
//! all of them. Pure. Invariant: equal snapshots have no changes, and different ones have at least one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
};

use serde::Serialize;

use crate::model::{
    Cluster, ClusterId, Egress, Frontend, FrontendAddress, ObjectRef, Origin, Protocol, RangeList,
    Seed, Snapshot, ThisNode,
};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The cluster that it concerns; `None` for all of them.
    pub cluster: Option<ClusterId>,
    /// The object whose doing it is.
    pub object: String,
    /// Field of the object, empty where the object as a whole is meant.
    pub field: String,
    /// What became of the value.
    pub change: Kind,
    /// The value.
    pub value: String,
}

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another one.
    Changed,
}

impl Display for Change {
    /// `Cluster c1 spec.x: +10.0.0.0/8`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster: _, object, field, change, value } = self;
        f.write_str(object)?;
        if !field.is_empty() {
            write!(f, " {field}")?;
        }
        match (change, value.as_str()) {
            (Kind::Added, "") => f.write_str(": added"),
            (Kind::Removed, "") => f.write_str(": removed"),
            (Kind::Changed, "") => f.write_str(": changed"),
            (Kind::Added, value) => write!(f, ": +{value}"),
            (Kind::Removed, value) => write!(f, ": -{value}"),
            (Kind::Changed, value) => write!(f, ": {value}"),
        }
    }
}

/// What is different.
#[must_use]
pub fn changes(before: &Snapshot, after: &Snapshot) -> Vec<Change> {
    let mut changes = Changes { cluster: None, all: Vec::new() };
    let all = || before.clusters.iter().chain(&after.clusters);
    let ids: BTreeSet<&ClusterId> = all().map(|(id, _)| id).collect();
    for id in ids {
        let (before, after) = (before.clusters.get(id), after.clusters.get(id));
        if before == after {
            continue;
        }
        changes.cluster = Some(id.clone());
        match (before, after) {
            (Some(before), Some(after)) => changes.cluster(before, after),
            (None, Some(_)) => changes.add(object("Cluster", &id.0), "", Kind::Added, ""),
            (Some(_), None) => changes.add(object("Cluster", &id.0), "", Kind::Removed, ""),
            (None, None) => {}
        }
    }
    changes.cluster = None;
    changes.seed(before.seed.as_ref(), after.seed.as_ref());
    changes.frontends(&before.shared_proxy, &after.shared_proxy);
    changes.set(
        "pods of the shared nodeport-proxy",
        "status.podIPs",
        &before.shared_proxy_pods,
        &after.shared_proxy_pods,
    );
    changes.nodes(before, after);
    changes.this_node(&before.this_node, &after.this_node);
    if before.options != after.options {
        changes.add("options of the agent".to_owned(), "", Kind::Changed, "");
    }
    changes.all
}

struct Changes {
    cluster: Option<ClusterId>,
    all: Vec<Change>,
}

impl Changes {
    fn add(&mut self, object: String, field: &str, change: Kind, value: impl Display) {
        let (cluster, field, value) = (self.cluster.clone(), field.to_owned(), value.to_string());
        self.all.push(Change { cluster, object, field, change, value });
    }

    fn cluster(&mut self, before: &Cluster, after: &Cluster) {
        let Cluster {
            id,
            namespace,
            strategy,
            allowed,
            frontends,
            own_pods,
            api_server_pods,
            mode,
            egress,
        } = after;
        let cluster = || object("Cluster", &id.0);
        let home = || object("Namespace", namespace);
        if before.namespace != *namespace {
            let value = format!("{} -> {namespace}", before.namespace);
            self.add(cluster(), "status.namespaceName", Kind::Changed, value);
        }
        if before.strategy != *strategy {
            let value = format!("{:?} -> {strategy:?}", before.strategy);
            self.add(cluster(), "spec.exposeStrategy", Kind::Changed, value);
        }
        if before.mode != *mode {
            let value = format!("{:?} -> {mode:?}", before.mode).to_lowercase();
            self.add(home(), "metadata.annotations[enforcer.k8c.io/mode]", Kind::Changed, value);
        }
        self.list(before.allowed.as_ref(), allowed.as_ref());
        self.frontends(&before.frontends, frontends);
        let pods = format!("pods in {}", home());
        self.set(&pods, "status.podIPs", &before.own_pods, own_pods);
        let api_servers = format!("API server pods in {}", home());
        self.set(&api_servers, "status.podIPs", &before.api_server_pods, api_server_pods);
        self.egress(&cluster(), before.egress.as_ref(), egress.as_ref());
    }

    fn seed(&mut self, before: Option<&Seed>, after: Option<&Seed>) {
        let name = |seed: Option<&Seed>| seed.map(|seed| seed.name.clone());
        if name(before) != name(after) {
            for (seed, kind) in [(name(before), Kind::Removed), (name(after), Kind::Added)] {
                let Some(seed) = seed else { continue };
                self.add(object("Seed", &seed), "", kind, "");
            }
        }
        type List = fn(&Seed) -> Option<&RangeList>;
        let lists: [List; 2] =
            [|seed| seed.default_ranges.as_ref(), |seed| seed.load_balancer_ranges.as_ref()];
        for list in lists {
            self.list(before.and_then(list), after.and_then(list));
        }
    }

    fn list(&mut self, before: Option<&RangeList>, after: Option<&RangeList>) {
        if before == after {
            return;
        }
        let ranges = |list: Option<&RangeList>| -> BTreeSet<ipnet::IpNet> {
            list.into_iter().flat_map(|list| &list.ranges).map(|range| range.net).collect()
        };
        let (from, to) = (ranges(before), ranges(after));
        let Some(Origin { object, field }) = after.or(before).map(|list| &list.origin) else {
            return;
        };
        let begin = self.all.len();
        // An empty list admits nobody where there was none before.
        match (before, after) {
            (None, Some(_)) => self.add(object.to_string(), field, Kind::Added, "a list"),
            (Some(_), None) => self.add(object.to_string(), field, Kind::Removed, "the list"),
            _ => {}
        }
        self.set(&object.to_string(), field, &from, &to);
        if self.all.len() == begin {
            self.add(object.to_string(), field, Kind::Changed, "order or invalid entries");
        }
    }

    fn frontends(&mut self, before: &[Frontend], after: &[Frontend]) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (before.iter().collect(), after.iter().collect());
        for (frontend, kind) in before
            .difference(&after)
            .map(|gone| (gone, Kind::Removed))
            .chain(after.difference(&before).map(|new| (new, Kind::Added)))
        {
            let Frontend { protocol, at, kind: _, service, port_name } = *frontend;
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            let place = match at {
                FrontendAddress::Node { port } => format!("nodePort {port}/{protocol}"),
                FrontendAddress::Address { address, port } => {
                    format!("{address} port {port}/{protocol}")
                }
            };
            let field = if port_name.is_empty() {
                "spec.ports".to_owned()
            } else {
                format!("spec.ports[{port_name}]")
            };
            self.add(service.to_string(), &field, kind, place);
        }
    }

    fn egress(&mut self, cluster: &str, before: Option<&Egress>, after: Option<&Egress>) {
        const GATE: &str = "spec.features.apiserverNetworkPolicy";
        match (before, after) {
            (None, None) => {}
            (None, Some(_)) => self.add(cluster.to_owned(), GATE, Kind::Changed, "off -> on"),
            (Some(_), None) => self.add(cluster.to_owned(), GATE, Kind::Changed, "on -> off"),
            (Some(before), Some(after)) => {
                let begin = self.all.len();
                let peers = |egress: &Egress| -> BTreeMap<String, Origin> {
                    let peer = |peer: &crate::model::Peer| {
                        (format!("{} {:?}", peer.net, peer.port), peer.origin.clone())
                    };
                    egress.peers.iter().map(peer).collect()
                };
                let (from, to) = (peers(before), peers(after));
                for (peer, Origin { object, field }) in
                    from.iter().filter(|it| !to.contains_key(it.0))
                {
                    self.add(object.to_string(), field, Kind::Removed, format!("egress to {peer}"));
                }
                for (peer, Origin { object, field }) in
                    to.iter().filter(|it| !from.contains_key(it.0))
                {
                    self.add(object.to_string(), field, Kind::Added, format!("egress to {peer}"));
                }
                if before != after && self.all.len() == begin {
                    self.add(cluster.to_owned(), "", Kind::Changed, "pods with gated egress");
                }
            }
        }
    }

    fn nodes(&mut self, before: &Snapshot, after: &Snapshot) {
        let names: BTreeSet<&String> = before.nodes.keys().chain(after.nodes.keys()).collect();
        for name in names {
            let node = || object("Node", name);
            match (before.nodes.get(name), after.nodes.get(name)) {
                (Some(before), Some(after)) => {
                    self.set(&node(), "status.addresses", &before.addresses, &after.addresses);
                    let ranges =
                        |node: &crate::model::SeedNode| node.pod_ranges.iter().copied().collect();
                    let (from, to): (BTreeSet<_>, BTreeSet<_>) = (ranges(before), ranges(after));
                    self.set(&node(), "spec.podCIDRs", &from, &to);
                }
                (None, _) => self.add(node(), "", Kind::Added, ""),
                (_, None) => self.add(node(), "", Kind::Removed, ""),
            }
        }
    }

    fn this_node(&mut self, before: &ThisNode, after: &ThisNode) {
        if before == after {
            return;
        }
        let begin = self.all.len();
        let me = "this node";
        self.set(me, "addresses", &before.addresses, &after.addresses);
        self.set(me, "tunnel peers", &before.tunnel_peers, &after.tunnel_peers);
        self.set(me, "connected subnets", &before.connected, &after.connected);
        if self.all.len() == begin {
            self.add(me.to_owned(), "pods' interfaces", Kind::Changed, "");
        }
    }

    fn set<T: Ord + Display>(
        &mut self,
        object: &str,
        field: &str,
        before: &BTreeSet<T>,
        after: &BTreeSet<T>,
    ) {
        for gone in before.difference(after) {
            self.add(object.to_owned(), field, Kind::Removed, gone);
        }
        for new in after.difference(before) {
            self.add(object.to_owned(), field, Kind::Added, new);
        }
    }
}

fn object(kind: &str, name: &str) -> String {
    let (kind, namespace, name) = (kind.to_owned(), String::new(), name.to_owned());
    ObjectRef { kind, namespace, name }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExposeStrategy, ListedRange, Mode};

    fn cluster(id: &str, ranges: &[&str]) -> Cluster {
        let origin = Origin {
            object: ObjectRef {
                kind: "Cluster".to_owned(),
                namespace: String::new(),
                name: id.to_owned(),
            },
            field: "spec.x".to_owned(),
        };
        let range =
            |(position, net): (u32, &&str)| ListedRange { net: net.parse().unwrap(), position };
        let allowed = RangeList {
            origin,
            ranges: (0..).zip(ranges).map(range).collect(),
            written: ranges.len(),
        };
        Cluster {
            id: ClusterId(id.to_owned()),
            namespace: format!("cluster-{id}"),
            strategy: ExposeStrategy::NodePort,
            allowed: Some(allowed),
            frontends: Vec::new(),
            own_pods: BTreeSet::new(),
            api_server_pods: BTreeSet::new(),
            mode: Mode::Enforce,
            egress: None,
        }
    }

    fn snapshot(clusters: Vec<Cluster>) -> Snapshot {
        let clusters = clusters.into_iter().map(|cluster| (cluster.id.clone(), cluster.into()));
        let clusters = clusters.collect();
        Snapshot { clusters, ..Snapshot::default() }
    }

    fn said(before: Vec<Cluster>, after: Vec<Cluster>) -> Vec<String> {
        changes(&snapshot(before), &snapshot(after)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_range_that_comes_and_one_that_goes_name_their_object_and_field() {
        assert_eq!(
            said(vec![cluster("a", &["10.0.0.0/8"])], vec![cluster("a", &["10.1.0.0/16"])]),
            ["Cluster a spec.x: -10.0.0.0/8", "Cluster a spec.x: +10.1.0.0/16"]
        );
    }

    #[test]
    fn an_absent_list_is_not_an_empty_one() {
        let absent = Cluster { allowed: None, ..cluster("a", &[]) };
        assert_eq!(
            said(vec![absent.clone()], vec![cluster("a", &[])]),
            ["Cluster a spec.x: +a list"]
        );
        assert_eq!(said(vec![cluster("a", &[])], vec![absent]), ["Cluster a spec.x: -the list"]);
    }

    #[test]
    fn clusters_and_modes_are_told_and_equal_snapshots_have_no_changes() {
        let audited = Cluster { mode: Mode::Audit, ..cluster("a", &[]) };
        assert_eq!(
            said(vec![cluster("a", &[]), cluster("b", &[])], vec![audited, cluster("c", &[])]),
            [
                "Namespace cluster-a metadata.annotations[enforcer.k8c.io/mode]: enforce -> audit",
                "Cluster b: removed",
                "Cluster c: added",
            ]
        );
        assert_eq!(said(vec![cluster("a", &[])], vec![cluster("a", &[])]), [""; 0]);
    }
}
