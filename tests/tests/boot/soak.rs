//! Connections that come, ask and go, in all ways that there are to close one, while memory and sockets are counted: a
//! number that goes on rising is a leak. `RUMPRUN_SOAK_SECONDS` says how long it takes, for each server.

use std::{
    env, fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;
use tests::{
    Guest, bake, checkout, needs,
    network::{Link, Network},
    programs::{Flavour, build},
    recipe::{self, Server, blank_disk},
};

/// Unless the variable says otherwise.
const SECONDS: u64 = 5;
const CLIENTS: u64 = 3;
const SAMPLES: u32 = 24;
/// Connections in TIME-WAIT, whose number rises for a minute, need less.
const LEAK_BYTES: u64 = 4 << 20;
/// Where the image gives out its counters.
const METRICS: u16 = 9100;

/// How a client ends a connection.
#[derive(Clone, Copy, PartialEq)]
enum Close {
    /// It closes once it has the answer.
    Here,
    /// It has said that nothing more comes; the server closes.
    Half,
    /// It asks the server to close, and waits until it has.
    There,
    /// It resets the connection, whatever is on the way.
    Reset,
}

const CLOSES: [Close; 4] = [Close::Here, Close::Half, Close::There, Close::Reset];

/// Sends a request and reads until `whole` is true of the answer; then ends the connection.
fn converse(mut stream: TcpStream, close: Close, request: &[u8], whole: impl Fn(&[u8]) -> bool) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(request).expect("connected");
    if close == Close::Reset {
        return set_socket_linger(&stream, Some(Duration::ZERO)).expect("set");
    }
    if close == Close::Half {
        stream.shutdown(Shutdown::Write).expect("connected");
    }
    let (mut got, mut room) = (Vec::new(), [0; 16 << 10]);
    while !whole(&got) {
        let length = stream.read(&mut room).expect("an answer");
        assert!(length > 0 && got.len() < 1 << 20, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&room[..length]);
    }
    if close != Close::Here {
        assert_eq!(stream.read(&mut room).expect("the end"), 0);
    }
}

/// All that the image writes to a connection.
fn read_all(network: &Network, port: u16, request: &[u8]) -> String {
    let mut stream = network.connect(port).expect("the image listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(request).expect("connected");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// The number in the line that begins so.
#[track_caller]
fn number(text: &str, start: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(start));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {start} in {text}"))
}

fn free_memory(network: &Network) -> u64 {
    number(&read_all(network, METRICS, b"GET /metrics HTTP/1.1\r\n\r\n"), "rumprun_memory_free_bytes ")
}

fn mean(values: &[u64]) -> u64 {
    values.iter().sum::<u64>() / values.len() as u64
}

/// Has clients come and go, each of which is a `talk`; `sockets` counts the server's.
#[track_caller]
fn soak(
    server: &mut Server,
    port: u16,
    talk: impl Fn(TcpStream, Close) + Sync,
    sockets: impl Fn(&Network) -> u64,
) {
    let seconds = env::var("RUMPRUN_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SECONDS);
    let duration = Duration::from_secs(seconds);
    let network = &server.network;
    let endpoint = network.endpoint(port);
    let (stop, count, before) = (AtomicBool::new(false), AtomicU64::new(0), sockets(network));
    // Without it, clients that close first run out of ports in a long run.
    let _ = network.inside(|| fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1"));
    let client = || {
        network.inside(|| {
            while !stop.load(Relaxed) {
                let number = count.fetch_add(1, Relaxed);
                let stream = TcpStream::connect_timeout(&endpoint, Duration::from_secs(60));
                talk(stream.expect("the server listens"), CLOSES[number as usize % CLOSES.len()]);
            }
        });
    };
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let start = Instant::now();
        while start.elapsed() < duration && !clients.iter().any(|client| client.is_finished()) {
            thread::sleep(duration / SAMPLES);
            samples.push((free_memory(network), sockets(network)));
        }
        stop.store(true, Relaxed);
    });
    let count = count.into_inner();
    println!("{count} connections; free bytes and sockets: {samples:?}");
    // The first part fills caches.
    let part = samples.len() / 4;
    let (free, most): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
    let lost = mean(&free[part..=2 * part]).saturating_sub(mean(&free[3 * part..]));
    assert!(lost < LEAK_BYTES, "{lost} bytes were lost by {count} connections: {free:?}");
    assert!(most.iter().all(|most| *most < before + 100), "sockets: {most:?}");
    let closed = || (sockets(network) <= before).then_some(());
    network.wait(&mut server.running, "all sockets to be closed", closed);
}

fn boot(image: &Path, disk: Option<&Path>, port: u16) -> Option<Server> {
    let mut guest = Guest::new(image).option("--metrics", METRICS.to_string());
    if let Some(disk) = disk {
        guest = guest.disk(disk);
    }
    Server::boot(guest, Link::Tap { queues: 2 }, &[port, METRICS])
}

/// The server of `tests/programs/tcp.c`, which counts all sockets of the image.
#[test]
fn echo() {
    const ECHO: u16 = 7;
    const COUNTS: u16 = 13;
    needs!("gcc");
    let image = bake("soak-tcp", [build("tcp.c", Flavour::Static)]);
    let Some(mut server) = boot(&image, None, ECHO) else { return };
    server.wait_for_answer(ECHO, b"x", b"x");
    let request: Vec<u8> = (0..3000).map(|index| index as u8).collect();
    let talk = |stream: TcpStream, close: Close| {
        // It closes only what the client has closed.
        let close = if close == Close::There { Close::Half } else { close };
        converse(stream, close, &request, |got| got == request);
    };
    soak(&mut server, ECHO, talk, |network| number(&read_all(network, COUNTS, b""), "sockets: used "));
}

#[test]
fn nginx() {
    let Some(image) = recipe::image("nginx") else { return };
    let Some(mut server) = boot(&image, None, 80) else { return };
    server.wait_for_answer(80, b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK");
    let page = fs::read(checkout().join("packages/nginx/rootfs/srv/www/index.html")).expect("its page");
    let talk = |stream: TcpStream, close: Close| {
        let kept: &[u8] = b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n";
        let request = if close == Close::There { b"GET / HTTP/1.0\r\n\r\n" } else { kept };
        converse(stream, close, request, |got| got.starts_with(b"HTTP/1.1 200 OK") && got.ends_with(&page));
    };
    // It tells nobody how many it has.
    soak(&mut server, 80, talk, |_| 0);
}

#[test]
fn redis() {
    const PORT: u16 = 6379;
    let Some(image) = recipe::image("redis") else { return };
    let disk = blank_disk(256);
    let Some(mut server) = boot(&image, Some(disk.path()), PORT) else { return };
    server.wait_for_answer(PORT, b"PING\r\n", b"+PONG\r\n");
    // What it writes to its files is kept in memory as long as there is room.
    let settings = b"CONFIG SET appendonly no\r\nCONFIG SET save \"\"\r\nQUIT\r\n";
    assert_eq!(read_all(&server.network, PORT, settings), "+OK\r\n".repeat(3));
    let value = "value ".repeat(200);
    let talk = |stream: TcpStream, close: Close| {
        let mut request = format!("SET key \"{value}\"\r\nGET key\r\n");
        let mut answer = format!("+OK\r\n${}\r\n{value}\r\n", value.len());
        if close == Close::There {
            request += "QUIT\r\n";
            answer += "+OK\r\n";
        }
        converse(stream, close, request.as_bytes(), |got| got == answer.as_bytes());
    };
    let clients = |network: &Network| {
        number(&read_all(network, PORT, b"INFO clients\r\nQUIT\r\n"), "connected_clients:")
    };
    soak(&mut server, PORT, talk, clients);
}
