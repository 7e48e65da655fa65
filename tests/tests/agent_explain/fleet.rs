//! A seed with everything that decides about a packet, and lists drawn by chance.
//!
//! Clusters `c1` (every way in, gated), `c2` behind the shared proxy, `c3` with strategy Tunneling, `c4`
//! audited, `c5` that nothing restricts, `c6`, which claims the frontends of `c4` and enforces, and `c7`,
//! audited and gated.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use enforcer_tests::addresses::cluster_ip;
use enforcer_tests::agent::Installation;
use enforcer_tests::entrances::Entrances;
use enforcer_tests::kube::Pod;
use enforcer_tests::seed::UserCluster;
use enforcer_tests::stage::{NODE, Stage, Tenant};
use enforcer_tests::topology::{Cni, Plan};
use ipnet::IpNet;
use serde_json::Value;

use crate::draw::Draw;
use crate::questions::Asked;
use crate::said::Case;

/// Ranges in lists are drawn from these.
pub(crate) const BASES: [&str; 6] = [
    "198.18.0.0/17",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:db8:51::/48",
    "2001:db8:113::/48",
    "2001:db8:99::/52",
];
/// Ranges of options: exempt, trusted, probing.
pub(crate) const EXEMPT: [&str; 2] = ["198.19.200.0/24", "2001:db8:e0::/64"];
pub(crate) const TRUSTED: [&str; 2] = ["198.19.201.0/24", "2001:db8:e1::/64"];
pub(crate) const PROBING: [&str; 2] = ["198.19.202.0/24", "2001:db8:e2::/64"];
/// Of the pods whose connections are judged.
pub(crate) const GATED: [&str; 2] = ["apiserver", "apiserver-c7"];
/// A pod of this node that is not gated.
pub(crate) const OTHER_POD: &str = "envoy";
/// In the place of clusters, for frontends that two claim.
const CONTESTED: u8 = 4;
const ANNOTATION: &str = "enforcer.k8c.io/allowed-ip-ranges";
const EGRESS: &str = "enforcer.k8c.io/egress-allow";

pub(crate) struct Fleet {
    pub(crate) installation: Installation,
    pub(crate) stage: Stage,
    entrances: Entrances,
}

/// Somebody to connect to.
pub(crate) type Target = (SocketAddr, bool);

impl Fleet {
    pub(crate) fn build() -> Fleet {
        let plan = Plan::customary().node("seed-2", Cni::Routed).pod(NODE, "proxy");
        let mut stage = Stage::on(plan).unwrap();
        let entrances = Entrances::open(&mut stage).unwrap();
        stage.add_tenant("c4", CONTESTED).unwrap();
        stage.add_tenant("c5", 5).unwrap();
        let addresses = stage.network.add_pod(NODE, "apiserver-c6").unwrap().addresses;
        let mut rival = UserCluster::new("c6", CONTESTED);
        rival.api_servers = vec![Pod { name: "apiserver-c6".into(), node: NODE.into(), addresses }];
        stage.tenants.push(Tenant { cluster: rival, servers: [].into() });
        stage.add_tenant("c7", 7).unwrap().cluster.gate = Some(true);
        stage.cluster.gate = Some(true);
        stage.publish().unwrap();
        let option = |ranges: [&str; 2]| ranges.join(",");
        let probing = format!("{},connected", option(PROBING));
        let installation = stage.installation().unwrap().interfaces("auto").arguments(&[
            "--exempt",
            &option(EXEMPT),
            "--trusted-proxies",
            &option(TRUSTED),
            "--probe-ranges",
            &probing,
        ]);
        Fleet { installation, stage, entrances }
    }

    /// Publishes other lists.
    pub(crate) fn redraw(&mut self, draw: &mut Draw) -> Result<()> {
        let Stage { cluster, tenants, seed, .. } = &mut self.stage;
        cluster.allowed = Some(list(draw, 60));
        cluster.namespace_annotations = vec![(EGRESS.to_owned(), destinations(draw))];
        let [c2, c3, c4, _, c6, c7] = &mut tenants[..] else { panic!("six tenants") };
        for behind_the_proxy in [c2, c3] {
            behind_the_proxy.cluster.annotations =
                vec![(ANNOTATION.to_owned(), list(draw, 25).join(","))];
        }
        let audit = ("enforcer.k8c.io/mode".to_owned(), "audit".to_owned());
        c4.cluster.allowed = Some(list(draw, 40));
        c4.cluster.namespace_annotations = vec![audit.clone()];
        c7.cluster.allowed = Some(list(draw, 20));
        c7.cluster.namespace_annotations = vec![(EGRESS.to_owned(), destinations(draw)), audit];
        // Both claimants' lists have to have something in common.
        let mut both = list(draw, 20);
        both.extend(c4.cluster.allowed.iter().flatten().take(15).cloned());
        c6.cluster.allowed = Some(both);
        seed.defaults = Some(list(draw, 8));
        seed.source_ranges = Some(list(draw, 8));
        self.stage.publish()
    }

    /// Publishes the lists without these entries, named by object and field.
    pub(crate) fn remove(&mut self, entries: &BTreeSet<(String, String)>) -> Result<()> {
        let gone: Vec<(&str, &str, usize)> =
            entries.iter().map(|(object, field)| parts(object, field)).collect();
        let left = |object: &str, field: &str, list: &[String]| -> Vec<String> {
            let is_gone = |at| gone.contains(&(object, field, at));
            (0..).zip(list).filter(|(at, _)| !is_gone(*at)).map(|(_, it)| it.clone()).collect()
        };
        let Stage { cluster, tenants, seed, .. } = &mut self.stage;
        let all = [cluster].into_iter().chain(tenants.iter_mut().map(|it| &mut it.cluster));
        for cluster in all {
            let object = format!("Cluster {}", cluster.name);
            if let Some(allowed) = &mut cluster.allowed {
                *allowed = left(&object, "spec.apiServerAllowedIPRanges.cidrBlocks", allowed);
            }
            for (key, value) in &mut cluster.annotations {
                let entries: Vec<String> = value.split(',').map(str::to_owned).collect();
                *value = left(&object, &format!("metadata.annotations[{key}]"), &entries).join(",");
            }
        }
        let object = format!("Seed kubermatic/{}", seed.name);
        let defaults = seed.defaults.get_or_insert_default();
        *defaults = left(&object, "spec.defaultAPIServerAllowedIPRanges", defaults);
        let sources = seed.source_ranges.get_or_insert_default();
        let field = "spec.nodeportProxy.envoy.loadBalancerService.sourceRanges";
        *sources = left(&object, field, sources);
        self.stage.publish()
    }

    /// What stands in a field of a published object.
    pub(crate) fn written(&self, object: &str, field: &str) -> String {
        let (object, path, position) = parts(object, field);
        let found = self.stage.objects().into_iter().find(|it| name(it) == object);
        let found = found.unwrap_or_else(|| panic!("{object} was not published"));
        let entry = match path.strip_prefix("metadata.annotations[") {
            Some(key) => {
                let text = &found["metadata"]["annotations"][key.trim_end_matches(']')];
                text.as_str().and_then(|it| it.split(',').nth(position)).map(str::to_owned)
            }
            None => {
                let value = path.split('.').fold(&found, |value, key| &value[key]);
                value[position].as_str().map(str::to_owned)
            }
        };
        entry.unwrap_or_else(|| panic!("{object} has no {field}"))
    }

    /// The range that is named holds the source, and stands where it is said to stand.
    pub(crate) fn assert_range(&self, case: &Case) {
        let Some(range) = &case.range else {
            // Of all that passes, only single addresses and whole pods are no ranges.
            let is_one = ["exempt", "own_pod", "unguarded"].contains(&case.reason.as_str());
            assert!(case.verdict == "denied" || case.verdict == "would-deny" || is_one, "{case:?}");
            return;
        };
        let range: IpNet = range.parse().unwrap();
        let asked = if case.asked.egress { case.asked.to.ip() } else { case.asked.source };
        assert!(range.contains(&asked), "{case:?}");
        if let Some((object, field)) = case.entry() {
            let written: IpNet = self.written(&object, &field).parse().unwrap();
            assert_eq!(written.trunc(), range, "{case:?}");
        }
    }

    /// All ways in, as the harness and as the agent name them, and many places that are none.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let udp = |protocol| protocol == enforcer_tests::nat::Protocol::Udp;
        let of_entrances = self.entrances.list.iter().map(|it| it.frontend);
        let rest =
            self.stage.tenants[2..].iter().flat_map(|it| self.stage.frontends_of(&it.cluster));
        let mut targets: BTreeSet<Target> =
            of_entrances.chain(rest).map(|it| (it.address, udp(it.protocol))).collect();
        let nodes = || self.stage.network.nodes().flat_map(|(_, node)| node.addresses.both());
        let here = || nodes().chain([IpAddr::from([127, 0, 0, 1])]);
        for cluster in ["c1", "c2", "c3", "c4", "c5", "c6", "c7"] {
            let answer = self.installation.debug(&["show", cluster, "--output", "json"]).unwrap();
            for frontend in answer.json().unwrap()["frontends"].as_array().unwrap() {
                let port = frontend["port"].as_u64().unwrap() as u16;
                let udp = frontend["protocol"] == "udp";
                let address: Option<IpAddr> =
                    frontend["address"].as_str().map(|it| it.parse().unwrap());
                let at = address.into_iter().chain(here().filter(|_| address.is_none()));
                targets.extend(at.map(|address| (SocketAddr::new(address, port), udp)));
            }
        }
        let next: Vec<Target> = targets
            .iter()
            .map(|(at, udp)| (SocketAddr::new(at.ip(), at.port() ^ 0x400), *udp))
            .collect();
        let mut all: Vec<Target> = targets.iter().copied().collect();
        // A seventh of all is guarded by nobody.
        all.extend(next.into_iter().step_by(7));
        all.extend(targets.iter().step_by(9).map(|(at, udp)| (*at, !udp)));
        all
    }

    /// The gated pod that sends what is asked about, if one does.
    pub(crate) fn sender(&self, asked: &Asked) -> Option<&'static str> {
        let pod =
            |name: &&&str| self.stage.network.pod(name).addresses.both().contains(&asked.source);
        GATED.iter().find(pod).copied().filter(|_| !asked.uplink)
    }

    /// Ranges that gated pods may reach, whichever port.
    pub(crate) fn granted(&self) -> Vec<String> {
        let clusters = [&self.stage.cluster, &self.stage.tenants[5].cluster].into_iter();
        let texts = clusters.flat_map(|it| &it.namespace_annotations).filter(|it| it.0 == EGRESS);
        let entries = texts.flat_map(|(_, value)| value.split(','));
        let range = |entry: &str| match entry.strip_prefix('[').and_then(|it| it.split_once(']')) {
            Some((range, _)) => range.to_owned(),
            None if entry.contains('.') => entry.split(':').next().unwrap_or(entry).to_owned(),
            None => entry.to_owned(),
        };
        entries.map(range).collect()
    }

    /// Addresses of pods on this node.
    pub(crate) fn pods(&self) -> Vec<IpAddr> {
        let names = ["apiserver", "envoy", "proxy", "apiserver-c2", "envoy-c4", "apiserver-c5"];
        names.iter().flat_map(|name| self.stage.network.pod(name).addresses.both()).collect()
    }

    /// Whether several clusters may claim a destination: which of them counts its packets is no question
    /// here.
    pub(crate) fn is_contested(&self, to: SocketAddr) -> bool {
        let number = u16::from(CONTESTED);
        let services = (0..3).flat_map(|index| cluster_ip(number * 10 + index).both());
        to.port() % 100 == number || services.into_iter().any(|it| it == to.ip())
    }
}

fn list(draw: &mut Draw, most: usize) -> Vec<String> {
    let number = most / 2 + draw.below(most / 2 + 1);
    (0..number).map(|_| draw.range(&BASES, 20).to_string()).collect()
}

fn destinations(draw: &mut Draw) -> String {
    let one = |draw: &mut Draw| match (draw.range(&BASES, 12), draw.below(3)) {
        (range, 0) => range.to_string(),
        (range, port) => {
            let port = [443, 8443][port - 1];
            if range.addr().is_ipv4() {
                format!("{range}:{port}")
            } else {
                format!("[{range}]:{port}")
            }
        }
    };
    (0..30).map(|_| one(draw)).collect::<Vec<_>>().join(",")
}

/// Object, path of the list, position in it.
fn parts<'a>(object: &'a str, field: &'a str) -> (&'a str, &'a str, usize) {
    let (path, position) = field.rsplit_once('[').unwrap();
    (object, path, position.trim_end_matches(']').parse().unwrap())
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    match text(&metadata["namespace"]).as_str() {
        "" => format!("{kind} {}", text(&metadata["name"])),
        namespace => format!("{kind} {namespace}/{}", text(&metadata["name"])),
    }
}
