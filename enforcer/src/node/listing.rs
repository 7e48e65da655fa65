//! Lists what the kernel has.
//!
//! Input: a netlink socket in the network namespace of the thread that opened it. Output:
//! [`Facts`]. Invariant: a listing is whole, or an error.
//!
//! Calls block while the kernel holds its RTNL lock: this belongs on a thread of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use rtnetlink::{packet_core::DecodeError, packet_route::AddressFamily};

use super::{
    Listing, NodeError,
    facts::{Facts, Far, Link},
    wire,
};
use crate::netlink::{RequestError, Requests, Whole};

/// How often a listing that changed underneath is asked for again. One that outlasts this many is
/// asked for by the next look.
const ATTEMPTS: usize = 8;

/// A socket to list with.
pub(super) struct Lister {
    requests: Requests,
    /// For what lies in other network namespaces.
    strict: Requests,
}

impl Lister {
    pub(super) fn open() -> Result<Self, NodeError> {
        let requests = Requests::open().map_err(NodeError::Open)?;
        let strict = Requests::open_strict().map_err(NodeError::Open)?;
        Ok(Self { requests, strict })
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub(super) fn deaf() -> Self {
        Self { requests: Requests::deaf(), strict: Requests::deaf() }
    }

    /// Lists everything but pods' addresses. Each listing is consistent in itself; whether something changed between
    /// them, the events tell.
    pub(super) fn facts(&mut self) -> Result<Facts, NodeError> {
        Ok(Facts {
            links: self.links()?,
            addresses: self.all(Listing::Addresses, wire::address)?,
            routes: {
                let mut routes = self.all(Listing::RoutesV4, wire::route)?;
                routes.append(&mut self.all(Listing::RoutesV6, wire::route)?);
                routes
            },
            neighbours: self.all(Listing::Neighbours, wire::neighbour)?,
            pods: BTreeMap::new(),
        })
    }

    /// Lists network devices alone.
    pub(super) fn links(&mut self) -> Result<BTreeMap<u32, Link>, NodeError> {
        let links = self.all(Listing::Links, |payload| wire::link(payload).map(Some))?;
        Ok(links.into_iter().map(|link| (link.index, link)).collect())
    }

    /// Addresses of a device in another network namespace; none where that is gone, or is not ours
    /// to ask. A listing that changes underneath is taken as it is: it is asked for again.
    pub(super) fn pod_addresses(&mut self, far: Far) -> Result<BTreeSet<IpAddr>, NodeError> {
        let listing = Listing::PodAddresses;
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let listed = self.strict.list(wire::far_addresses(far, family), |payload| {
                let read = wire::address(payload)?.filter(|read| read.index == far.index);
                found.extend(read.map(|read| read.address));
                Ok(())
            });
            match listed {
                Ok(Whole::Yes | Whole::No) => {}
                Err(RequestError::Refused(source)) if is_out_of_reach(&source) => {}
                Err(RequestError::Refused(source)) => {
                    return Err(NodeError::List { listing, source });
                }
                Err(RequestError::Malformed(source)) => {
                    return Err(NodeError::Malformed { listing, source });
                }
            }
        }
        Ok(found)
    }

    fn all<T>(
        &mut self,
        listing: Listing,
        read: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NodeError> {
        for _ in 0..ATTEMPTS {
            let mut found = Vec::new();
            let listed = self.requests.list(wire::request(listing), |payload| {
                found.extend(read(payload)?);
                Ok(())
            });
            match listed {
                Ok(Whole::Yes) => return Ok(found),
                Ok(Whole::No) => {}
                Err(RequestError::Refused(source)) => {
                    return Err(NodeError::List { listing, source });
                }
                Err(RequestError::Malformed(source)) => {
                    return Err(NodeError::Malformed { listing, source });
                }
            }
        }
        Err(NodeError::Torn { listing })
    }
}

/// The namespace has gone, or the device in it, or a user namespace that is not ours owns it.
fn is_out_of_reach(error: &io::Error) -> bool {
    let out_of_reach = [libc::EINVAL, libc::ENODEV, libc::ENOENT, libc::EACCES, libc::EPERM];
    error.raw_os_error().is_some_and(|code| out_of_reach.contains(&code))
}
