//! Ranges and addresses as people write them.
//!
//! Input: strings. Output: canonical ranges: host bits cleared, white space around them ignored, an
//! address without a prefix as that one host, IPv4-mapped IPv6 as IPv4 where the whole range is
//! mapped (prefix of 96 bits or more). Invariant: a list keeps the number of entries that were
//! written, so that one without valid entries is not an empty one.

use std::net::IpAddr;

use enforcer_policy::{
    model::{ListedRange, Origin, RangeList},
    problem::ProblemKind,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::report::{Place, Report};

/// Reads a list of ranges. Entries that are none are reported and left out.
pub(super) fn list<'a>(
    entries: impl IntoIterator<Item = &'a str>,
    place: Place<'_>,
    report: &mut Report,
) -> RangeList {
    let mut list = unreadable(place);
    list.written = 0;
    for (position, entry) in (0u32..).zip(entries) {
        list.written += 1;
        match range(entry) {
            Some(net) => list.ranges.push(ListedRange { net, position }),
            None => {
                let field = format!("{}[{position}]", place.field);
                report.add(Place { field: &field, ..place }, entry, ProblemKind::InvalidRange);
            }
        }
    }
    list
}

/// The list of a field that cannot be read: it says something, and nothing valid.
pub(super) fn unreadable(place: Place<'_>) -> RangeList {
    let Place { object, field, file: _ } = place;
    let origin = Origin { object: object.clone(), field: field.to_owned() };
    RangeList { origin, ranges: Vec::new(), written: 1 }
}

/// Reads one range or address.
pub(super) fn range(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let net = match text.contains('/') {
        true => text.parse().ok()?,
        false => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    Some(canonical(net))
}

/// Reads one address, an IPv4-mapped one as IPv4.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    Some(text.trim().parse::<IpAddr>().ok()?.to_canonical())
}

fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V4(_) => net.trunc(),
        IpNet::V6(v6) => mapped(v6).map_or_else(|| net.trunc(), |v4| IpNet::V4(v4).trunc()),
    }
}

fn mapped(net: Ipv6Net) -> Option<Ipv4Net> {
    let length = net.prefix_len().checked_sub(96)?;
    Ipv4Net::new(net.addr().to_ipv4_mapped()?, length).ok()
}

#[cfg(test)]
mod tests;
