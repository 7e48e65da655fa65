//! Nodes for tests, drawn device by device; what follows a device says something about it.

use std::collections::BTreeSet;

use enforcer_policy::model::Side;
use ipnet::IpNet;

use super::{Role, classify, roles};
use crate::node::{
    NodeState, Preemption, Selection,
    facts::{Assigned, Facts, Kind, Link, Lower, Neighbour, Route},
};

/// A node with `lo`.
pub(super) struct Node(pub(super) Facts);

impl Node {
    pub(super) fn new() -> Self {
        Self(Facts::default()).nic("lo").header(libc::ARPHRD_LOOPBACK).holds("127.0.0.1/8")
    }

    pub(super) fn nic(self, name: &str) -> Self {
        self.add(name, None)
    }

    pub(super) fn device(self, kind: &str, name: &str) -> Self {
        self.add(name, Some(kind))
    }

    fn add(mut self, name: &str, kind: Option<&str>) -> Self {
        let index = u32::try_from(self.0.links.len()).unwrap() + 1;
        let link = Link {
            index,
            name: name.to_owned(),
            kind: Kind::of(kind),
            arphrd: libc::ARPHRD_ETHER,
            lower: Lower::None,
            far: None,
            controller: None,
            port_name: None,
            preempted: None,
        };
        self.0.links.insert(index, link);
        self
    }

    pub(super) fn pod(self, name: &str) -> Self {
        self.device("veth", name).elsewhere()
    }

    pub(super) fn header(mut self, arphrd: u16) -> Self {
        self.last().arphrd = arphrd;
        self
    }

    pub(super) fn preempted(mut self, by: Preemption) -> Self {
        self.last().preempted = Some(by);
        self
    }

    pub(super) fn over(mut self, lower: &str) -> Self {
        let lower = self.index(lower);
        self.last().lower = Lower::Here(lower);
        self
    }

    pub(super) fn elsewhere(mut self) -> Self {
        self.last().lower = Lower::Elsewhere;
        self
    }

    pub(super) fn port_of(mut self, controller: &str) -> Self {
        let controller = self.index(controller);
        self.last().controller = Some(controller);
        self
    }

    pub(super) fn port_name(mut self, name: &str) -> Self {
        self.last().port_name = Some(name.to_owned());
        self
    }

    pub(super) fn holds(mut self, address: &str) -> Self {
        let net: IpNet = address.parse().unwrap();
        let index = self.last().index;
        let address = net.addr();
        self.0.addresses.push(Assigned { index, address, network: net.trunc() });
        let range = IpNet::from(address);
        self.0.routes.push(Route::Local { index: Some(index), range });
        self
    }

    /// A permanent neighbour of the last device.
    pub(super) fn peer(mut self, address: &str) -> Self {
        let index = self.last().index;
        self.0.neighbours.push(Neighbour { index, address: address.parse().unwrap() });
        self
    }

    pub(super) fn default_route(mut self) -> Self {
        let through = vec![self.last().index];
        self.0.routes.push(Route::Default { through });
        self
    }

    pub(super) fn local_route(mut self, range: &str) -> Self {
        let index = Some(self.last().index);
        self.0.routes.push(Route::Local { index, range: range.parse().unwrap() });
        self
    }

    fn last(&mut self) -> &mut Link {
        self.0.links.values_mut().next_back().unwrap()
    }

    pub(super) fn index(&self, name: &str) -> u32 {
        self.0.links.values().find(|link| link.name == name).unwrap().index
    }

    pub(super) fn state(&self, selection: &Selection) -> NodeState {
        classify(&self.0, selection, &BTreeSet::new())
    }

    /// What `auto` guards as an uplink or tunnel, where the Node object has these addresses.
    #[track_caller]
    pub(super) fn guards_with(&self, node_addresses: &[&str], wanted: &[&str]) {
        assert_eq!(self.guarded(node_addresses, Side::Uplink), wanted);
    }

    #[track_caller]
    pub(super) fn guards(&self, wanted: &[&str]) {
        self.guards_with(&[], wanted);
    }

    /// What `auto` guards as the host's end of a pod's interface.
    #[track_caller]
    pub(super) fn guards_pods(&self, wanted: &[&str]) {
        assert_eq!(self.guarded(&[], Side::Pod), wanted);
    }

    #[track_caller]
    fn guarded(&self, node_addresses: &[&str], side: Side) -> Vec<String> {
        let node_addresses = node_addresses.iter().map(|text| text.parse().unwrap()).collect();
        let state = classify(&self.0, &Selection::Auto, &node_addresses);
        assert_eq!(state.unguardable, []);
        let guarded = state.interfaces.into_iter().filter(|interface| interface.side == side);
        guarded.map(|interface| interface.name).collect()
    }

    pub(super) fn role(&self, name: &str) -> Role {
        roles(&self.0, &BTreeSet::new())[&self.index(name)]
    }
}
