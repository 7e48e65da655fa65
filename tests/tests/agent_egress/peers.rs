//! Whom a gated API server reaches, by every address and way.

use enforcer_tests::gated::Gated;
use enforcer_tests::survey::{Access, surprises};
use enforcer_tests::topology::Cni;

/// An agent on the node of the API server, on every interface of it.
fn reaches_its_own(cni: Cni, arguments: &[&str], foreign_names: Access) {
    let gated = Gated::whole(cni).unwrap();
    let Gated { granted, names, foreign_names: foreign, refused, .. } = &gated;
    let everything: [&[_]; 4] = [granted, names, foreign, refused];
    let of_all = |client| gated.questions(client, &everything, Access::Open);
    assert_eq!(surprises(&of_all("apiserver")), [""; 0], "nobody filters yet");
    let installation = gated.stage.installation().unwrap().interfaces("auto").arguments(arguments);
    let agent = installation.start().unwrap();
    let questions = [
        gated.questions("apiserver", &[granted, names], Access::Open),
        gated.questions("apiserver", &[foreign], foreign_names),
        gated.questions("apiserver", &[refused], Access::Closed),
        of_all("envoy"),
        of_all("envoy-c2"),
    ];
    assert_eq!(surprises(&questions.concat()), [""; 0]);
    for reason in ["peer", "not_peer"] {
        let counted = agent.metric("enforcer_verdicts_total", &[("reason", reason)]).unwrap();
        assert!(counted > 0.0, "{reason}");
    }
}

/// What the kernel saw while anybody could be asked counts for an agent that comes after.
#[test]
fn derived_dns_cuts_no_cluster_off_from_resolvers_that_it_asks() {
    let gated = Gated::whole(Cni::Routed).unwrap();
    let Gated { granted, names, foreign_names: foreign, refused, .. } = &gated;
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let asks = |wanted: &[_]| gated.questions("apiserver", &[wanted], Access::Open);
    assert_eq!(surprises(&asks(foreign)), [""; 0]);
    agent.terminate().unwrap();
    let installation = installation.arguments(&["--egress-dns", "derived"]);
    let agent = installation.start().unwrap();
    let open = [granted, names, foreign].map(|wanted| asks(wanted)).concat();
    assert_eq!(surprises(&open), [""; 0]);
    assert_eq!(surprises(&gated.questions("apiserver", &[refused], Access::Closed)), [""; 0]);
    let said = |line: &&str| line.contains("--egress-dns=derived would cut the cluster off from");
    assert_eq!(agent.log().lines().filter(said).count(), 1, "{}", agent.log());
}

#[test]
fn behind_a_bridge_every_peer_answers_and_nothing_else_does() {
    reaches_its_own(Cni::Bridge, &[], Access::Open);
}

#[test]
fn behind_a_routed_veth_every_peer_answers_and_nothing_else_does() {
    reaches_its_own(Cni::Routed, &["--egress-dns", "derived"], Access::Closed);
}
