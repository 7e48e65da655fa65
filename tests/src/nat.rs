//! kube-proxy's NAT: services in, nftables text out, as its nftables mode writes it.
//!
//! DNAT in prerouting and output by verdict maps, an endpoint drawn at random, masquerade of marked
//! connections in postrouting. Invariant: the text replaces all former rules in one transaction.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// A Kubernetes service as kube-proxy sees it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Unique; used in the names of chains.
    pub name: String,
    /// Its cluster IPs; reached without masquerade from pods.
    pub cluster_ips: Vec<IpAddr>,
    /// Load balancer ingress addresses and external IPs.
    pub external: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`: outside clients reach local endpoints only, unmasqueraded.
    pub local: bool,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a [`Service`].
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// On cluster IPs and external addresses.
    pub port: u16,
    /// On every address of every node.
    pub node_port: Option<u16>,
    /// Of both families; without any of a family, packets of that family are dropped.
    pub endpoints: Vec<SocketAddr>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// What differs between nodes.
#[derive(Clone, Debug)]
pub struct NodeRanges {
    /// All pods of the seed: their connections to cluster IPs keep their source.
    pub all_pods: [String; 2],
    /// This node's pods: the endpoints that `externalTrafficPolicy: Local` may use.
    pub own_pods: [String; 2],
}

/// The rules of one node, both families, for `nft -f -`.
pub fn ruleset(services: &[Service], ranges: &NodeRanges) -> String {
    let NodeRanges { all_pods, own_pods } = ranges;
    let v4 = Family { table: "ip", v6: false, all_pods: &all_pods[0], own_pods: &own_pods[0] };
    let v6 = Family { table: "ip6", v6: true, all_pods: &all_pods[1], own_pods: &own_pods[1] };
    [v4.text(services), v6.text(services)].concat()
}

/// The rules by which a node's pods reach the world: with the node's address, as most CNIs do.
pub fn pod_masquerade(all_pods: &[String; 2], uplink: &str) -> String {
    let mut text = String::new();
    for (family, pods) in ["ip", "ip6"].iter().zip(all_pods) {
        let rule = format!(
            "{family} saddr {pods} {family} daddr != {pods} oifname \"{uplink}\" \
             masquerade fully-random"
        );
        text += &table(family, "pod-masquerade", &chain_at("postrouting", "srcnat", &[rule]));
    }
    text
}

struct Family<'a> {
    table: &'static str,
    v6: bool,
    all_pods: &'a str,
    own_pods: &'a str,
}

impl Family<'_> {
    fn text(&self, services: &[Service]) -> String {
        let ip = self.table;
        let address = if self.v6 { "ipv6_addr" } else { "ipv4_addr" };
        let loopback = if self.v6 { "::1" } else { "127.0.0.0/8" };
        let mut ips = Vec::new();
        let mut node_ports = Vec::new();
        let mut chains = String::new();
        for service in services {
            for port in &service.ports {
                self.port(service, port, &mut ips, &mut node_ports, &mut chains);
            }
        }
        let mut body = String::new();
        body += &map("service-ips", &format!("{address} . inet_proto . inet_service"), &ips);
        body += &map("service-nodeports", "inet_proto . inet_service", &node_ports);
        body += &chain("mark-for-masquerade", &["meta mark set meta mark or 0x4000".into()]);
        body += &chains;
        body += &chain(
            "services",
            &[
                format!("{ip} daddr . meta l4proto . th dport vmap @service-ips"),
                // Any local address, as kube-proxy's iptables mode does: the wider entrance.
                format!(
                    "{ip} daddr != {loopback} fib daddr type local \
                     meta l4proto . th dport vmap @service-nodeports"
                ),
            ],
        );
        body += &chain_at("prerouting", "dstnat", &["jump services".into()]);
        body += &chain_at("output", "-100", &["jump services".into()]);
        body += &chain_at(
            "postrouting",
            "srcnat",
            &[
                "meta mark and 0x4000 == 0 return".into(),
                "meta mark set meta mark xor 0x4000".into(),
                "masquerade fully-random".into(),
            ],
        );
        table(ip, "kube-proxy", &body)
    }

    /// Adds the map elements and chains of one service port.
    fn port(
        &self,
        service: &Service,
        port: &ServicePort,
        ips: &mut Vec<String>,
        node_ports: &mut Vec<String>,
        chains: &mut String,
    ) {
        let ServicePort { protocol, port: number, node_port, endpoints } = port;
        let (ip, protocol) = (self.table, protocol.name());
        let name = format!("{}-{protocol}-{number}", service.name);
        let mine = |address: &&IpAddr| address.is_ipv6() == self.v6;
        let endpoints: Vec<_> = endpoints.iter().filter(|e| e.is_ipv6() == self.v6).collect();
        let own: Vec<_> =
            endpoints.iter().copied().filter(|e| contains(self.own_pods, e.ip())).collect();
        for address in service.cluster_ips.iter().filter(mine) {
            ips.push(format!("{address} . {protocol} . {number} : goto cluster-{name}"));
        }
        for address in service.external.iter().filter(mine) {
            ips.push(format!("{address} . {protocol} . {number} : goto external-{name}"));
        }
        if let Some(node_port) = node_port {
            node_ports.push(format!("{protocol} . {node_port} : goto external-{name}"));
        }
        for endpoint in &endpoints {
            let rules = [
                format!("{ip} saddr {} jump mark-for-masquerade", endpoint.ip()),
                format!("meta l4proto {protocol} dnat to {endpoint}"),
            ];
            *chains += &chain(&endpoint_chain(&name, endpoint), &rules);
        }
        *chains += &chain(&format!("all-{name}"), &[draw(&name, &endpoints)]);
        let from_outside = format!("{ip} saddr != {} jump mark-for-masquerade", self.all_pods);
        *chains += &chain(&format!("cluster-{name}"), &[from_outside, format!("goto all-{name}")]);
        let external = if service.local {
            vec![
                format!("{ip} saddr {} goto all-{name}", self.all_pods),
                "fib saddr type local jump mark-for-masquerade".into(),
                format!("fib saddr type local goto all-{name}"),
                draw(&name, &own),
            ]
        } else {
            vec!["jump mark-for-masquerade".into(), format!("goto all-{name}")]
        };
        *chains += &chain(&format!("external-{name}"), &external);
    }
}

/// A rule that goes to one of the endpoints' chains; a NAT chain cannot reject, so none is a drop.
fn draw(name: &str, endpoints: &[&SocketAddr]) -> String {
    if endpoints.is_empty() {
        return "drop".into();
    }
    let choices = endpoints.iter().enumerate();
    let choices: Vec<String> =
        choices.map(|(i, e)| format!("{i} : goto {}", endpoint_chain(name, e))).collect();
    format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), choices.join(", "))
}

fn endpoint_chain(name: &str, endpoint: &SocketAddr) -> String {
    let address = endpoint.ip().to_string().replace([':', '.'], "-");
    format!("endpoint-{name}-at-{address}-{}", endpoint.port())
}

/// Whether `range` (`address/length`) has `address` in it.
fn contains(range: &str, address: IpAddr) -> bool {
    fn bits(address: IpAddr) -> (u128, u32) {
        match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        }
    }
    let parsed = range.split_once('/').and_then(|(base, length)| {
        Some((base.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?))
    });
    let Some((base, length)) = parsed else { return false };
    let ((base, width), (address, other)) = (bits(base), bits(address));
    width == other && (length == 0 || (base ^ address) >> (128 - length) == 0)
}

/// A table of both families with one filter chain, in place of a former one of that name: drops and
/// counters that tests put in. Priority -310 is before conntrack and NAT.
pub fn filter(name: &str, hook: &str, priority: i32, rules: &[&str]) -> String {
    let first = format!("type filter hook {hook} priority {priority}; policy accept;");
    let mut all = vec![first];
    all.extend(rules.iter().map(|&rule| rule.to_owned()));
    table("inet", name, &chain("filter", &all))
}

/// A table that replaces its former self; the first line lets the delete succeed the first time.
fn table(family: &str, name: &str, body: &str) -> String {
    format!(
        "table {family} {name}\ndelete table {family} {name}\ntable {family} {name} {{\n{body}}}\n"
    )
}

fn map(name: &str, kind: &str, elements: &[String]) -> String {
    let mut text = format!("  map {name} {{\n    type {kind} : verdict\n");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{\n      {}\n    }}", elements.join(",\n      "));
    }
    text + "  }\n"
}

fn chain(name: &str, rules: &[String]) -> String {
    format!("  chain {name} {{\n    {}\n  }}\n", rules.join("\n    "))
}

fn chain_at(hook: &str, priority: &str, rules: &[String]) -> String {
    let first = format!("type nat hook {hook} priority {priority}; policy accept;");
    let mut all = vec![first];
    all.extend_from_slice(rules);
    chain(hook, &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> NodeRanges {
        NodeRanges {
            all_pods: ["10.244.0.0/16".into(), "fd00:10:244::/48".into()],
            own_pods: ["10.244.0.0/24".into(), "fd00:10:244::/64".into()],
        }
    }

    fn service(local: bool) -> Service {
        let endpoints = ["10.244.0.10:8132", "10.244.1.10:8132", "[fd00:10:244::a]:8132"];
        let port = ServicePort {
            protocol: Protocol::Tcp,
            port: 443,
            node_port: Some(31132),
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        };
        Service {
            name: "k".into(),
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external: vec!["192.0.2.100".parse().unwrap(), "2001:db8:2::100".parse().unwrap()],
            local,
            ports: vec![port],
        }
    }

    #[test]
    fn each_entrance_of_a_service_has_its_element_in_its_family() {
        let text = ruleset(&[service(false)], &ranges());
        let (v4, v6) = text.split_once("table ip6 kube-proxy").unwrap();
        assert!(v4.contains("10.96.0.1 . tcp . 443 : goto cluster-k-tcp-443"));
        assert!(v4.contains("192.0.2.100 . tcp . 443 : goto external-k-tcp-443"));
        assert!(v4.contains("tcp . 31132 : goto external-k-tcp-443"));
        assert!(v4.contains("numgen random mod 2 vmap"));
        assert!(!v4.contains("2001:db8"));
        assert!(v6.contains("2001:db8:2::100 . tcp . 443 : goto external-k-tcp-443"));
        assert!(v6.contains("dnat to [fd00:10:244::a]:8132"));
        assert!(v6.contains("numgen random mod 1 vmap"));
    }

    #[test]
    fn the_local_policy_sends_outsiders_to_own_endpoints_only() {
        let text = ruleset(&[service(true)], &ranges());
        let external = text.split("chain external-k-tcp-443 {").nth(1).unwrap();
        let external = external.split_once('}').map(|(_, rest)| (external, rest)).unwrap().0;
        let last = external.lines().find(|l| l.contains("numgen")).unwrap();
        assert!(last.contains("10-244-0-10") && !last.contains("10-244-1-10"), "{last}");
    }

    #[test]
    fn a_range_contains_what_shares_its_prefix() {
        for (range, address, expected) in [
            ("10.244.0.0/24", "10.244.0.255", true),
            ("10.244.0.0/24", "10.244.1.0", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("::/0", "192.0.2.1", false),
            ("fd00:10:244::/64", "fd00:10:244::ffff", true),
            ("nonsense", "192.0.2.1", false),
        ] {
            assert_eq!(contains(range, address.parse().unwrap()), expected, "{range} {address}");
        }
    }
}
