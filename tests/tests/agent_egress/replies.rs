//! What a gated API server answers: its connections go on whatever becomes of listener and agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use enforcer_tests::gated::Gated;
use enforcer_tests::netns::Netns;
use enforcer_tests::talk::{Conversation, Exchange, Outcome, becomes, connect};
use enforcer_tests::topology::Cni;
use enforcer_tests::traffic::{Effort, Traffic};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a busy machine may need for an answer that comes.
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7443;

fn watch(gated: &Gated, to: SocketAddr) -> Conversation {
    Conversation::open(&gated.stage.network.host("listed").ns, None, to, LIMIT).unwrap()
}

#[test]
fn a_watch_of_thirty_seconds_ends_well_after_its_listener_has_closed() {
    let mut gated = Gated::small(Cni::Routed).unwrap();
    // One of each family from before anything was enforced, and one from after.
    let mut watches = Vec::from([false, true].map(|v6| watch(&gated, gated.api_address(v6))));
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    watches.extend([false, true].map(|v6| watch(&gated, gated.api_address(v6))));
    for watch in &mut watches {
        assert_eq!(watch.exchange(100, LIMIT), Exchange::Completed);
    }
    gated.stage.servers.get_mut("apiserver").unwrap().close_listener();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        for watch in &mut watches {
            assert_eq!(watch.exchange(1000, LIMIT), Exchange::Completed, "{:?}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let client = &gated.stage.network.host("listed").ns;
    for v6 in [false, true] {
        let outcome = connect(client, None, gated.api_address(v6), LIMIT);
        assert_eq!(outcome, Outcome::Refused, "nobody listens any more");
    }
}

#[test]
fn a_large_response_ends_well_after_its_listener_has_closed() {
    const BYTES: usize = 100 << 20;
    let gated = Gated::small(Cni::Bridge).unwrap();
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    for (v6, to) in [false, true].into_iter().zip(gated.api_server().addresses.at(PORT)) {
        // As long as it takes on this machine: the other family is the same code for most of it.
        let bytes = if v6 { BYTES / 8 } else { BYTES };
        assert_eq!(response(&gated, to, bytes), bytes, "{to}");
    }
}

/// Bytes that arrive of a response of so many, written once nobody listens any more.
fn response(gated: &Gated, to: SocketAddr, bytes: usize) -> usize {
    let listener = gated.api_server().ns.enter(|| TcpListener::bind(to)).unwrap();
    let client = &gated.stage.network.host("listed").ns;
    let writer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let chunk = vec![7; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let length = left.min(chunk.len());
            stream.write_all(&chunk[..length]).unwrap();
            left -= length;
        }
    });
    let mut stream = client.enter(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let (mut buffer, mut read) = (vec![0; 1 << 18], 0);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            length => read += length,
        }
    }
    writer.join().unwrap();
    read
}

/// A server that is a process; killed when dropped.
struct Process(Child);

impl Process {
    fn start(ns: &Netns, address: SocketAddr) -> Process {
        let mut command = ns.command(env!("CARGO_BIN_EXE_answering"));
        command.arg(address.port().to_string()).stdin(Stdio::null());
        let process = Process(command.spawn().unwrap());
        becomes(ns, address, Outcome::Answered, LIMIT).unwrap();
        process
    }

    /// Stops it: after this no thread of it runs.
    fn stop(&self) {
        let process = Pid::from_raw(self.0.id().cast_signed());
        kill(process, Signal::SIGSTOP).unwrap();
        let status = waitpid(process, Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert_eq!(status, WaitStatus::Stopped(process, Signal::SIGSTOP));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn clients_of_a_killed_server_are_told_within_a_second() {
    let gated = Gated::small(Cni::Routed).unwrap();
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let _agent = installation.start().unwrap();
    let client = &gated.stage.network.host("listed").ns;
    for to in gated.api_server().addresses.at(PORT) {
        let server = Process::start(&gated.api_server().ns, to);
        let connect = || {
            let stream = client.enter(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            let mut greeting = [0; 10];
            (&stream).read_exact(&mut greeting).unwrap();
            stream
        };
        let (idle, busy) = (connect(), connect());
        // What the server has not read yet makes the kernel reset the connection.
        server.stop();
        (&busy).write_all(&[7; 10_000]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        drop(server);
        let told = [&idle, &busy].map(|mut stream| {
            let end = stream.read(&mut [0; 16]);
            (end.map_err(|error| error.kind()), start.elapsed())
        });
        let [(idle_end, idle_took), (busy_end, busy_took)] = told;
        assert_eq!(idle_end, Ok(0), "FIN");
        assert_eq!(busy_end, Err(std::io::ErrorKind::ConnectionReset), "RST");
        let second = Duration::from_secs(1);
        assert!(idle_took < second && busy_took < second, "{idle_took:?} {busy_took:?}");
        // And those who speak to it afterwards.
        (&idle).write_all(b"is anybody there?").unwrap();
        let start = Instant::now();
        let end = (&idle).read(&mut [0; 16]).map_err(|error| error.kind());
        assert_eq!(end, Ok(0), "its FIN was read");
        let broken = loop {
            match (&idle).write_all(b"is anybody there?") {
                Ok(()) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => break error.kind(),
            }
            assert!(start.elapsed() < second, "no RST came");
        };
        let told = [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::ConnectionReset];
        assert!(told.contains(&broken), "{broken}");
    }
}

#[test]
fn two_agents_that_are_killed_cost_no_reply_no_peer_and_open_nothing() {
    let gated = Gated::small(Cni::Bridge).unwrap();
    let installation = gated.stage.installation().unwrap().interfaces("auto");
    let mut agent = installation.start().unwrap();
    let pod = &gated.api_server().ns;
    let mut watches = [false, true].map(|v6| watch(&gated, gated.api_address(v6)));
    let patient = Effort { timeout: LIMIT, threads: 1, pause: Duration::from_millis(2) };
    let start = |label, effort| {
        [false, true].map(|v6| Traffic::start(pod, gated.address(label, v6), effort).unwrap())
    };
    let granted = start("etcd", patient);
    let refused = start("etcd of c2", Effort { threads: 1, ..Effort::default() });
    let clients = [false, true].map(|v6| {
        let client = &gated.stage.network.host("listed").ns;
        Traffic::start(client, gated.api_address(v6), patient).unwrap()
    });
    for _ in 0..2 {
        agent.kill().unwrap();
        for watch in &mut watches {
            assert_eq!(watch.exchange(100_000, LIMIT), Exchange::Completed);
        }
        std::thread::sleep(Duration::from_millis(500));
        agent = installation.start().unwrap();
        for watch in &mut watches {
            assert_eq!(watch.exchange(100_000, LIMIT), Exchange::Completed);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    for traffic in granted.into_iter().chain(clients) {
        let counts = traffic.stop();
        assert!(counts.answered > 0 && counts.answered == counts.attempted, "{counts:?}");
    }
    for traffic in refused {
        let counts = traffic.stop();
        assert!(counts.timed_out > 0 && counts.timed_out == counts.attempted, "{counts:?}");
    }
}
