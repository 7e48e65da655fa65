//! Which objects are watched, and what a watch hears.
//!
//! Input: this node's name and KKP's namespace. Output: one [`Watch`] for each request that an agent
//! keeps open ([`all`]), and a task that follows it and says what it hears ([`Watch::follow`]).
//! Invariant: a watch never ends; after an error it waits, longer each time and never as long as its
//! neighbours do, and where it is not sure to have heard everything it lists anew.
//!
//! Selectors keep it small: Services and EndpointSlices by the names and labels that KKP gives them, Pods
//! of this node alone, but for Kyverno's, whose services have no certain name. Field selectors know no
//! "or", so that each name of a Service without a label is a watch of its own. Whom API servers connect
//! to is known by EndpointSlices, which are a fifth of the pods' size and change less often.

use std::time::Duration;

use futures::StreamExt as _;
use kube::{
    Api, Client,
    runtime::watcher::{self, Config, DefaultBackoff, Event},
};
use tokio::sync::mpsc;

use super::seen::{Item, Seen, Watched};
use crate::chain::chain;
use crate::source::{
    objects::{Cluster, ClusterTemplate, EndpointSlice, Kind, Namespace, Node, Pod, Seed, Service},
    store::Key,
    translate::egress::{API_SERVER, DNS_NAMESPACE, INGRESS_NAMESPACES},
};

/// Services through which clients reach control planes.
const SERVICES: [&str; 4] =
    ["apiserver-external", "front-loadbalancer", "konnectivity-server", "openvpn-server"];

/// Services whose pods are the peers of a control plane, wherever they run: of those through which
/// clients come, and of those that API servers connect to, `kubernetes` for the seed's own.
const PEERS: &str = "kubernetes.io/service-name in (\
    apiserver-external,dns-resolver,etcd,front-loadbalancer,konnectivity-server,kubernetes,\
    machine-controller-webhook,metrics-server,nodeport-proxy,openvpn-server,\
    operating-system-manager-webhook,usercluster-webhook)";

/// Services that API servers connect to; KKP labels them as it does their pods.
const PEER_SERVICES: &str = "app in (machine-controller-webhook,metrics-server,\
    operating-system-manager-webhook,usercluster-webhook)";

/// Pods and services of Kyverno, in whichever namespace.
const KYVERNO: &str = "app.kubernetes.io/component=admission-controller";

/// The seed's own DNS.
const SEED_DNS: &str = "k8s-app=kube-dns";

/// Objects of one page of a list: a page of Clusters is then some 4 MiB.
const PAGE: u32 = 250;

/// kube's backoff does not end; if it did, this would go on.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Objects of one kind that are watched by one request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Watch {
    /// Their kind.
    pub(super) kind: Kind,
    /// What to call them in front of people.
    pub(super) name: String,
    /// Their namespace, if it is one.
    pub(super) namespace: Option<String>,
    /// Their name, if it is one.
    pub(super) object: Option<&'static str>,
    /// Whether clients reach control planes by these objects: the former snapshot tells which were
    /// there.
    pub(super) exposes: bool,
    labels: Option<&'static str>,
    fields: Option<String>,
}

/// What a watch hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// A list begins.
    Begin,
    /// It has this object.
    Listed(Item),
    /// It is finished.
    Finished,
    /// An object was made or changed.
    Changed(Item),
    /// An object was deleted.
    Deleted(Key),
    /// The API server does not know the kind.
    UnknownKind,
    /// Something is wrong.
    Failed {
        /// What, in words.
        reason: String,
        /// Whether it was the API server that said so.
        answered: bool,
    },
}

/// Everything that an agent watches; `dns`: the seed's own DNS too.
pub(super) fn all(node: &str, kubermatic_namespace: &str, dns: bool) -> Vec<Watch> {
    let ours = || Some(kubermatic_namespace.to_owned());
    let on_node = || Some(format!("spec.nodeName={node}"));
    let mut watches = vec![
        Watch::of(Kind::Cluster, "clusters.kubermatic.k8c.io"),
        Watch { namespace: ours(), ..Watch::of(Kind::Seed, "seeds.kubermatic.k8c.io") },
        Watch {
            labels: Some("scope=seed"),
            ..Watch::of(Kind::ClusterTemplate, "clustertemplates.kubermatic.k8c.io")
        },
        Watch::of(Kind::Namespace, "namespaces"),
        Watch { namespace: ours(), exposes: true, ..Watch::of(Kind::Service, "services of KKP") },
        Watch {
            labels: Some(PEERS),
            exposes: true,
            ..Watch::of(Kind::EndpointSlice, "endpointslices")
        },
        Watch {
            labels: Some("cluster"),
            fields: on_node(),
            ..Watch::of(Kind::Pod, "pods of control planes on this node")
        },
        Watch {
            namespace: ours(),
            fields: on_node(),
            ..Watch::of(Kind::Pod, "pods of KKP on this node")
        },
        Watch::of(Kind::Node, "nodes"),
    ];
    watches.extend(SERVICES.map(|name| Watch {
        object: Some(name),
        exposes: true,
        ..Watch::named(name)
    }));
    watches.extend(of_egress());
    if dns {
        watches.extend([Kind::Service, Kind::EndpointSlice].map(|kind| Watch {
            namespace: Some(DNS_NAMESPACE.to_owned()),
            labels: Some(SEED_DNS),
            ..Watch::of(kind, &format!("{kind}s of the seed's DNS"))
        }));
    }
    watches
}

/// What is watched only for the sake of what API servers connect to.
fn of_egress() -> Vec<Watch> {
    let (api_server_namespace, api_server) = API_SERVER;
    let mut watches = vec![
        Watch { labels: Some(PEER_SERVICES), ..Watch::of(Kind::Service, "services of webhooks") },
        Watch::named("dns-resolver"),
        Watch { namespace: Some(api_server_namespace.to_owned()), ..Watch::named(api_server) },
        Watch { labels: Some(KYVERNO), ..Watch::of(Kind::Service, "services of Kyverno") },
        Watch { labels: Some(KYVERNO), ..Watch::of(Kind::Pod, "pods of Kyverno") },
    ];
    for namespace in INGRESS_NAMESPACES {
        watches.extend([Kind::Service, Kind::EndpointSlice].map(|kind| Watch {
            namespace: Some(namespace.to_owned()),
            ..Watch::of(kind, &format!("{kind}s in {namespace}"))
        }));
    }
    watches
}

impl Watch {
    fn of(kind: Kind, name: &str) -> Self {
        let name = name.to_owned();
        let exposes = matches!(kind, Kind::Cluster | Kind::Seed | Kind::Namespace | Kind::Node);
        Self { kind, name, namespace: None, object: None, exposes, labels: None, fields: None }
    }

    /// Services of this name.
    fn named(name: &'static str) -> Self {
        let fields = Some(format!("metadata.name={name}"));
        Self { fields, ..Self::of(Kind::Service, &format!("services {name}")) }
    }

    /// Follows the watch after a pause and says what it hears, with `number` to tell it from others.
    pub(super) async fn follow(
        self,
        number: usize,
        client: Client,
        pause: Duration,
        say: mpsc::Sender<(usize, Heard)>,
    ) {
        tokio::time::sleep(pause).await;
        let way = Way { number, say };
        match self.kind {
            Kind::Cluster => follow::<Cluster>(&self, client, way).await,
            Kind::Seed => follow::<Seed>(&self, client, way).await,
            Kind::ClusterTemplate => follow::<ClusterTemplate>(&self, client, way).await,
            Kind::Namespace => follow::<Namespace>(&self, client, way).await,
            Kind::Service => follow::<Service>(&self, client, way).await,
            Kind::EndpointSlice => follow::<EndpointSlice>(&self, client, way).await,
            Kind::Pod => follow::<Pod>(&self, client, way).await,
            Kind::Node => follow::<Node>(&self, client, way).await,
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::default().page_size(PAGE);
        config.label_selector = self.labels.map(str::to_owned);
        config.field_selector.clone_from(&self.fields);
        config
    }
}

/// Where to say what is heard.
struct Way {
    number: usize,
    say: mpsc::Sender<(usize, Heard)>,
}

/// Nobody listens any more.
struct Unheard;

impl Way {
    async fn say(&self, heard: Heard) -> Result<(), Unheard> {
        self.say.send((self.number, heard)).await.map_err(|_| Unheard)
    }
}

async fn follow<T: Watched>(watch: &Watch, client: Client, way: Way) {
    let api: Api<Seen<T>> = match &watch.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &()),
        None => Api::all_with(client, &()),
    };
    let mut backoff = DefaultBackoff::default();
    while once(&api, watch, &way, &mut backoff).await.is_ok() {}
}

/// Lists and watches until that must begin anew, which is so after every error but a broken stream:
/// kube's watcher does not say afterwards that it is well again, and a list does.
async fn once<T: Watched>(
    api: &Api<Seen<T>>,
    watch: &Watch,
    way: &Way,
    backoff: &mut DefaultBackoff,
) -> Result<(), Unheard> {
    let mut events = std::pin::pin!(watcher::watcher(api.clone(), watch.config()));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => way.say(heard(event)).await?,
            // The watcher goes on where it was.
            Err(watcher::Error::WatchFailed(kube::Error::ReadEvents(_))) => {}
            Err(error) => {
                way.say(judge(&error)).await?;
                tokio::time::sleep(backoff.next().unwrap_or(LONGEST_PAUSE)).await;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn heard<T: Watched>(event: Event<Seen<T>>) -> Heard {
    match event {
        Event::Init => Heard::Begin,
        Event::InitApply(seen) => Heard::Listed(seen.into_item()),
        Event::InitDone => Heard::Finished,
        Event::Apply(seen) => Heard::Changed(seen.into_item()),
        Event::Delete(seen) => Heard::Deleted(seen.into_item().key),
    }
}

fn judge(error: &watcher::Error) -> Heard {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => {
            return Heard::Failed { reason: chain(error), answered: false };
        }
    };
    match status.code {
        404 => Heard::UnknownKind,
        code => {
            let reason = format!("the API server says {code}: {}", status.message);
            Heard::Failed { reason, answered: true }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_watched_and_pods_only_of_this_node_and_kyvernos() {
        let watches = all("n1", "kkp", true);
        for kind in Kind::ALL {
            let mut of_kind = watches.iter().filter(|watch| watch.kind == kind).peekable();
            assert!(of_kind.peek().is_some(), "{kind}");
            let of_node = |watch: &&Watch| kind == Kind::Pod && watch.labels != Some(KYVERNO);
            for watch in of_kind.filter(of_node) {
                assert_eq!(watch.config().field_selector.as_deref(), Some("spec.nodeName=n1"));
            }
        }
        let mut names: Vec<&str> = watches.iter().map(|watch| watch.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), watches.len());
        // The README says how many.
        assert_eq!((watches.len(), all("n1", "kkp", false).len()), (24, 22));
    }
}
