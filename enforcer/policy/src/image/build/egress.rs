//! Egress policies and gated interfaces to the words of an image.

use std::{collections::BTreeMap, ptr};

use enforcer_ebpf::{
    abi::{
        EGRESS, EgressEntry, PORT_PEERS, PORT_PEERS_VALUE_BITS, Policy as Record, WAYS,
        port_peers_key,
    },
    tables,
};
use zerocopy::IntoBytes as _;

use super::{
    super::{
        Assignment, CapacityError, Counted,
        cuckoo::{self, Placed},
        halves,
        lists::Regions,
    },
    Builder, flags, protocol_number,
};
use crate::{
    compile::{EgressPod, EgressPolicy},
    ranges::RangeSet,
};

impl Builder {
    /// Writes the policies from record `first` on, and the interfaces that they count for.
    pub(super) fn egress(
        &mut self,
        policies: &[EgressPolicy],
        pods: &BTreeMap<u32, EgressPod>,
        first: u32,
        counters: &Assignment,
        regions: &mut Regions,
    ) -> Result<(), CapacityError> {
        let mut next = first;
        // Lists for one port count nothing, so that clusters share those that are equal.
        let mut shared: BTreeMap<*const RangeSet, u32> = BTreeMap::new();
        let (mut numbers, mut ports) = (Vec::new(), Vec::new());
        for policy in policies {
            let EgressPolicy { cluster, mode, any_port, ports: lists } = policy;
            let full =
                || CapacityError::Regions { policies: policies.len(), cluster: cluster.0.clone() };
            let mut record = |builder: &mut Self, set: &RangeSet| -> Result<Record, _> {
                regions.policy(&mut builder.words, set).ok_or_else(full)
            };
            let number = next;
            next += 1;
            let every_port = record(self, any_port)?;
            let counter = counters.slot(&Counted::egress(cluster.clone()));
            self.policy(number, Record { counter, flags: flags(*mode), ..every_port });
            numbers.push(number);
            for ((protocol, port), set) in lists {
                let list = match shared.get(&ptr::from_ref(set.as_ref())) {
                    Some(list) => *list,
                    None => {
                        let list = next;
                        next += 1;
                        let words = record(self, set)?;
                        self.policy(list, words);
                        shared.insert(ptr::from_ref(set.as_ref()), list);
                        list
                    }
                };
                let key = port_peers_key(number, protocol_number(*protocol), (*port).into());
                ports.push((key, list));
            }
        }
        self.table::<PORT_PEERS_VALUE_BITS>("egress ports", PORT_PEERS, &ports)?;
        let entries: Vec<EgressEntry> =
            pods.iter().map(|(interface, pod)| entry(*interface, pod, &numbers)).collect();
        self.interfaces(&entries)
    }

    fn interfaces(&mut self, entries: &[EgressEntry]) -> Result<(), CapacityError> {
        let multipliers = self.multipliers;
        let buckets = |entry: &EgressEntry| {
            multipliers.map(|m| tables::bucket4(EGRESS, m, entry.interface.into()))
        };
        for Placed { bucket, way, entry } in
            cuckoo::place("gated interfaces", EGRESS, entries, buckets)?
        {
            let at = (EGRESS.at + bucket) as usize * WAYS + way;
            self.put(at * size_of::<EgressEntry>() / 8, entry.as_bytes());
        }
        Ok(())
    }
}

fn entry(interface: u32, pod: &EgressPod, numbers: &[u32]) -> EgressEntry {
    let EgressPod { netns, v4, v6, policy } = pod;
    let v6 = v6.map_or((0, 0), |address| halves(address.into()));
    EgressEntry {
        interface,
        netns: *netns,
        policy: numbers[*policy],
        v4: v4.map_or(0, u32::from),
        v6: [v6.0, v6.1],
    }
}
