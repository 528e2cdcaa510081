//! Programs that measure the network: iperf3, NetPIPE and ping.

use tests::{network::HOST, network::Link, recipe::Server, scratch};

use super::{PLAIN, Recipe, image};

const IPERF3_PORT: u16 = 5201;

/// The bytes that arrived, from iperf3's JSON.
fn received(report: &str) -> f64 {
    let report: serde_json::Value = serde_json::from_str(report).expect("JSON");
    let end = &report["end"];
    let sum = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    sum["bytes"].as_f64().unwrap_or_else(|| panic!("no sum in {report}"))
}

/// Both ways, over TCP and UDP, and by IPv6 where it leads to the guest.
fn iperf3(server: &mut Server) {
    let (host, port) = server.address(IPERF3_PORT);
    let runs: [&[&str]; 4] = [&[], &["-R"], &["--bidir", "-P", "2"], &["--udp", "-b", "5M", "-l", "1000"]];
    let mut all: Vec<_> = runs.iter().map(|options| (host.clone(), *options)).collect();
    if let Some(address) = server.network.guest6() {
        all.extend(runs[..2].iter().map(|options| (address.to_string(), *options)));
    }
    for (number, (host, options)) in all.iter().enumerate() {
        // Between two measurements it doesn't listen.
        server.running.wait_for(&format!("Server listening on {IPERF3_PORT} (test #{})", number + 1));
        let arguments = ["-c", host, "-p", &port, "-t", "1", "--json"];
        let report = server.client("iperf3", arguments.iter().chain(*options));
        assert!(!report.contains("\"error\""), "{options:?}: {report}");
        assert!(received(&report) > 50_000.0, "{options:?}: {report}");
    }
}

pub const IPERF3: Recipe = Recipe {
    name: "iperf3",
    needs: &["iperf3"],
    image: image!("iperf3"),
    ports: &[IPERF3_PORT],
    work: iperf3,
    ..PLAIN
};

const NETPIPE_PORT: u16 = 5002;

/// Messages of many sizes, there and back.
fn netpipe(server: &mut Server) {
    // The kernel's line: the program says what it has before it listens.
    server.running.wait_for(&format!("listening on 0.0.0.0:{NETPIPE_PORT}"));
    let (host, port) = server.address(NETPIPE_PORT);
    let output = scratch().join(format!("netpipe-{}", std::process::id()));
    let file = output.to_str().expect("UTF-8");
    server.client("NPtcp", ["-h", &host, "-P", &port, "-u", "131072", "-n", "10", "-o", file]);
    let measured = std::fs::read_to_string(&output).expect("its report");
    let sizes = measured.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let largest = sizes.max().unwrap_or_else(|| panic!("no sizes in {measured}"));
    assert!(largest >= 98_304, "{measured}");
    std::fs::remove_file(output).expect("ours");
}

pub const NETPIPE: Recipe = Recipe {
    name: "netpipe",
    needs: &["NPtcp"],
    image: image!("netpipe"),
    ports: &[NETPIPE_PORT],
    work: netpipe,
    ..PLAIN
};

/// It pings the host; the image ends with it.
fn ping(server: &mut Server) {
    let outcome = server.running.end();
    let console = outcome.exited(0);
    assert!(console.contains("5 packets transmitted, 5 received, 0% packet loss"), "{console}");
}

pub const PING: Recipe = Recipe {
    name: "ping",
    image: image!("ping"),
    memory: "64M",
    options: |guest, link| match link {
        // The recipe's own arguments are for it.
        Link::User => guest,
        _ => guest.arguments(["-n", "-c", "5", "-i", "0.2", &HOST.to_string()]),
    },
    work: ping,
    ..PLAIN
};
