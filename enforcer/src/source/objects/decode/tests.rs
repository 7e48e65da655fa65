//! What is decoded, what is passed over, and what is refused with which words.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;

use super::*;
use crate::source::objects::{
    CloudSpec, ClusterSpec, ClusterStatus, Datacenter, DatacenterSpec, Envoy, LoadBalancerService,
    NetworkRanges, NodeportProxy, Oidc, SeedSpec, TargetPort, TemplateSpec,
};

fn cluster(spec: Value) -> Value {
    json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": "abc"},
        "spec": spec,
    })
}

fn decode_cluster(spec: Value) -> Arc<Cluster> {
    match decode(&cluster(spec)).unwrap() {
        Some(Object::Cluster(cluster)) => cluster,
        other => panic!("decoded {other:?}"),
    }
}

fn refused(value: &Value) -> Undecodable {
    *decode(value).unwrap_err()
}

#[test]
fn an_absent_list_a_null_one_and_an_empty_one_are_told_apart_as_kkp_does() {
    let list = |spec| decode_cluster(spec).spec.api_server_allowed_ip_ranges.clone();
    let empty = Some(NetworkRanges::default());
    assert_eq!(list(json!({})), None, "absent");
    assert_eq!(list(json!({"apiServerAllowedIPRanges": null})), None, "null");
    assert_eq!(list(json!({"apiServerAllowedIPRanges": {}})), empty, "no list in it");
    assert_eq!(list(json!({"apiServerAllowedIPRanges": {"cidrBlocks": null}})), empty, "null list");
    assert_eq!(list(json!({"apiServerAllowedIPRanges": {"cidrBlocks": []}})), empty, "empty list");
}

#[test]
fn null_is_absent_in_every_field() {
    let spec = json!({
        "exposeStrategy": null, "cloud": null, "pause": null, "features": null, "oidc": null,
    });
    assert_eq!(decode_cluster(spec).spec, ClusterSpec::default());
}

#[test]
fn fields_that_nothing_reads_may_have_any_shape() {
    let spec = json!({"humanReadableName": 7, "clusterNetwork": "x", "cloud": {"aws": [1]}});
    assert_eq!(decode_cluster(spec).spec, ClusterSpec::default());
}

#[test]
fn a_field_of_another_type_is_named_with_its_value() {
    let cases = [
        (
            json!({"apiServerAllowedIPRanges": {"cidrBlocks": "10.0.0.0/8"}}),
            "spec.apiServerAllowedIPRanges.cidrBlocks",
            "10.0.0.0/8",
        ),
        (
            json!({"apiServerAllowedIPRanges": {"cidrBlocks": ["10.0.0.0/8", 7]}}),
            "spec.apiServerAllowedIPRanges.cidrBlocks[1]",
            "7",
        ),
        (
            json!({"apiServerAllowedIPRanges": ["10.0.0.0/8"]}),
            "spec.apiServerAllowedIPRanges",
            "[\"10.0.0.0/8\"]",
        ),
        (
            json!({"features": {"apiserverNetworkPolicy": "yes"}}),
            "spec.features.apiserverNetworkPolicy",
            "yes",
        ),
    ];
    for (spec, field, value) in cases {
        let refused = refused(&cluster(spec));
        assert_eq!((refused.field.as_str(), refused.value.as_str()), (field, value));
        assert_eq!(refused.object, Some(Kind::Cluster.reference("", "abc")));
    }
}

#[test]
fn a_list_in_place_of_the_ranges_object_is_never_read_as_no_list() {
    let refused = refused(&cluster(json!({"apiServerAllowedIPRanges": []})));
    assert_eq!(refused.field, "spec.apiServerAllowedIPRanges");
}

#[test]
fn an_object_without_a_spec_is_no_cluster() {
    let value = json!({
        "apiVersion": "kubermatic.k8c.io/v1", "kind": "Cluster", "metadata": {"name": "abc"},
    });
    assert!(refused(&value).reason.contains("spec"), "{}", refused(&value));
}

#[test]
fn a_long_value_is_shown_shortened() {
    let refused = refused(&cluster(json!({"exposeStrategy": ["x".repeat(100_000)]})));
    assert!(refused.value.chars().count() <= Problem::VALUE_CHARACTERS + 1);
    assert!(refused.reason.chars().count() < 300);
}

#[test]
fn both_spellings_of_kkps_group_are_read() {
    for version in ["kubermatic.k8c.io/v1", "kubermatic.k8s.io/v1"] {
        let value = json!({
            "apiVersion": version, "kind": "Seed", "metadata": {"name": "eu"}, "spec": {},
        });
        assert!(matches!(decode(&value), Ok(Some(Object::Seed(_)))), "{version}");
    }
}

#[test]
fn kinds_of_others_are_passed_over() {
    let of = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind});
    assert_eq!(decode(&of("v1", "Secret")), Ok(None));
    assert_eq!(decode(&of("cluster.x-k8s.io/v1beta1", "Cluster")), Ok(None), "Cluster API's");
    assert_eq!(decode(&of("serving.knative.dev/v1", "Service")), Ok(None), "Knative's");
}

#[test]
fn a_kind_of_ours_that_cannot_be_told_for_certain_is_refused() {
    let of = |value: Value| refused(&value).field;
    assert_eq!(of(json!({"kind": "Cluster", "metadata": {"name": "a"}})), "apiVersion");
    assert_eq!(of(json!({"apiVersion": "kubermatic.k8c.io/v2", "kind": "Cluster"})), "apiVersion");
    assert_eq!(of(json!({"metadata": {"name": "a"}})), "kind");
    assert_eq!(of(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}})), "metadata.name");
    assert_eq!(refused(&json!({"apiVersion": "v1", "kind": "Pod"})).object, None);
}

#[test]
fn a_namespace_counts_only_where_kubernetes_has_one() {
    let name = |kind: Kind, namespace| kind.reference(namespace, "a").namespace;
    assert_eq!(name(Kind::Cluster, "kubermatic"), "");
    assert_eq!(name(Kind::Service, ""), "default");
    assert_eq!(name(Kind::Service, "cluster-a"), "cluster-a");
    assert_eq!(name(Kind::Seed, ""), "", "documents of Seeds often name none");
}

#[test]
fn only_annotations_that_something_reads_are_kept() {
    let value = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "a", "annotations": {
            "enforcer.k8c.io/mode": "audit",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
        }},
    });
    let object = decode(&value).unwrap().unwrap();
    let kept: Vec<&String> = object.metadata().annotations.keys().collect();
    assert_eq!(kept, ["enforcer.k8c.io/mode"]);
}

#[test]
fn a_port_that_is_none_is_refused() {
    let value = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 443, "nodePort": 70_000}]},
    });
    let refused = refused(&value);
    assert_eq!((&*refused.field, &*refused.value), ("spec.ports[0].nodePort", "70000"));
}

#[test]
fn a_target_port_is_a_number_or_a_name() {
    let service = |target: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"ports": [{"port": 443, "targetPort": target}]},
        })
    };
    for (written, expected) in [
        (json!(30443), Some(TargetPort::Number(30443))),
        (json!("https"), Some(TargetPort::Name("https".to_owned()))),
        (json!("30443"), Some(TargetPort::Name("30443".to_owned()))),
        (Value::Null, None),
    ] {
        match decode(&service(written)).unwrap() {
            Some(Object::Service(service)) => {
                assert_eq!(service.spec.ports[0].target_port, expected);
            }
            other => panic!("decoded {other:?}"),
        }
    }
    for wrong in [json!(70_000), json!(-1), json!([443]), json!({"port": 443})] {
        let refused = refused(&service(wrong));
        assert_eq!(refused.field, "spec.ports[0].targetPort");
        assert!(refused.reason.contains("a port number or the name"), "{refused}");
    }
}

#[test]
fn an_endpoint_without_a_port_number_is_told_apart_from_one_with_one() {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"},
        "ports": [{"name": "secure", "port": 30443, "protocol": "TCP"}, {"port": null}],
    });
    match decode(&value).unwrap() {
        Some(Object::EndpointSlice(slice)) => {
            let ports: Vec<Option<u16>> = slice.ports.iter().map(|port| port.port).collect();
            assert_eq!(ports, [Some(30443), None]);
        }
        other => panic!("decoded {other:?}"),
    }
}

/// A value for every field that the schema of a CRD knows.
fn sample(schema: &Value) -> Value {
    let of = |name| schema.get(name);
    if of("x-kubernetes-int-or-string").is_some() {
        return json!(1);
    }
    match of("type").and_then(Value::as_str) {
        Some("object") => {
            let properties = of("properties").and_then(Value::as_object).into_iter().flatten();
            let mut map: serde_json::Map<_, _> =
                properties.map(|(name, schema)| (name.clone(), sample(schema))).collect();
            if let Some(schema) = of("additionalProperties") {
                map.insert("any".to_owned(), sample(schema));
            }
            Value::Object(map)
        }
        Some("array") => json!([sample(of("items").expect("items"))]),
        Some("string") => {
            let mut choices = of("enum").and_then(Value::as_array).into_iter().flatten();
            choices.rfind(|choice| **choice != "").cloned().unwrap_or(json!("text"))
        }
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        other => panic!("a schema of type {other:?}"),
    }
}

/// An object of a real CRD in which every field is set.
fn real(plural: &str, kind: &str) -> Object {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kkp-crds");
    let path = folder.join(format!("kubermatic.k8c.io_{plural}.yaml"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let crd: Value =
        serde_saphyr::from_str_with_options(&text, serde_saphyr::options! { budget: None })
            .unwrap();
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("a schema");
    let mut value = sample(schema);
    value["apiVersion"] = json!("kubermatic.k8c.io/v1");
    value["kind"] = json!(kind);
    value["metadata"] = json!({"name": "abc"});
    decode(&value).unwrap().expect("a kind of ours")
}

fn text() -> String {
    "text".to_owned()
}

fn metadata() -> Metadata {
    Metadata { name: "abc".into(), ..Metadata::default() }
}

fn features() -> BTreeMap<String, Option<bool>> {
    BTreeMap::from([("any".to_owned(), Some(true))])
}

#[test]
#[ignore = "needs the real CRDs in ../shared/kkp-crds, beside the project"]
fn every_field_that_is_read_is_in_the_real_crd_of_cluster() {
    let expected = Cluster {
        metadata: metadata(),
        spec: ClusterSpec {
            expose_strategy: "Tunneling".to_owned(),
            api_server_allowed_ip_ranges: Some(NetworkRanges { cidr_blocks: vec![text()] }),
            cloud: CloudSpec { dc: text() },
            pause: true,
            features: features(),
            oidc: Oidc { issuer_url: text() },
        },
        status: ClusterStatus { namespace_name: text() },
    };
    assert_eq!(real("clusters", "Cluster"), Object::Cluster(Arc::new(expected)));
}

#[test]
#[ignore = "needs the real CRDs in ../shared/kkp-crds, beside the project"]
fn every_field_that_is_read_is_in_the_real_crd_of_seed() {
    let load_balancer_service = LoadBalancerService { source_ranges: Some(vec![text()]) };
    let datacenter =
        Datacenter { spec: DatacenterSpec { api_server_service_type: "LoadBalancer".to_owned() } };
    let expected = Seed {
        metadata: metadata(),
        spec: SeedSpec {
            expose_strategy: "Tunneling".to_owned(),
            default_api_server_allowed_ip_ranges: Some(vec![text()]),
            nodeport_proxy: NodeportProxy { disable: true, envoy: Envoy { load_balancer_service } },
            default_cluster_template: text(),
            datacenters: BTreeMap::from([("any".to_owned(), datacenter)]),
        },
    };
    assert_eq!(real("seeds", "Seed"), Object::Seed(Arc::new(expected)));
}

#[test]
#[ignore = "needs the real CRDs in ../shared/kkp-crds, beside the project"]
fn every_field_that_is_read_is_in_the_real_crd_of_cluster_template() {
    let expected =
        ClusterTemplate { metadata: metadata(), spec: TemplateSpec { features: features() } };
    let object = real("clustertemplates", "ClusterTemplate");
    assert_eq!(object, Object::ClusterTemplate(Arc::new(expected)));
}
