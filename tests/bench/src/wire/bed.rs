//! One bed: client host, node with kube-proxy's address translation, server behind it, and a filter.
//!
//! The client host is the namespace of the router: its packets meet nothing before the node.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{SchedClassifier, TcAttachType},
};
use enforcer_tests::{
    addresses::FIRST_VIP,
    agent::{Agent, Installation},
    kube::{self, Pod},
    manifests::Manifests,
    netns::Netns,
    seed::{Seed, UserCluster},
    stage::NODE,
    topology::{Network, Plan},
};

use super::{
    filter::{self, Filter},
    load::Server,
    ranges::Ranges,
};

/// The load balancer's address that clients connect to.
pub(crate) const VIP: Ipv4Addr = FIRST_VIP.v4;
/// And its port.
pub(crate) const PORT: u16 = 31001;
/// The client.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// What the client's kernel is told: nothing about pacing or ports decides a figure.
const CLIENT_SETTINGS: &[(&str, &str)] = &[
    ("ipv4/tcp_congestion_control", "reno"),
    // Connections follow each other on few ports, so that the node tracks few.
    ("ipv4/ip_local_port_range", "20000 23999"),
];
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// A bed.
pub(crate) struct Bed {
    pub(crate) filter: Filter,
    /// Why there is none.
    pub(crate) left_out: Option<String>,
    pub(crate) loaded_in: Duration,
    pub(crate) server: Server,
    // In this order: what runs, what it reads, where it runs.
    agent: Option<Agent>,
    installation: Option<Installation>,
    _program: Option<Ebpf>,
    manifests: Manifests,
    cluster: UserCluster,
    network: Network,
}

impl Bed {
    /// Sets one up, without ranges.
    pub(crate) fn new(filter: Filter, programs: &[u8]) -> Result<Self> {
        let mut network = Plan::customary().build()?;
        let pod = |name: &str| Pod {
            name: name.into(),
            node: NODE.into(),
            addresses: network.pod(name).addresses,
        };
        let mut cluster = UserCluster::new("c1", 1);
        (cluster.api_servers, cluster.envoys) = (vec![pod("apiserver")], vec![pod("envoy")]);
        network.serve_also(&cluster.rules())?;
        let client = network.router();
        client.sysctl(CLIENT_SETTINGS)?;
        let via = network.node(NODE).addresses.v4;
        client.ip(&format!(
            "addr add {CLIENT}/32 dev nodes\nroute replace {VIP}/32 via {via} src {CLIENT}\n"
        ))?;
        discarding(client)?;
        let node = &network.node(NODE).ns;
        node.sysctl(&[("netfilter/nf_conntrack_tcp_timeout_close", "1")])?;
        let program = match filter {
            Filter::DropAll => Some(drop_all(node, programs)?),
            Filter::None
            | Filter::NoneAgain
            | Filter::Ours
            | Filter::KubeProxy
            | Filter::Stateless
            | Filter::Ipset
            | Filter::Linear => None,
        };
        let server = Server::start(&network.pod("envoy").ns, PORT)?;
        Ok(Self {
            filter,
            left_out: None,
            loaded_in: Duration::ZERO,
            server,
            agent: None,
            installation: None,
            _program: program,
            manifests: Manifests::new()?,
            cluster,
            network,
        })
    }

    /// Admits the client and the other ranges, and nobody else.
    pub(crate) fn load(&mut self, ranges: &Ranges) -> Result<()> {
        let begin = Instant::now();
        let node = self.network.node(NODE).ns.clone();
        self.left_out = missing(self.filter);
        if self.left_out.is_none() {
            let loaded = match self.filter {
                Filter::Ours => return self.load_agent(ranges, begin),
                filter @ (Filter::None
                | Filter::NoneAgain
                | Filter::KubeProxy
                | Filter::Stateless
                | Filter::Ipset
                | Filter::Linear
                | Filter::DropAll) => filter::load(filter, &node, ranges),
            };
            self.left_out = loaded.err().map(|error| format!("{error:#}"));
        }
        self.loaded_in = begin.elapsed();
        Ok(())
    }

    /// The agent, where there is one.
    pub(crate) fn agent(&self) -> Result<(&Agent, &Installation)> {
        self.agent.as_ref().zip(self.installation.as_ref()).context("no agent runs in this bed")
    }

    /// The host of the client.
    pub(crate) fn client(&self) -> &Netns {
        self.network.router()
    }

    /// The client's end of the node's cable, and the node's Ethernet address at the other.
    pub(crate) fn cable(&self) -> (&str, [u8; 6]) {
        let node = self.network.node(NODE);
        (&node.peer, node.mac)
    }

    /// Where clients connect to.
    pub(crate) fn frontend() -> SocketAddr {
        SocketAddr::from((VIP, PORT))
    }

    fn load_agent(&mut self, ranges: &Ranges, begin: Instant) -> Result<()> {
        let texts: Vec<String> = ranges.texts().collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let cluster = self.cluster.clone().allow(&texts);
        let mut objects: Vec<_> =
            self.network.nodes().map(|(name, node)| kube::node(name, node)).collect();
        objects.push(Seed::default().object());
        objects.extend(cluster.objects());
        match &self.agent {
            Some(agent) => {
                agent.enforces(|| self.manifests.put("seed.yaml", &objects))?;
            }
            None => {
                self.manifests.put("seed.yaml", &objects)?;
                let node = &self.network.node(NODE).ns;
                let installation = Installation::new(node, NODE, self.manifests.folder())?
                    .arguments(&["--max-ranges-per-cluster", "200000"]);
                let mut agent = installation.launch()?;
                agent.wait_ready(AGENT_LIMIT)?;
                (self.agent, self.installation) = (Some(agent), Some(installation));
            }
        }
        self.loaded_in = begin.elapsed();
        Ok(())
    }
}

/// Makes the device `discard`: dummy, or where the kernel has none the redirect target, which
/// discards what was not redirected to it.
fn discarding(client: &Netns) -> Result<()> {
    let made = ["dummy", "ifb"]
        .iter()
        .find_map(|kind| client.ip(&format!("link add discard txqueuelen 0 type {kind}\n")).ok());
    made.context("this kernel has no device that discards: neither dummy nor ifb")?;
    client.ip("link set discard up\n")
}

/// Why a filter cannot be loaded here.
fn missing(filter: Filter) -> Option<String> {
    let absent = |program: &&&str| {
        let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
        !folders.iter().any(|folder| std::path::Path::new(folder).join(program).exists())
    };
    let program = filter.programs().iter().find(absent)?;
    Some(format!("{program} is not installed"))
}

fn drop_all(node: &Netns, programs: &[u8]) -> Result<Ebpf> {
    node.enter(|| {
        let mut object = EbpfLoader::new().load(programs).context("cannot load the programs")?;
        let program = object.program_mut("drop_all").context("no program drop_all")?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        program.attach("eth0", TcAttachType::Ingress).context("cannot attach drop_all")?;
        Ok(object)
    })
}
