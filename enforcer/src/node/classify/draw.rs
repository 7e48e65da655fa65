//! Nodes for tests, drawn device by device; what follows a device says something about it.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Role, classify, roles};
use crate::node::{
    NodeState, Selection,
    facts::{Assigned, Facts, Kind, Link, Lower, Route},
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
            controller: None,
            port_name: None,
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
        let (address, prefix) = (net.addr(), net.prefix_len());
        self.0.addresses.push(Assigned { index, address, prefix });
        let range = IpNet::from(address);
        self.0.routes.push(Route::Local { index: Some(index), range });
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

    /// What `auto` guards, where the Node object has these addresses.
    #[track_caller]
    pub(super) fn guards_with(&self, node_addresses: &[&str], wanted: &[&str]) {
        let node_addresses = node_addresses.iter().map(|text| text.parse().unwrap()).collect();
        let state = classify(&self.0, &Selection::Auto, &node_addresses);
        let guarded: Vec<_> = state.interfaces.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(guarded, wanted);
        assert_eq!(state.unguardable, []);
    }

    #[track_caller]
    pub(super) fn guards(&self, wanted: &[&str]) {
        self.guards_with(&[], wanted);
    }

    pub(super) fn role(&self, name: &str) -> Role {
        roles(&self.0, &BTreeSet::new())[&self.index(name)]
    }
}
