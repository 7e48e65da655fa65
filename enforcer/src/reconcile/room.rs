//! What gives way where the image has no room for all lists.
//!
//! Input: a snapshot whose lists do not fit, and the one in force. Output: the same snapshot with some
//! lists as they were before, and a problem on each of these clusters. Invariant: who did not change
//! gives way last, so that nobody else's list has to for a new one; a list that gives way is never
//! replaced by none.

use std::sync::Arc;

use enforcer_policy::{
    model::{Cluster, ClusterId, RangeList, Snapshot},
    problem::{Problem, ProblemKind},
};

/// One part in so many of all ranges has to go at once: each attempt compiles anew.
const SHARE: usize = 8;

/// Takes lists back, the largest first; nothing is returned where no list can give way.
pub(super) fn make_room(snapshot: &mut Snapshot, former: Option<&Snapshot>) -> Vec<Problem> {
    let former_of = |id: &ClusterId| former?.clusters.get(id)?.allowed.as_ref();
    let lists = || {
        let lists = snapshot.clusters.iter();
        lists.filter_map(|(id, cluster)| Some((id, cluster.allowed.as_ref()?)))
    };
    let total: usize = lists().map(|(_, list)| list.ranges.len()).sum();
    let mut candidates: Vec<(bool, usize, ClusterId)> = lists()
        .filter(|(_, list)| !list.ranges.is_empty())
        .map(|(id, list)| (former_of(id) != Some(list), list.ranges.len(), id.clone()))
        .collect();
    candidates.sort_by(|left, right| right.cmp(left));
    let (mut gone, mut problems) = (0, Vec::new());
    for (changed, _, id) in candidates {
        if gone * SHARE > total {
            break;
        }
        let before = former_of(&id).filter(|_| changed).cloned();
        let Some(cluster) = snapshot.clusters.get_mut(&id) else { continue };
        gone += give_way(Arc::make_mut(cluster), before, &mut problems);
    }
    problems
}

/// Puts the former list in place of a longer one, or one without a valid entry. Returns how many
/// ranges that saves.
fn give_way(
    cluster: &mut Cluster,
    before: Option<RangeList>,
    problems: &mut Vec<Problem>,
) -> usize {
    let Cluster { id, allowed, .. } = cluster;
    let Some(list) = allowed else { return 0 };
    let length = list.ranges.len();
    problems.push(Problem {
        cluster: Some(id.clone()),
        object: list.origin.object.clone(),
        file: String::new(),
        field: list.origin.field.clone(),
        value: format!("{length} ranges"),
        kind: ProblemKind::OverLimit {
            reason: "the lists of all clusters together do not fit into the kernel's image"
                .to_owned(),
        },
    });
    let origin = list.origin.clone();
    let none = RangeList { origin, ranges: Vec::new(), written: 1 };
    *list = before.filter(|before| before.ranges.len() < length).unwrap_or(none);
    length - list.ranges.len()
}

#[cfg(test)]
mod tests {
    use enforcer_policy::{
        compile::compile,
        image::{CapacityError, Image, assign},
        model::{
            ExposeStrategy, Frontend, FrontendAddress, FrontendKind, ListedRange, Mode, ObjectRef,
            Origin, Protocol,
        },
    };

    use super::*;

    fn cluster(number: u16, ranges: u32) -> (ClusterId, Arc<Cluster>) {
        let id = ClusterId(format!("c{number}"));
        let object =
            ObjectRef { kind: "Cluster".to_owned(), namespace: String::new(), name: id.0.clone() };
        let net = |position: u32| {
            let address = u32::from(number) << 20 | position << 1;
            ListedRange { net: std::net::IpAddr::from(address.to_be_bytes()).into(), position }
        };
        let cluster = Cluster {
            id: id.clone(),
            namespace: format!("cluster-{id}"),
            strategy: ExposeStrategy::NodePort,
            allowed: Some(RangeList {
                origin: Origin { object: object.clone(), field: "list".to_owned() },
                ranges: (0..ranges).map(net).collect(),
                written: ranges as usize,
            }),
            frontends: vec![Frontend {
                protocol: Protocol::Tcp,
                at: FrontendAddress::Node { port: 30_000 + number },
                kind: FrontendKind::ApiServerNodePort,
                service: object,
                port_name: String::new(),
            }],
            own_pods: [].into(),
            api_server_pods: [].into(),
            mode: Mode::Enforce,
            egress: None,
        };
        (id, cluster.into())
    }

    fn snapshot(clusters: impl IntoIterator<Item = (u16, u32)>) -> Snapshot {
        let clusters = clusters.into_iter().map(|(number, ranges)| cluster(number, ranges));
        Snapshot { clusters: clusters.collect(), ..Snapshot::default() }
    }

    fn fits(snapshot: &Snapshot) -> bool {
        let (rules, _) = compile(snapshot);
        let counters = assign(&rules, &[]).unwrap();
        match Image::lower(&rules, &counters) {
            Ok(_) => true,
            Err(CapacityError::Regions { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    }

    /// Makes room until it fits; returns the clusters that had to give way.
    fn settle(snapshot: &mut Snapshot, former: Option<&Snapshot>) -> Vec<String> {
        let mut gave_way = Vec::new();
        while !fits(snapshot) {
            let problems = make_room(snapshot, former);
            assert!(!problems.is_empty(), "it never fits");
            gave_way.extend(problems.into_iter().filter_map(|it| Some(it.cluster?.0)));
        }
        gave_way
    }

    #[test]
    fn a_crowd_of_large_lists_gives_way_and_the_lists_in_force_stay() {
        let (small, large) = (1..50_u16, 100..170_u16);
        let former = snapshot(small.clone().map(|number| (number, 500)));
        assert!(fits(&former));
        let mut wanted = snapshot(small.map(|it| (it, 500)).chain(large.map(|it| (it, 20_000))));
        let edited = cluster(7, 600);
        wanted.clusters.extend([edited.clone()]);
        let gave_way = settle(&mut wanted, Some(&former));
        assert!(!gave_way.is_empty());
        for (id, cluster) in &former.clusters {
            let expected = if *id == edited.0 { &edited.1 } else { cluster };
            assert_eq!(&wanted.clusters[id], expected, "{id}");
        }
        for name in gave_way {
            let list = wanted.clusters[&ClusterId(name)].allowed.as_ref().unwrap();
            assert_eq!((list.ranges.len(), list.written), (0, 1), "admits exemptions only");
        }
    }

    #[test]
    fn a_list_that_grew_is_taken_back_to_what_it_was() {
        let former = snapshot((0..40).map(|number| (number, 10_000)));
        assert!(fits(&former));
        let mut wanted = former.clone();
        for number in 10..80 {
            wanted.clusters.extend([cluster(number, 20_000)]);
        }
        let gave_way = settle(&mut wanted, Some(&former));
        assert!(!gave_way.is_empty());
        for name in gave_way {
            let id = ClusterId(name);
            let now = wanted.clusters[&id].allowed.as_ref().unwrap();
            match former.clusters.get(&id) {
                Some(before) => assert_eq!(Some(now), before.allowed.as_ref()),
                None => assert_eq!((now.ranges.len(), now.written), (0, 1)),
            }
        }
    }

    #[test]
    fn without_a_former_snapshot_the_largest_lists_give_way() {
        let mut wanted =
            snapshot((0..30).map(|it| (it, 10)).chain((30..100).map(|it| (it, 19_000))));
        let gave_way = settle(&mut wanted, None);
        assert!(!gave_way.is_empty());
        for number in 0..30 {
            let (id, cluster) = cluster(number, 10);
            assert_eq!(wanted.clusters[&id], cluster);
        }
    }
}
