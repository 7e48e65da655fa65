//! A TCP server in a process of its own, so that a test can kill it: greets, then echoes.
//!
//! Input: a port. It listens on all addresses of both families until it is killed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let port = std::env::args().nth(1).context("name a port")?;
    let port: u16 = port.parse().context("the port")?;
    let listener = TcpListener::bind(("::", port)).context("cannot listen")?;
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept")?;
        std::thread::spawn(move || echo(stream).ok());
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"answering\n")?;
    let mut buffer = [0u8; 16 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}
