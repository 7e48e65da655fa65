//! Lists what the kernel has.
//!
//! Input: a netlink socket in the network namespace of the thread that opened it. Output:
//! [`Facts`]. Invariant: a listing is whole, or an error.
//!
//! Calls block while the kernel holds its RTNL lock: this belongs on a thread of its own.

use rtnetlink::packet_core::DecodeError;

use super::{Listing, NodeError, facts::Facts, wire};
use crate::netlink::{RequestError, Requests, Whole};

/// How often a listing that changed underneath is asked for again. One that outlasts this many is
/// asked for by the next look.
const ATTEMPTS: usize = 8;

/// A socket to list with.
pub(super) struct Lister {
    requests: Requests,
}

impl Lister {
    pub(super) fn open() -> Result<Self, NodeError> {
        Ok(Self { requests: Requests::open().map_err(NodeError::Open)? })
    }

    /// One that nobody answers.
    #[cfg(test)]
    pub(super) fn deaf() -> Self {
        Self { requests: Requests::deaf() }
    }

    /// Lists everything. Each listing is consistent in itself; whether something changed between
    /// them, the events tell.
    pub(super) fn facts(&mut self) -> Result<Facts, NodeError> {
        Ok(Facts {
            links: self
                .all(Listing::Links, |payload| wire::link(payload).map(Some))?
                .into_iter()
                .map(|link| (link.index, link))
                .collect(),
            addresses: self.all(Listing::Addresses, wire::address)?,
            routes: {
                let mut routes = self.all(Listing::RoutesV4, wire::route)?;
                routes.append(&mut self.all(Listing::RoutesV6, wire::route)?);
                routes
            },
            neighbours: self.all(Listing::Neighbours, wire::neighbour)?,
        })
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
