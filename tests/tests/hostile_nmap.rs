//! What nmap makes of a guarded node, with the scans and evasions that it has: no guarded port is open to an
//! unlisted host, and no listener hears of it. Needs root and nmap.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "clippy takes helpers of tests for other code"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use enforcer_tests::agent::Agent;
use enforcer_tests::entrances::Entrances;
use enforcer_tests::listen::Server;
use enforcer_tests::nat::Protocol;
use enforcer_tests::stage::{NODE, Stage};
use enforcer_tests::topology::Plan;

const LISTED: [&str; 2] = ["198.51.100.0/24", "2001:db8:51::/64"];
/// Nobody guards it, and somebody listens: what nmap sees of it says that a scan works.
const OPEN_PORT: u16 = 31_999;
const DENIED: [&str; 4] = ["not_listed", "probe_data", "short_fragment", "hidden_transport"];

/// How nmap is asked, and whether a closed port is told from an open one by it: then the ports are open
/// where nobody filters.
struct Scan {
    arguments: &'static str,
    family: Family,
    /// Whether "open" is what it says of a port that somebody answers at.
    tells: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Both,
    V4,
}

const fn scan(arguments: &'static str, family: Family, tells: bool) -> Scan {
    Scan { arguments, family, tells }
}

const SCANS: &[Scan] = &[
    scan("-sS", Family::Both, true),
    scan("-sT", Family::Both, true),
    scan("-sT -sV --version-intensity 0", Family::Both, true),
    scan("-sS --data-length 64", Family::Both, true),
    scan("-sS --source-port 53", Family::Both, true),
    scan("-sS --source-port 443 --ttl 3", Family::Both, true),
    scan("-sS --scanflags SYNFIN", Family::Both, false),
    scan("-sS --scanflags SYNPSHURG", Family::Both, true),
    scan("-sS --scanflags SYNECECWR", Family::Both, true),
    scan("-sS --badsum", Family::Both, false),
    scan("-sA", Family::Both, false),
    scan("-sW", Family::Both, false),
    scan("-sM", Family::Both, false),
    scan("-sF", Family::Both, false),
    scan("-sN", Family::Both, false),
    scan("-sX", Family::Both, false),
    scan("-sU", Family::Both, false),
    scan("-sU --data-length 400", Family::Both, false),
    scan("-sY", Family::Both, false),
    scan("-sZ", Family::Both, false),
    scan("-sS -f", Family::V4, true),
    scan("-sS -f -f", Family::V4, true),
    scan("-sS --mtu 8", Family::V4, true),
    scan("-sS --mtu 24 --data-length 200", Family::V4, true),
    scan("-sA -f", Family::V4, false),
    scan("-sS -D 198.51.100.99,192.0.2.99,ME", Family::V4, true),
    scan("-sS --ip-options R", Family::V4, false),
    scan("-sS --ip-options T", Family::V4, false),
    scan("-sO", Family::Both, false),
];

/// What nmap says of a port.
type Ports = BTreeMap<u16, String>;

struct Scene {
    entrances: Entrances,
    open: Server,
    stage: Stage,
}

impl Scene {
    fn new() -> Scene {
        let mut stage = Stage::on(Plan::customary().pod(NODE, "proxy")).unwrap();
        let entrances = Entrances::open(&mut stage).unwrap();
        stage.cluster = stage.cluster.allow(&LISTED);
        for tenant in &mut stage.tenants {
            let list = format!("{},{}", LISTED[0], LISTED[1]);
            let annotation = ("enforcer.k8c.io/allowed-ip-ranges".to_owned(), list);
            tenant.cluster.annotations.push(annotation);
        }
        let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), OPEN_PORT);
        let open = Server::echo(&stage.network.node(NODE).ns, at, "open").unwrap();
        Scene { entrances, open, stage }
    }

    /// Guarded nodePorts of this protocol.
    fn guarded(&self, protocol: Protocol) -> BTreeSet<u16> {
        let node = self.stage.network.node(NODE).addresses.both();
        let frontends = self.entrances.list.iter().map(|it| (it.cluster, it.frontend));
        // Of the shared port of strategy Tunneling no list is told apart.
        let guarded = frontends.filter(|(cluster, it)| *cluster != "c3" && it.guarded);
        guarded
            .filter(|(_, it)| it.protocol == protocol && node.contains(&it.address.ip()))
            .map(|(_, it)| it.address.port())
            .collect()
    }

    /// What one scan says of the node's ports, asked by an unlisted host.
    fn scan(&self, scan: &Scan, to: IpAddr) -> Ports {
        let mut arguments: Vec<&str> = scan.arguments.split(' ').collect();
        let ports = if scan.arguments.starts_with("-sO") {
            "1,2,4,6,17,41,47,50,51,58,132".to_owned()
        } else {
            let mut ports = self.guarded(Protocol::Tcp);
            ports.extend(self.guarded(Protocol::Udp));
            ports.insert(OPEN_PORT);
            ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
        };
        if to.is_ipv6() {
            arguments.push("-6");
        }
        let to = to.to_string();
        // No names, no ping first, little patience: whoever is silent is silent.
        let common = ["-n", "-Pn", "--max-retries", "1", "--min-rate", "500"];
        arguments.extend(common);
        arguments.extend(["--host-timeout", "20s", "--max-rtt-timeout", "200ms"]);
        arguments.extend(["--disable-arp-ping", "--send-ip", "-oG", "-", "-p", &ports, &to]);
        let said = self.stage.network.host("unlisted").ns.run("nmap", &arguments).unwrap();
        assert!(said.contains("1 IP address (1 host up) scanned"), "{said}");
        read(&said)
    }

    /// Connections and payload bytes of all listeners behind guarded ways, and datagrams.
    fn reached(&self) -> (u64, u64, u64) {
        let tenants = self.stage.tenants.iter().flat_map(|tenant| tenant.servers.values());
        let servers = self.stage.servers.values().chain(tenants).chain(&self.entrances.servers);
        let (accepted, payload) =
            servers.fold((0, 0), |(all, bytes), it| (all + it.accepted(), bytes + it.payload()));
        let datagrams = self.entrances.datagrams.iter().map(|server| server.received()).sum();
        (accepted, payload, datagrams)
    }

    /// All scans at both families, as lines of a table.
    fn all(&self, agent: Option<&Agent>) -> Vec<Line> {
        let node = self.stage.network.node(NODE).addresses.both();
        let scans = node.into_iter().flat_map(|to| SCANS.iter().map(move |scan| (to, scan)));
        let scans = scans.filter(|(to, scan)| scan.family == Family::Both || to.is_ipv4());
        scans
            .map(|(to, scan)| {
                let before = (self.reached(), drops(agent));
                let ports = self.scan(scan, to);
                let after = (self.reached(), drops(agent));
                let guarded = self.guarded(Protocol::Tcp);
                let (states, open): (Vec<_>, Vec<_>) =
                    ports.into_iter().partition(|(port, _)| *port != OPEN_PORT);
                let is_open =
                    |(port, state): &(u16, String)| guarded.contains(port) && state == "open";
                Line {
                    name: format!("{} {to}", scan.arguments),
                    tells: scan.tells,
                    seen_open: open.iter().any(|(_, state)| state == "open"),
                    guarded_open: states.iter().filter(|state| is_open(state)).count(),
                    states: tally(states.into_iter().map(|(_, state)| state)),
                    connections: after.0.0 - before.0.0,
                    bytes: after.0.1 - before.0.1 + after.0.2 - before.0.2,
                    drops: after.1 - before.1,
                }
            })
            .collect()
    }
}

struct Line {
    name: String,
    tells: bool,
    /// Whether the port that nobody guards is said to be open.
    seen_open: bool,
    guarded_open: usize,
    states: BTreeMap<String, usize>,
    connections: u64,
    /// Of TCP; datagrams count as one.
    bytes: u64,
    drops: u64,
}

fn tally(states: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for state in states {
        *tally.entry(state).or_default() += 1;
    }
    tally
}

/// `Ports: 31001/filtered/tcp//x///, …` of nmap's output for grep.
fn read(said: &str) -> Ports {
    let after = said.lines().filter_map(|line| line.split_once("Ports: "));
    let after = after.map(|(_, ports)| ports.split('\t').next().unwrap_or_default());
    let entries = after.flat_map(|ports| ports.split(", "));
    entries
        .filter_map(|entry| {
            let mut fields = entry.trim().split('/');
            let port = fields.next()?.parse().ok()?;
            Some((port, fields.next()?.to_owned()))
        })
        .collect()
}

fn drops(agent: Option<&Agent>) -> u64 {
    let count = |agent: &Agent| {
        let of = |reason: &&str| agent.count("enforcer_verdicts_total", &[("reason", reason)]);
        DENIED.iter().map(|reason| of(reason).unwrap()).sum()
    };
    agent.map_or(0, count)
}

#[test]
fn no_scan_finds_a_guarded_port_and_no_listener_hears_of_one() {
    let scene = Scene::new();
    let free = scene.all(None);
    scene.stage.publish().unwrap();
    let installation = scene.stage.installation().unwrap().interfaces("auto");
    let agent = installation.start().unwrap();
    let closed = scene.all(Some(&agent));

    let mut holes = Vec::new();
    println!("{:<52} {:>6} {:>5} {:>6}  guarded ports", "nmap", "open", "now", "drops");
    for (free, line) in free.iter().zip(&closed) {
        let Line { name, tells, seen_open, guarded_open, states, connections, bytes, drops } = line;
        println!("{name:<52} {:>6} {guarded_open:>5} {drops:>6}  {states:?}", free.guarded_open);
        if guarded_open + *connections as usize + *bytes as usize > 0 {
            holes.push(format!("{name}: {guarded_open} open, {connections} made, {bytes} bytes"));
        }
        if *tells && (free.guarded_open == 0 || !free.seen_open || !seen_open) {
            holes.push(format!("{name} shows nothing: it finds no open port either"));
        }
        if *drops == 0 && !name.starts_with("-sO") && !name.contains("--badsum") {
            let is_about_others = ["-sY", "-sZ"].iter().any(|scan| name.starts_with(scan));
            if !is_about_others {
                holes.push(format!("{name}: nothing is dropped"));
            }
        }
    }
    assert_eq!(holes, [""; 0]);
    let made: u64 = free.iter().map(|line| line.connections).sum();
    let heard: u64 = free.iter().map(|line| line.bytes).sum();
    println!("without the agent: {made} connections, {heard} bytes and datagrams; with it: none");
    assert!(made > 20 && heard > 0, "{made} {heard}");
    assert!(scene.open.accepted() > 0);
    assert_eq!(scene.stage.surprises(&["listed"]), [""; 0]);
}
