//! Client and server of a bed: one long connection, or many short ones.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use enforcer_tests::netns::Netns;
use nix::sys::socket::{setsockopt, sockopt};

use super::{
    bed::Bed,
    cpu::{Clock, Pinned},
};

/// First byte of a connection that sends as much as it can.
const STREAM: u8 = b's';
/// First byte of a connection that wants one byte.
const ECHO: u8 = b'e';
/// Until a new connection has its window.
const WARM: Duration = Duration::from_millis(40);
const LIMIT: Duration = Duration::from_secs(5);

/// What listens in the pod; ends with the process.
#[derive(Debug)]
pub(crate) struct Server {
    received: Arc<AtomicU64>,
}

impl Server {
    /// Listens on all addresses.
    pub(crate) fn start(pod: &Netns, port: u16) -> Result<Self> {
        let listener = pod.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        thread::Builder::new().name("server".into()).spawn(move || {
            let Ok(_pinned) = Pinned::new() else { return };
            for stream in listener.incoming().flatten() {
                serve(stream, &counter);
            }
        })?;
        Ok(Self { received })
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A client that goes away is no error of the server's.
fn serve(mut stream: TcpStream, received: &Arc<AtomicU64>) {
    let mut first = [0];
    match stream.read(&mut first) {
        Ok(1) if first == [ECHO] => {
            stream.write_all(&first).ok();
        }
        Ok(1) => {
            let received = Arc::clone(received);
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 18];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    received.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
        }
        Ok(_) | Err(_) => {}
    }
}

/// Bytes a second of one connection; this thread must be pinned.
pub(crate) fn throughput(bed: &Bed, clock: &Clock, gso: bool, span: Duration) -> Result<f64> {
    throughput_while(bed, clock, gso, || {
        thread::sleep(span);
        Ok(())
    })
}

/// The same for as long as something takes, which is in the time.
pub(crate) fn throughput_while(
    bed: &Bed,
    clock: &Clock,
    gso: bool,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let segments = if gso { 65535 } else { 1 };
    let (cable, _) = bed.cable();
    // A socket takes the limit from its route's device when it connects.
    bed.client().ip(&format!(
        "link set nodes gso_max_segs {segments}\nlink set {cable} gso_max_segs {segments}\n"
    ))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut stream = connect(bed)?;
    // A filter that lets nothing through must not block the sender for good.
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&[STREAM])?;
    let ends = Arc::clone(&stop);
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let buffer = vec![0; 1 << 17];
        while !ends.load(Ordering::Relaxed) {
            stream.write_all(&buffer)?;
        }
        reset(&stream)
    });
    thread::sleep(WARM);
    let (before, begin) = (bed.server.received(), clock.now()?);
    let done = meanwhile();
    let (bytes, took) = (bed.server.received() - before, clock.now()? - begin);
    stop.store(true, Ordering::Relaxed);
    sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    done?;
    if bytes == 0 {
        bail!("nothing arrives through {}", bed.filter);
    }
    Ok(bytes as f64 / took.as_secs_f64())
}

/// Connections a second, one after the other; this thread must be pinned.
pub(crate) fn connections(bed: &Bed, clock: &Clock, span: Duration) -> Result<f64> {
    connections_while(bed, clock, span, || Ok(()))
}

/// The same with something else before each of them, which is in the time.
pub(crate) fn connections_while(
    bed: &Bed,
    clock: &Clock,
    span: Duration,
    mut before_each: impl FnMut() -> Result<()> + Send,
) -> Result<f64> {
    bed.client().enter(|| {
        let (before, begin) = (clock.now()?, Instant::now());
        let mut count = 0_u64;
        while begin.elapsed() < span {
            before_each()?;
            let mut stream = connect_here(bed)?;
            let mut byte = [ECHO];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            reset(&stream)?;
            count += 1;
        }
        Ok(count as f64 / (clock.now()? - before).as_secs_f64())
    })
}

fn connect(bed: &Bed) -> Result<TcpStream> {
    bed.client().enter(|| connect_here(bed))
}

fn connect_here(bed: &Bed) -> Result<TcpStream> {
    TcpStream::connect_timeout(&Bed::frontend(), LIMIT)
        .with_context(|| format!("cannot connect through {}", bed.filter))
}

/// Closing will send RST: nothing stays in TIME_WAIT, nothing in a buffer.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(&stream.as_fd(), sockopt::Linger, &linger)?)
}
