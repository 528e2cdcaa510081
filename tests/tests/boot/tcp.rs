//! TCP of an image, against the host's: bad links, many connections, floods, and clients that misbehave.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::{
    Guest, bake,
    guest::Running,
    have, needs,
    network::{Link, Network, faults::Faults},
    programs::{Flavour, build},
    skip,
};

const ECHO: u16 = 7;
const FLOOD: u16 = 9;
const FREE_MEMORY: u16 = 13;

/// The server of `tests/programs/tcp.c`.
fn boot(link: Link, cpus: usize) -> Option<(Network, Running)> {
    if !have("gcc") {
        skip("gcc is not installed");
        return None;
    }
    let network = Network::new(link)?;
    let image = bake("tcp.elf", [build("tcp.c", Flavour::Static)]);
    let guest = Guest::new(&image).cpus(cpus).memory("256M").timeout(400);
    let mut running = network.attach(guest, &[ECHO, FLOOD, FREE_MEMORY]).start();
    running.wait_for("ready");
    network.answer(&mut running, ECHO, b"x");
    Some((network, running))
}

fn connect(network: &Network, port: u16) -> TcpStream {
    network.inside(|| connect_from_inside(network, port))
}

/// As [`connect`], on a thread that is in the network's namespace.
fn connect_from_inside(network: &Network, port: u16) -> TcpStream {
    let mut last = None;
    for _ in 0..5 {
        match TcpStream::connect_timeout(&network.endpoint(port), Duration::from_secs(10)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
                stream.set_write_timeout(Some(Duration::from_secs(60))).expect("set");
                return stream;
            }
            Err(error) => last = Some(error),
        }
    }
    panic!("port {port}: {last:?}");
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|index| ((index * 31 + seed) >> 3) as u8 ^ index as u8).collect()
}

/// Sends `bytes` and reads them back, both at once.
fn echo(mut stream: TcpStream, bytes: &[u8]) {
    let mut writer = stream.try_clone().expect("a second descriptor");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).expect("sent");
            writer.shutdown(Shutdown::Write).expect("shut");
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("read");
        assert!(back == bytes, "{} of {} bytes came back, or others", back.len(), bytes.len());
    });
}

fn free_memory(network: &Network) -> u64 {
    let mut text = String::new();
    connect(network, FREE_MEMORY).read_to_string(&mut text).expect("a number");
    text.lines().next().and_then(|line| line.parse().ok()).expect("a number")
}

#[test]
fn bytes_survive_bad_links() {
    let links = [
        Faults { loss: 0.001, ..Faults::default() },
        Faults { loss: 0.01, reorder: 0.02, duplicate: 0.01, ..Faults::default() },
        Faults {
            loss: 0.05,
            corrupt: 0.01,
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(2),
            ..Faults::default()
        },
    ];
    for faults in links {
        let Some((network, mut running)) = boot(Link::Faulty(faults), 2) else { return };
        for seed in 0..3 {
            echo(connect(&network, ECHO), &pattern(400_000, seed));
        }
        assert!(running.is_running(), "{}", running.console());
    }
}

/// Lets this process have so many descriptors, if it may.
fn allow_descriptors(count: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return true;
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(count));
    setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).is_ok()
}

/// Does each of these on a thread of its own.
fn side_by_side<T: Send>(work: impl Iterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it did not panic")).collect()
    })
}

#[test]
fn ten_thousand_connections_at_once() {
    const THREADS: usize = 8;
    const EACH: usize = 1250;
    if !allow_descriptors((THREADS * EACH + 1000) as u64) {
        return skip("this process may not have 11,000 descriptors");
    }
    let Some((network, mut running)) = boot(Link::Tap { queues: 2 }, 2) else { return };
    let before = free_memory(&network);
    let number = |thread: usize, index: usize| ((thread * EACH + index) as u32).to_be_bytes();
    let open = |thread: usize| {
        let mut streams: Vec<_> =
            network.inside(|| (0..EACH).map(|_| connect_from_inside(&network, ECHO)).collect());
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&number(thread, index)).expect("sent");
        }
        streams
    };
    let mut streams = side_by_side((0..THREADS).map(|thread| {
        let open = &open;
        move || open(thread)
    }));
    // All are open.
    let held = before.saturating_sub(free_memory(&network));
    let read = |(thread, streams): (usize, &mut Vec<TcpStream>)| {
        for (index, stream) in streams.iter_mut().enumerate() {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, number(thread, index));
        }
    };
    side_by_side(streams.iter_mut().enumerate().map(|share| {
        let read = &read;
        move || read(share)
    }));
    let streams: Vec<TcpStream> = streams.into_iter().flatten().collect();
    assert_eq!(streams.len(), THREADS * EACH);
    assert!(held < 96 << 10, "{held} KiB for {} idle connections", streams.len());
    drop(streams);
    // The guest closes its ends when it hears of it.
    let free = || (free_memory(&network) + (8 << 10) > before).then_some(());
    network.wait(&mut running, "the memory to be free again", free);
    echo(connect(&network, ECHO), &pattern(50_000, 1));
}

#[test]
fn connects_and_closes_leave_memory_as_it_was() {
    let Some((network, mut running)) = boot(Link::Tap { queues: 1 }, 2) else { return };
    let round = |count: usize| {
        for index in 0..count {
            let mut stream = connect(&network, ECHO);
            stream.write_all(b"hello").expect("sent");
            stream.read_exact(&mut [0; 5]).expect("an answer");
            // In turn: the client closes first, or it resets with data unread.
            if index % 4 == 3 {
                stream.write_all(&[7; 2000]).expect("sent");
            }
        }
    };
    round(300);
    let before = free_memory(&network);
    round(1500);
    let after = free_memory(&network);
    let lost = before.saturating_sub(after);
    assert!(lost < 3 << 10, "{lost} KiB were lost");
    assert!(running.is_running(), "{}", running.console());
}

#[test]
fn a_client_that_never_reads_costs_a_buffer_and_no_more() {
    let Some((network, mut running)) = boot(Link::Tap { queues: 1 }, 1) else { return };
    let before = free_memory(&network);
    let deaf: Vec<_> = (0..8).map(|_| connect(&network, FLOOD)).collect();
    for seed in 0..5 {
        echo(connect(&network, ECHO), &pattern(50_000, seed));
    }
    let held = before.saturating_sub(free_memory(&network));
    assert!(held < 48 << 10, "{held} KiB");
    drop(deaf);
    echo(connect(&network, ECHO), &pattern(50_000, 1));
    assert!(running.is_running(), "{}", running.console());
}

/// Sends SYNs from addresses that nobody has.
const SYNS: &str = r#"
import random, socket, struct, sys
guest, count = sys.argv[1], int(sys.argv[2])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def total(data):
    words = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while words >> 16: words = (words & 0xffff) + (words >> 16)
    return ~words & 0xffff
for number in range(count):
    source = bytes([10, 77, 0, 100 + number % 100])
    target = socket.inet_aton(guest)
    tcp = struct.pack('!HHIIBBHHH', random.randrange(1024, 65536), 7, random.getrandbits(32), 0, 5 << 4, 2, 1000, 0, 0)
    sum16 = total(source + target + struct.pack('!BBH', 0, 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack('!H', sum16) + tcp[18:]
    header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(tcp), number & 0xffff, 0, 64, 6, 0, source, target)
    raw.sendto(header + tcp, (guest, 0))
"#;

#[test]
fn a_flood_of_syns_keeps_nobody_out() {
    needs!("python3");
    let Some((network, mut running)) = boot(Link::Tap { queues: 1 }, 2) else { return };
    let before = free_memory(&network);
    let syns = |count: &str| -> Command {
        let mut command = network.command("python3");
        command.args(["-c", SYNS, &network.guest().to_string(), count]).stdin(Stdio::null());
        command
    };
    assert!(syns("3000").status().expect("python3 starts").success());
    let mut flood = syns("20000").spawn().expect("python3 starts");
    for seed in 0..10 {
        echo(connect(&network, ECHO), &pattern(20_000, seed));
    }
    let _ = flood.kill();
    let _ = flood.wait();
    let held = before.saturating_sub(free_memory(&network));
    assert!(held < 8 << 10, "{held} KiB");
    assert!(running.console().contains("SYN cookies"), "{}", running.console());
    assert!(running.is_running());
}

#[test]
fn resets_and_refusals_are_told() {
    let Some((network, mut running)) = boot(Link::Tap { queues: 1 }, 1) else { return };
    assert_eq!(network.connect(4444).map_err(|error| error.kind()).err(), Some(ErrorKind::ConnectionRefused));
    // Closed with data unread: the guest hears of a reset and goes on.
    let mut stream = connect(&network, FLOOD);
    stream.read_exact(&mut [0; 1000]).expect("data");
    drop(stream);
    echo(connect(&network, ECHO), &pattern(10_000, 3));
    assert!(running.is_running(), "{}", running.console());
}
