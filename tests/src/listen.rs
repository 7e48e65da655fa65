//! Real TCP and UDP servers in a namespace: what stands behind an API server's frontends.
//!
//! A TCP server greets with its name and then echoes, or forwards to another server as Envoy does.
//! It counts what reached it; a payload byte counted here has passed every filter on the way.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A TCP server; stops listening and ends its connections when dropped.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Act {
    Echo { name: String },
    Forward { to: SocketAddr },
}

#[derive(Debug)]
struct Shared {
    act: Act,
    stopping: AtomicBool,
    accepted: AtomicU64,
    payload: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    peers: Vec<SocketAddr>,
    open: HashMap<u64, TcpStream>,
}

/// Peers remembered; later ones are counted only.
const PEERS: usize = 100_000;

impl Server {
    /// Greets with `name` and a newline, then echoes. `at` may be `[::]:PORT` for both families.
    pub fn echo(ns: &Netns, at: SocketAddr, name: &str) -> Result<Server> {
        Server::start(ns, at, Act::Echo { name: name.into() })
    }

    /// Hands every connection on to `to`, opened from the same namespace.
    pub fn forward(ns: &Netns, at: SocketAddr, to: SocketAddr) -> Result<Server> {
        Server::start(ns, at, Act::Forward { to })
    }

    fn start(ns: &Netns, at: SocketAddr, act: Act) -> Result<Server> {
        let bound = ns.enter(|| TcpListener::bind(at));
        let listener = bound.with_context(|| format!("cannot listen on {at} in {}", ns.name()))?;
        let accepting = listener.try_clone().context("cannot share a listener")?;
        let shared = Arc::new(Shared {
            act,
            stopping: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            payload: AtomicU64::new(0),
            state: Mutex::default(),
        });
        let for_thread = Arc::clone(&shared);
        // Inside the namespace, so that forwarding connections start there.
        let thread = ns.spawn(move || accept(&accepting, &for_thread))?;
        Ok(Server { listener, shared, thread: Some(thread) })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Bytes received from clients so far.
    pub fn payload(&self) -> u64 {
        self.shared.payload.load(Ordering::Relaxed)
    }

    /// Clients' addresses as they appeared here, IPv4 ones plain; at most 100,000.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.state().peers.clone()
    }

    /// The addresses of [`Server::peers`] without ports, each once.
    pub fn peer_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.peers().iter().map(SocketAddr::ip).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    /// Stops listening; open connections go on.
    pub fn close_listener(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // SAFETY: plain system call on a descriptor that lives as long as self.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close_listener();
        for stream in self.shared.state().open.values() {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        match &self.act {
            Act::Echo { name } => {
                (&*client).write_all(format!("{name}\n").as_bytes())?;
                self.copy(client, client, true)
            }
            Act::Forward { to } => {
                let server = TcpStream::connect_timeout(to, Duration::from_secs(5))?;
                server.set_nodelay(true)?;
                thread::scope(|scope| {
                    scope.spawn(|| self.copy(&server, client, false));
                    self.copy(client, &server, true)
                })
            }
        }
    }

    /// Copies until the end of `from`, then ends `into`; both after an error.
    fn copy(&self, mut from: &TcpStream, mut into: &TcpStream, count: bool) -> io::Result<()> {
        let mut buffer = [0u8; 16 << 10];
        loop {
            let moved = from.read(&mut buffer).and_then(|length| {
                if count {
                    self.payload.fetch_add(length as u64, Ordering::Relaxed);
                }
                into.write_all(&buffer[..length]).map(|()| length)
            });
            match moved {
                Ok(0) => return into.shutdown(Shutdown::Write),
                Ok(_) => {}
                Err(e) => {
                    into.shutdown(Shutdown::Both).ok();
                    from.shutdown(Shutdown::Both).ok();
                    return Err(e);
                }
            }
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
        // A client that is gone already, or no descriptors left for a moment.
        let Ok((stream, peer)) = accepted else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let id = shared.accepted.fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true).ok();
        let mut state = shared.state();
        if state.peers.len() < PEERS {
            state.peers.push(SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        }
        if let Ok(handle) = stream.try_clone() {
            state.open.insert(id, handle);
        }
        drop(state);
        let shared = Arc::clone(shared);
        let serve = move || {
            // Clients that go away in the middle are part of the tests.
            shared.serve(&stream).ok();
            shared.state().open.remove(&id);
        };
        thread::Builder::new().stack_size(256 << 10).spawn(serve).ok();
    }
}

/// A UDP server that sends back every datagram with its name and a newline before it.
#[derive(Debug)]
pub struct UdpServer {
    shared: Arc<UdpShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct UdpShared {
    stopping: AtomicBool,
    received: AtomicU64,
    peers: Mutex<Vec<SocketAddr>>,
}

impl UdpServer {
    /// Starts on an address of its own: answers from `[::]` could leave with another source.
    pub fn echo(ns: &Netns, at: SocketAddr, name: &str) -> Result<UdpServer> {
        let bound = ns.enter(|| UdpSocket::bind(at));
        let socket = bound.with_context(|| format!("cannot bind {at} in {}", ns.name()))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .context("cannot set a socket's timeout")?;
        let shared = Arc::new(UdpShared::default());
        let (for_thread, name) = (Arc::clone(&shared), name.to_owned());
        let thread = ns.spawn(move || answer(&socket, &for_thread, &name))?;
        Ok(UdpServer { shared, thread: Some(thread) })
    }

    /// Datagrams received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Senders of the datagrams, in order; at most 100,000.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn answer(socket: &UdpSocket, shared: &UdpShared, name: &str) {
    let mut buffer = [0u8; 2048];
    while !shared.stopping.load(Ordering::Acquire) {
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        shared.received.fetch_add(1, Ordering::Relaxed);
        let mut peers = shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() < PEERS {
            peers.push(peer);
        }
        drop(peers);
        let reply = [name.as_bytes(), b"\n", &buffer[..length]].concat();
        socket.send_to(&reply, peer).ok();
    }
}
