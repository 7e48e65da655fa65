//! Objects into the API server and out of it, fast: by kube, over one connection.
//!
//! Input: objects as JSON. Output: the same objects in the API server, `status` included. Invariant:
//! what a write leaves is exactly the object given, as with `kubectl replace`.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::kube as objects;
use crate::netns::Netns;

/// A client of one API server with one token; sockets are made in its namespace.
pub struct Client {
    ns: Netns,
    runtime: Runtime,
    client: kube::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("ns", &self.ns).finish_non_exhaustive()
    }
}

/// One kind that tests write or read.
#[derive(Clone, Copy, Debug)]
struct Kind {
    kind: &'static str,
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Whether `status` is written apart from the rest.
    has_status: bool,
}

impl Kind {
    const fn of(kind: &'static str, group: &'static str, plural: &'static str) -> Kind {
        Kind { kind, group, plural, namespaced: true, has_status: false }
    }

    const fn everywhere(self) -> Kind {
        Kind { namespaced: false, ..self }
    }

    const fn with_status(self) -> Kind {
        Kind { has_status: true, ..self }
    }
}

const KINDS: [Kind; 11] = [
    Kind::of("Cluster", "kubermatic.k8c.io", "clusters").everywhere().with_status(),
    Kind::of("Seed", "kubermatic.k8c.io", "seeds"),
    Kind::of("ClusterTemplate", "kubermatic.k8c.io", "clustertemplates").everywhere(),
    Kind::of("Namespace", "", "namespaces").everywhere(),
    Kind::of("Node", "", "nodes").everywhere().with_status(),
    Kind::of("Pod", "", "pods").with_status(),
    Kind::of("Service", "", "services").with_status(),
    Kind::of("EndpointSlice", "discovery.k8s.io", "endpointslices"),
    Kind::of("Event", "events.k8s.io", "events"),
    Kind::of("Lease", "coordination.k8s.io", "leases"),
    Kind::of("DaemonSet", "apps", "daemonsets"),
];

impl Client {
    /// Connects as a kubeconfig says.
    pub(super) fn connect(ns: &Netns, kubeconfig: Kubeconfig) -> Result<Client> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
        let client = ns.enter(|| {
            runtime.block_on(async {
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
                anyhow::Ok(kube::Client::try_from(config)?)
            })
        });
        Ok(Client { ns: ns.clone(), runtime, client: client.context("cannot make a client")? })
    }

    /// Creates or replaces objects one by one, and first the namespaces that are not there.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let named = |object: &Value, pointer: &str| {
            object.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
        };
        let needed: BTreeSet<String> =
            objects.iter().filter_map(|object| named(object, "/metadata/namespace")).collect();
        for name in needed {
            if self.get("Namespace", "", &name)?.is_none() {
                self.put(&objects::namespace(&name, &[]))?;
            }
        }
        objects.iter().try_for_each(|object| self.put(object))
    }

    /// Creates or replaces one object; returns once the API server has it.
    pub fn put(&self, object: &Value) -> Result<()> {
        let kind = kind(object["kind"].as_str().unwrap_or_default())?;
        let object: DynamicObject =
            serde_json::from_value(object.clone()).context("an object without metadata")?;
        let name = object.metadata.name.clone().context("an object without a name")?;
        let api = self.api(kind, object.metadata.namespace.as_deref());
        let params = PostParams::default();
        self.wait(async {
            let mut object = object;
            let present = api.get_opt(&name).await?;
            object.metadata.resource_version =
                present.and_then(|present| present.metadata.resource_version);
            let written = match object.metadata.resource_version {
                None => api.create(&params, &object).await?,
                Some(_) => api.replace(&name, &params, &object).await?,
            };
            if kind.has_status && object.data.get("status").is_some() {
                object.metadata.resource_version = written.metadata.resource_version;
                api.replace_status(&name, &params, &object).await?;
            }
            Ok(())
        })
        .with_context(|| format!("cannot write {} {name}", kind.kind))
    }

    /// One object, if it is there; `namespace` is empty for kinds without.
    pub fn get(&self, kind_name: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let api = self.api(kind(kind_name)?, Some(namespace));
        let found = self
            .wait(api.get_opt(name))
            .with_context(|| format!("cannot read {kind_name} {name}"))?;
        found.map(|object| serde_json::to_value(object).context("no JSON")).transpose()
    }

    /// All objects of a kind; in every namespace if `namespace` is empty.
    pub fn list(&self, kind_name: &str, namespace: &str) -> Result<Vec<Value>> {
        let api = self.api(kind(kind_name)?, Some(namespace));
        let all = self
            .wait(async { api.list(&ListParams::default()).await })
            .with_context(|| format!("cannot list {kind_name}"))?;
        all.items
            .into_iter()
            .map(|object| serde_json::to_value(object).context("no JSON"))
            .collect()
    }

    /// Deletes one object.
    pub fn delete(&self, kind_name: &str, namespace: &str, name: &str) -> Result<()> {
        let api = self.api(kind(kind_name)?, Some(namespace));
        self.wait(async { api.delete(name, &DeleteParams::default().grace_period(0)).await })
            .with_context(|| format!("cannot delete {kind_name} {name}"))?;
        Ok(())
    }

    fn api(&self, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        let api_version =
            if kind.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", kind.group) };
        let resource = ApiResource {
            group: kind.group.into(),
            version: "v1".into(),
            api_version,
            kind: kind.kind.into(),
            plural: kind.plural.into(),
        };
        match namespace.filter(|name| kind.namespaced && !name.is_empty()) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    fn wait<T: Send>(&self, work: impl Future<Output = kube::Result<T>> + Send) -> kube::Result<T> {
        self.ns.enter(|| self.runtime.block_on(work))
    }
}

fn kind(name: &str) -> Result<Kind> {
    match KINDS.iter().find(|kind| kind.kind == name) {
        Some(kind) => Ok(*kind),
        None => bail!("the harness does not write objects of kind {name:?}"),
    }
}
