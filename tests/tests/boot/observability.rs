//! What an image tells about itself: traces and counters.

use tests::{Guest, bake, scratch};

fn shell() -> std::path::PathBuf {
    bake("observability-shell", ["sh -c 'cat /etc/nothing; exit 3'", "--package", "coreutils"])
}

#[test]
fn a_trace_shows_the_calls_that_were_asked_for() {
    let outcome = Guest::new(&shell()).option("--trace", "syscalls=file,exit_group").run();
    outcome.exited(3);
    let lines: Vec<&str> =
        outcome.messages.lines().filter_map(|line| line.strip_prefix("[trace] ")).collect();
    let one = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(one("execve(\"/usr/bin/cat\", [\"cat\", \"/etc/nothing\"], "), 1, "{lines:#?}");
    assert_eq!(one("openat(AT_FDCWD, \"/etc/nothing\", 0x0, 0o0) = -1 ENOENT <"), 1, "{lines:#?}");
    assert_eq!(one("exit_group(3) = ?"), 1, "{lines:#?}");
    assert_eq!(one("mmap("), 0, "{lines:#?}");
    assert!(!outcome.console.contains("execve"), "{}", outcome.console);
}

#[test]
fn a_trace_may_go_to_a_file() {
    let file = scratch().join(format!("trace-{}", std::process::id()));
    let outcome = Guest::new(&shell()).option("--trace", "syscalls").option("--trace-output", &file).run();
    outcome.exited(3);
    let trace = std::fs::read_to_string(&file).expect("the trace");
    assert!(trace.contains(" wait4(") && trace.ends_with("exit_group(3) = ?\n"), "{trace}");
    assert!(!outcome.messages.contains("[trace]"), "{}", outcome.messages);
}

/// The commands of gdb's that `run` printed.
fn attach_command(running: &mut tests::guest::Running) -> Vec<String> {
    let line = running.wait_for_message("attach with: ");
    let (words, mut quoted) = (line.trim_start_matches("attach with: "), false);
    let mut split = vec![String::new()];
    for character in words.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => split.push(String::new()),
            other => split.last_mut().expect("a word").push(other),
        }
    }
    split
}

#[test]
fn gdb_stops_in_the_kernel_and_in_the_program() {
    tests::needs!("gdb", "gcc");
    let program = tests::programs::build("hello.c", tests::programs::Flavour::Static);
    let image = bake("observability-hello", [&program]);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let port = port.expect("a free port").port().to_string();
    let mut running = Guest::new(&image).option("--gdb", &port).flag("--pause").start();
    let words = attach_command(&mut running);
    assert_eq!(words[0], "gdb");
    let output = std::process::Command::new("gdb")
        .args(["-batch", "-nx", "-ex", "set pagination off", "-ex", "set confirm off"])
        .args(&words[1..])
        .args(["-ex", "hbreak linux::rc::start", "-ex", "continue", "-ex", "backtrace"])
        .args(["-ex", "break main", "-ex", "continue", "-ex", "backtrace", "-ex", "detach"])
        .output()
        .expect("gdb starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("in linux::rc::start"), "{said}\n{errors}");
    assert!(said.contains("Breakpoint 2, ") && said.contains("in main ()"), "{said}\n{errors}");
    running.wait().exited(0);
}

#[test]
fn metrics_are_given_out_whatever_other_clients_do() {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };
    let image = bake("observability-sleep", ["sleep 600"]);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let address = port.expect("a free port");
    let publish = format!("{}:9100", address.port());
    let mut running = Guest::new(&image).option("--publish", &publish).option("--metrics", "9100").start();
    running.wait_for("metrics on port 9100");
    let ask = |request: &[u8]| {
        let mut client = TcpStream::connect(address).expect("QEMU listens");
        client.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        client.write_all(request).expect("asked");
        client
    };
    // They never finish asking.
    let idle: Vec<TcpStream> = (0..40).map(|_| ask(b"GET /met")).collect();
    let mut text = String::new();
    ask(b"GET /metrics HTTP/1.1\r\n\r\n").read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in ["rumprun_tcp_passive_opens_total ", "rumprun_syscall_calls_total{name=\"mmap\"} "] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    drop(idle);
}
