//! What a gated pod's packets cost: new connections with `test_run`, answers with a real server.
//!
//! `test_run` has no socket to give a packet, and an answer passes because of the socket that sent it. So
//! answers are those of a server in a namespace of its own, and the time is what the kernel counts for
//! the program (`BPF_ENABLE_STATS`), beside an empty program on the same packets.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    EbpfLoader,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, tc::TcAttachOptions,
    },
    sys::{Stats, enable_stats},
};
use enforcer::{
    kernel::Kernel,
    node::{self, Selection},
};
use enforcer_policy::{
    compile::compile,
    image::{Image, assign},
    model::{
        Cluster, ClusterId, Egress, ExposeStrategy, GatedPod, Mode, ObjectRef, Origin, Peer,
        PeerPort, PodInterface, Protocol, Side, Snapshot,
    },
    plan::{Desired, LinkLayer, Program, plan},
};
use enforcer_tests::{
    cleanup::Scratch, netns::Netns, packets::Packet, stage::NODE, topology::Plan,
};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    Arguments,
    rig::{classifier, time},
    target::{Spread, Target},
};

/// The pod's addresses where only a packet says that there is one.
const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 244, 1, 7)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 7)),
];
const PORT: u16 = 6443;
/// Requests of one round.
const REQUESTS: u32 = 4_000;
const LIMIT: Duration = Duration::from_secs(5);

const PRODUCT: Program = Program::Ingress { side: Side::Pod, link: LinkLayer::Ethernet };

/// One line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) floor_ns: f64,
    pub(crate) product_ns: f64,
    pub(crate) ratio: Spread,
    pub(crate) budget: f64,
}

pub(crate) fn measure(programs: &[u8], arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (family, name) in [(0, "IPv4"), (1, "IPv6")] {
        rows.push(asks(programs, arguments, family, name)?);
        rows.push(answers(programs, arguments, family, name)?);
    }
    Ok(rows)
}

/// A segment that opens a connection to a peer.
fn asks(programs: &[u8], arguments: &Arguments, family: usize, name: &str) -> Result<Row> {
    let netns = Netns::new("bench-asks")?;
    netns.enter(|| {
        let mut scratch = Scratch::new("bench-asks")?;
        let mut kernel = Kernel::open(&scratch.bpffs("pins")?)?;
        // The loopback device is what `test_run` names.
        enforce(
            &mut kernel,
            PodInterface {
                index: 1,
                name: "lo".to_owned(),
                netns: u32::MAX,
                addresses: POD.into(),
            },
        )?;
        let mut bench = EbpfLoader::new().load(programs)?;
        classifier(&mut bench, "empty")?.load()?;
        let peer = SocketAddr::new(peers(family)[5], 2379);
        let packet = Packet::tcp(SocketAddr::new(POD[family], 40_000), peer)
            .frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
        let verdict = kernel.program(PRODUCT)?.test_run(options)?.return_value.cast_signed();
        ensure!(verdict == -1, "a peer is not granted");
        let (mut floors, mut products, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..arguments.rounds {
            let floor = time(classifier(&mut bench, "empty")?, &packet, arguments.packets)?;
            let product = time(kernel.program(PRODUCT)?, &packet, arguments.packets)?;
            floors.push(floor);
            products.push(product);
            ratios.push(product / floor);
        }
        Ok(row(format!("{name}, a gated pod asks a peer"), &floors, &products, &ratios, 3.0))
    })
}

/// What a server in the pod answers, segment by segment.
fn answers(programs: &[u8], arguments: &Arguments, family: usize, name: &str) -> Result<Row> {
    let network = Plan::customary().build()?;
    let (host, pod) = (network.node(NODE), network.pod("apiserver"));
    let to = SocketAddr::new(pod.addresses.both()[family], PORT);
    let listener = pod.ns.enter(|| TcpListener::bind(to))?;
    let server = std::thread::spawn(move || serve(&listener));
    let client = host.ns.enter(|| TcpStream::connect_timeout(&to, LIMIT))?;
    client.set_nodelay(true)?;
    let row = host.ns.enter(|| {
        let mut scratch = Scratch::new("bench-answers")?;
        let mut kernel = Kernel::open(&scratch.bpffs("pins")?)?;
        let state = node::observe(&Selection::Auto, &host.addresses.both().into())?;
        let mut interfaces = state.pod_interfaces.into_iter();
        let interface = interfaces.find(|known| known.addresses.contains(&to.ip()));
        enforce(&mut kernel, interface.context("the pod is not seen")?)?;
        let mut bench = EbpfLoader::new().load(programs)?;
        let empty = classifier(&mut bench, "empty")?;
        empty.load()?;
        let product = SchedClassifier::from_pin(kernel.pin(PRODUCT))?;
        let _stats = enable_stats(Stats::RunTime)?;
        let mut client = &client;
        let (mut floors, mut products, mut ratios) = (vec![], vec![], vec![]);
        let mut product = product;
        for _ in 0..arguments.rounds.min(15) {
            let floor = per_packet(empty, &pod.peer, &mut client)?;
            let ours = per_packet(&mut product, &pod.peer, &mut client)?;
            floors.push(floor);
            products.push(ours);
            ratios.push(ours / floor);
        }
        Ok::<_, anyhow::Error>(row(
            format!("{name}, a gated pod answers"),
            &floors,
            &products,
            &ratios,
            2.5,
        ))
    })?;
    client.shutdown(std::net::Shutdown::Both)?;
    drop(client);
    server.join().ok().context("the server")?;
    Ok(row)
}

/// Nanoseconds of a program for each packet of the pod while a client asks and asks.
fn per_packet(
    program: &mut SchedClassifier,
    interface: &str,
    client: &mut &TcpStream,
) -> Result<f64> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(interface, TcAttachType::Ingress, options)?;
    let before = program.info()?;
    let mut bytes = [0_u8; 64];
    for _ in 0..REQUESTS {
        client.write_all(&bytes)?;
        client.read_exact(&mut bytes).context("the pod does not answer")?;
    }
    let after = program.info()?;
    program.detach(link)?;
    let packets = after.run_count() - before.run_count();
    ensure!(packets >= u64::from(REQUESTS), "{packets} packets of {REQUESTS} answers were seen");
    Ok((after.run_time() - before.run_time()).as_nanos() as f64 / packets as f64)
}

fn serve(listener: &TcpListener) {
    let Ok((mut stream, _)) = listener.accept() else { return };
    let _ = stream.set_nodelay(true);
    let mut bytes = [0_u8; 64];
    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
}

fn enforce(kernel: &mut Kernel, interface: PodInterface) -> Result<()> {
    let object = |kind: &str, name: &str| ObjectRef {
        kind: kind.to_owned(),
        namespace: "cluster-c1".to_owned(),
        name: name.to_owned(),
    };
    let id = ClusterId("c1".to_owned());
    let peer = |net: IpNet, port| Peer {
        net,
        port,
        origin: Origin { object: object("Service", "peer"), field: "spec.clusterIPs".to_owned() },
    };
    let pods = [0, 1].into_iter().flat_map(peers).map(|pod| peer(pod.into(), PeerPort::Any));
    let services = (1..9_u8).map(|n| {
        let port = PeerPort::Only(Protocol::Tcp, if n % 2 == 0 { 443 } else { 2379 });
        peer(IpAddr::from([10, 96, 0, n]).into(), port)
    });
    let everywhere: IpNet = "0.0.0.0/0".parse()?;
    let dns = [Protocol::Tcp, Protocol::Udp].map(|p| peer(everywhere, PeerPort::Only(p, 53)));
    let cluster = Cluster {
        id: id.clone(),
        namespace: "cluster-c1".to_owned(),
        strategy: ExposeStrategy::LoadBalancer,
        allowed: None,
        frontends: Vec::new(),
        own_pods: [].into(),
        api_server_pods: interface.addresses.clone(),
        mode: Mode::Enforce,
        egress: Some(Egress {
            peers: pods.chain(services).chain(dns).collect(),
            pods: vec![GatedPod {
                object: object("Pod", "apiserver"),
                addresses: interface.addresses.clone(),
            }],
        }),
    };
    let mut snapshot = Snapshot { clusters: [(id, cluster.into())].into(), ..Snapshot::default() };
    snapshot.this_node.pod_interfaces = vec![interface];
    let (rules, problems) = compile(&snapshot);
    ensure!(problems.is_empty() && rules.egress.len() == 1, "not gated: {problems:?}");
    let counters = assign(&rules, &[])?;
    let image = Image::lower(&rules, &counters)?;
    let observed = kernel.observe()?;
    for step in
        plan(&observed, &Desired { words: image.words(), counters: &counters, interfaces: &[] })
    {
        kernel.apply(&step, &image)?;
    }
    Ok(())
}

/// Twenty pods.
fn peers(family: usize) -> [IpAddr; 20] {
    std::array::from_fn(|n| match family {
        0 => IpAddr::from([10, 244, 3, 10 + 3 * n as u8]),
        _ => Ipv6Addr::from(0xfd00_0244_0000_0003 << 64 | (10 + 3 * n as u128)).into(),
    })
}

fn row(what: String, floors: &[f64], products: &[f64], ratios: &[f64], budget: f64) -> Row {
    let ratio = Spread::of(ratios);
    let (floor_ns, product_ns) = (Spread::of(floors).median, Spread::of(products).median);
    Row { what, floor_ns, product_ns, ratio, budget }
}

pub(crate) fn markdown(rows: &[Row]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "| packets | floor ns | product ns | ratio (quartiles) | budget | |\n\
         |---|---:|---:|---:|---:|---|\n",
    );
    for Row { what, floor_ns, product_ns, ratio, budget } in rows {
        let Spread { median, quartiles: (first, third) } = ratio;
        let met = if median <= budget { "met" } else { "**over**" };
        let _ = writeln!(
            text,
            "| {what} | {floor_ns:.1} | {product_ns:.1} | {median:.2} ({first:.2} to {third:.2}) | {budget} | {met} |",
        );
    }
    text
}

pub(crate) fn targets(rows: &[Row]) -> Vec<Target> {
    let target = |row: &Row| {
        let line = format!("{}, to an empty program", row.what);
        let how = if row.budget < 3.0 { "run time of real answers" } else { "test_run" };
        Target::most(&line, row.budget, Some(row.ratio.median), "").note(how)
    };
    rows.iter().map(target).collect()
}
