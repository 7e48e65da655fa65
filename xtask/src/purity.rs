//! Checks that the policy core stays pure.
//!
//! Input: the dependency tree of `enforcer-policy`. Output: the crates in it that may not be there.
//! Invariant: an empty or foreign tree is an error, never a pass.

use anyhow::{Result, bail};

use crate::build::locked;
use crate::child::{ask, cargo, shown};
use crate::project::Project;

const PURE: &str = "enforcer-policy";
/// Time, the network and the kernel come in through these.
const IMPURE: [&str; 6] = ["aya", "k8s-openapi", "kube", "mio", "rtnetlink", "tokio"];

pub(crate) fn check(project: &Project) -> Result<()> {
    let mut command = cargo(project);
    command.args(["tree", "--package", PURE, "--edges", "normal", "--prefix", "none"]);
    command.args(locked(project));
    let Some(tree) = ask(&mut command) else {
        bail!("{} failed", shown(&command));
    };
    let found = impure(&tree)?;
    if !found.is_empty() {
        bail!("{PURE} depends on {}", found.join(", "));
    }
    Ok(())
}

fn impure(tree: &str) -> Result<Vec<&str>> {
    let mut crates: Vec<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if crates.first() != Some(&PURE) {
        bail!("this is not the dependency tree of {PURE}: {tree:?}");
    }
    crates.sort_unstable();
    crates.dedup();
    crates.retain(|name| IMPURE.iter().any(|family| is_of(name, family)));
    Ok(crates)
}

/// `tokio-util` is of the family `tokio`.
fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_tree_passes() {
        let tree = "enforcer-policy v0.1.0 (/x)\nipnet v2.12.0\nserde v1.0.1\nipnet v2.12.0 (*)\n";
        assert!(impure(tree).unwrap().is_empty());
    }

    #[test]
    fn every_impure_crate_is_named_once() {
        let tree =
            "enforcer-policy v0.1.0\ntokio-util v0.7\ntokio v1\nkube-core v5\ntokio v1 (*)\n";
        assert_eq!(impure(tree).unwrap(), ["kube-core", "tokio", "tokio-util"]);
    }

    #[test]
    fn a_name_that_only_begins_alike_is_no_match() {
        assert!(impure("enforcer-policy v0.1.0\nayaya v1\nmiow v1\n").unwrap().is_empty());
    }

    #[test]
    fn no_tree_is_no_pass() {
        assert!(impure("").is_err());
        assert!(impure("serde v1.0.1\n").is_err());
    }
}
