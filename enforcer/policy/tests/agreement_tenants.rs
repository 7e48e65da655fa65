//! Tenants: whatever one cluster's objects say, no other cluster admits more because of them.

use std::{cell::Cell, sync::Arc};

use enforcer_policy::{
    generate::questions,
    model::{ClusterId, FrontendAddress, Snapshot},
    oracle::{Packet, admit},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

/// Whether a cluster other than this one has a frontend there with a list that restricts it.
fn is_guarded_by_others(snapshot: &Snapshot, without: &ClusterId, packet: &Packet) -> bool {
    let mut others = snapshot.clone();
    others.clusters.remove(without);
    let named = |cluster: &&ClusterId| {
        others.clusters[*cluster].frontends.iter().any(|frontend| {
            let port = match frontend.at {
                FrontendAddress::Node { port } => port,
                FrontendAddress::Address { address, port } if address == packet.destination => port,
                FrontendAddress::Address { .. } => return false,
            };
            port == packet.port && frontend.protocol == packet.protocol
        })
    };
    others.clusters.keys().any(|id| named(&id)) && admit(&others, packet).reason() != "unguarded"
}

#[test]
fn no_cluster_makes_another_one_admit_more() {
    let (compared, denied) = (Cell::new(0_u64), Cell::new(0_u64));
    let config = Config { cases: 1_500, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&questions(30), |(snapshot, packets)| {
            for id in snapshot.clusters.keys() {
                let mut alone = snapshot.clone();
                alone.clusters.remove(id);
                for packet in &packets {
                    if !is_guarded_by_others(&snapshot, id, packet) {
                        continue;
                    }
                    compared.set(compared.get() + 1);
                    let (with, without) = (admit(&snapshot, packet), admit(&alone, packet));
                    prop_assert!(
                        without.passes() || !with.passes(),
                        "{id} opens {packet:?}: {with:?} instead of {without:?}"
                    );
                    denied.set(denied.get() + u64::from(!without.passes()));
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(compared.get() > 10_000 && denied.get() > 1_000, "{compared:?} {denied:?}");
}

#[test]
fn a_changed_list_changes_nothing_at_frontends_that_its_cluster_does_not_claim() {
    let compared = Cell::new(0_u64);
    let config = Config { cases: 800, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(questions(30), questions(0)), |((snapshot, packets), (other, _))| {
            let lists = other.clusters.into_values().map(|cluster| cluster.allowed.clone());
            for (id, allowed) in snapshot.clusters.keys().zip(lists) {
                let mut changed = snapshot.clone();
                if let Some(cluster) = changed.clusters.get_mut(id) {
                    Arc::make_mut(cluster).allowed = allowed;
                }
                for packet in &packets {
                    let mut only = snapshot.clone();
                    only.clusters.retain(|other, _| other == id);
                    only.shared_proxy.clear();
                    let claims = |frontend: &enforcer_policy::model::Frontend| match frontend.at {
                        FrontendAddress::Node { port } | FrontendAddress::Address { port, .. } => {
                            port == packet.port
                        }
                    };
                    if only.clusters[id].frontends.iter().any(claims) {
                        continue;
                    }
                    compared.set(compared.get() + 1);
                    prop_assert_eq!(admit(&changed, packet), admit(&snapshot, packet));
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(compared.get() > 5_000, "{compared:?}");
}
