//! The product's programs as tests ask them: a snapshot put in force, a packet judged by `test_run`.
#![allow(clippy::unwrap_used, dead_code, reason = "a test's module; each test uses its part of it")]

use aya::programs::{TestRun as _, TestRunOptions};
use enforcer::kernel::Kernel;
use enforcer_ebpf::verdict::Action;
use enforcer_policy::{
    compile::compile,
    image::{Image, assign, counter_owners},
    model::{Side, Snapshot},
    plan::{Desired, LinkLayer, Program, plan},
};
use enforcer_tests::packets::Packet;

/// Puts a snapshot in force; its image is what the kernel holds then.
pub(crate) fn enforce(kernel: &mut Kernel, snapshot: &Snapshot) -> Image {
    let (rules, _) = compile(snapshot);
    let observed = kernel.observe().unwrap();
    let owners = observed.active.map(|bank| counter_owners(observed.bank(bank)).to_vec());
    let counters = assign(&rules, &owners.unwrap_or_default()).unwrap();
    let image = Image::lower(&rules, &counters).unwrap();
    let desired = Desired { words: image.words(), counters: &counters, interfaces: &[] };
    for step in plan(&observed, &desired) {
        kernel.apply(&step, &image).unwrap();
    }
    let observed = kernel.observe().unwrap();
    let again = plan(&observed, &desired);
    assert_eq!(again, [], "what was applied is what is observed");
    image
}

/// What the program of an uplink does with a packet.
pub(crate) fn action(kernel: &mut Kernel, link: LinkLayer, packet: &Packet) -> Action {
    action_of(kernel, link, &bytes_at(link, packet))
}

/// The packet's bytes as a hook of this kind sees them.
pub(crate) fn bytes_at(link: LinkLayer, packet: &Packet) -> Vec<u8> {
    match link {
        LinkLayer::Ethernet => packet.frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        // Long enough for what the kernel takes for an Ethernet header and what follows it; bytes
        // behind the packet's own end are none of it.
        LinkLayer::Raw => [packet.ip_bytes(), vec![0; 40]].concat(),
    }
}

/// What the program of an uplink does with these bytes.
pub(crate) fn action_of(kernel: &mut Kernel, link: LinkLayer, bytes: &[u8]) -> Action {
    run(kernel, Program::Ingress { side: Side::Uplink, link }, bytes)
}

/// What a program does with these bytes.
pub(crate) fn run(kernel: &mut Kernel, program: Program, bytes: &[u8]) -> Action {
    match returned(kernel, program, bytes).cast_signed() {
        -1 => Action::Pass,
        2 => Action::Drop,
        other => panic!("the program returned {other}"),
    }
}

/// What a program returns for these bytes.
pub(crate) fn returned(kernel: &mut Kernel, program: Program, bytes: &[u8]) -> u32 {
    let options = TestRunOptions { data_in: Some(bytes), ..TestRunOptions::new() };
    kernel.program(program).unwrap().test_run(options).unwrap().return_value
}

pub(crate) mod small {
    use std::{net::IpAddr, sync::Arc};

    use enforcer_policy::model::{
        Cluster, ClusterId, Egress, ExposeStrategy, Frontend, FrontendAddress, FrontendKind,
        GatedPod, ListedRange, Mode, ObjectRef, Origin, PodInterface, Protocol, RangeList,
        Snapshot, ThisNode,
    };

    /// Makes a pod at an interface one of the cluster's API servers, with the gate on and no peers.
    pub(crate) fn gate(snapshot: &mut Snapshot, pod: IpAddr, interface: u32) {
        let object = ObjectRef {
            kind: "Pod".to_owned(),
            namespace: "cluster-c1".to_owned(),
            name: "apiserver".to_owned(),
        };
        for cluster in snapshot.clusters.values_mut() {
            let pods = vec![GatedPod { object: object.clone(), addresses: [pod].into() }];
            Arc::make_mut(cluster).egress = Some(Egress { peers: Vec::new(), pods });
        }
        snapshot.this_node.pod_interfaces.push(PodInterface {
            index: interface,
            name: "veth1".to_owned(),
            netns: u32::MAX,
            addresses: [pod].into(),
        });
    }

    /// One cluster with one nodePort and one range, on a node 192.0.2.10 and 2001:db8:f::10.
    pub(crate) fn snapshot(range: &str) -> Snapshot {
        let object = ObjectRef {
            kind: "Cluster".to_owned(),
            namespace: String::new(),
            name: "c1".to_owned(),
        };
        let id = ClusterId("c1".to_owned());
        let cluster = Cluster {
            id: id.clone(),
            namespace: "cluster-c1".to_owned(),
            strategy: ExposeStrategy::LoadBalancer,
            allowed: Some(RangeList {
                origin: Origin { object: object.clone(), field: "cidrBlocks".to_owned() },
                ranges: vec![ListedRange { net: range.parse().unwrap(), position: 0 }],
                written: 1,
            }),
            frontends: vec![Frontend {
                protocol: Protocol::Tcp,
                at: FrontendAddress::Node { port: 30_000 },
                kind: FrontendKind::ApiServerNodePort,
                service: object,
                port_name: "secure".to_owned(),
            }],
            own_pods: [].into(),
            api_server_pods: [].into(),
            mode: Mode::Enforce,
            egress: None,
        };
        Snapshot {
            clusters: [(id, cluster.into())].into(),
            this_node: ThisNode {
                name: "node".to_owned(),
                addresses: ["192.0.2.10", "2001:db8:f::10"].map(|a| a.parse().unwrap()).into(),
                ..ThisNode::default()
            },
            ..Snapshot::default()
        }
    }
}
