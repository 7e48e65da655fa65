//! A compiler that has seen other snapshots compiles the next one like one that has not.

use enforcer_policy::{
    compile::{Compiler, compile},
    generate::snapshot,
    image::{Image, assign},
    model::Snapshot,
};
use proptest::{collection::vec, prelude::*};

/// Which parts of the next snapshot come of another one.
#[derive(Clone, Copy, Debug)]
struct Parts {
    clusters: u8,
    seed: bool,
    options: bool,
    surroundings: bool,
}

fn parts() -> impl Strategy<Value = Parts> {
    // Mostly an edit of some clusters.
    let rarely = || prop::bool::weighted(0.2);
    (any::<u8>(), rarely(), rarely(), rarely()).prop_map(
        |(clusters, seed, options, surroundings)| Parts { clusters, seed, options, surroundings },
    )
}

fn edited(before: &Snapshot, other: &Snapshot, parts: Parts) -> Snapshot {
    let mut after = before.clone();
    for (position, (id, cluster)) in other.clusters.iter().enumerate() {
        if parts.clusters >> (position % 8) & 1 == 1 {
            after.clusters.insert(id.clone(), cluster.clone());
        }
    }
    if parts.clusters.is_multiple_of(5) {
        after.clusters.pop_first();
    }
    if parts.seed {
        after.seed.clone_from(&other.seed);
    }
    if parts.options {
        after.options.clone_from(&other.options);
    }
    if parts.surroundings {
        after.nodes.clone_from(&other.nodes);
        after.shared_proxy.clone_from(&other.shared_proxy);
        after.this_node.clone_from(&other.this_node);
    }
    after
}

proptest! {
    #[test]
    fn what_a_compiler_remembers_changes_no_result(
        first in snapshot(),
        edits in vec((snapshot(), parts()), 1..6),
    ) {
        let mut compiler = Compiler::default();
        let mut current = first;
        for (other, parts) in edits {
            let (rules, problems) = compiler.compile(&current);
            let (expected, expected_problems) = compile(&current);
            prop_assert_eq!(&rules, &expected);
            prop_assert_eq!(&problems, &expected_problems);
            current = edited(&current, &other, parts);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn and_lowers_to_the_same_image(first in snapshot(), other in snapshot(), parts in parts()) {
        let mut compiler = Compiler::default();
        let _ = compiler.compile(&first);
        let next = edited(&first, &other, parts);
        let lowered = |(rules, _)| Image::lower(&rules, &assign(&rules, &[]).unwrap()).unwrap();
        prop_assert!(lowered(compiler.compile(&next)) == lowered(compile(&next)));
    }
}
