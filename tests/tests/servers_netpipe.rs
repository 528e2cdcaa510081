//! NetPIPE from its recipe: messages of many sizes, there and back.

use tests::{
    Guest, needs,
    network::Link,
    recipe::{Server, image},
    scratch,
};

fn netpipe(link: Link, cpus: usize) {
    needs!("NPtcp");
    const PORT: u16 = 5002;
    let Some(image) = image("netpipe") else { return };
    let Some(mut server) = Server::boot(Guest::new(&image).cpus(cpus), link, &[PORT]) else { return };
    server.running.wait_for("Send and receive buffers");
    let (host, port) = server.address(PORT);
    let output = scratch().join(format!("netpipe-{cpus}-{}", std::process::id()));
    let file = output.to_str().expect("UTF-8");
    server.client("NPtcp", ["-h", &host, "-P", &port, "-u", "131072", "-n", "20", "-o", file]);
    let measured = std::fs::read_to_string(&output).expect("its report");
    let largest: u64 = measured
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .max()
        .unwrap_or_else(|| panic!("no sizes in {measured}"));
    assert!(largest >= 98_304, "{measured}");
    std::fs::remove_file(output).expect("ours");
}

#[test]
fn netpipe_with_one_cpu_on_user_networking() {
    netpipe(Link::User, 1);
}

#[test]
fn netpipe_with_two_cpus_on_a_tap() {
    netpipe(Link::Tap { queues: 2 }, 2);
}
