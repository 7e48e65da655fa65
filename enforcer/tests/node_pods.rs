//! The addresses of pods are found from the host's side of their interfaces.
//!
//! Needs root, `ip` and `nsenter`, and fails without: `cargo test -p enforcer --test node_pods`. With
//! `-- --nocapture` it prints how long addresses took to be published.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod spaces;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use enforcer::node::{NodeState, Selection, observe};
use enforcer_policy::model::PodInterface;
use spaces::{Elsewhere, PATIENCE, Watched, alone, elsewhere, ip};

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn pod<'a>(state: &'a NodeState, name: &str) -> Option<&'a PodInterface> {
    state.pod_interfaces.iter().find(|interface| interface.name == name)
}

impl Watched {
    async fn pod_has(&mut self, name: &str, wanted: &[&str]) {
        let wanted = addresses(wanted);
        let has = |state: &NodeState| pod(state, name).is_some_and(|pod| pod.addresses == wanted);
        self.until(&format!("{name} has {wanted:?}"), has).await;
    }

    fn netns(&self, name: &str) -> u32 {
        pod(&self.states.borrow(), name).unwrap().netns
    }
}

/// A pod as a routing CNI makes one: /32 and /128 in the pod, routes to them on the host's side.
fn routed(name: &str, v4: &str, v6: &str) -> Elsewhere {
    let pod = elsewhere();
    wire(&pod, name, v4, v6);
    pod
}

fn wire(pod: &Elsewhere, name: &str, v4: &str, v6: &str) {
    ip(&format!("link add {name} type veth peer name eth0 netns {}\nlink set {name} up", pod.path));
    pod.ip(&format!(
        "link set lo up
         link set eth0 up
         addr add {v4}/32 dev eth0
         addr add {v6}/128 dev eth0 nodad
         route add 169.254.1.1 dev eth0
         route add default via 169.254.1.1 dev eth0"
    ));
    ip(&format!("route add {v4}/32 dev {name}\nroute add {v6}/128 dev {name}"));
}

#[test]
fn a_routed_pod_is_known_by_its_addresses_of_both_families() {
    alone(|| async {
        let mut node = Watched::auto().await;
        let (_one, _two) =
            (routed("pod1", "10.1.0.1", "fd00::1"), routed("pod2", "10.1.0.2", "fd00::2"));
        node.pod_has("pod1", &["10.1.0.1", "fd00::1"]).await;
        node.pod_has("pod2", &["10.1.0.2", "fd00::2"]).await;
        assert_ne!(node.netns("pod1"), node.netns("pod2"));
    });
}

#[test]
fn pods_behind_a_bridge_are_told_apart() {
    alone(|| async {
        let pods = [elsewhere(), elsewhere()];
        ip("link add cni0 type bridge\naddr add 10.1.0.254/24 dev cni0\nlink set cni0 up");
        for (number, pod) in pods.iter().enumerate() {
            ip(&format!(
                "link add pod{number} type veth peer name eth0 netns {}
                 link set pod{number} master cni0 up",
                pod.path
            ));
            pod.ip(&format!("link set eth0 up\naddr add 10.1.0.{}/24 dev eth0", number + 1));
        }
        let mut node = Watched::auto().await;
        node.pod_has("pod0", &["10.1.0.1"]).await;
        node.pod_has("pod1", &["10.1.0.2"]).await;
    });
}

#[test]
fn other_interfaces_of_the_pod_and_link_local_addresses_do_not_count() {
    alone(|| async {
        let pod = elsewhere();
        ip(&format!("link add pod1 type veth peer name eth0 netns {}\nlink set pod1 up", pod.path));
        pod.ip("link set lo up
             link add other0 type veth peer name other1
             addr add 192.0.2.1/32 dev lo
             addr add 192.0.2.2/24 dev other0
             link set eth0 up
             addr add 169.254.7.7/16 dev eth0
             addr add 10.1.0.1/24 dev eth0");
        let mut node = Watched::auto().await;
        node.pod_has("pod1", &["10.1.0.1"]).await;
    });
}

#[test]
fn addresses_that_come_later_and_go_are_seen_without_any_event_on_the_host() {
    alone(|| async {
        let pod = elsewhere();
        let mut node = Watched::auto().await;
        ip(&format!("link add pod1 type veth peer name eth0 netns {}\nlink set pod1 up", pod.path));
        pod.ip("link set eth0 up");
        node.pod_has("pod1", &[]).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        pod.ip("addr add 10.1.0.1/24 dev eth0");
        let begin = Instant::now();
        node.pod_has("pod1", &["10.1.0.1"]).await;
        println!("an address was published {:?} after it was there", begin.elapsed());
        pod.ip("addr add fd00::1/64 dev eth0 nodad");
        let begin = Instant::now();
        node.pod_has("pod1", &["10.1.0.1", "fd00::1"]).await;
        println!("the second one {:?} after", begin.elapsed());
        pod.ip("addr del 10.1.0.1/24 dev eth0");
        node.pod_has("pod1", &["fd00::1"]).await;
    });
}

#[test]
fn who_catches_up_knows_the_address_of_an_interface_that_had_none_for_long() {
    alone(|| async {
        let pod = elsewhere();
        ip(&format!("link add pod1 type veth peer name eth0 netns {}\nlink set pod1 up", pod.path));
        let mut node = Watched::auto().await;
        node.pod_has("pod1", &[]).await;
        // Longer than the interface is asked on its own account.
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        pod.ip("link set eth0 up\naddr add 10.1.0.1/24 dev eth0");
        node.watch.catch_up(PATIENCE).await;
        let state = node.states.borrow().clone();
        assert_eq!(pod_addresses(&state), [addresses(&["10.1.0.1"])]);
    });
}

fn pod_addresses(state: &NodeState) -> Vec<BTreeSet<IpAddr>> {
    state.pod_interfaces.iter().map(|pod| pod.addresses.clone()).collect()
}

#[test]
fn a_namespace_that_goes_takes_its_interface_along_and_its_number_is_used_again() {
    alone(|| async {
        let mut node = Watched::auto().await;
        let mut numbers = Vec::new();
        for n in 1..=5 {
            let (v4, v6) = (format!("10.1.0.{n}"), format!("fd00::{n}"));
            let pod = routed("pod1", &v4, &v6);
            node.pod_has("pod1", &[&v4, &v6]).await;
            numbers.push(node.netns("pod1"));
            drop(pod);
            node.until("has no pod", |state| state.pod_interfaces.is_empty()).await;
        }
        assert!(numbers.windows(2).any(|pair| pair[0] == pair[1]), "{numbers:?}");
    });
}

#[test]
fn a_burst_of_pods_that_come_and_go_is_listed_in_the_end() {
    alone(|| async {
        let mut node = Watched::auto().await;
        let mut pods: Vec<Elsewhere> = (0..40)
            .map(|n| routed(&format!("pod{n}"), &format!("10.1.0.{n}"), &format!("fd00::{n}")))
            .collect();
        drop(pods.split_off(20));
        node.until("knows those that stayed", |state| {
            state.pod_interfaces.len() == 20
                && state.pod_interfaces.iter().all(|pod| pod.addresses.len() == 2)
        })
        .await;
        // A look that asks all of them.
        let begin = Instant::now();
        let seen = observe(&Selection::Auto, &BTreeSet::new()).unwrap();
        println!("one look at {} pods took {:?}", seen.pod_interfaces.len(), begin.elapsed());
        assert_eq!(seen.pod_interfaces, node.states.borrow().pod_interfaces);
    });
}

#[test]
fn net_admin_is_the_only_capability_that_this_takes() {
    alone(|| async {
        let pod = elsewhere();
        keep_net_admin_alone();
        let mut node = Watched::auto().await;
        wire(&pod, "pod1", "10.1.0.1", "fd00::1");
        node.pod_has("pod1", &["10.1.0.1", "fd00::1"]).await;
    });
}

/// Takes all other capabilities from this thread and those that it starts; programs that it runs
/// as root have them again.
fn keep_net_admin_alone() {
    const VERSION_3: u32 = 0x2008_0522;
    const NET_ADMIN: u32 = 1 << 12;
    let header: [u32; 2] = [VERSION_3, 0];
    let sets: [u32; 6] = [NET_ADMIN, NET_ADMIN, 0, 0, 0, 0];
    // SAFETY: both are as the kernel reads them (capset(2)), and it writes to neither.
    let done = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
