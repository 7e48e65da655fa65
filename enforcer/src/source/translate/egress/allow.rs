//! Destinations as people write them: `CIDR[:PORT]`.
//!
//! Input: text of `--egress-allow` and of the annotation. Output: [`Destination`]s, and peers. Invariant:
//! of an IPv6 range with a port the range stands in brackets, so that no part of it is taken for a port.

use std::{fmt, str::FromStr};

use enforcer_policy::{
    model::{Origin, Peer, PeerPort, Protocol},
    problem::ProblemKind,
};
use ipnet::IpNet;

use crate::source::translate::{
    ranges,
    report::{Place, Report},
};

/// A range, and a port if not all of them are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host bits cleared.
    pub net: IpNet,
    /// Over TCP and UDP; `None` means every port.
    pub port: Option<u16>,
}

/// Not a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// No range or address.
    #[error("write CIDR, CIDR:PORT, or [CIDR]:PORT for IPv6")]
    Range,
    /// No port.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let text = text.trim();
        let (net, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
            Some((net, "")) => (net, None),
            Some((net, port)) => {
                (net, Some(port.strip_prefix(':').ok_or(DestinationError::Range)?))
            }
            // More colons than one are those of an IPv6 address.
            None => match text.split_once(':') {
                Some((net, port)) if !port.contains(':') => (net, Some(port)),
                Some(_) | None => (text, None),
            },
        };
        let net = ranges::range(net).ok_or(DestinationError::Range)?;
        let number = |text: &str| match text.parse::<u16>() {
            Ok(port) if port != 0 => Ok(port),
            Ok(_) | Err(_) => Err(DestinationError::Port),
        };
        Ok(Self { net, port: port.map(number).transpose()? })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.net, self.port) {
            (net, None) => write!(f, "{net}"),
            (IpNet::V4(net), Some(port)) => write!(f, "{net}:{port}"),
            (IpNet::V6(net), Some(port)) => write!(f, "[{net}]:{port}"),
        }
    }
}

impl Destination {
    /// As peers.
    pub(super) fn peers(self, origin: &Origin) -> impl Iterator<Item = Peer> {
        let ports = match self.port {
            None => vec![PeerPort::Any],
            Some(port) => [Protocol::Tcp, Protocol::Udp]
                .map(|protocol| PeerPort::Only(protocol, port))
                .to_vec(),
        };
        let (net, origin) = (self.net, origin.clone());
        ports.into_iter().map(move |port| Peer { net, port, origin: origin.clone() })
    }
}

/// Reads destinations separated by commas. Entries that are none are reported and left out.
pub(super) fn list(text: &str, place: Place<'_>, report: &mut Report) -> Vec<Peer> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let origin = Origin { object: place.object.clone(), field: place.field.to_owned() };
    let mut peers = Vec::new();
    for (position, entry) in text.split(',').enumerate() {
        match entry.parse::<Destination>() {
            Ok(destination) => peers.extend(destination.peers(&origin)),
            Err(_) => {
                let field = format!("{}[{position}]", place.field);
                report.add(Place { field: &field, ..place }, entry, ProblemKind::InvalidRange);
            }
        }
    }
    peers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_ranges_with_and_without_a_port() {
        for (written, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.1:443", "192.0.2.1/32:443"),
            (" 10.0.0.0/8:8443 ", "10.0.0.0/8:8443"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("[2001:db8::/32]", "2001:db8::/32"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("[2001:db8::1]:443", "[2001:db8::1/128]:443"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1/32:443"),
        ] {
            let read = written.parse::<Destination>().map(|read| read.to_string());
            assert_eq!(read.as_deref(), Ok(shown), "{written}");
        }
    }

    #[test]
    fn what_is_not_a_destination_is_an_error() {
        for wrong in [
            "",
            "host:443",
            "10.0.0.0/33",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/8:66000",
            "[2001:db8::1]443",
            "2001:db8::/32:443",
            "[10.0.0.0/8",
            "10.0.0.1:443:1",
        ] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
