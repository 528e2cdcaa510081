//! Network options of `run`: what QEMU is given, and what is refused before it starts.

use std::net::{TcpListener, UdpSocket};

use crate::support::Bench;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.succeeds(["bake", "hw_direct", "out.elf", "ls"]);
    bench
}

/// QEMU's command for these options.
#[track_caller]
fn printed(bench: &Bench, options: &[&str]) -> String {
    bench.succeeds(["run", "out.elf", "--accel", "tcg", "--print-command"].iter().chain(options))
}

/// The launcher's message for options that it refuses.
#[track_caller]
fn refused(bench: &Bench, options: &[&str], status: i32) -> String {
    let output = bench.run(["run", "out.elf", "--accel", "tcg"].iter().chain(options));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{message}");
    message
}

/// What the guest is told, from the folder that the command names.
fn guest_words(command: &str) -> String {
    let path = command.split("cmdline,file=").nth(1).expect("a file of arguments");
    let path = path.split_whitespace().next().expect("a path");
    std::fs::read_to_string(path).expect("readable")
}

#[test]
fn no_options_no_network() {
    let bench = bench();
    for options in [&[][..], &["--net", "none"]] {
        let text = printed(&bench, options);
        assert!(!text.contains("netdev") && text.contains("microvm"), "{text}");
    }
}

#[test]
fn several_interfaces_are_told_apart_by_their_addresses() {
    let bench = bench();
    let options =
        ["--net", "user,address=10.0.2.9/24,mtu=1400", "--net", "user,model=e1000e,mac=52:54:00:00:00:07"];
    let text = printed(&bench, &options);
    assert!(text.contains("-machine q35") && text.contains(" e1000e,netdev=net1,id=nic1,"), "{text}");
    let mac = text.split("virtio-net-pci,netdev=net0,id=nic0,mac=").nth(1).expect("a NIC").get(..17);
    let expected = format!(
        "network=eth0,mac={},address=10.0.2.9/24,mtu=1400 network=eth1,mac=52:54:00:00:00:07",
        mac.expect("an address")
    );
    assert!(guest_words(&text).contains(&expected), "{}", guest_words(&text));
    // The same in every run.
    assert_eq!(guest_words(&printed(&bench, &options)), guest_words(&text));
}

#[test]
fn a_port_in_use_is_refused_with_the_process() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let message = refused(&bench, &["--publish", &format!("{port}:80")], 125);
    let expected = format!("port {port}/tcp of the host is in use by process {} (", std::process::id());
    assert!(message.contains(&expected), "{message}");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("bound").port();
    let message = refused(&bench, &["--publish", &format!("127.0.0.1:{port}:53/udp")], 125);
    let expected = format!("port {port}/udp of the host is in use by process {} (", std::process::id());
    assert!(message.contains(&expected), "{message}");
    // The other protocol's port of that number is free, or somebody else's.
    let message = bench.run(["run", "out.elf", "--print-command", "--publish", &format!("{port}:53")]).stderr;
    assert!(!String::from_utf8_lossy(&message).contains(&std::process::id().to_string()));
}

#[test]
fn bad_values_are_refused_before_qemu_starts() {
    let bench = bench();
    for (options, status, part) in [
        (&["--publish", "0:80"][..], 2, "port 0 is out of range"),
        (&["--publish", "70000:80"], 2, "port 70000 is out of range"),
        (&["--publish", "80"], 2, "HOST:GUEST"),
        (&["--publish", "10.99.99.99:80:80"], 125, "10.99.99.99 is not an address of this host"),
        (&["--publish", "8080:80", "--publish", "8080:81"], 125, "want the same port"),
        (&["--net", "user", "--mac", "52:54"], 2, "not a MAC address"),
        (&["--net", "user", "--mac", "01:00:00:00:00:00"], 2, "multicast"),
        (&["--mac", "52:54:00:00:00:01"], 125, "need an interface"),
        (&["--net", "user", "--queues", "2"], 125, "needs --tap or --bridge"),
        (&["--net", "user", "--queues", "1000"], 2, "1 to 256"),
        (&["--net", "none", "--publish", "8080:80"], 125, "contradicts"),
        (&["--net", "user", "--nic", "e1000e", "--machine", "microvm"], 125, "use --machine q35"),
        (&["--net", "user", "--nic", "rtl8139"], 2, "not a NIC"),
        (
            &["--net", "user", "--capture", "no/such/x.pcap"],
            125,
            "no/such/x.pcap: the capture cannot be written",
        ),
        (&["--capture", "x.pcap"], 125, "needs an interface"),
        (&["--net", "socket=no-such-socket"], 125, "no such socket"),
        (&["--net", "user,address=10.0.0.1"], 2, "prefix length"),
        (&["--bridge", "no-such-bridge0"], 125, "ip link add no-such-bridge0 type bridge"),
        (&["--bridge", "lo"], 125, "this is no bridge"),
    ] {
        let message = refused(&bench, options, status);
        assert!(message.contains(part), "{options:?}: {message}");
    }
    if std::path::Path::new("/dev/net/tun").exists() {
        let message = refused(&bench, &["--tap", "lo"], 125);
        assert!(message.contains("lo: "), "{message}");
    }
}
