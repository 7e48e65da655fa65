//! Rules to the words of one image.
//!
//! Input: [`Rules`], counter slots, a salt for the hash functions. Output: the [`Image`], or what does
//! not fit. Invariant: equal input gives equal words, whatever was built before.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use enforcer_ebpf::{
    abi::{
        self, ABI_VERSION, ANY_PORT, CLUSTERS_AT, Entry6, FRONTEND_VALUE_BITS, FRONTENDS4,
        FRONTENDS6, Header, MAGIC, NODE_PORTS_AT, NODE_VALUE_BITS, NODE4, NODE6, POD_API_SERVER,
        POD_KNOWN, POD_LOCAL, POD_VALUE_BITS, PODS4, PODS6, POLICIES, POLICY_FIRST, PORTS_AT,
        Table, WAYS, entry4, frontend4_key,
    },
    tables,
};
use zerocopy::IntoBytes as _;

use super::{
    Assignment, CapacityError, Counted, IMAGE_WORDS, Image,
    cuckoo::{self, Placed},
    halves,
    lists::Regions,
};
use crate::{
    compile::{Exempt, FrontendKey, Pod, Policy, Rules},
    model::{ClusterId, FrontendAddress, Mode, Protocol, Reject},
    ranges::RangeSet,
};

mod egress;

/// Odd numbers without structure: the golden ratio's and the square root of 3's fractions.
const MULTIPLIERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// An image that is being written.
pub(super) struct Builder {
    words: Vec<u64>,
    multipliers: [u64; 2],
}

/// Entries of the tables of one kind, by family.
struct Entries {
    /// Key and value.
    v4: Vec<(u64, u32)>,
    v6: Vec<Entry6>,
}

impl Builder {
    pub(super) fn new(salt: u64) -> Self {
        // Odd factors keep the products odd.
        let multipliers = MULTIPLIERS.map(|odd| odd.wrapping_mul(2 * salt + 1));
        Self { words: vec![0; IMAGE_WORDS], multipliers }
    }

    pub(super) fn build(
        mut self,
        rules: &Rules,
        counters: &Assignment,
    ) -> Result<Image, CapacityError> {
        let Rules {
            node_addresses,
            exempt,
            pods,
            policies,
            frontends,
            egress_policies,
            egress,
            mode,
            reject,
            revision,
        } = rules;
        let limit = (POLICIES - POLICY_FIRST) as usize;
        let lists = egress_policies.iter().map(|policy| 1 + policy.ports.len()).sum::<usize>();
        let wanted = policies.len() + lists;
        if wanted > limit {
            return Err(CapacityError::Policies { wanted, limit });
        }
        self.node(node_addresses)?;
        self.frontends(frontends.iter().map(|(at, policy)| (*at, POLICY_FIRST + *policy as u32)))?;
        self.pods(pods.iter().map(|(address, pod)| (*address, pod_value(pod, counters))))?;
        let mut regions = Regions::new(abi::REGIONS_AT as usize, IMAGE_WORDS);
        self.policies(policies, counters, &mut regions)?;
        self.exempt(exempt, pods.keys().collect(), &mut regions)?;
        let first = POLICY_FIRST + policies.len() as u32;
        self.egress(egress_policies, egress, first, counters, &mut regions)?;
        for (slot, owner) in counters.owners() {
            self.words[(CLUSTERS_AT + slot) as usize] = owner;
        }
        let header = Header {
            magic: MAGIC,
            abi: ABI_VERSION,
            clusters: counters.owners().map(|(slot, _)| slot + 1).max().unwrap_or(0),
            multipliers: self.multipliers,
            revision: revision.0,
            region_words: regions.used() as u64,
            audit: match mode {
                Mode::Enforce => 0,
                Mode::Audit => 1,
            },
            reject: match reject {
                Reject::Drop => 0,
                Reject::Reset => 1,
            },
            reserved: [0; 5],
        };
        self.put(0, header.as_bytes());
        Ok(Image { words: self.words })
    }

    fn policies(
        &mut self,
        policies: &[Policy],
        counters: &Assignment,
        regions: &mut Regions,
    ) -> Result<(), CapacityError> {
        let mut known = HashMap::new();
        for (index, policy) in (POLICY_FIRST..).zip(policies) {
            let Policy { cluster, admitted, own_pods, mode } = policy;
            // Equal lists (a Seed's defaults and nothing else, say) are one set, and stored once.
            let mut record = match known.get(&Arc::as_ptr(admitted)) {
                Some(record) => *record,
                None => {
                    let record = regions.policy(&mut self.words, admitted).ok_or_else(|| {
                        CapacityError::Regions {
                            policies: policies.len(),
                            cluster: cluster.0.clone(),
                        }
                    })?;
                    known.insert(Arc::as_ptr(admitted), record);
                    record
                }
            };
            record.counter = counters.slot(&Counted::ingress(cluster.clone()));
            record.own_pods = if *own_pods { (record.counter + 1) as u16 } else { 0 };
            record.flags = flags(*mode);
            self.policy(index, record);
        }
        Ok(())
    }

    /// What is asked for sources that are in no list, and all of it together.
    fn exempt(
        &mut self,
        exempt: &Exempt,
        pods: Vec<&IpAddr>,
        regions: &mut Regions,
    ) -> Result<(), CapacityError> {
        let Exempt { uplink, pod_facing, trusted, probes } = exempt;
        let pods: RangeSet = pods.into_iter().collect();
        let both = trusted.union(probes).union(&pods);
        for (index, set) in [
            (abi::POLICY_EXEMPT_UPLINK, uplink),
            (abi::POLICY_EXEMPT_POD, pod_facing),
            (abi::POLICY_TRUSTED, trusted),
            (abi::POLICY_PROBES, probes),
            (abi::POLICY_OTHERS_UPLINK, &both.union(uplink)),
            (abi::POLICY_OTHERS_POD, &both.union(pod_facing)),
        ] {
            let record = regions.policy(&mut self.words, set).ok_or_else(|| {
                CapacityError::Regions { policies: 0, cluster: "(exemptions)".to_owned() }
            })?;
            self.policy(index, record);
        }
        Ok(())
    }

    fn node(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), CapacityError> {
        let entries = Entries::of(addresses.iter().map(|address| (*address, 1)));
        self.table::<NODE_VALUE_BITS>("IPv4 addresses of nodes", NODE4, &entries.v4)?;
        self.table6("IPv6 addresses of nodes", NODE6, &entries.v6)
    }

    fn pods(&mut self, pods: impl Iterator<Item = (IpAddr, u32)>) -> Result<(), CapacityError> {
        let entries = Entries::of(pods);
        self.table::<POD_VALUE_BITS>("IPv4 pods", PODS4, &entries.v4)?;
        self.table6("IPv6 pods", PODS6, &entries.v6)
    }

    fn frontends(
        &mut self,
        frontends: impl Iterator<Item = (FrontendKey, u32)>,
    ) -> Result<(), CapacityError> {
        let (mut v4, mut v6, mut places6) = (Vec::new(), Vec::new(), BTreeSet::new());
        for ((protocol, at), policy) in frontends {
            let protocol = protocol_number(protocol);
            let (FrontendAddress::Node { port } | FrontendAddress::Address { port, .. }) = at;
            let bit = (protocol << 16 | u32::from(port)) as usize;
            self.words[PORTS_AT as usize + bit / 64] |= 1 << (bit % 64);
            match at {
                FrontendAddress::Node { .. } => {
                    let at = NODE_PORTS_AT as usize + bit;
                    self.words[at / 4].as_mut_bytes()[at % 4 * 2..][..2]
                        .copy_from_slice(&(policy as u16).to_ne_bytes());
                }
                FrontendAddress::Address { address: IpAddr::V4(address), port } => {
                    v4.push((frontend4_key(address.into(), protocol, port.into()), policy));
                }
                FrontendAddress::Address { address: IpAddr::V6(address), port: _ } => {
                    let (high, low) = halves(address.into());
                    v6.push(Entry6 { high, low, port: bit as u64, value: policy.into() });
                    places6.insert((high, low));
                }
            }
        }
        v6.extend(places6.into_iter().map(|(high, low)| Entry6 {
            high,
            low,
            port: ANY_PORT.into(),
            value: 1,
        }));
        self.table::<FRONTEND_VALUE_BITS>("IPv4 frontends", FRONTENDS4, &v4)?;
        self.table6("IPv6 frontends", FRONTENDS6, &v6)
    }

    fn table<const VALUE_BITS: u32>(
        &mut self,
        name: &'static str,
        table: Table,
        entries: &[(u64, u32)],
    ) -> Result<(), CapacityError> {
        let [one, other] = self.multipliers;
        let buckets = |entry: &(u64, u32)| {
            [one, other].map(|multiplier| tables::bucket4(table, multiplier, entry.0))
        };
        for Placed { bucket, way, entry: (key, value) } in
            cuckoo::place(name, table, entries, buckets)?
        {
            let at = (table.at + bucket) as usize * WAYS + way;
            self.words[at] = entry4(*key, VALUE_BITS, *value);
        }
        Ok(())
    }

    fn table6(
        &mut self,
        name: &'static str,
        table: Table,
        entries: &[Entry6],
    ) -> Result<(), CapacityError> {
        let [one, other] = self.multipliers;
        let buckets = |entry: &Entry6| {
            let Entry6 { high, low, port, value: _ } = *entry;
            [one, other].map(|multiplier| tables::bucket6(table, multiplier, high, low, port))
        };
        for Placed { bucket, way, entry } in cuckoo::place(name, table, entries, buckets)? {
            let at = (table.at + bucket) as usize * WAYS + way;
            self.put(at * size_of::<Entry6>() / 8, entry.as_bytes());
        }
        Ok(())
    }

    fn policy(&mut self, index: u32, record: abi::Policy) {
        let at = (abi::POLICIES_AT + index) as usize * size_of::<abi::Policy>();
        self.put(at / 8, record.as_bytes());
    }

    /// Copies bytes, a multiple of eight, to a word.
    fn put(&mut self, word: usize, bytes: &[u8]) {
        self.words[word..word + bytes.len() / 8].as_mut_bytes().copy_from_slice(bytes);
    }
}

impl Entries {
    /// Of addresses with a value each.
    fn of(values: impl Iterator<Item = (IpAddr, u32)>) -> Self {
        let mut entries = Self { v4: Vec::new(), v6: Vec::new() };
        for (address, value) in values {
            match address {
                IpAddr::V4(address) => entries.v4.push((u32::from(address).into(), value)),
                IpAddr::V6(address) => {
                    let (high, low) = halves(address.into());
                    entries.v6.push(Entry6 { high, low, port: 0, value: value.into() });
                }
            }
        }
        entries
    }
}

fn flags(mode: Mode) -> u16 {
    match mode {
        Mode::Enforce => 0,
        Mode::Audit => abi::POLICY_AUDIT,
    }
}

fn protocol_number(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
    }
}

fn pod_value(pod: &Pod, counters: &Assignment) -> u32 {
    let Pod { cluster, api_server, local } = pod;
    // A cluster without a guarded frontend has no slot, and no policy that could admit its pods.
    let slot = |cluster: &ClusterId| counters.slot(&Counted::ingress(cluster.clone()));
    let cluster = cluster.as_ref().map(|cluster| slot(cluster).wrapping_add(1));
    POD_KNOWN
        | cluster.unwrap_or(0)
        | if *api_server { POD_API_SERVER } else { 0 }
        | if *local { POD_LOCAL } else { 0 }
}
