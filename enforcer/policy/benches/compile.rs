//! The compiler on fleets: a first snapshot, one edit after it, an image, a plan.
#![allow(missing_docs, reason = "the macro's own function has none")]

use std::sync::Arc;
use std::{collections::BTreeMap, hint::black_box, net::Ipv4Addr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use enforcer_policy::{
    compile::{Compiler, compile},
    image::{IMAGE_WORDS, Image, assign},
    model::{
        Cluster, ClusterId, ExposeStrategy, Frontend, FrontendAddress, FrontendKind, ListedRange,
        Mode, ObjectRef, Origin, Protocol, RangeList, Snapshot,
    },
    plan::{Bank, Desired, Observed, plan},
};
use ipnet::{IpNet, Ipv4Net};

const FLEETS: [usize; 3] = [100, 1_000, 5_000];
const RANGES: u32 = 20;

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("policy");
    group.sample_size(20);
    for clusters in FLEETS {
        let first = fleet(clusters, RANGES);
        let edited = edit(&first);
        group.bench_function(BenchmarkId::new("first snapshot", clusters), |bencher| {
            bencher.iter(|| compile(black_box(&first)));
        });
        group.bench_function(BenchmarkId::new("edit of one cluster", clusters), |bencher| {
            let mut compiler = Compiler::default();
            compiler.compile(&first);
            let mut turns = [&edited, &first].into_iter().cycle();
            bencher.iter(|| turns.next().map(|snapshot| compiler.compile(snapshot)));
        });
        let (rules, _) = compile(&first);
        let Ok(counters) = assign(&rules, &[]) else { continue };
        group.bench_function(BenchmarkId::new("lowering", clusters), |bencher| {
            bencher.iter(|| Image::lower(black_box(&rules), &counters));
        });
        let (after, _) = compile(&edited);
        let images = [&rules, &after].map(|rules| Image::lower(rules, &counters));
        let [Ok(in_force), Ok(image)] = images else { continue };
        let empty = vec![0; IMAGE_WORDS];
        let observed = Observed {
            active: Some(Bank::A),
            banks: [in_force.words(), &empty],
            links: BTreeMap::new(),
        };
        group.bench_function(BenchmarkId::new("plan", clusters), |bencher| {
            let desired = Desired { words: image.words(), counters: &counters, interfaces: &[] };
            bencher.iter(|| plan(black_box(&observed), &desired));
        });
    }
    group.finish();
}

criterion_group!(compiler, benches);
criterion_main!(compiler);

/// A seed of that many clusters with a load balancer each.
fn fleet(clusters: usize, ranges: u32) -> Snapshot {
    let clusters = (0..clusters as u32).map(|number| {
        let id = ClusterId(format!("fleet{number:05}"));
        let object =
            ObjectRef { kind: "Cluster".to_owned(), namespace: String::new(), name: id.0.clone() };
        let address = Ipv4Addr::from(0x0ac8_0000 + number).into();
        let frontends = [31_000, 31_100].map(|port| Frontend {
            protocol: Protocol::Tcp,
            at: FrontendAddress::Address { address, port },
            kind: FrontendKind::FrontLoadBalancer,
            service: object.clone(),
            port_name: "secure".to_owned(),
        });
        let cluster = Cluster {
            id: id.clone(),
            namespace: format!("cluster-{}", id.0),
            strategy: ExposeStrategy::LoadBalancer,
            allowed: Some(list(&object, number, ranges)),
            frontends: frontends.to_vec(),
            own_pods: Default::default(),
            api_server_pods: Default::default(),
            mode: Mode::Enforce,
            egress: None,
        };
        (id, Arc::new(cluster))
    });
    Snapshot { clusters: clusters.collect(), ..Snapshot::default() }
}

fn list(object: &ObjectRef, seed: u32, count: u32) -> RangeList {
    let range = |position: u32| {
        // Knuth's multiplicative hash: ranges all over the space, the same in every run.
        let address = (seed * RANGES + position).wrapping_mul(2_654_435_761);
        let net = Ipv4Net::new(address.into(), 20 + (position % 13) as u8).ok()?;
        Some(ListedRange { net: IpNet::V4(net.trunc()), position })
    };
    RangeList {
        origin: Origin { object: object.clone(), field: "cidrBlocks".to_owned() },
        ranges: (0..count).filter_map(range).collect(),
        written: count as usize,
    }
}

/// The same with one range less in one cluster.
fn edit(snapshot: &Snapshot) -> Snapshot {
    let mut edited = snapshot.clone();
    if let Some(cluster) = edited.clusters.values_mut().nth(50)
        && let Some(list) = &mut Arc::make_mut(cluster).allowed
    {
        list.ranges.pop();
    }
    edited
}
