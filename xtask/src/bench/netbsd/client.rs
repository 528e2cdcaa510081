//! The clients: HTTP on many connections in one thread, each with one request under way, and streams.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::guest::Guest;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n";
/// How the server's answers end.
const END: &[u8] = b"\r\n\r\nhello, world\n";
/// A server that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a throughput is measured.
const DURATION: Duration = Duration::from_secs(3);
/// Connections when the guest's work is counted.
const CONNECTIONS: usize = 48;
/// Bytes that a stream reads or writes at a time.
const PIECE: usize = 1 << 18;

/// How well requests were answered.
pub struct Load {
    /// Requests a second.
    pub rate: f64,
    /// Milliseconds that the 99th of 100 answers took.
    pub tail: f64,
    /// Milliseconds that the slowest answer took.
    pub worst: f64,
}

fn connect(address: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    let (mut buffer, mut length) = ([0; 256], 0);
    while !buffer[..length].ends_with(END) {
        let more = stream.read(&mut buffer[length..])?;
        ensure!(more > 0, "the server closed a connection");
        length += more;
    }
    Ok(())
}

/// One request on a connection of its own, which is returned. `patience` bounds each step.
pub fn get(address: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let mut stream = connect(address, patience)?;
    stream.write_all(REQUEST)?;
    answer(&mut stream)?;
    Ok(stream)
}

/// Connections that have had an answer each: user networking takes them one after the other.
fn open(address: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    (0..connections).map(|_| get(address, PATIENCE)).collect()
}

/// Asks on all connections, `rounds` times; returns how many requests that were. The guest stands still while a round's
/// requests are written: its CPUs have enough to do then, however fast the client is.
pub fn rounds(guest: &Guest, rounds: usize) -> Result<f64> {
    let mut streams = open(guest.address(80), CONNECTIONS)?;
    for _ in 0..rounds {
        guest.stop(true)?;
        for stream in &mut streams {
            stream.write_all(REQUEST)?;
        }
        guest.stop(false)?;
        for stream in &mut streams {
            answer(stream).context("the server stopped answering")?;
        }
    }
    Ok((rounds * CONNECTIONS) as f64)
}

/// Asks for [`DURATION`], each connection as soon as it has its answer.
pub fn load(address: SocketAddr, connections: usize) -> Result<Load> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut streams = open(address, connections)?;
    for (index, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll::add(&poll, stream, EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    let start = Instant::now();
    // When each connection asked, and the end of what it got.
    let mut asked = vec![start; connections];
    let mut got = vec![Vec::new(); connections];
    for stream in &mut streams {
        stream.write_all(REQUEST)?;
    }
    let (mut times, mut buffer) = (Vec::new(), [0; 1024]);
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 64];
    while start.elapsed() < DURATION {
        let patience = PATIENCE.try_into()?;
        let ready = epoll::wait(&poll, &mut events[..], Some(&patience))?;
        ensure!(ready > 0, "the server stopped answering");
        for event in &events[..ready] {
            let index = event.data.u64() as usize;
            let length = match streams[index].read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            ensure!(length > 0, "the server closed a connection");
            got[index].extend_from_slice(&buffer[..length]);
            if got[index].ends_with(END) {
                got[index].clear();
                times.push(asked[index].elapsed().as_secs_f64() * 1e3);
                asked[index] = Instant::now();
                streams[index].write_all(REQUEST)?;
            }
        }
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let worst = times.last().copied().context("the server answered nothing")?;
    Ok(Load { rate, tail: times[times.len() * 99 / 100], worst })
}

/// Megabytes a second that the server takes in.
pub fn send(address: SocketAddr) -> Result<f64> {
    let bytes = vec![0; PIECE];
    stream(address, |stream| Ok(stream.write(&bytes)?))
}

/// Megabytes a second that the server sends.
pub fn receive(address: SocketAddr) -> Result<f64> {
    let mut bytes = vec![0; PIECE];
    stream(address, |stream| Ok(stream.read(&mut bytes)?))
}

fn stream(address: SocketAddr, mut work: impl FnMut(&mut TcpStream) -> Result<usize>) -> Result<f64> {
    let mut stream = connect(address, PATIENCE)?;
    // What the buffers between here and the guest take at first is no measure.
    let (start, mut warm, mut bytes) = (Instant::now(), None, 0);
    while warm.is_none_or(|warm: Instant| warm.elapsed() < DURATION) {
        let length = work(&mut stream)?;
        ensure!(length > 0, "the server closed the connection");
        bytes += length;
        if warm.is_none() && start.elapsed() > DURATION / 6 {
            warm = Some(Instant::now());
            bytes = 0;
        }
    }
    Ok(bytes as f64 / 1e6 / warm.unwrap_or(start).elapsed().as_secs_f64())
}
