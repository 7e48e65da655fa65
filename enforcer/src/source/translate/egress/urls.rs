//! Hosts that people name by URL: an OIDC issuer, an authorization webhook.
//!
//! Input: a URL, who wrote it, and the addresses that its host was found to have. Output: peers, at the
//! URL's own port. Invariant: what a cluster's owner wrote never leads to the seed itself, nor to an
//! address that means something only on the node: [`is_reserved`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::Uri;
use enforcer_policy::{
    model::{ObjectRef, Origin, PeerPort, Protocol},
    problem::ProblemKind,
};
use ipnet::IpNet;

use super::{Peers, Shared};
use crate::source::translate::report::{Place, Report};

/// A URL as it is written.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    /// Empty where there is none.
    pub(super) url: &'a str,
    pub(super) object: &'a ObjectRef,
    pub(super) file: &'a str,
    pub(super) field: &'static str,
    /// Whether a cluster's owner can write it.
    pub(super) by_owner: bool,
}

/// Adds where a URL leads.
pub(super) fn add(
    written: Written<'_>,
    shared: &Shared<'_>,
    peers: &mut Peers,
    report: &mut Report,
) {
    let Written { url, object, file, field, by_owner } = written;
    if url.is_empty() {
        return;
    }
    let mut say = |reason: String| {
        report.add(Place { object, file, field }, url, ProblemKind::Egress { reason });
    };
    let Some(Location { host, port }) = Location::of(url) else {
        say("not a URL that begins with https:// or http:// and names a host; left out".to_owned());
        return;
    };
    let addresses: Vec<IpAddr> = match host {
        Host::Address(address) => vec![address],
        Host::Name(name) => {
            let found = shared.learned.names.get(&name).into_iter().flatten().copied().collect();
            shared.names.borrow_mut().insert(name);
            found
        }
    };
    let origin = Origin { object: object.clone(), field: field.to_owned() };
    for address in addresses.into_iter().map(|address| address.to_canonical()) {
        let meant = embedded(address).unwrap_or(address);
        let (net, at) = (IpNet::from(address), PeerPort::Only(Protocol::Tcp, port));
        if peers.all.contains_key(&(net, at)) {
            continue;
        }
        if by_owner && (is_reserved(meant) || shared.own().contains(meant)) {
            say(format!(
                "leads to {address}, which the seed itself or no other host has; left out. If it is \
                 meant, name it with --egress-allow or on the Namespace"
            ));
            continue;
        }
        peers.add(net, at, &origin);
    }
}

/// Where a URL leads.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    host: Host,
    port: u16,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Location {
    fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.trim().parse().ok()?;
        let usual = match uri.scheme_str()? {
            "https" => 443,
            "http" => 80,
            _other => return None,
        };
        let after_user = uri.authority()?.as_str().rsplit('@').next()?;
        let port = match after_user.strip_prefix(uri.host()?)? {
            "" | ":" => usual,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let host = uri.host()?.trim_end_matches('.').to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        let host = match bare.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) if is_name(&host) => Host::Name(host),
            Err(_) => return None,
        };
        (port != 0).then_some(Self { host, port })
    }
}

/// The rule of RFC 1123, and the underscore that resolvers take.
fn is_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// The IPv4 address that is meant by one of the prefix of NAT64 (RFC 6052) or of 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(address) = address else { return None };
    let octets = address.octets();
    let at = match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => 12,
        [0x2002, ..] => 2,
        _other => return None,
    };
    let v4: [u8; 4] = octets.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::from(v4))
}

/// Addresses of cloud providers' metadata services that are not link-local.
const METADATA: [IpAddr; 6] = [
    // AWS
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // Google Cloud
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Scaleway
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    // Azure
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Addresses that no host on the internet or in a company's network has.
fn is_reserved(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(address) => {
            address.octets()[0] == 0
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.octets()[0] >= 240
        }
        IpAddr::V6(address) => {
            // Unspecified, loopback and the "compatible" addresses of RFC 4291.
            address.segments()[..6] == [0; 6]
                || address.is_unicast_link_local()
                || address.is_multicast()
        }
    };
    special || METADATA.contains(&address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_a_host_at_its_own_or_its_schemes_port() {
        let name = |name: &str, port| Some(Location { host: Host::Name(name.to_owned()), port });
        let address =
            |text: &str, port| Some(Location { host: Host::Address(text.parse().unwrap()), port });
        for (url, expected) in [
            ("https://dex.example.com/dex", name("dex.example.com", 443)),
            ("https://Dex.Example.com.:8443", name("dex.example.com", 8443)),
            ("http://user:secret@issuer:8080/?q=https://other", name("issuer", 8080)),
            ("http://issuer", name("issuer", 80)),
            ("https://192.0.2.1/", address("192.0.2.1", 443)),
            ("https://[2001:db8::1]:444/", address("2001:db8::1", 444)),
            ("https://[::ffff:127.0.0.1]/", address("127.0.0.1", 443)),
            ("ldap://issuer", None),
            ("issuer.example.com", None),
            ("https://", None),
            ("https://issuer:0", None),
            ("https://issuer:70000", None),
            ("https://a..b", None),
            ("https://bücher.example", None),
        ] {
            assert_eq!(Location::of(url), expected, "{url}");
        }
    }

    #[test]
    fn what_no_other_host_has_is_reserved_and_so_is_metadata() {
        let meant = |text: &str| {
            let address = text.parse::<IpAddr>().unwrap().to_canonical();
            is_reserved(embedded(address).unwrap_or(address))
        };
        for reserved in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "169.254.20.10",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::",
        ] {
            assert!(meant(reserved), "{reserved}");
        }
        for usual in
            ["8.8.8.8", "10.1.2.3", "100.64.0.1", "2001:db8::1", "fd00::1", "64:ff9b::808:808"]
        {
            assert!(!meant(usual), "{usual}");
        }
    }
}
