//! iperf3 from its recipe, in both directions, over TCP and UDP.

use tests::{
    Guest, needs,
    network::Link,
    recipe::{Server, image},
};

/// The bits per second that arrived, from iperf3's JSON.
fn throughput(report: &str) -> f64 {
    let part = report.split("\"sum_received\":").nth(1);
    let value = part.and_then(|part| part.split("\"bits_per_second\":").nth(1));
    let value =
        value.and_then(|value| value.trim_start().split([',', '\n', '}']).next()?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no sum in {report}"))
}

fn iperf3(link: Link, cpus: usize, addresses: &[&str]) {
    needs!("iperf3");
    const PORT: u16 = 5201;
    let Some(image) = image("iperf3") else { return };
    let Some(mut server) = Server::boot(Guest::new(&image).cpus(cpus), link, &[PORT]) else { return };
    server.running.wait_for("Server listening");
    let (host, port) = server.address(PORT);
    let mut hosts = vec![host.as_str()];
    hosts.extend(addresses);
    for host in hosts {
        let runs: [&[&str]; 5] =
            [&[], &["-R"], &["-P", "4"], &["--bidir"], &["--udp", "-b", "5M", "-l", "1000"]];
        for options in runs {
            let mut arguments = vec!["-c", host, "-p", &port, "-t", "2", "--json"];
            arguments.extend(options);
            let report = server.client("iperf3", &arguments);
            assert!(!report.contains("\"error\""), "{options:?}: {report}");
            assert!(throughput(&report) > 100_000.0, "{options:?}: {report}");
        }
    }
}

#[test]
fn iperf3_with_one_cpu_on_user_networking() {
    iperf3(Link::User, 1, &[]);
}

#[test]
fn iperf3_with_four_cpus_on_a_tap() {
    iperf3(Link::Tap { queues: 4 }, 4, &["fd77::2"]);
}
