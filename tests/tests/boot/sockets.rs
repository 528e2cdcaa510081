//! Sockets as Linux programs use them, over the loopback: what they do in an image is what they do on the host.

use std::path::Path;

use tests::{
    Guest, bake, needs,
    programs::{Flavour, build, folder_with, on_host},
};

/// The program's own lines, without those by which the kernel tells of ports.
fn own_lines(console: &str) -> String {
    console
        .lines()
        .filter(|line| !line.starts_with("listening on "))
        .map(|line| line.to_owned() + "\n")
        .collect()
}

#[test]
fn python_uses_sockets_as_on_the_host() {
    needs!("/usr/bin/python3");
    let files = folder_with("sockets", &["sockets.py"]);
    let script = format!("{files}/sockets.py");
    let (expected, status) = on_host(Path::new("/usr/bin/python3"), &[&script]);
    assert_eq!(status, 0, "the host itself fails: {expected}");
    let rootfs = format!("{files}:/scripts");
    let arguments =
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &rootfs, "--", "/scripts/sockets.py"];
    let image = bake("sockets", arguments);
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).memory("512M").timeout(300).cpus(cpus).run();
        assert_eq!(own_lines(outcome.exited(0)), expected, "{cpus} CPUs");
    }
}

#[test]
fn files_signal_what_happens_as_on_the_host() {
    needs!("/usr/bin/python3");
    let files = folder_with("signals", &["socket_signals.py"]);
    let script = format!("{files}/socket_signals.py");
    let (expected, status) = on_host(Path::new("/usr/bin/python3"), &[&script]);
    assert_eq!(status, 0, "the host itself fails: {expected}");
    let rootfs = format!("{files}:/scripts");
    let arguments =
        ["/usr/bin/python3", "--package", "python3", "--rootfs", &rootfs, "--", "/scripts/socket_signals.py"];
    let image = bake("signals", arguments);
    for cpus in [1, 2] {
        let outcome = Guest::new(&image).timeout(300).cpus(cpus).run();
        assert_eq!(own_lines(outcome.exited(0)), expected, "{cpus} CPUs");
    }
}

#[test]
fn what_is_sent_over_the_loopback_has_arrived_when_the_call_returns() {
    needs!("gcc");
    let image = bake("loopback", [build("loopback.c", Flavour::Static)]);
    for cpus in [1, 2, 4] {
        let outcome = Guest::new(&image).timeout(300).cpus(cpus).run();
        let expected = "datagrams: 0 missing\ncorrespondence: 0 missing\nconnections: 0 missing\n";
        assert_eq!(own_lines(outcome.exited(0)), expected, "{cpus} CPUs");
    }
}

#[test]
fn ss_lists_all_kinds_of_sockets() {
    needs!("/usr/bin/python3", "ss");
    let files = folder_with("listed", &["listed_sockets.py"]);
    let rootfs = format!("{files}:/scripts");
    let arguments = [
        "/usr/bin/python3",
        "--package",
        "python3",
        "--package",
        "iproute2",
        "--rootfs",
        &rootfs,
        "--",
        "/scripts/listed_sockets.py",
    ];
    let outcome = Guest::new(&bake("listed", arguments)).timeout(300).run();
    let console = outcome.exited(0);
    let has = |words: &[&str]| {
        assert!(
            console.lines().any(|line| {
                let found: Vec<&str> = line.split_whitespace().collect();
                words.iter().all(|word| found.contains(word))
            }),
            "{words:?} in {console}"
        );
    };
    has(&["u_str", "LISTEN", "7", "/tmp/listed"]);
    has(&["u_str", "ESTAB", "/tmp/listed"]);
    has(&["u_dgr", "UNCONN", "@listed"]);
    has(&["udp", "UNCONN", "127.0.0.1:5353", "0.0.0.0:*"]);
    has(&["tcp", "LISTEN", "9", "127.0.0.1:8080"]);
    has(&["tcp", "ESTAB", "127.0.0.1:8080"]);
    assert!(console.contains("users:((\"python3\",pid="), "{console}");
}
