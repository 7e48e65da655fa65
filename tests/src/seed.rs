//! KKP's objects: a seed, and user clusters with all that KKP creates for their API servers.
//!
//! A [`UserCluster`] is one description with three readings: the manifests that the agent reads,
//! the services that kube-proxy serves, and the frontends at which clients can knock.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::addresses::{Dual, FIRST_VIP, cluster_ip};
use crate::entrances;
use crate::kube::{self, KubePort, KubeService, Pod, ServiceType};
use crate::nat::{self, Protocol};

/// `spec.exposeStrategy` of a Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// A front load balancer of its own, with Envoy in the namespace.
    LoadBalancer,
    /// The nodePorts of `apiserver-external` behind the shared proxy.
    NodePort,
    /// One shared port, told apart by SNI.
    Tunneling,
}

impl Strategy {
    fn name(self) -> &'static str {
        match self {
            Strategy::LoadBalancer => "LoadBalancer",
            Strategy::NodePort => "NodePort",
            Strategy::Tunneling => "Tunneling",
        }
    }
}

/// A user cluster with its control plane in namespace `cluster-NAME`.
#[derive(Clone, Debug)]
pub struct UserCluster {
    /// The cluster's id.
    pub name: String,
    /// 1 to 99; decides ports, cluster IPs and the VIP.
    pub number: u8,
    /// How it is exposed.
    pub strategy: Strategy,
    /// C, `apiServerAllowedIPRanges`: None is nil, which differs from an empty list.
    pub allowed: Option<Vec<String>>,
    /// The egress gate, `features.apiserverNetworkPolicy`; None is absent.
    pub gate: Option<bool>,
    /// Annotations of the Cluster.
    pub annotations: Vec<(String, String)>,
    /// Annotations of the control-plane Namespace.
    pub namespace_annotations: Vec<(String, String)>,
    /// The API server's pods.
    pub api_servers: Vec<Pod>,
    /// The Envoy pods of strategy LoadBalancer.
    pub envoys: Vec<Pod>,
    /// Whether it has every other kind of way in as well, see [`crate::entrances`].
    pub wide: bool,
}

/// The port numbers of a user cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// nodePort of `apiserver-external`, on which the API server itself listens too.
    pub api_server: u16,
    /// nodePort of `konnectivity-server`; its pods listen on 8132.
    pub konnectivity: u16,
    /// Own nodePorts of `front-loadbalancer`: for healthz, the API server, konnectivity.
    pub front: [u16; 3],
}

/// The port of konnectivity in the API server's pod.
pub const KONNECTIVITY: u16 = 8132;
/// The health port of Envoy and of the front load balancer, open to all.
pub const HEALTHZ: u16 = 8002;

impl UserCluster {
    /// A cluster of strategy LoadBalancer without ranges, gate or pods.
    pub fn new(name: &str, number: u8) -> UserCluster {
        UserCluster {
            name: name.into(),
            number,
            strategy: Strategy::LoadBalancer,
            allowed: None,
            gate: None,
            annotations: Vec::new(),
            namespace_annotations: Vec::new(),
            api_servers: Vec::new(),
            envoys: Vec::new(),
            wide: false,
        }
    }

    /// Sets C to a list.
    #[must_use]
    pub fn allow(mut self, ranges: &[&str]) -> UserCluster {
        self.allowed = Some(ranges.iter().map(|range| (*range).to_owned()).collect());
        self
    }

    /// Its control-plane namespace.
    pub fn namespace(&self) -> String {
        format!("cluster-{}", self.name)
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        let number = u16::from(self.number);
        let front = [32000 + number, 32100 + number, 32200 + number];
        Ports { api_server: 31000 + number, konnectivity: 31100 + number, front }
    }

    /// The VIP of its front load balancer.
    pub fn vip(&self) -> Dual {
        FIRST_VIP.plus(u16::from(self.number) - 1)
    }

    /// All objects of this cluster: Cluster, Namespace, Services, EndpointSlices, Pods.
    pub fn objects(&self) -> Vec<Value> {
        let namespace = self.namespace();
        let mut objects =
            vec![self.cluster(), kube::namespace(&namespace, &self.namespace_annotations)];
        objects.extend(self.services().iter().flat_map(KubeService::objects));
        let pods = |pods: &[Pod], app: &str| -> Vec<Value> {
            let labels = [("app", app), ("cluster", self.name.as_str())];
            pods.iter().map(|pod| kube::pod(&namespace, pod, &labels)).collect()
        };
        objects.extend(pods(&self.api_servers, "apiserver"));
        objects.extend(pods(&self.envoys, "nodeport-proxy-envoy"));
        objects
    }

    /// The Cluster object alone.
    pub fn cluster(&self) -> Value {
        let mut spec = json!({
            "humanReadableName": self.name,
            "version": "1.33.1",
            "cloud": {"dc": "dc-1", "providerName": "kubevirt"},
            "clusterNetwork": {
                "dnsDomain": "cluster.local",
                "proxyMode": "ipvs",
                "pods": {"cidrBlocks": ["172.25.0.0/16"]},
                "services": {"cidrBlocks": ["10.240.16.0/20"]},
            },
            "exposeStrategy": self.strategy.name(),
            "features": {},
        });
        if let Some(ranges) = &self.allowed {
            spec["apiServerAllowedIPRanges"] = json!({"cidrBlocks": ranges});
        }
        if let Some(gate) = self.gate {
            spec["features"]["apiserverNetworkPolicy"] = gate.into();
        }
        json!({
            "apiVersion": "kubermatic.k8c.io/v1",
            "kind": "Cluster",
            "metadata": {"name": self.name, "annotations": kube::strings(&self.annotations)},
            "spec": spec,
            "status": {"namespaceName": self.namespace()},
        })
    }

    /// The services that KKP creates for this strategy.
    pub fn services(&self) -> Vec<KubeService> {
        let Ports { api_server, konnectivity, .. } = self.ports();
        let (kind, port) = match self.strategy {
            Strategy::LoadBalancer | Strategy::NodePort => (ServiceType::NodePort, 443),
            Strategy::Tunneling => (ServiceType::ClusterIp, 6443),
        };
        let target = if kind == ServiceType::ClusterIp { port } else { api_server };
        let secure = KubePort::tcp("secure", port, target, api_server);
        let tunnel = KubePort::tcp("secure", 443, KONNECTIVITY, konnectivity);
        let mut services = vec![
            self.service("apiserver-external", kind, 0, vec![secure]),
            self.service("konnectivity-server", kind, 1, vec![tunnel]),
        ];
        let expose = match self.strategy {
            Strategy::LoadBalancer => ("nodeport-proxy.k8s.io/expose-namespaced", "true"),
            Strategy::NodePort => ("nodeport-proxy.k8s.io/expose", "NodePort"),
            Strategy::Tunneling => ("nodeport-proxy.k8s.io/expose", "SNI,Tunneling"),
        };
        for service in &mut services {
            service.annotations.push((expose.0.into(), expose.1.into()));
        }
        if self.strategy == Strategy::LoadBalancer {
            services.push(self.front_load_balancer());
        }
        if self.wide {
            entrances::widen(self, &mut services);
        }
        services
    }

    /// The services for [`crate::topology::Network::serve`].
    pub fn rules(&self) -> Vec<nat::Service> {
        self.services().iter().map(KubeService::rules).collect()
    }

    /// All customary ways for clients into this cluster's API server through the node at `node`.
    pub fn frontends(&self, node: Dual) -> Vec<Frontend> {
        let Ports { api_server, konnectivity, front } = self.ports();
        let vip = self.vip();
        let ways: &[(&'static str, Dual, u16, bool)] = &[
            ("VIP", vip, api_server, true),
            ("VIP, konnectivity", vip, konnectivity, true),
            ("VIP, healthz", vip, HEALTHZ, false),
            ("nodePort", node, front[1], true),
            ("nodePort, konnectivity", node, front[2], true),
            ("nodePort, healthz", node, front[0], false),
            ("bypass nodePort", node, api_server, true),
            ("bypass nodePort, konnectivity", node, konnectivity, true),
        ];
        let exists = |label: &str| match self.strategy {
            Strategy::LoadBalancer => true,
            Strategy::NodePort => label.starts_with("bypass"),
            Strategy::Tunneling => false,
        };
        let ways = ways.iter().filter(|(label, ..)| exists(label));
        let both = |&(label, dual, port, guarded): &(&'static str, Dual, u16, bool)| {
            dual.at(port).map(|address| Frontend {
                label,
                address,
                guarded,
                protocol: Protocol::Tcp,
            })
        };
        ways.flat_map(both).collect()
    }

    fn front_load_balancer(&self) -> KubeService {
        let Ports { api_server, konnectivity, front } = self.ports();
        let ports = vec![
            KubePort::tcp("healthz", HEALTHZ, HEALTHZ, front[0]),
            KubePort::tcp("apiserver-external-secure", api_server, api_server, front[1]),
            KubePort::tcp("konnectivity-server-secure", konnectivity, konnectivity, front[2]),
        ];
        let mut service = self.service("front-loadbalancer", ServiceType::LoadBalancer, 2, ports);
        service.vip = Some(self.vip());
        service.selector = vec![("app".into(), "nodeport-proxy-envoy".into())];
        service.pods.clone_from(&self.envoys);
        service
    }

    pub(crate) fn service(
        &self,
        name: &str,
        kind: ServiceType,
        index: u16,
        ports: Vec<KubePort>,
    ) -> KubeService {
        KubeService {
            namespace: self.namespace(),
            name: name.into(),
            kind,
            cluster_ip: cluster_ip(u16::from(self.number) * 10 + index),
            vip: None,
            external_ips: Vec::new(),
            local: false,
            annotations: Vec::new(),
            selector: vec![("app".into(), "apiserver".into())],
            ports,
            pods: self.api_servers.clone(),
        }
    }
}

/// One way into an API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What a table calls it.
    pub label: &'static str,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// Whether an allowlist applies; the health ports stay open.
    pub guarded: bool,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// The Seed object.
#[derive(Clone, Debug)]
pub struct Seed {
    /// Its name.
    pub name: String,
    /// D, `defaultAPIServerAllowedIPRanges`; None leaves it out.
    pub defaults: Option<Vec<String>>,
    /// S, the load balancers' `sourceRanges`; None leaves it out.
    pub source_ranges: Option<Vec<String>>,
    /// `apiServerServiceType` of datacenter `dc-1`.
    pub api_server_service_type: Option<String>,
    /// `spec.defaultClusterTemplate`.
    pub default_cluster_template: Option<String>,
}

impl Default for Seed {
    /// Seed `europe` without any ranges.
    fn default() -> Seed {
        Seed {
            name: "europe".into(),
            defaults: None,
            source_ranges: None,
            api_server_service_type: None,
            default_cluster_template: None,
        }
    }
}

impl Seed {
    /// The object.
    pub fn object(&self) -> Value {
        let Seed {
            name,
            defaults,
            source_ranges,
            api_server_service_type,
            default_cluster_template,
        } = self;
        let mut datacenter =
            json!({"country": "DE", "location": "Hamburg", "spec": {"kubevirt": {}}});
        if let Some(kind) = api_server_service_type {
            datacenter["spec"]["apiServerServiceType"] = json!(kind);
        }
        let mut spec = json!({
            "country": "DE",
            "exposeStrategy": "LoadBalancer",
            "kubeconfig": {"namespace": "kubermatic", "name": "kubeconfig-europe"},
            "datacenters": {"dc-1": datacenter},
        });
        if let Some(ranges) = defaults {
            spec["defaultAPIServerAllowedIPRanges"] = json!(ranges);
        }
        if let Some(ranges) = source_ranges {
            spec["nodeportProxy"]["envoy"]["loadBalancerService"]["sourceRanges"] = json!(ranges);
        }
        if let Some(template) = default_cluster_template {
            spec["defaultClusterTemplate"] = json!(template);
        }
        json!({
            "apiVersion": "kubermatic.k8c.io/v1",
            "kind": "Seed",
            "metadata": {"namespace": "kubermatic", "name": name},
            "spec": spec,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::FIRST_NODE;

    #[test]
    fn absent_empty_and_given_ranges_are_three_different_clusters() {
        let ranges =
            |cluster: UserCluster| cluster.cluster()["spec"]["apiServerAllowedIPRanges"].clone();
        let cluster = UserCluster::new("c1", 1);
        assert_eq!(ranges(cluster.clone()), Value::Null);
        assert_eq!(ranges(cluster.clone().allow(&[])), json!({"cidrBlocks": []}));
        assert_eq!(ranges(cluster.allow(&["::/0"])), json!({"cidrBlocks": ["::/0"]}));
    }

    #[test]
    fn every_frontend_is_an_entrance_of_some_service_and_no_entrance_is_forgotten() {
        for strategy in [Strategy::LoadBalancer, Strategy::NodePort, Strategy::Tunneling] {
            let cluster = UserCluster { strategy, ..UserCluster::new("c7", 7) };
            let mut entrances = Vec::new();
            for service in cluster.rules() {
                for port in service.ports {
                    let external =
                        service.external.iter().map(|ip| SocketAddr::new(*ip, port.port));
                    entrances.extend(external);
                    entrances
                        .extend(port.node_port.map(|p| FIRST_NODE.at(p)).into_iter().flatten());
                }
            }
            let frontends = cluster.frontends(FIRST_NODE);
            let mut frontends: Vec<_> = frontends.iter().map(|f| f.address).collect();
            entrances.sort();
            frontends.sort();
            assert_eq!(frontends, entrances, "{strategy:?}");
        }
    }

    #[test]
    fn the_seeds_ranges_stand_where_kkp_reads_them() {
        let ranges = || Some(vec!["10.0.0.0/8".to_owned()]);
        let seed = Seed { defaults: ranges(), source_ranges: ranges(), ..Seed::default() };
        let spec = &seed.object()["spec"];
        assert_eq!(spec["defaultAPIServerAllowedIPRanges"], json!(["10.0.0.0/8"]));
        let front = &spec["nodeportProxy"]["envoy"]["loadBalancerService"]["sourceRanges"];
        assert_eq!(front, &json!(["10.0.0.0/8"]));
        assert_eq!(Seed::default().object()["spec"]["nodeportProxy"], Value::Null);
    }
}
