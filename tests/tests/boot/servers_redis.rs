//! Redis from its recipe: pipelining, publish and subscribe, snapshots by fork, and a disk that survives power cuts.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use tests::{
    Guest,
    clients::{redis, redis_benchmark, redis_pipe},
    needs,
    network::Link,
    recipe::{Server, blank_disk, image},
};

const PORT: u16 = 6379;

fn boot(link: Link, cpus: usize, disk: &Path) -> Option<Server> {
    let guest = Guest::new(&image("redis")?).cpus(cpus).disk(disk);
    let mut server = Server::boot(guest, link, &[PORT])?;
    let ready = || {
        let mut stream = server.network.connect(PORT).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        // It says LOADING while it reads its files.
        (line == "+PONG\r\n").then_some(())
    };
    server.network.wait(&mut server.running, "redis", ready);
    Some(server)
}

fn cli(server: &Server, words: &[&str]) -> String {
    redis(server, PORT, words)
}

/// The value of a line of INFO.
fn info(server: &Server, section: &str, key: &str) -> String {
    let text = cli(server, &["INFO", section]);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

fn benchmark(server: &Server) {
    for pipeline in [1, 16] {
        let kinds = "set,get,incr,lpush,lpop,sadd,hset,zadd,lrange_100,mset";
        redis_benchmark(server, PORT, 5000, pipeline, kinds);
    }
}

fn publish_and_subscribe(server: &Server) {
    let line = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer in time");
        line.trim_end().to_owned()
    };
    let mut subscribers: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = server.network.connect(PORT).expect("redis listens");
            stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
            stream.write_all(b"SUBSCRIBE news\r\n").expect("connected");
            let mut reader = BufReader::new(stream);
            let answer: Vec<_> = (0..6).map(|_| line(&mut reader)).collect();
            assert_eq!(answer, ["*3", "$9", "subscribe", "$4", "news", ":1"]);
            reader
        })
        .collect();
    for number in 0..20 {
        assert_eq!(cli(server, &["PUBLISH", "news", &format!("item {number:02}")]), "10");
    }
    for reader in &mut subscribers {
        for number in 0..20 {
            let message: Vec<_> = (0..7).map(|_| line(reader)).collect();
            let text = format!("item {number:02}");
            assert_eq!(message, ["*3", "$7", "message", "$4", "news", "$7", &text]);
        }
    }
}

/// Waits until redis has done what it does beside its clients.
#[track_caller]
fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(90), "redis is never done");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Snapshots while clients go on writing: the child shares its parent's memory.
fn snapshot(server: &Server) {
    let before = info(server, "persistence", "rdb_saves");
    cli(server, &["BGSAVE"]);
    redis_pipe(server, PORT, 2000);
    until(|| info(server, "persistence", "rdb_bgsave_in_progress") == "0");
    assert_eq!(info(server, "persistence", "rdb_last_bgsave_status"), "ok");
    assert_ne!(info(server, "persistence", "rdb_saves"), before);
    cli(server, &["BGREWRITEAOF"]);
    until(|| {
        info(server, "persistence", "aof_rewrite_in_progress") == "0"
            && info(server, "persistence", "aof_rewrite_scheduled") == "0"
    });
    assert_eq!(info(server, "persistence", "aof_last_bgrewrite_status"), "ok");
}

#[test]
fn two_cpus_on_a_tap() {
    needs!("redis-cli", "redis-benchmark");
    let disk = blank_disk(256);
    let Some(server) = boot(Link::Tap { queues: 2 }, 2, disk.path()) else { return };
    benchmark(&server);
    redis_pipe(&server, PORT, 20_000);
    publish_and_subscribe(&server);
    snapshot(&server);
}

#[test]
fn four_cpus_on_user_networking() {
    needs!("redis-cli", "redis-benchmark");
    let disk = blank_disk(256);
    let Some(server) = boot(Link::User, 4, disk.path()) else { return };
    redis_pipe(&server, PORT, 5000);
    publish_and_subscribe(&server);
    snapshot(&server);
}

#[test]
fn what_it_acknowledged_survives_power_cuts() {
    needs!("redis-cli");
    let disk = blank_disk(256);
    let mut keys = 0;
    for round in 1..=3 {
        let Some(server) = boot(Link::Tap { queues: 1 }, 1, disk.path()) else { return };
        if round > 1 {
            assert_eq!(cli(&server, &["GET", "round"]), (round - 1).to_string());
            assert_eq!(cli(&server, &["DBSIZE"]), format!("{}", keys + 1));
        }
        assert_eq!(cli(&server, &["CONFIG", "SET", "appendfsync", "always"]), "OK");
        keys = 1000 * round;
        redis_pipe(&server, PORT, keys);
        if round == 2 {
            snapshot(&server);
            // Its pipeline of 2000 keys.
            keys = keys.max(2000);
        }
        assert_eq!(cli(&server, &["SET", "round", &round.to_string()]), "OK");
        server.cut_power();
    }
}
