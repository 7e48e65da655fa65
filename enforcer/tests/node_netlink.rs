//! The node's state follows the kernel, in network namespaces of the tests' own.
//!
//! Needs root and `ip`, and fails without: `cargo test -p enforcer --test node_netlink`. With
//! `-- --nocapture` it prints how long changes took to be published.

#![allow(clippy::unwrap_used, reason = "clippy takes helpers of tests for other code")]

mod spaces;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer::node::{NodeState, Selection, observe};
use enforcer_policy::plan::LinkLayer;
use futures::TryStreamExt;
use spaces::{PATIENCE, Watched, alone, elsewhere, ip, names};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// Runs `ip` while this thread takes states. Says how long it took, and when it ended.
async fn meanwhile(batch: String) -> (Duration, Instant) {
    let run = move || {
        let begin = Instant::now();
        ip(&batch);
        (begin.elapsed(), Instant::now())
    };
    // The runtime's threads are children of this one and begin in its namespace.
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// The states that were published meanwhile.
struct Record {
    end: oneshot::Sender<()>,
    states: JoinHandle<Vec<Arc<NodeState>>>,
}

impl Record {
    fn new(node: &Watched) -> Self {
        let mut seen = node.states.clone();
        let (end, mut ended) = oneshot::channel();
        let states = tokio::spawn(async move {
            let mut states = Vec::new();
            loop {
                tokio::select! {
                    _ = seen.changed() => states.push(Arc::clone(&seen.borrow_and_update())),
                    _ = &mut ended => return states,
                }
            }
        });
        Self { end, states }
    }

    async fn end(self) -> Vec<Arc<NodeState>> {
        self.end.send(()).unwrap();
        self.states.await.unwrap()
    }
}

#[test]
fn addresses_come_and_go_on_every_interface() {
    alone(|| async {
        ip("link add up0 type veth peer name far0\nlink set lo up");
        let mut node = Watched::auto().await;
        node.answers_at(&[]).await;
        ip("addr add 192.0.2.1/24 dev up0");
        node.answers_at(&["192.0.2.1"]).await;
        ip("addr add 192.0.2.2/24 dev up0\naddr add 2001:db8::1/64 dev up0 nodad");
        node.answers_at(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
        ip("addr add 198.51.100.9/32 dev lo\naddr add 192.0.2.7 peer 192.0.2.8 dev far0");
        let five = ["192.0.2.1", "192.0.2.2", "192.0.2.7", "198.51.100.9", "2001:db8::1"];
        node.answers_at(&five).await;
        ip("addr del 192.0.2.2/24 dev up0\naddr flush dev far0\naddr del 198.51.100.9/32 dev lo");
        node.answers_at(&["192.0.2.1", "2001:db8::1"]).await;
        ip("link del up0");
        node.answers_at(&[]).await;
    });
}

#[test]
fn an_address_that_moves_from_one_interface_to_another_is_there_all_the_time() {
    alone(|| async {
        ip("link add up0 type veth peer name far0\naddr add 192.0.2.9/32 dev up0");
        let mut node = Watched::auto().await;
        node.answers_at(&["192.0.2.9"]).await;
        let record = Record::new(&node);
        for (from, to) in [("up0", "lo"), ("lo", "far0"), ("far0", "up0")].repeat(5) {
            let mv = format!("addr add 192.0.2.9/32 dev {to}\naddr del 192.0.2.9/32 dev {from}");
            meanwhile(mv).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ip("addr add 192.0.2.10/32 dev lo");
        node.answers_at(&["192.0.2.9", "192.0.2.10"]).await;
        for state in record.end().await {
            assert!(state.addresses.contains(&IpAddr::from([192, 0, 2, 9])), "{state:?}");
        }
    });
}

#[test]
fn a_local_route_makes_an_address_and_a_whole_range_is_reported() {
    alone(|| async {
        ip("link set lo up");
        let mut node = Watched::auto().await;
        ip("route add local 203.0.113.4/32 dev lo\nroute add local 192.0.2.0/28 dev lo");
        node.answers_at(&["203.0.113.4"]).await;
        let range = BTreeSet::from(["192.0.2.0/28".parse().unwrap()]);
        node.until("reports the range", |state| state.local_ranges == range).await;
        ip("route del local 203.0.113.4/32 dev lo\nroute del local 192.0.2.0/28 dev lo");
        node.until("is as before", |state| *state == NodeState::default()).await;
    });
}

#[test]
fn service_addresses_are_not_the_nodes() {
    alone(|| async {
        // The name decides; this kernel need not have dummy devices.
        ip(
            "link add kube-ipvs0 type bridge\nlink set kube-ipvs0 up\naddr add 10.96.0.1/32 dev kube-ipvs0",
        );
        let mut node = Watched::auto().await;
        node.until("knows IPv6 of the device", |state| state.addresses.is_empty()).await;
        ip("addr add 10.96.0.2/32 dev kube-ipvs0\naddr add 192.0.2.1/32 dev lo");
        node.answers_at(&["192.0.2.1"]).await;
        ip("link set kube-ipvs0 name other0");
        node.until("counts them now", |state| state.addresses.len() >= 3).await;
    });
}

#[test]
fn interfaces_appear_are_renamed_go_down_and_vanish() {
    alone(|| async {
        let mut node = Watched::new("up0,up1".parse().unwrap()).await;
        node.guards(&[]).await;
        assert_eq!(node.states.borrow().missing, ["up0", "up1"].map(str::to_owned).into());
        ip("link add up0 type veth peer name far0");
        node.guards(&["up0"]).await;
        let index = node.states.borrow().interfaces[0].index;
        ip("link set up0 up\nlink set far0 up\nlink set up0 down\nlink set up0 name up1");
        node.guards(&["up1"]).await;
        assert_eq!(node.states.borrow().interfaces[0].index, index);
        node.until("misses up0", |state| state.missing == ["up0".to_owned()].into()).await;
        ip("link add up0 type veth peer name far1");
        node.guards(&["up1", "up0"]).await;
        ip("link del up1");
        node.guards(&["up0"]).await;
        ip("link del up0\nlink add up0 type veth peer name far0");
        node.until("sees the new one", |state| {
            names(state) == ["up0"] && state.interfaces[0].index > index
        })
        .await;
    });
}

#[test]
fn auto_follows_uplinks_tunnels_and_bridges() {
    alone(|| async {
        let far = elsewhere();
        let mut node = Watched::auto().await;
        ip(&format!(
            "link add up0 type veth peer name eth0 netns {far}
             link add pod1 type veth peer name eth1 netns {far}
             link add pair0 type veth peer name pair1
             link add cni0 type bridge
             link set pod1 master cni0
             addr add 10.244.1.1/24 dev cni0
             addr add 192.0.2.1/24 dev up0
             link set up0 up",
            far = far.path
        ));
        node.guards(&["up0"]).await;
        node.guards_pods(&["pod1"]).await;
        ip("link add vx0 type vxlan id 7 dstport 4789\ntuntap add dev tun0 mode tun");
        node.guards(&["up0", "vx0", "tun0"]).await;
        let layer = |name: &str| {
            let state = node.states.borrow();
            state.interfaces.iter().find(|interface| interface.name == name).unwrap().link
        };
        assert_eq!(
            ["up0", "pod1", "vx0", "tun0"].map(layer),
            [LinkLayer::Ethernet, LinkLayer::Ethernet, LinkLayer::Ethernet, LinkLayer::Raw]
        );
        ip("link del vx0\nlink del tun0\nlink add br0 type bridge\nlink set br0 up");
        ip("addr flush dev up0\nlink set up0 master br0\naddr add 192.0.2.1/24 dev br0");
        node.guards(&[]).await;
        // Without a way out through the bridge, its port is one like those of pods.
        node.guards_pods(&["up0", "pod1"]).await;
        ip("route add default via 192.0.2.254 dev br0");
        node.guards(&["up0"]).await;
        node.guards_pods(&["pod1"]).await;
        ip("link set br0 down");
        node.guards(&[]).await;
        node.node_addresses.send(["192.0.2.1".parse().unwrap()].into()).unwrap();
        node.guards(&["up0"]).await;
    });
}

#[test]
fn peers_of_tunnels_and_connected_subnets_follow_neighbours_and_addresses() {
    alone(|| async {
        let far = elsewhere();
        ip(&format!("link add up0 type veth peer name eth0 netns {}\nlink set up0 up", far.path));
        let mut node = Watched::auto().await;
        let nets = |nets: &[&str]| -> BTreeSet<_> {
            nets.iter().map(|net| net.parse().unwrap()).collect()
        };
        let peers = |peers: &[&str]| -> BTreeSet<IpAddr> {
            peers.iter().map(|peer| peer.parse().unwrap()).collect()
        };
        ip("addr add 192.0.2.7/24 dev up0\naddr add 2001:db8::7/64 dev up0 nodad");
        let wanted = nets(&["192.0.2.0/24", "2001:db8::/64"]);
        node.until("is connected", |state| state.connected == wanted).await;
        ip("link add vx0 type vxlan id 7 dstport 4789\nlink set vx0 up
            addr add 10.244.1.0/32 dev vx0
            neigh add 10.244.2.0 lladdr 02:00:00:00:00:02 dev vx0 nud permanent
            neigh add 10.244.3.0 lladdr 02:00:00:00:00:03 dev vx0 nud permanent
            neigh add 192.0.2.1 lladdr 02:00:00:00:00:04 dev up0 nud permanent");
        let two = peers(&["10.244.2.0", "10.244.3.0"]);
        node.until("knows both peers", |state| state.tunnel_peers == two).await;
        ip("neigh del 10.244.2.0 dev vx0");
        let one = peers(&["10.244.3.0"]);
        node.until("forgets one", |state| state.tunnel_peers == one).await;
        ip("neigh replace 10.244.2.0 lladdr 02:00:00:00:00:05 dev vx0 nud permanent");
        node.until("knows both again", |state| state.tunnel_peers == two).await;
        ip("link del vx0\naddr del 192.0.2.7/24 dev up0");
        let wanted = nets(&["2001:db8::/64"]);
        node.until("has lost both", |state| {
            state.tunnel_peers.is_empty() && state.connected == wanted
        })
        .await;
    });
}

#[test]
fn who_catches_up_sees_what_was_there_before() {
    alone(|| async {
        ip("link set lo up");
        let node = Watched::auto().await;
        for n in 0..50 {
            let address = IpAddr::from([192, 0, 2, n]);
            ip(&format!("addr add {address}/32 dev lo"));
            node.watch.catch_up(PATIENCE).await;
            assert!(node.states.borrow().addresses.contains(&address), "{address}");
        }
    });
}

#[test]
fn a_burst_of_interfaces_settles_to_the_right_state() {
    alone(|| async {
        const MANY: usize = 200;
        let far = elsewhere();
        let mut node = Watched::auto().await;
        let lines = |line: &dyn Fn(usize) -> String| (0..MANY).map(line).collect::<String>();
        let appear = lines(&|n| {
            format!(
                "link add up{n} type veth peer name eth{n} netns {}\n\
                 addr add 10.7.{n}.1/24 dev up{n}\nlink set up{n} up\n",
                far.path
            )
        });
        let record = Record::new(&node);
        let (took, end) = meanwhile(appear).await;
        node.until("guards all", |state| {
            state.interfaces.len() == MANY && state.addresses.len() == MANY
        })
        .await;
        let settled = end.elapsed();
        let published = record.end().await.len();
        println!("{MANY} pairs in {took:?}: settled {settled:?} later, {published} states");
        let (took, end) = meanwhile(lines(&|n| format!("link del up{n}\n"))).await;
        node.guards(&[]).await;
        println!("{MANY} pairs gone in {took:?}: settled {:?} later", end.elapsed());
        node.answers_at(&[]).await;
    });
}

#[test]
fn one_look_sees_what_the_watch_sees() {
    alone(|| async {
        ip("link add up0 type veth peer name far0\naddr add 192.0.2.1/24 dev up0\nlink set up0 up");
        let selection: Selection = "up0".parse().unwrap();
        let node = Watched::new(selection.clone()).await;
        let once = observe(&selection, &BTreeSet::new()).unwrap();
        assert_eq!(once, **node.states.borrow());
        assert_eq!(names(&once), ["up0"]);
    });
}

#[test]
fn the_namespace_is_that_of_the_caller_and_the_thread_ends_with_the_watch() {
    alone(|| async {
        ip("link add only-here type veth peer name far0");
        let Watched { mut states, watch, .. } = Watched::new("only-here".parse().unwrap()).await;
        assert_eq!(names(&states.borrow_and_update()), ["only-here"]);
        drop(watch);
        let ended = timeout(PATIENCE, states.changed()).await.unwrap();
        assert!(ended.is_err());
    });
}

/// From the kernel's acknowledgement of a change to its state. Printed, not judged: time is a
/// matter of the machine.
#[test]
fn changes_are_published_soon() {
    alone(|| async {
        ip("link add up0 type veth peer name far0\nlink set up0 up\nlink set far0 up");
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let mut links = handle.link().get().match_name("up0").execute();
        let index = links.try_next().await.unwrap().unwrap().header.index;
        let mut node = Watched::auto().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for gap in [50, 1] {
            let mut took = Vec::new();
            for n in 0..100u8 {
                let address = IpAddr::from([192, 0, 2, n]);
                handle.address().add(index, address, 32).execute().await.unwrap();
                let begin = Instant::now();
                node.until("sees it", |state| state.addresses.contains(&address)).await;
                took.push(begin.elapsed());
                tokio::time::sleep(Duration::from_millis(gap)).await;
            }
            took.sort();
            println!("{gap} ms apart: median {:?}, worst {:?}", took[50], took[99]);
            ip("addr flush dev up0");
            node.until("sees them go", |state| state.addresses.iter().all(IpAddr::is_ipv6)).await;
        }
    });
}
