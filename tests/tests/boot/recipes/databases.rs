//! memcached, redis and PostgreSQL.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::Command,
    sync::OnceLock,
    thread,
    time::Duration,
};

use tempfile::NamedTempFile;
use tests::{
    Guest,
    clients::{pgbench, redis, redis_benchmark, redis_pipe, sql},
    network::Link,
    recipe::{self, Server, blank_disk},
};

use super::{PLAIN, Recipe, image};

const MEMCACHED_PORT: u16 = 11211;
const ROUNDS: usize = 15;

fn value(connection: usize, round: usize) -> String {
    format!("{connection}:{round} ").repeat(1 + (connection * 31 + round * 97) % 300)
}

/// Sets and gets on one connection; what the others set stays out of it.
fn converse(server: &Server, connection: usize) {
    let mut stream = server.network.connect(MEMCACHED_PORT).expect("memcached listens");
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

/// 100 connections that talk beside 100 that don't; fewer on user networking.
fn memcached(server: &mut Server) {
    server.wait_for_answer(MEMCACHED_PORT, b"version\r\n", b"VERSION ");
    let connections = server.connections(100) as usize;
    let shared = &*server;
    let connect = || shared.network.connect(MEMCACHED_PORT).expect("memcached listens");
    // All are connected before the first is done.
    let idle: Vec<_> = (0..connections).map(|_| connect()).collect();
    thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || converse(shared, connection));
        }
    });
    drop(idle);
    let mut stream = connect();
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream.write_all(b"stats\r\nquit\r\n").expect("connected");
    let mut statistics = String::new();
    stream.read_to_string(&mut statistics).expect("an answer in time");
    let count = connections * ROUNDS;
    for line in [format!("cmd_set {count}"), format!("get_hits {count}"), format!("get_misses {count}")] {
        assert!(statistics.contains(&format!("STAT {line}\r\n")), "{line}: {statistics}");
    }
}

pub const MEMCACHED: Recipe = Recipe {
    name: "memcached",
    image: image!("memcached"),
    ports: &[MEMCACHED_PORT],
    work: memcached,
    ..PLAIN
};

const REDIS_PORT: u16 = 6379;

pub const REDIS: Recipe = Recipe {
    name: "redis",
    needs: &["redis-cli", "redis-benchmark"],
    image: image!("redis"),
    ports: &[REDIS_PORT],
    disk: || Some(blank_disk(256)),
    work: |server| {
        server.wait_for_answer(REDIS_PORT, b"PING\r\n", b"+PONG\r\n");
        redis_benchmark(server, REDIS_PORT, 1000, 1, "set,get");
        redis_benchmark(server, REDIS_PORT, 2000, 16, "incr,lpush,lrange_100");
        redis_pipe(server, REDIS_PORT, 1000);
        assert_eq!(redis(server, REDIS_PORT, &["EVAL", "return redis.call('GET', 'pipe:7')", "0"]), "21");
    },
    ..PLAIN
};

const POSTGRESQL_PORT: u16 = 5432;

fn boot_postgresql(guest: Guest) -> Guest {
    guest.option("--env", "POSTGRES_PASSWORD=secret")
}

/// Address and password, once it is ready.
fn address(server: &mut Server) -> String {
    server.running.wait_for("database system is ready to accept connections");
    format!("postgresql://postgres:secret@{}/postgres", server.at(POSTGRESQL_PORT))
}

/// A copy of a disk with the databases and pgbench's tables, which takes long to make.
fn databases() -> Option<NamedTempFile> {
    static DISK: OnceLock<Option<NamedTempFile>> = OnceLock::new();
    let make = || {
        let disk = blank_disk(512);
        let image = recipe::image("postgresql")?;
        let guest = Guest::new(&image).cpus(2).memory("512M").disk(disk.path());
        let mut server = Server::boot(boot_postgresql(guest), Link::User, &[POSTGRESQL_PORT])?;
        let address = address(&mut server);
        pgbench(&server, &address, &["--initialize", "--scale=1", "--quiet"]);
        sql(&server, &address, "checkpoint");
        server.cut_power();
        Some(disk)
    };
    let whole = DISK.get_or_init(make).as_ref()?;
    let copy = blank_disk(512);
    let mut command = Command::new("cp");
    command.args(["--sparse=always", "--reflink=auto"]).arg(whole.path()).arg(copy.path());
    assert!(command.status().expect("cp starts").success());
    Some(copy)
}

fn postgresql(server: &mut Server) {
    let address = address(server);
    assert_eq!(sql(server, &address, "select sum(n) from generate_series(1, 10000) n"), "50005000");
    let report = pgbench(server, &address, &["--client=4", "--jobs=2", "--no-vacuum", "--transactions=10"]);
    assert!(report.contains("processed: 40/40"), "{report}");
    let options = ["--client=4", "--select-only", "--no-vacuum", "--transactions=50"];
    let report = pgbench(server, &address, &options);
    assert!(report.contains("processed: 200/200"), "{report}");
    assert_eq!(sql(server, &address, "select count(*) from pgbench_history"), "40");
}

pub const POSTGRESQL: Recipe = Recipe {
    name: "postgresql",
    needs: &["psql"],
    image: image!("postgresql"),
    memory: "512M",
    ports: &[POSTGRESQL_PORT],
    disk: databases,
    options: |guest, _| boot_postgresql(guest),
    work: postgresql,
};
