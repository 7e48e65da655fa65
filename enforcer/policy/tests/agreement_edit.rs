//! What one edit among many clusters changes: its own pages of the image, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{net::IpAddr, sync::Arc};

use enforcer_policy::{
    compile::Compiler,
    image::{IMAGE_WORDS, Image, assign, counter_owners},
    model::{
        Cluster, ClusterId, ExposeStrategy, Frontend, FrontendAddress, FrontendKind, ListedRange,
        Mode, ObjectRef, Origin, Protocol, RangeList, Snapshot,
    },
    plan::{Attachments, Bank, Desired, Observed, Step, plan},
};

const CLUSTERS: u16 = 2_000;
const RANGES: u32 = 20;
const EDITED: u16 = 777;
const PAGE_WORDS: usize = 512;

fn cluster(number: u16) -> Cluster {
    let object = |kind: &str, name: String| ObjectRef {
        kind: kind.to_owned(),
        namespace: String::new(),
        name,
    };
    let id = ClusterId(format!("c{number:04}"));
    let ranges = (0..RANGES).map(|position| {
        let network = u32::from(number) * RANGES + position;
        let net = format!("{}.{}.{}.0/24", 11 + position * 10, network >> 8 & 255, network & 255);
        ListedRange { net: net.parse().unwrap(), position }
    });
    let frontend = |at, kind| Frontend {
        protocol: Protocol::Tcp,
        at,
        kind,
        service: object("Service", "apiserver-external".to_owned()),
        port_name: "secure".to_owned(),
    };
    let port = 30_000 + number;
    let balancer = IpAddr::from([10, 128, (number >> 8) as u8, number as u8]);
    Cluster {
        namespace: format!("cluster-{id}"),
        strategy: ExposeStrategy::LoadBalancer,
        allowed: Some(RangeList {
            origin: Origin {
                object: object("Cluster", id.0.clone()),
                field: "spec.apiServerAllowedIPRanges.cidrBlocks".to_owned(),
            },
            ranges: ranges.collect(),
            written: RANGES as usize,
        }),
        frontends: vec![
            frontend(FrontendAddress::Node { port }, FrontendKind::ApiServerNodePort),
            frontend(
                FrontendAddress::Address { address: balancer, port },
                FrontendKind::FrontLoadBalancer,
            ),
        ],
        own_pods: [].into(),
        api_server_pods: [].into(),
        mode: Mode::Enforce,
        egress: None,
        id,
    }
}

fn seed() -> Snapshot {
    let clusters = (0..CLUSTERS).map(cluster).map(|cluster| (cluster.id.clone(), cluster.into()));
    Snapshot { clusters: clusters.collect(), ..Snapshot::default() }
}

fn ranges(snapshot: &mut Snapshot) -> &mut Vec<ListedRange> {
    let edited = snapshot.clusters.get_mut(&cluster(EDITED).id).unwrap();
    &mut Arc::make_mut(edited).allowed.as_mut().unwrap().ranges
}

/// The image of a snapshot after another, and the words that the way there writes.
fn next(compiler: &mut Compiler, snapshot: &Snapshot, former: Option<&Image>) -> (Image, usize) {
    let (rules, problems) = compiler.compile(snapshot);
    assert_eq!(problems, []);
    let nothing = vec![0; IMAGE_WORDS];
    let words = former.map_or(&nothing[..], Image::words);
    let counters = assign(&rules, counter_owners(words)).unwrap();
    let image = Image::lower(&rules, &counters).unwrap();
    let observed = Observed {
        active: former.map(|_| Bank::A),
        banks: [words, words],
        links: Attachments::default(),
    };
    let desired = Desired { words: image.words(), counters: &counters, interfaces: &[] };
    let written = plan(&observed, &desired).into_iter().map(|step| match step {
        Step::Write { words, .. } => words.len(),
        Step::ResetCounters { .. } | Step::Activate { .. } | Step::Link(_) => 0,
    });
    let written = written.sum();
    (image, written)
}

#[test]
fn an_edit_among_two_thousand_clusters_compiles_one_list_and_writes_a_handful_of_pages() {
    let mut compiler = Compiler::default();
    let mut snapshot = seed();
    let (image, all) = next(&mut compiler, &snapshot, None);
    assert!(all > 200 * PAGE_WORDS, "{all} words are a whole seed");
    assert_eq!(compiler.made(), usize::from(CLUSTERS));

    // The header with the revision, and the page or two that hold the list.
    ranges(&mut snapshot)[3].net = "99.0.0.0/16".parse().unwrap();
    let (replaced, written) = next(&mut compiler, &snapshot, Some(&image));
    assert!((1..=3).contains(&(written / PAGE_WORDS)), "a range replaced: {written} words");
    assert_eq!(compiler.made(), 1);

    ranges(&mut snapshot).push(ListedRange { net: "98.0.0.0/16".parse().unwrap(), position: 20 });
    let (added, written) = next(&mut compiler, &snapshot, Some(&replaced));
    assert!((1..=4).contains(&(written / PAGE_WORDS)), "a range added: {written} words");
    assert_eq!(compiler.made(), 1);

    let (again, written) = next(&mut compiler, &snapshot, Some(&added));
    assert_eq!((written, compiler.made()), (0, 0), "nothing changed");
    let (anew, _) = next(&mut Compiler::default(), &snapshot, None);
    assert!(again == anew, "what is remembered changes no result");
}
