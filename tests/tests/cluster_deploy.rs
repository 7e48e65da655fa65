//! deploy/ against a real API server: it applies, grants what the agent needs and nothing else, and
//! its rules read metrics that exist. Needs root.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

use std::collections::BTreeSet;

use enforcer_tests::container::CAPABILITIES;
use enforcer_tests::control_plane::{ControlPlane, NAME, NAMESPACE};
use enforcer_tests::stage::Stage;
use promql_parser::parser::{self, Expr};
use serde_json::{Value, json};

/// What the agent watches; nothing else may be read.
const WATCHED: [&str; 8] = [
    "clusters",
    "clustertemplates",
    "endpointslices",
    "namespaces",
    "nodes",
    "pods",
    "seeds",
    "services",
];

#[test]
fn the_base_applies_strictly_and_its_pods_hold_three_capabilities() {
    let control_plane = ControlPlane::alone().unwrap();
    control_plane.deploy("base").unwrap();
    let client = control_plane.client().unwrap();
    let daemon_set = client.get("DaemonSet", NAMESPACE, NAME).unwrap().unwrap();
    let spec = &daemon_set["spec"]["template"]["spec"];
    let [container] = &spec["containers"].as_array().unwrap()[..] else { panic!("{spec}") };
    let capabilities = json!({"drop": ["ALL"], "add": CAPABILITIES});
    assert_eq!(container["securityContext"]["capabilities"], capabilities);
    assert_eq!(container["securityContext"]["privileged"], Value::Null);
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(spec["hostNetwork"], true);
    assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
    let rolling = &daemon_set["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(rolling["maxUnavailable"], 1);

    // What the DaemonSet's controller would make of it is admitted, at the highest priority.
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
                         "metadata": daemon_set["spec"]["template"]["metadata"]});
    pod["metadata"]["namespace"] = json!(NAMESPACE);
    pod["metadata"]["name"] = json!("enforcer-1");
    client.put(&pod).unwrap();
    let pod = client.get("Pod", NAMESPACE, "enforcer-1").unwrap().unwrap();
    assert_eq!(pod["spec"]["priority"], 2_000_001_000);
}

#[test]
fn the_agent_reads_what_it_watches_and_writes_leases_and_events_only() {
    let control_plane = ControlPlane::alone().unwrap();
    control_plane.deploy("base").unwrap();
    let token = control_plane.token(NAMESPACE, NAME).unwrap();
    let get = |what: &str| {
        let how = ["get", what, "--all-namespaces"];
        control_plane.kubectl_as(&token, &how, "").unwrap().status.success()
    };
    for kind in WATCHED {
        assert!(get(kind), "{kind}");
    }
    for kind in ["secrets", "configmaps", "clusterroles", "events"] {
        assert!(!get(kind), "{kind}");
    }

    // The API server's own account of every right that not everybody has, in namespaces of each sort.
    control_plane.kubectl(&["create", "serviceaccount", "nobody"]).unwrap();
    let nobody = control_plane.token("default", "nobody").unwrap();
    for namespace in [NAMESPACE, "default", "kube-system", "cluster-c1"] {
        let everybodys = rules(&control_plane, &nobody, namespace);
        let mut own = rules(&control_plane, &token, namespace);
        own.retain(|rule| !everybodys.contains(rule));
        assert!(own.len() >= 3, "{own:?}");
        for rule in own {
            let list = |field: &str| -> BTreeSet<String> {
                serde_json::from_value(rule[field].clone()).unwrap_or_default()
            };
            let (resources, mut verbs) = (list("resources"), list("verbs"));
            let may_write = match namespace {
                NAMESPACE => "leases",
                "default" => "events",
                _ => "nothing",
            };
            if resources.iter().all(|resource| resource == may_write) {
                assert!(!verbs.iter().any(|verb| verb == "*" || verb.starts_with("delete")));
                continue;
            }
            for verb in ["get", "list", "watch"] {
                verbs.remove(verb);
            }
            assert!(verbs.is_empty(), "{rule} in {namespace}");
            let watched = |resource: &String| WATCHED.contains(&resource.as_str());
            assert!(resources.iter().all(watched), "{rule} in {namespace}");
        }
    }
}

/// `status.resourceRules` of a SelfSubjectRulesReview.
fn rules(control_plane: &ControlPlane, token: &str, namespace: &str) -> Vec<Value> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
                        "spec": {"namespace": namespace}});
    let how = ["create", "--validate=false", "-ojson", "-f", "-"];
    let output = control_plane.kubectl_as(token, &how, &review.to_string()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_ne!(answer["status"]["incomplete"], true);
    let rules = answer["status"]["resourceRules"].as_array().unwrap().clone();
    assert!(!rules.is_empty(), "{answer}");
    rules
}

#[test]
fn audit_and_break_glass_let_everybody_in_one_node_at_a_time_or_all_at_once() {
    let control_plane = ControlPlane::alone().unwrap();
    let client = control_plane.client().unwrap();
    for (overlay, unavailable, audits) in [
        ("overlays/audit", json!(1), true),
        ("overlays/enforce", json!(1), false),
        ("overlays/break-glass", json!("100%"), true),
    ] {
        control_plane.deploy(overlay).unwrap();
        let daemon_set = client.get("DaemonSet", NAMESPACE, NAME).unwrap().unwrap();
        let spec = &daemon_set["spec"];
        assert_eq!(spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"], unavailable);
        let arguments = spec["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        assert_eq!(arguments.contains(&json!("--mode=audit")), audits, "{overlay}");
    }
}

#[test]
fn uninstalling_takes_the_agents_place_and_leaves_nothing() {
    let control_plane = ControlPlane::alone().unwrap();
    control_plane.deploy("overlays/enforce").unwrap();
    control_plane.deploy("overlays/uninstall").unwrap();
    let client = control_plane.client().unwrap();
    let daemon_set = client.get("DaemonSet", NAMESPACE, NAME).unwrap().unwrap();
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["clean", "--stay"]));
    assert_eq!(container["readinessProbe"], Value::Null);
    assert_eq!(container["volumeMounts"].as_array().unwrap().len(), 2);

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/uninstall");
    control_plane.kubectl(&["delete", "--wait=false", "-k", folder]).unwrap();
    assert!(client.get("DaemonSet", NAMESPACE, NAME).unwrap().is_none());
    let roles =
        control_plane.kubectl(&["get", "clusterrole,clusterrolebinding", "-oname"]).unwrap();
    assert!(!roles.lines().any(|role| role.ends_with("/enforcer")), "{roles}");
}

#[test]
fn rules_and_dashboard_read_metrics_that_the_agent_has_from_pods_that_are_selected() {
    let control_plane = ControlPlane::alone().unwrap();
    let objects = control_plane.render("overlays/monitoring").unwrap();
    let of = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let pod = &of("DaemonSet")["spec"]["template"];
    let monitor = &of("PodMonitor")["spec"];
    assert_eq!(monitor["selector"]["matchLabels"], pod["metadata"]["labels"]);
    let port = &pod["spec"]["containers"][0]["ports"][0];
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], port["name"]);
    assert_eq!(port["containerPort"], 9464);

    let mut stage = Stage::customary().unwrap();
    stage.cluster = stage.cluster.allow(&["198.51.100.0/24", "2001:db8:51::/64"]);
    stage.publish().unwrap();
    let installation = stage.installation().unwrap();
    let agent = installation.start().unwrap();
    // Somebody is let in and somebody is not: what is zero is not there.
    assert_eq!(stage.surprises(&["listed"]), [""; 0]);
    let fresh = agent.metrics().unwrap();
    // A source that is gone has a metric of its own.
    agent
        .after("cannot read the manifest folder", || {
            Ok(std::fs::remove_dir_all(stage.manifests.folder())?)
        })
        .unwrap();
    let page = fresh + &agent.metrics().unwrap();
    let known: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.split(['{', ' ']).next())
        .chain(["kube_node_info"])
        .collect();
    let groups = of("PrometheusRule")["spec"]["groups"].as_array().unwrap();
    let mut read = BTreeSet::new();
    for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let text = rule["expr"].as_str().unwrap();
        metrics(&parsed(text), &mut read);
    }
    assert!(read.len() >= 8, "{read:?}");
    let in_rules = read.len();
    let dashboard = of("ConfigMap")["data"]["enforcer.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    for target in targets {
        // Grafana's own variables stand where PromQL has a duration and a regular expression.
        let text = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        metrics(&parsed(&text), &mut read);
    }
    assert!(read.len() >= in_rules + 8, "{read:?}");
    for metric in read {
        assert!(known.contains(metric.as_str()), "{metric} is none of {known:?}");
    }
}

fn parsed(text: &str) -> Expr {
    parser::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The metrics that an expression reads.
fn metrics(expression: &Expr, found: &mut BTreeSet<String>) {
    match expression {
        Expr::VectorSelector(selector) => {
            found.insert(selector.name.clone().expect("a metric with a name"));
        }
        Expr::MatrixSelector(selector) => {
            found.insert(selector.vs.name.clone().expect("a metric with a name"));
        }
        Expr::Aggregate(aggregate) => metrics(&aggregate.expr, found),
        Expr::Unary(unary) => metrics(&unary.expr, found),
        Expr::Paren(paren) => metrics(&paren.expr, found),
        Expr::Subquery(subquery) => metrics(&subquery.expr, found),
        Expr::Binary(binary) => {
            metrics(&binary.lhs, found);
            metrics(&binary.rhs, found);
        }
        Expr::Call(call) => call.args.args.iter().for_each(|argument| metrics(argument, found)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => {}
        Expr::Extension(_) => panic!("an extension of PromQL"),
    }
}
