//! Hears that something changed.
//!
//! Input: the kernel's notifications about links, addresses, routes and neighbours. Output: that the node is
//! to be looked at again, not what changed: IPv4 routes that go with their device are never
//! notified, and notifications that find the socket's buffer full are lost. Invariant: a change
//! after [`Events::subscribe`] is told at least once.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    io::{self, ErrorKind},
    ops::ControlFlow,
};

use rtnetlink::{
    packet_core::{DecodeError, NetlinkBuffer},
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{NodeError, facts::Route, wire};
use crate::netlink::each;

/// Larger than any notification.
const DATAGRAM: usize = 64 * 1024;

/// Port number of the kernel; others belong to processes.
const KERNEL: u32 = 0;

const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
];

/// A subscription in the network namespace of the thread that made it.
pub(super) struct Events {
    socket: TokioSocket,
    datagram: Vec<u8>,
    service_device: Option<u32>,
    tunnels: BTreeSet<u32>,
}

impl Events {
    /// Must be called within a tokio runtime.
    pub(super) fn subscribe() -> Result<Self, NodeError> {
        let socket = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        };
        let socket = socket().map_err(NodeError::Subscribe)?;
        Ok(Self {
            socket,
            datagram: Vec::with_capacity(DATAGRAM),
            service_device: None,
            tunnels: BTreeSet::new(),
        })
    }

    /// The device whose addresses are no matter of ours: kube-proxy changes thousands.
    pub(super) fn ignore_addresses_of(&mut self, service_device: Option<u32>) {
        self.service_device = service_device;
    }

    /// The devices whose neighbours matter: those of others come and go all the time.
    pub(super) fn heed_neighbours_of(&mut self, tunnels: BTreeSet<u32>) {
        self.tunnels = tunnels;
    }

    /// Waits until something changed.
    pub(super) async fn changed(&mut self) -> Result<(), NodeError> {
        loop {
            self.datagram.clear();
            let told = poll_fn(|cx| self.socket.poll_recv_from(cx, &mut self.datagram)).await;
            // Both: what else has been told is to be taken, too.
            if self.concerns(told)? | self.drain()? {
                return Ok(());
            }
        }
    }

    /// Takes what has been told so far, and says whether something changed.
    pub(super) fn drain(&mut self) -> Result<bool, NodeError> {
        let mut changed = false;
        loop {
            self.datagram.clear();
            match self.socket.socket_ref().recv_from(&mut self.datagram, 0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(changed),
                told => changed |= self.concerns(told.map(|(_, sender)| sender))?,
            }
        }
    }

    /// Whether what was received is a reason to look again.
    fn concerns(&self, told: io::Result<SocketAddr>) -> Result<bool, NodeError> {
        match told {
            Ok(sender) => Ok(sender.port_number() == KERNEL && self.datagram_concerns()),
            // Notifications were lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(NodeError::Events(error)),
        }
    }

    /// Whether a message of the datagram, or one that cannot be read, is a reason to look again.
    fn datagram_concerns(&self) -> bool {
        let found = each(&self.datagram, |message| {
            Ok(if self.concerned_by(message)? {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        found.map_or(true, |flow| flow.is_break())
    }

    fn concerned_by(&self, message: NetlinkBuffer<&[u8]>) -> Result<bool, DecodeError> {
        match message.message_type() {
            libc::RTM_NEWADDR | libc::RTM_DELADDR => {
                let device = wire::address_device(message.payload())?;
                Ok(Some(device) != self.service_device)
            }
            libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                Ok(self.tunnels.contains(&wire::neighbour_device(message.payload())?))
            }
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Ok(match wire::route(message.payload())? {
                None => false,
                Some(Route::Default { .. }) => true,
                Some(Route::Local { index, .. }) => index.is_none() || index != self.service_device,
            }),
            _ => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A notification about an address of this device.
    fn address_of(device: u32) -> Vec<u8> {
        let mut bytes = 24u32.to_ne_bytes().to_vec();
        bytes.extend(libc::RTM_NEWADDR.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([u8::try_from(libc::AF_INET).unwrap(), 32, 0, 0]);
        bytes.extend(device.to_ne_bytes());
        bytes
    }

    fn events_ignoring(service_device: u32) -> Events {
        let mut events = Events::subscribe().unwrap();
        events.ignore_addresses_of(Some(service_device));
        events
    }

    #[tokio::test]
    async fn service_addresses_are_no_reason_to_look_but_others_beside_them_are() {
        let mut events = events_ignoring(7);
        let kernel = || Ok(SocketAddr::new(KERNEL, 0));
        events.datagram = [address_of(7), address_of(7)].concat();
        assert!(!events.concerns(kernel()).unwrap());
        events.datagram = [address_of(7), address_of(3)].concat();
        assert!(events.concerns(kernel()).unwrap());
        assert!(!events.concerns(Ok(SocketAddr::new(4_711, 0))).unwrap());
    }

    #[tokio::test]
    async fn neighbours_of_tunnels_are_a_reason_to_look_and_others_are_not() {
        let neighbour_of = |device: u32| {
            let mut bytes = 28u32.to_ne_bytes().to_vec();
            bytes.extend(libc::RTM_NEWNEIGH.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend([u8::try_from(libc::AF_INET).unwrap(), 0, 0, 0]);
            bytes.extend(device.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes
        };
        let mut events = Events::subscribe().unwrap();
        events.heed_neighbours_of(BTreeSet::from([5]));
        events.datagram = neighbour_of(3);
        assert!(!events.concerns(Ok(SocketAddr::new(KERNEL, 0))).unwrap());
        events.datagram = neighbour_of(5);
        assert!(events.concerns(Ok(SocketAddr::new(KERNEL, 0))).unwrap());
    }

    #[tokio::test]
    async fn what_was_lost_or_cannot_be_read_is_a_reason_to_look() {
        let mut events = events_ignoring(7);
        let lost = io::Error::from_raw_os_error(libc::ENOBUFS);
        assert!(events.concerns(Err(lost)).unwrap());
        events.datagram = address_of(7);
        events.datagram.truncate(20);
        assert!(events.concerns(Ok(SocketAddr::new(KERNEL, 0))).unwrap());
        assert!(!events.concerns(Err(ErrorKind::Interrupted.into())).unwrap());
        assert!(events.concerns(Err(io::Error::from_raw_os_error(libc::EBADF))).is_err());
    }
}
