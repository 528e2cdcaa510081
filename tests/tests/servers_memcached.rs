//! memcached from its recipe: 100 connections at a time, each answer checked.

use std::{
    io::{BufRead, BufReader, Read, Write},
    thread,
    time::Duration,
};

use tests::{
    Guest,
    network::Link,
    recipe::{Server, image},
};

const PORT: u16 = 11211;
const ROUNDS: usize = 40;

fn value(connection: usize, round: usize) -> String {
    format!("{connection}:{round} ").repeat(1 + (connection * 31 + round * 97) % 300)
}

/// Sets and gets on one connection; what the others set stays out of it.
fn converse(server: &Server, connection: usize) {
    let mut stream = server.network.connect(PORT).expect("memcached listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    let mut line = |expected: &str| {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer in time");
        assert_eq!(line.trim_end(), expected);
    };
    for round in 0..ROUNDS {
        let value = value(connection, round);
        let length = value.len();
        let key = format!("key-{connection}-{}", round % 7);
        let request = format!("set {key} {round} 0 {length}\r\n{value}\r\nget {key} nothing\r\n");
        stream.write_all(request.as_bytes()).expect("connected");
        line("STORED");
        line(&format!("VALUE {key} {round} {length}"));
        line(value.trim_end());
        line("END");
    }
    stream.write_all(b"quit\r\n").expect("connected");
    assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
}

fn work(link: Link, cpus: usize, connections: usize) {
    let Some(image) = image("memcached") else { return };
    let Some(mut server) = Server::boot(Guest::new(&image).cpus(cpus), link, &[PORT]) else { return };
    server.wait_for_answer(PORT, b"version\r\n", b"VERSION ");
    let shared = &server;
    // All are connected before the first is done.
    let idle: Vec<_> =
        (0..connections).map(|_| server.network.connect(PORT).expect("memcached listens")).collect();
    thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || converse(shared, connection));
        }
    });
    drop(idle);
    let mut stream = server.network.connect(PORT).expect("memcached listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(b"stats\r\nquit\r\n").expect("connected");
    let mut statistics = String::new();
    stream.read_to_string(&mut statistics).expect("an answer in time");
    let count = connections * ROUNDS;
    for line in [format!("cmd_set {count}"), format!("get_hits {count}"), format!("get_misses {count}")] {
        assert!(statistics.contains(&format!("STAT {line}\r\n")), "{line}: {statistics}");
    }
}

/// Few connections: user networking's own queue of them takes one at a time (libslirp listens with a backlog of 1).
#[test]
fn one_cpu_on_user_networking() {
    work(Link::User, 1, 10);
}

#[test]
fn two_cpus_on_a_tap() {
    work(Link::Tap { queues: 2 }, 2, 100);
}

#[test]
fn four_cpus_on_a_tap() {
    work(Link::Tap { queues: 4 }, 4, 100);
}
