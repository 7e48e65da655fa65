//! The whole seed in one value: network, user clusters with real servers, manifests.
//!
//! What the demo shows and most tests start from. Everything in it is public: change a cluster or
//! the seed, call [`Stage::publish`], and the agent reads the new objects.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::agent::Installation;
use crate::kube::{self, KubeService, Pod};
use crate::listen::Server;
use crate::manifests::Manifests;
use crate::seed::{Frontend, HEALTHZ, KONNECTIVITY, Seed, Strategy, UserCluster};
use crate::survey::{self, Access, Question};
use crate::topology::{Host, Network, Plan};

/// A seed with one user cluster; every frontend answers as long as nobody filters.
#[derive(Debug)]
pub struct Stage {
    /// Servers by what they are: `apiserver`, `konnectivity`, `healthz`, and Envoy's listeners.
    pub servers: HashMap<&'static str, Server>,
    /// The cluster, as it will be published next.
    pub cluster: UserCluster,
    /// More clusters on the same seed, as they will be published next.
    pub tenants: Vec<Tenant>,
    /// Services outside of control planes, as they will be published next.
    pub services: Vec<KubeService>,
    /// The seed, as it will be published next.
    pub seed: Seed,
    /// What the agent watches.
    pub manifests: Manifests,
    /// The namespaces.
    pub network: Network,
}

/// Another user cluster with pods of its own.
#[derive(Debug)]
pub struct Tenant {
    /// The cluster.
    pub cluster: UserCluster,
    /// Its servers, by the names that [`Stage::servers`] has for those of `c1`.
    pub servers: HashMap<&'static str, Server>,
}

/// The node of the customary stage.
pub const NODE: &str = "seed-1";
/// The file that [`Stage::publish`] writes.
pub const MANIFEST: &str = "seed.yaml";

impl Stage {
    /// Clients `listed` and `unlisted`, node `seed-1`, cluster `c1` of strategy LoadBalancer.
    pub fn customary() -> Result<Stage> {
        Stage::on(Plan::customary())
    }

    /// The same on any plan that has node `seed-1` with pods `envoy` and `apiserver`.
    pub fn on(plan: Plan) -> Result<Stage> {
        let mut network = plan.build()?;
        let Tenant { cluster, servers } =
            settle(&mut network, UserCluster::new("c1", 1), "apiserver", "envoy")?;
        let (seed, manifests) = (Seed::default(), Manifests::new()?);
        let (tenants, services) = (Vec::new(), Vec::new());
        let stage = Stage { servers, cluster, tenants, services, seed, manifests, network };
        stage.publish()?;
        Ok(stage)
    }

    /// Adds a cluster of strategy LoadBalancer, see [`Stage::settle`]. `number` decides its ports and
    /// VIP; 1 is taken.
    pub fn add_tenant(&mut self, name: &str, number: u8) -> Result<&mut Tenant> {
        self.settle(UserCluster::new(name, number))
    }

    /// Adds a cluster with pods `apiserver-NAME` and `envoy-NAME` on node `seed-1`; it is published
    /// with the next [`Stage::publish`].
    pub fn settle(&mut self, cluster: UserCluster) -> Result<&mut Tenant> {
        let name = &cluster.name;
        let [api, envoy] = ["apiserver", "envoy"].map(|app| format!("{app}-{name}"));
        self.network.add_pod(NODE, &api)?;
        self.network.add_pod(NODE, &envoy)?;
        let tenant = settle(&mut self.network, cluster, &api, &envoy)?;
        self.tenants.push(tenant);
        self.tenants.last_mut().context("pushed above")
    }

    /// Writes the manifests of nodes, seed and clusters as one file, by one rename: one change.
    pub fn publish(&self) -> Result<()> {
        self.manifests.put(MANIFEST, &self.objects())
    }

    /// What [`Stage::publish`] writes.
    pub fn objects(&self) -> Vec<Value> {
        let nodes = self.network.nodes().map(|(name, node)| kube::node(name, node));
        let mut objects: Vec<Value> = nodes.collect();
        objects.push(self.seed.object());
        objects.extend(self.cluster.objects());
        objects.extend(self.tenants.iter().flat_map(|tenant| tenant.cluster.objects()));
        objects.extend(self.services.iter().flat_map(KubeService::objects));
        objects
    }

    /// An installation of the agent on node `seed-1`, reading this stage's manifests.
    pub fn installation(&self) -> Result<Installation> {
        Installation::new(&self.network.node(NODE).ns, NODE, self.manifests.folder())
    }

    /// All ways into the API server of `c1` through node `seed-1`.
    pub fn frontends(&self) -> Vec<Frontend> {
        self.frontends_of(&self.cluster)
    }

    /// All ways into a cluster's API server through node `seed-1`.
    pub fn frontends_of(&self, cluster: &UserCluster) -> Vec<Frontend> {
        cluster.frontends(self.network.node(NODE).addresses)
    }

    /// The clients `listed` and `unlisted` at every frontend of `c1`, see [`Stage::questions_of`].
    pub fn questions(&self, admitted: &[&str]) -> Vec<Question<'_>> {
        self.questions_of(&["listed", "unlisted"], admitted)
    }

    /// These clients at every frontend of `c1`; those `admitted` get in everywhere, the others at
    /// the health ports only.
    pub fn questions_of<'a>(&'a self, clients: &[&'a str], admitted: &[&str]) -> Vec<Question<'a>> {
        let of = |client: &'a str| {
            let from = &self.network.host(client).ns;
            let guarded = Access::of(client, admitted);
            self.frontends().into_iter().map(move |frontend| {
                let expected = if frontend.guarded { guarded } else { Access::Open };
                Question { client, from, frontend, expected }
            })
        };
        clients.iter().copied().flat_map(of).collect()
    }

    /// Asks [`Stage::questions`] and says which answers are not as expected: a test wants none.
    pub fn surprises(&self, admitted: &[&str]) -> Vec<String> {
        survey::surprises(&self.questions(admitted))
    }

    /// The frontend of `c1` of that label and address family; panics if there is none.
    pub fn frontend(&self, label: &str, v6: bool) -> SocketAddr {
        let found =
            self.frontends().into_iter().find(|f| f.label == label && f.address.is_ipv6() == v6);
        found.unwrap_or_else(|| panic!("no frontend {label}")).address
    }
}

/// Gives a cluster its pods, services and servers.
fn settle(
    network: &mut Network,
    mut cluster: UserCluster,
    api: &str,
    envoy: &str,
) -> Result<Tenant> {
    let pod = |name: &str| Pod {
        name: name.into(),
        node: NODE.into(),
        addresses: network.pod(name).addresses,
    };
    cluster.api_servers = vec![pod(api)];
    if cluster.strategy == Strategy::LoadBalancer {
        cluster.envoys = vec![pod(envoy)];
    }
    network.serve_also(&cluster.rules())?;
    let servers = servers(network.pod(api), network.pod(envoy), &cluster)?;
    Ok(Tenant { cluster, servers })
}

/// Starts what listens in the pods: the API server's two ports, and Envoy before them.
fn servers(
    api: &Host,
    envoy: &Host,
    cluster: &UserCluster,
) -> Result<HashMap<&'static str, Server>> {
    let ports = cluster.ports();
    let upstream = |port| SocketAddr::new(api.addresses.v4.into(), port);
    let mut servers = HashMap::from([
        ("apiserver", Server::echo(&api.ns, any(ports.api_server), "apiserver")?),
        ("konnectivity", Server::echo(&api.ns, any(KONNECTIVITY), "konnectivity")?),
    ]);
    if cluster.strategy == Strategy::LoadBalancer {
        let forward = |port, to| Server::forward(&envoy.ns, any(port), upstream(to));
        servers.insert("healthz", Server::echo(&envoy.ns, any(HEALTHZ), "healthz")?);
        servers.insert("envoy", forward(ports.api_server, ports.api_server)?);
        servers.insert("envoy-konnectivity", forward(ports.konnectivity, KONNECTIVITY)?);
    }
    Ok(servers)
}

/// All addresses of both families.
fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}
