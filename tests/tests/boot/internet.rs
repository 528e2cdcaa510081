//! The internet layer against machines that no one here wrote: Linux, dnsmasq, ping, scapy, nmap.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tests::{
    Guest, bake, clients,
    guest::Running,
    have, needs,
    network::{Link, Network},
    scratch, skip,
};

/// An image that only is there.
fn idle() -> PathBuf {
    bake("internet-idle", ["/bin/busybox", "--", "sleep", "1000"])
}

/// Runs a command; returns what it wrote and whether it succeeded.
fn run(mut command: Command) -> (String, bool) {
    let output = command.output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// What a command of these words writes.
fn run_words(words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    run(command).0
}

/// Pings until something comes back, then with these arguments: all must come back.
#[track_caller]
fn ping(network: &Network, guest: &mut Running, arguments: &[&str]) {
    let address = arguments.last().expect("an address");
    network.wait(guest, "an answer to a ping", || {
        let mut command = network.command("ping");
        command.args(["-c", "1", "-W", "1", address]);
        run(command).1.then_some(())
    });
    clients::ping(network, arguments);
}

/// A DHCP server and router on the network's tap; ends with the network.
fn dnsmasq(network: &Network, leases: &str) -> (Child, PathBuf) {
    let file = scratch().join(leases);
    let _ = fs::remove_file(&file);
    let mut command = network.command("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0", "--interface=tap0"])
        .args(["--bind-interfaces", "--pid-file=", "--domain=test.example", "--enable-ra"])
        .args(["--dhcp-range=10.77.0.50,10.77.0.60,2m", "--dhcp-range=fd78::,ra-only,64"])
        .args(["--dhcp-option=option:dns-server,10.77.0.1", "--dhcp-option=option6:dns-server,[fd77::1]"])
        .arg(format!("--dhcp-leasefile={}", file.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    (command.spawn().expect("dnsmasq starts"), file)
}

#[test]
fn user_networking_gives_an_address_and_a_name_server() {
    needs!("busybox");
    let Some(network) = Network::new(Link::User) else { return };
    let image = bake("internet-user", ["/bin/busybox", "--", "cat", "/etc/resolv.conf"]);
    let outcome = network.attach_with(Guest::new(&image), &[], "").run();
    let console = outcome.console.as_str();
    assert!(console.contains("eth0: 10.0.2.15/24, gateway 10.0.2.2 (DHCP)"), "{console}");
    assert!(console.contains("nameserver 10.0.2.3"), "{console}");
}

#[test]
fn pings_of_all_sizes_come_back_at_any_rate() {
    needs!("busybox", "ping");
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let mut guest = network.attach(Guest::new(&idle()), &[]).start();
    for address in [network.guest().to_string(), network.guest6().expect("not user networking").to_string()] {
        ping(&network, &mut guest, &["-c", "3", "-i", "0.05", &address]);
        // Fragments, in both directions.
        ping(&network, &mut guest, &["-c", "3", "-i", "0.05", "-s", "4000", &address]);
        ping(&network, &mut guest, &["-c", "2", "-s", "60000", &address]);
        ping(&network, &mut guest, &["-c", "2000", "-f", &address]);
    }
    // A group that every machine is in.
    let mut command = network.command("ping");
    command.args(["-c", "2", "-L", "ff02::1%tap0"]);
    let (text, success) = run(command);
    assert!(success, "{text}");
    guest.kill_qemu();
}

#[test]
fn leases_and_router_advertisements_of_dnsmasq_are_followed() {
    needs!("busybox", "dnsmasq", "ping");
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    // First there is no server: it is said, and asking goes on.
    let script = "b=/bin/busybox; while ! $b grep -q 10.77.0.1 /etc/resolv.conf; do $b sleep 1; done; \
        $b cat /etc/resolv.conf; exec $b sleep 1000";
    let image = bake("internet-dhcp", ["/bin/busybox", "--", "sh", "-c", script]);
    let mut guest = network.attach_with(Guest::new(&image), &[], "").start();
    guest.wait_for("eth0: no DHCP server answers");
    network.ip(&["address", "add", "fd78::1/64", "dev", "tap0", "nodad"]);
    let (mut server, leases) = dnsmasq(&network, "internet-leases");
    guest.wait_for("(DHCP)");
    guest.wait_for("(router advertisement)");
    guest.wait_for("nameserver 10.77.0.1");
    let console = guest.console();
    assert!(console.contains("search test.example"), "{console}");
    let word = |marker: &str| {
        let line = console.lines().find(|line| line.contains(marker)).unwrap_or_default();
        line.split([' ', '/']).nth(1).unwrap_or_default().to_string()
    };
    ping(&network, &mut guest, &["-c", "2", &word("(DHCP)")]);
    let leases = fs::read_to_string(&leases).expect("leases");
    assert!(leases.contains(" rumprun "), "{leases}");
    ping(&network, &mut guest, &["-c", "2", &word("(router advertisement)")]);
    let _ = server.kill();
    let _ = server.wait();
    guest.kill_qemu();
}

/// A server of short leases on the network's tap; what it says is in the file. `address` is the host's, for it.
fn udhcpd(network: &Network, address: &str) -> (Child, PathBuf) {
    let name = |what: &str| scratch().join(format!("internet-udhcpd-{what}"));
    let (configuration, messages) = (name("configuration"), name(address));
    let text = format!(
        "start 10.77.0.50\nend 10.77.0.50\ninterface tap0\nauto_time 1\nmin_lease 10\nlease_file {}\n\
         pidfile {}\noption subnet 255.255.255.0\noption router {address}\noption lease {LEASE}\n",
        name("leases").display(),
        name("number").display(),
    );
    fs::write(&configuration, text).expect("a file of ours");
    let file = fs::File::create(&messages).expect("a file of ours");
    let mut command = network.command("busybox");
    command.args(["udhcpd", "-f"]).arg(&configuration).stdout(Stdio::null()).stderr(file);
    (command.spawn().expect("udhcpd starts"), messages)
}

/// Seconds of a lease of [`udhcpd`].
const LEASE: u32 = 24;

#[test]
fn leases_are_renewed_given_up_and_found_again() {
    needs!("busybox", "ping");
    if !run_words(&["busybox", "udhcpd", "--help"]).contains("udhcpd") {
        return skip("this busybox has no udhcpd");
    }
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let _ = fs::write(scratch().join("internet-udhcpd-leases"), "");
    let acknowledgements =
        |messages: &PathBuf| fs::read_to_string(messages).unwrap_or_default().matches("sending ACK").count();
    let (mut server, messages) = udhcpd(&network, "10.77.0.1");
    let mut guest = network.attach_with(Guest::new(&idle()), &[], "").start();
    guest.wait_for("eth0: 10.77.0.50/24, gateway 10.77.0.1 (DHCP)");
    // At half of its time, well before it ends.
    let first = acknowledgements(&messages);
    network.wait(&mut guest, "a renewal", || (acknowledgements(&messages) > first).then_some(()));
    assert!(!guest.console().contains("no longer ours"), "{}", guest.console());
    let _ = server.kill();
    let _ = server.wait();
    guest.wait_for("eth0: the address 10.77.0.50 is no longer ours");
    network.ip(&["address", "del", "10.77.0.1/24", "dev", "tap0"]);
    network.ip(&["address", "add", "10.77.0.3/24", "dev", "tap0"]);
    let (mut server, messages) = udhcpd(&network, "10.77.0.3");
    network.wait(&mut guest, "a new lease", || (acknowledgements(&messages) > 0).then_some(()));
    guest.wait_for("eth0: 10.77.0.50/24, gateway 10.77.0.3 (DHCP)");
    ping(&network, &mut guest, &["-c", "2", "10.77.0.50"]);
    let _ = server.kill();
    let _ = server.wait();
    guest.kill_qemu();
}

#[test]
fn a_duplicate_address_is_said_once_and_the_service_goes_on() {
    needs!("busybox", "ping");
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let address = network.guest().to_string();
    network.ip(&["address", "add", &format!("{address}/32"), "dev", "tap0"]);
    network.ip(&["address", "add", "fd77::2/128", "dev", "tap0", "nodad"]);
    let mut guest = network.attach(Guest::new(&idle()), &[]).start();
    guest.wait_for(&format!("eth0: duplicate address {address}, also used by "));
    guest.wait_for("eth0: duplicate address fd77::2");
    network.ip(&["address", "del", &format!("{address}/32"), "dev", "tap0"]);
    ping(&network, &mut guest, &["-c", "3", &address]);
    let console = guest.console();
    assert_eq!(console.matches("duplicate address 10.77").count(), 1, "{console}");
    guest.kill_qemu();
}

#[test]
fn a_hop_with_a_smaller_mtu_is_found() {
    needs!("busybox", "curl");
    let (Some(network), Some(far)) = (Network::new(Link::Tap { queues: 1 }), Network::new(Link::User)) else {
        return;
    };
    let script = "b=/bin/busybox; $b mkdir /www; $b dd if=/dev/zero of=/www/file bs=1024 count=512; \
        exec $b httpd -f -p 80 -h /www";
    let image = bake("internet-path", ["/bin/busybox", "--", "sh", "-c", script]);
    let name = far.command("true").get_args().nth(2).expect("a name").to_string_lossy().into_owned();
    network.ip(&["link", "add", "pair", "type", "veth", "peer", "name", "eth0", "netns", &name]);
    network.ip(&["address", "add", "10.78.0.1/24", "dev", "pair"]);
    network.ip(&["address", "add", "fd79::1/64", "dev", "pair", "nodad"]);
    network.ip(&["link", "set", "pair", "mtu", "1300", "up"]);
    for key in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        let mut command = network.command("sysctl");
        command.args(["-qw", key]);
        if !run(command).1 {
            return skip("no forwarding in a namespace");
        }
    }
    far.ip(&["address", "add", "10.78.0.2/24", "dev", "eth0"]);
    far.ip(&["address", "add", "fd79::2/64", "dev", "eth0", "nodad"]);
    // Its own MTU is large: it offers segments that don't get through.
    far.ip(&["link", "set", "eth0", "up"]);
    far.ip(&["route", "add", "default", "via", "10.78.0.1"]);
    far.ip(&["-6", "route", "add", "default", "via", "fd79::1"]);
    let mut guest = network.attach(Guest::new(&image), &[80]).start();
    network.wait_for_port(&mut guest, 80);
    for url in [format!("http://{}/file", network.guest()), "http://[fd77::2]/file".to_string()] {
        let mut command = far.command("curl");
        command.args(["-s", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        let (text, success) = run(command);
        assert!(success && text == (512 * 1024).to_string(), "{url}: {text}\n{}", guest.console());
    }
    guest.kill_qemu();
}

/// Packets that are wrong in many ways, from a program that makes them well.
const WEIRD: &str = r#"
import sys, random, struct
from scapy.all import *
conf.verb = 0
mac, me, them = sys.argv[1], "10.77.0.1", "10.77.0.2"
link = Ether(dst=mac)
random.seed(1)
packets = []
for base in [IP(src=me, dst=them), IP(src=them, dst=them), IP(src="127.0.0.1", dst=them), IP(src="255.255.255.255", dst=them), IP(src="224.0.0.1", dst=them)]:
    packets += [base/ICMP(), base/TCP(dport=1, flags="FPU"), base/TCP(dport=1, flags=0), base/TCP(dport=1, flags="SF"), base/UDP(dport=9, len=4), base/UDP(dport=9, len=60000)]
packets += [IP(src=me, dst=them, ihl=n)/ICMP() for n in range(16)]
packets += [IP(src=me, dst=them, len=n)/ICMP()/"x" for n in (0, 19, 20, 21, 27, 28, 200, 65535)]
def with_option(option, rest=bytes(ICMP())):
    header = bytes(IP(src=me, dst=them, proto=1, ihl=6, len=24 + len(rest), chksum=0)) + option
    return Raw(header[:10] + struct.pack("!H", checksum(header)) + header[12:] + rest)
options = [with_option(bytes([k, n, 4, 0])) for k in (7, 68, 131, 137, 148, 255) for n in (0, 1, 4, 40, 255)]
packets += fragment(IP(src=me, dst=them, id=7)/ICMP()/("x" * 3000), 800)[1:]
packets += [IP(src=me, dst=them, id=n, flags="MF", frag=0)/ICMP()/("x" * 40) for n in range(300)]
packets += [IP(src=me, dst=them, id=9, flags="MF", frag=f)/("x" * 64) for f in (0, 1, 4, 8189, 8191)]
packets += [IP(src=me, dst=them, id=10, frag=f)/("x" * 64) for f in (8189, 8190, 8191)]
packets += [IP(src=me, dst=them)/ICMP(type=t, code=c)/("x" * 40) for t in (3, 4, 5, 11, 12, 13, 15, 17) for c in range(5)]
packets += [IP(src=me, dst=them, proto=p)/("x" * 20) for p in range(0, 256, 7)]
six = IPv6(src="fd77::1", dst="fd77::2")
packets += [six/IPv6ExtHdrHopByHop(options=[Pad1(), HBHOptUnknown(otype=t, optdata="xx")])/ICMPv6EchoRequest() for t in (5, 0x45, 0x85, 0xc5)]
packets += [six/IPv6ExtHdrRouting(type=0, addresses=["fd77::9"], segleft=1)/ICMPv6EchoRequest()]
packets += [six/IPv6ExtHdrFragment(offset=o, m=m, id=3)/("x" * 64) for o in (0, 1, 4, 8190) for m in (0, 1)]
packets += [six/IPv6ExtHdrDestOpt()/IPv6ExtHdrDestOpt()/IPv6ExtHdrHopByHop()/ICMPv6EchoRequest()]
packets += [IPv6(src="fd77::1", dst="fd77::2", hlim=255)/m for m in (ICMPv6ND_RA(), ICMPv6ND_NA(tgt="fd77::2"), ICMPv6ND_NS(tgt="ff02::1"), ICMPv6ND_Redirect(), ICMPv6ND_RS(), ICMPv6MLQuery())]
frames = [link/p for p in packets] + [Ether(dst=mac, type=0x800)/p for p in options]
frames += [link/ARP(op=o, hwsrc="ff:ff:ff:ff:ff:ff", psrc=me, pdst=them) for o in (0, 1, 2, 3, 9)]
frames += [Ether(dst=mac, type=t)/("x" * 30) for t in (0, 0x100, 0x806, 0x800, 0x86dd, 0x8100)]
whole = [bytes(f) for f in frames]
for _ in range(3000):
    b = bytearray(random.choice(whole))
    for _ in range(random.randrange(1, 5)):
        b[random.randrange(14, len(b))] = random.randrange(256)
    frames.append(Raw(bytes(b[:random.randrange(14, len(b) + 1)])))
socket = conf.L2socket(iface="tap0")
for f in frames:
    socket.send(f)
print(len(frames), "frames")
"#;

#[test]
fn weird_packets_and_scans_do_no_harm() {
    needs!("busybox", "ping");
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    let mut guest = network.attach(Guest::new(&idle()), &[]).start();
    let address = network.guest().to_string();
    ping(&network, &mut guest, &["-c", "1", &address]);
    let mut command = network.command("/usr/bin/python3");
    command.args(["-c", "import scapy.all"]);
    if run(command).1 {
        let mut command = network.command("ip");
        command.args(["neighbour", "show", &address]);
        let (text, _) = run(command);
        let mac = text.split(' ').skip_while(|word| *word != "lladdr").nth(1).expect("a neighbour");
        let mut command = network.command("/usr/bin/python3");
        command.args(["-c", WEIRD, mac]);
        let (text, success) = run(command);
        assert!(success && text.contains("frames"), "{text}");
    } else {
        skip("python3-scapy is not installed");
    }
    if have("nmap") {
        let mut command = network.command("nmap");
        command.args([
            "-n",
            "-Pn",
            "-O",
            "-p",
            "1-50",
            "--max-retries",
            "1",
            "--host-timeout",
            "40s",
            &address,
        ]);
        let (text, _) = run(command);
        assert!(text.contains("Nmap done"), "{text}");
    }
    ping(&network, &mut guest, &["-c", "3", &address]);
    ping(&network, &mut guest, &["-c", "3", "fd77::2"]);
    guest.kill_qemu();
}
