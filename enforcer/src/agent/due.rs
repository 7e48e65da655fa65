//! What a change of the node makes necessary.
//!
//! Input: the node before and after, and the snapshot in force. Output: [`Due`]. Invariant: whatever an
//! image depends on makes one, and nothing else does: pods come and go all the time.

use std::{collections::BTreeSet, net::IpAddr};

use enforcer_policy::model::{PodInterface, Snapshot};

use crate::node::NodeState;

/// What there is to do, the more the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Steps left over.
    Rest,
    /// Interfaces have changed.
    Interfaces,
    /// Something that the image depends on has changed.
    Image,
}

impl Due {
    /// What a change of the node makes necessary.
    pub(super) fn of(known: &NodeState, seen: &NodeState, in_force: Option<&Snapshot>) -> Self {
        let NodeState {
            addresses,
            local_ranges,
            tunnel_peers,
            connected,
            pod_interfaces,
            interfaces,
            missing,
            unguardable,
        } = seen;
        let same_image = *addresses == known.addresses
            && *local_ranges == known.local_ranges
            && *tunnel_peers == known.tunnel_peers
            && *connected == known.connected
            && same_gated(&known.pod_interfaces, pod_interfaces, in_force);
        let same_interfaces = *interfaces == known.interfaces
            && *missing == known.missing
            && *unguardable == known.unguardable;
        match (same_image, same_interfaces) {
            (false, _) => Self::Image,
            (true, false) => Self::Interfaces,
            (true, true) => Self::Rest,
        }
    }
}

/// Whether the interfaces of gated pods are the same, and others in their network namespaces.
fn same_gated(known: &[PodInterface], seen: &[PodInterface], in_force: Option<&Snapshot>) -> bool {
    if known == seen {
        return true;
    }
    let clusters = in_force.into_iter().flat_map(|snapshot| snapshot.clusters.values());
    let pods = clusters.filter_map(|cluster| cluster.egress.as_ref()).flat_map(|it| &it.pods);
    let gated: BTreeSet<IpAddr> = pods.flat_map(|pod| &pod.addresses).copied().collect();
    let concerned = |interfaces: &[PodInterface]| -> Vec<PodInterface> {
        let holds = |it: &&PodInterface| !it.addresses.is_disjoint(&gated);
        let namespaces: BTreeSet<u32> =
            interfaces.iter().filter(holds).map(|it| it.netns).collect();
        interfaces.iter().filter(|it| namespaces.contains(&it.netns)).cloned().collect()
    };
    concerned(known) == concerned(seen)
}

#[cfg(test)]
mod tests {
    use enforcer_policy::model::{
        Cluster, ClusterId, Egress, ExposeStrategy, GatedPod, Mode, ObjectRef,
    };

    use super::*;

    fn pod(index: u32, netns: u32, addresses: &[&str]) -> PodInterface {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        PodInterface { index, name: format!("veth{index}"), netns, addresses }
    }

    fn node(pod_interfaces: &[PodInterface]) -> NodeState {
        NodeState { pod_interfaces: pod_interfaces.to_vec(), ..NodeState::default() }
    }

    /// A cluster with the gate on and a pod at 10.1.0.1.
    fn gated() -> Snapshot {
        let object =
            ObjectRef { kind: "Pod".into(), namespace: "cluster-c".into(), name: "a".into() };
        let addresses = ["10.1.0.1".parse().unwrap()].into();
        let id = ClusterId("c".to_owned());
        let cluster = Cluster {
            id: id.clone(),
            namespace: "cluster-c".to_owned(),
            strategy: ExposeStrategy::NodePort,
            allowed: None,
            frontends: Vec::new(),
            own_pods: [].into(),
            api_server_pods: [].into(),
            mode: Mode::Enforce,
            egress: Some(Egress { peers: vec![], pods: vec![GatedPod { object, addresses }] }),
        };
        Snapshot { clusters: [(id, cluster.into())].into(), ..Snapshot::default() }
    }

    #[test]
    fn pods_that_are_no_gated_api_servers_make_no_image() {
        let others: Vec<PodInterface> = (0..200).map(|n| pod(n, n, &["10.2.0.1"])).collect();
        let snapshot = gated();
        assert_eq!(Due::of(&node(&[]), &node(&others), Some(&snapshot)), Due::Rest);
        assert_eq!(Due::of(&node(&[]), &node(&others), None), Due::Rest);
    }

    #[test]
    fn a_gated_pods_interface_that_comes_goes_or_changes_makes_one() {
        let snapshot = gated();
        let (one, other) = (pod(7, 3, &["10.1.0.1"]), pod(8, 4, &["10.2.0.1"]));
        let due = |known: &[PodInterface], seen: &[PodInterface]| {
            Due::of(&node(known), &node(seen), Some(&snapshot))
        };
        let (both, only) = ([one.clone(), other.clone()], [other.clone()]);
        assert_eq!(due(&only, &both), Due::Image);
        assert_eq!(due(&both, &only), Due::Image);
        assert_eq!(due(&[pod(7, 3, &[])], std::slice::from_ref(&one)), Due::Image);
        assert_eq!(due(&both, std::slice::from_ref(&one)), Due::Rest);
        let beside = [one.clone(), pod(9, 3, &["172.16.0.1"])];
        assert_eq!(due(std::slice::from_ref(&one), &beside), Due::Image);
    }
}
