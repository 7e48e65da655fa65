//! Where audit mode may stand.

use enforcer_policy::model::Mode;

use super::*;

const PLAIN: &str = "apiVersion: kubermatic.k8c.io/v1\nkind: Cluster\nmetadata: {name: abc}\n\
                     spec: {}\nstatus: {namespaceName: cluster-abc}";

fn namespace(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: cluster-abc, annotations: \
         {{enforcer.k8c.io/mode: {mode:?}}}}}"
    )
}

#[test]
fn a_cluster_is_audited_where_its_namespace_says_so() {
    for (mode, expected) in
        [("audit", Mode::Audit), ("enforce", Mode::Enforce), ("", Mode::Enforce)]
    {
        let translated = translated(&[PLAIN, &namespace(mode)]);
        assert_eq!(translated.cluster("abc").mode, expected, "{mode}");
        assert_eq!(translated.said(), Vec::<String>::new());
    }
    assert_eq!(translated(&[PLAIN]).cluster("abc").mode, Mode::Enforce);
}

#[test]
fn a_mode_that_is_none_enforces_and_is_reported() {
    let translated = translated(&[PLAIN, &namespace("Audit!")]);
    assert_eq!(translated.cluster("abc").mode, Mode::Enforce);
    assert_eq!(
        translated.said(),
        [
            "1.yaml: Namespace cluster-abc metadata.annotations[enforcer.k8c.io/mode] = \"Audit!\": not \
          enforced: expected audit or enforce; this cluster is enforced"
        ]
    );
    assert_eq!(translated.problems[0].cluster, Some(ClusterId("abc".to_owned())));
}

#[test]
fn a_mode_on_the_cluster_changes_nothing_and_is_reported() {
    let annotated = "apiVersion: kubermatic.k8c.io/v1\nkind: Cluster\n\
                     metadata: {name: abc, annotations: {enforcer.k8c.io/mode: audit}}\n\
                     spec: {}\nstatus: {namespaceName: cluster-abc}";
    let translated = translated(&[annotated, &namespace("")]);
    assert_eq!(translated.cluster("abc").mode, Mode::Enforce);
    assert_eq!(
        translated.said(),
        [
            "0.yaml: Cluster abc metadata.annotations[enforcer.k8c.io/mode] = \"audit\": not enforced: a \
          mode counts on the control-plane Namespace alone, not on the Cluster, which its owner can \
          write"
        ]
    );
}

#[test]
fn a_namespace_that_cannot_be_read_keeps_the_mode_and_one_that_is_gone_does_not() {
    let audit = [PLAIN, &namespace("audit")];
    let broken = "apiVersion: v1\nkind: Namespace\nmetadata: {name: cluster-abc, annotations: 7}";
    let kept = translated_after(&audit, &[PLAIN, broken]);
    assert_eq!(kept.cluster("abc").mode, Mode::Audit);
    assert_eq!(translated_after(&audit, &[PLAIN]).cluster("abc").mode, Mode::Enforce);
}
