//! The control plane of the tests is a real one, and nothing of it stays. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use enforcer_tests::control_plane::ControlPlane;
use enforcer_tests::stage::{NODE, Stage};
use serde_json::{Value, json};

#[test]
fn objects_of_a_stage_are_read_back_until_etcd_is_emptied() {
    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&["198.51.100.0/24"]);
    let mut control_plane = ControlPlane::beside(&mut stage.network).unwrap();
    let client = control_plane.client().unwrap();
    client.apply(&stage.objects()).unwrap();
    let get = |kind, namespace, name| client.get(kind, namespace, name).unwrap().unwrap();

    let cluster = get("Cluster", "", "c1");
    let ranges = &cluster["spec"]["apiServerAllowedIPRanges"]["cidrBlocks"];
    assert_eq!(*ranges, json!(["198.51.100.0/24"]));
    assert_eq!(cluster["status"]["namespaceName"], "cluster-c1");
    let front = get("Service", "cluster-c1", "front-loadbalancer");
    let vip = stage.cluster.vip().v4.to_string();
    assert_eq!(front["status"]["loadBalancer"]["ingress"][0]["ip"], vip);
    assert_eq!(client.list("EndpointSlice", "cluster-c1").unwrap().len(), 6);
    let address = stage.network.node(NODE).addresses.v4.to_string();
    assert_eq!(get("Node", "", NODE)["status"]["addresses"][0]["address"], address);
    let pod = get("Pod", "cluster-c1", "apiserver");
    assert_eq!(pod["status"]["podIPs"].as_array().unwrap().len(), 2);
    assert_eq!(pod["spec"]["nodeName"], NODE);

    // What an object no longer says is gone.
    stage.cluster.allowed = None;
    client.apply(&stage.objects()).unwrap();
    assert_eq!(get("Cluster", "", "c1")["spec"]["apiServerAllowedIPRanges"], Value::Null);
    client.delete("Pod", "cluster-c1", "envoy").unwrap();
    assert_eq!(client.list("Pod", "").unwrap().len(), 1);

    // From the node, as an agent would: through the network, checked against the authority.
    let from_node = |control_plane: &ControlPlane, what: &str| -> Result<Value> {
        let kubeconfig = control_plane.admin()?.display().to_string();
        let kubectl = control_plane.program("kubectl").display().to_string();
        let arguments = ["--kubeconfig", &kubeconfig, "get", "-ojson", what];
        let answer = stage.network.node(NODE).ns.run(&kubectl, &arguments)?;
        Ok(serde_json::from_str(&answer)?)
    };
    let count = |answer: Value| answer["items"].as_array().unwrap().len();
    assert_eq!(count(from_node(&control_plane, "clusters").unwrap()), 1);

    // Another address is another kubeconfig; objects stay.
    control_plane.stop_api_server().unwrap();
    assert!(from_node(&control_plane, "clusters").is_err());
    control_plane.start_api_server_at(7443).unwrap();
    assert_eq!(count(from_node(&control_plane, "clusters").unwrap()), 1);

    control_plane.wipe().unwrap();
    control_plane.start_api_server().unwrap();
    assert!(from_node(&control_plane, "clusters").is_err(), "CRDs go with etcd's data");
    control_plane.install_crds().unwrap();
    assert_eq!(count(from_node(&control_plane, "clusters").unwrap()), 0);
}

#[test]
fn a_service_account_may_do_only_what_it_is_granted() {
    let control_plane = ControlPlane::alone().unwrap();
    let token_of = |name: &str| {
        control_plane.kubectl(&["create", "serviceaccount", name]).unwrap();
        control_plane.token("default", name).unwrap()
    };
    let (reader, nobody) = (token_of("reader"), token_of("nobody"));
    // No controller fills aggregated roles such as `view`.
    for grant in [
        "create clusterrole reader --verb=list --resource=services",
        "create clusterrolebinding reader --clusterrole=reader --serviceaccount=default:reader",
    ] {
        control_plane.kubectl(&grant.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let answer = |token: &str, kind| {
        let listed = control_plane.client_as(token).and_then(|client| client.list(kind, ""));
        listed.map(drop).map_err(|error| format!("{error:#}"))
    };
    // The API server learns of a grant by a watch of its own.
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = answer(&reader, "Service") {
        assert!(Instant::now() < end, "{error}");
    }
    let refused = answer(&nobody, "Service").unwrap_err();
    assert!(refused.contains("system:serviceaccount:default:nobody"), "{refused}");
    assert!(answer(&reader, "Node").unwrap_err().contains("default:reader"));
    assert!(answer("no such token", "Service").unwrap_err().contains("Unauthorized"));
}

#[test]
fn a_panic_ends_both_processes_and_removes_their_folder() {
    let left = std::panic::catch_unwind(|| {
        let control_plane = ControlPlane::alone().unwrap();
        let processes: Vec<String> =
            control_plane.pids().iter().map(|pid| format!("/proc/{pid}")).collect();
        let folder = control_plane.authority().parent().unwrap().to_owned();
        assert!(processes.len() == 2 && processes.iter().all(|path| Path::new(path).exists()));
        std::panic::panic_any((processes, folder, control_plane.ns().path()));
    });
    type Left = (Vec<String>, std::path::PathBuf, std::path::PathBuf);
    let (processes, folder, ns) = *left.unwrap_err().downcast::<Left>().unwrap();
    assert!(!processes.iter().any(|path| Path::new(path).exists()), "{processes:?}");
    assert!(!folder.exists() && !ns.exists());
}
