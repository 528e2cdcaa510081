//! A memcached client: many connections in one thread, each with one get under way. Either it keeps going as fast as
//! it can, or it lets a guest do all of them at a time, so that its own speed doesn't matter.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::{guest::Guest, network::GUEST};

/// Connections.
const CONNECTIONS: usize = 50;
/// Bytes of the value.
const VALUE: usize = 100;
const REQUEST: &[u8] = b"get key\r\n";
/// A server that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(5);

fn answer() -> Vec<u8> {
    [format!("VALUE key 0 {VALUE}\r\n").as_bytes(), &[b'v'; VALUE], b"\r\nEND\r\n"].concat()
}

/// Stores the value that [`gets`] asks for.
pub fn prepare() -> Result<()> {
    let mut stream = TcpStream::connect(address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("set key 0 0 {VALUE}\r\n{}\r\n", "v".repeat(VALUE)).as_bytes())?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("memcached does not answer")?;
    ensure!(&answer == b"STORED\r\n", "memcached did not store");
    Ok(())
}

fn address() -> SocketAddr {
    (GUEST, 11211).into()
}

fn connect(index: usize) -> Result<TcpStream> {
    let stream = TcpStream::connect(address()).with_context(|| format!("connection {index}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Gets from all connections, `rounds` times; returns how many. The guest stands still while a round's requests are
/// written: its CPUs have enough to do then, however fast the client is.
pub fn rounds(guest: &Guest, rounds: usize) -> Result<f64> {
    let expected = answer();
    let mut streams = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()?;
    let mut answer = vec![0; expected.len()];
    for _ in 0..rounds {
        guest.stop(true)?;
        for stream in &mut streams {
            stream.write_all(REQUEST)?;
        }
        guest.stop(false)?;
        for stream in &mut streams {
            stream.read_exact(&mut answer).context("memcached stopped answering")?;
            ensure!(answer == expected, "memcached answered something else");
        }
    }
    Ok((rounds * CONNECTIONS) as f64)
}

/// Gets for `seconds`; returns how many were answered and the time that it took, in seconds.
pub fn gets(seconds: u32) -> Result<(f64, f64)> {
    let answer = answer();
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut streams = Vec::new();
    for index in 0..CONNECTIONS {
        let stream = connect(index)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        // How much of the answer has come.
        streams.push((stream, 0));
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(u64::from(seconds));
    for (stream, _) in &mut streams {
        stream.write_all(REQUEST)?;
    }
    let mut buffer = vec![0; 2 * answer.len()];
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; CONNECTIONS];
    let mut answered = 0.0;
    loop {
        let patience = PATIENCE.try_into()?;
        let ready = epoll::wait(&poll, &mut events[..], Some(&patience))?;
        ensure!(ready > 0, "memcached stopped answering after {answered} gets");
        for event in &events[..ready] {
            let (stream, have) = &mut streams[event.data.u64() as usize];
            let length = match stream.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            ensure!(length > 0, "memcached closed a connection");
            let expected = answer.get(*have..*have + length).context("memcached answered too much")?;
            ensure!(buffer[..length] == *expected, "memcached answered something else");
            *have += length;
            if *have == answer.len() {
                *have = 0;
                answered += 1.0;
                stream.write_all(REQUEST)?;
            }
        }
        if Instant::now() >= end {
            return Ok((answered, start.elapsed().as_secs_f64()));
        }
    }
}
