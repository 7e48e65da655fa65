//! URLs that people write: the issuer of a cluster's owner, the webhook of an operator.

use super::*;

fn with_issuer(url: &str, found: &[&str], documents: &[&str]) -> Translated {
    let cluster = GATED
        .replace("{exposeStrategy", &format!("{{oidc: {{issuerURL: '{url}'}}, exposeStrategy"));
    let learned = Learned {
        names: [("issuer.example.com".to_owned(), addresses(found))].into(),
        ..Learned::default()
    };
    let documents = [&[cluster.as_str(), API_SERVER], documents].concat();
    with_learned(&documents, &derived(), &learned)
}

#[test]
fn the_issuers_addresses_are_granted_at_the_urls_own_port_and_its_name_is_asked_for() {
    let translated =
        with_issuer("https://issuer.example.com:8443/dex", &["203.0.113.5", "2001:db8::5"], &[]);
    assert_eq!(granted(&translated), ["2001:db8::5/128 tcp 8443", "203.0.113.5/32 tcp 8443"]);
    assert_eq!(translated.names, ["issuer.example.com".to_owned()].into());
    let peer = &translated.cluster("abc").egress.as_ref().unwrap().peers;
    let peer = peer
        .iter()
        .find(|peer| peer.net.addr() == addresses(&["203.0.113.5"]).pop_first().unwrap());
    assert_eq!(peer.unwrap().origin.to_string(), "Cluster abc spec.oidc.issuerURL");
}

#[test]
fn an_owners_url_never_leads_into_the_seed_nor_to_metadata_or_the_node_itself() {
    let service = service("cluster-xyz", "etcd-client", "{app: etcd}", "10.96.0.9", HTTPS);
    let inside = [
        "192.0.2.1",
        "10.244.1.77",
        "fd00:1::77",
        "10.96.200.200",
        "127.0.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::ffff:10.244.1.77",
        "64:ff9b::10.244.1.77",
        "0.0.0.0",
        "224.0.0.1",
    ];
    let translated = with_issuer("https://issuer.example.com", &inside, &[NODE, &service]);
    assert_eq!(granted(&translated), [""; 0]);
    assert!(
        translated
            .problems
            .iter()
            .all(|problem| matches!(problem.kind, ProblemKind::Egress { .. }))
    );
    assert!(translated.problems.len() >= 10, "{:?}", translated.said());
    // Pods outside of any Node's range have others around them.
    let etcd = slice("cluster-xyz", "etcd", "[172.20.7.7]", "[]");
    let translated = with_issuer("https://issuer.example.com", &["172.20.9.9"], &[NODE, &etcd]);
    assert_eq!(granted(&translated), [""; 0]);
    for literal in ["https://192.0.2.1:10250", "http://169.254.169.254", "https://[::1]:443"] {
        assert_eq!(granted(&with_issuer(literal, &[], &[NODE])), [""; 0], "{literal}");
    }
}

#[test]
fn an_issuer_behind_the_seeds_own_ingress_is_granted_without_a_word() {
    let balancer =
        service("nginx-ingress-controller", "ingress", "{app: ingress}", "10.96.0.7", HTTPS)
            + "\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.200}]}}";
    let mut node = this_node();
    node.connected = ["192.0.2.0/24".parse().unwrap()].into();
    let learned = Learned {
        names: [("issuer.example.com".to_owned(), addresses(&["192.0.2.200"]))].into(),
        ..Learned::default()
    };
    let cluster = GATED.replace(
        "{exposeStrategy",
        "{oidc: {issuerURL: 'https://issuer.example.com'}, exposeStrategy",
    );
    let objects = objects(&[&cluster, API_SERVER, &balancer]);
    let translated = super::super::super::translate(&objects, &derived(), &node, &learned, None);
    assert_eq!(granted(&translated), ["10.96.0.7/32 tcp 443", "192.0.2.200/32 tcp 443"]);
    assert_eq!(translated.said(), [""; 0]);
}

#[test]
fn an_operators_webhook_may_be_inside_the_seed() {
    let namespace = namespace("authorization-webhook", "https://hooks.example.com:9443/authorize");
    let learned = Learned {
        names: [("hooks.example.com".to_owned(), addresses(&["192.0.2.1"]))].into(),
        ..Learned::default()
    };
    let translated = with_learned(&[GATED, API_SERVER, &namespace, NODE], &derived(), &learned);
    assert_eq!(granted(&translated), ["192.0.2.1/32 tcp 9443"]);
    assert_eq!(translated.said(), [""; 0]);
}

#[test]
fn a_url_that_names_no_host_is_reported() {
    let translated = with_issuer("ldap://issuer.example.com", &["203.0.113.5"], &[]);
    assert_eq!(granted(&translated), [""; 0]);
    assert!(translated.said()[0].contains("not a URL"), "{:?}", translated.said());
    assert!(translated.names.is_empty());
}
