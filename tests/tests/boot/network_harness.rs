//! The harness's networks themselves, without a guest: other namespaces stand in for it.

use std::{
    fs::File,
    io::{Read, Write},
    net::UdpSocket,
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::Duration,
};

use tests::{
    Guest, needs,
    network::{HOST, HOST6, Link, Network, faults::Faults, tap},
    scratch,
};

/// The namespace's name, from a command in it.
fn namespace(network: &Network) -> String {
    let command = network.command("true");
    command.get_args().nth(2).expect("ip netns exec NAME").to_string_lossy().into_owned()
}

/// Replies to `count` pings.
fn replies(network: &Network, address: &str, count: u32) -> u32 {
    let mut command = network.command("ping");
    command.args(["-c", &count.to_string(), "-i", "0.01", "-W", "1", "-s", "1000", address]);
    let output = command.output().expect("ping starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let received = text.lines().find_map(|line| line.split(", ").nth(1)?.split(' ').next()?.parse().ok());
    received.unwrap_or_else(|| panic!("ping said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn two_namespaces_reach_each_other_and_nothing_is_left() {
    needs!("ping");
    let (Some(one), Some(two)) = (Network::new(Link::Bridge), Network::new(Link::User)) else { return };
    let (first, second) = (namespace(&one), namespace(&two));
    one.ip(&["link", "add", "pair", "type", "veth", "peer", "name", "eth0", "netns", &second]);
    one.ip(&["link", "set", "pair", "master", "br0", "up"]);
    two.ip(&["address", "add", "10.77.0.2/24", "dev", "eth0"]);
    two.ip(&["address", "add", "fd77::2/64", "dev", "eth0", "nodad"]);
    two.ip(&["link", "set", "eth0", "up"]);
    let capture_file = scratch().join(format!("{first}.pcap"));
    let capture = one.capture(&capture_file);
    assert_eq!(replies(&one, "10.77.0.2", 3), 3);
    assert_eq!(replies(&two, &HOST6.to_string(), 3), 3);
    if let Some(capture) = capture {
        drop(capture);
        // 3 requests and 3 replies of 1,000 bytes, in both families.
        let length = std::fs::metadata(&capture_file).expect("a capture").len();
        assert!(length > 12 * 1000, "{length}");
        std::fs::remove_file(&capture_file).expect("ours");
    }
    // A socket that was opened inside stays inside.
    let server = two.inside(|| UdpSocket::bind("10.77.0.2:9000")).expect("the namespace has this address");
    let client = one.inside(|| UdpSocket::bind((HOST, 0))).expect("the namespace has this address");
    client.send_to(b"hello", "10.77.0.2:9000").expect("sent");
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut buffer = [0; 16];
    assert_eq!(server.recv(&mut buffer).expect("received"), 5);
    drop((one, two));
    for name in [first, second] {
        assert!(!Path::new("/run/netns").join(name).exists());
    }
}

/// A machine on a faulty link: a namespace with a tap, whose frames go through the socket as QEMU sends them.
fn stand_in(network: &Network, machine: &Network) -> UnixStream {
    let device = machine.inside(|| tap::open("eth0")).expect("a tap");
    machine.ip(&["address", "add", "10.77.0.2/24", "dev", "eth0"]);
    machine.ip(&["link", "set", "eth0", "up"]);
    // Lost ARP requests would decide how many pings fail.
    for (here, device, there, other, address) in
        [(network, "tap0", machine, "eth0", "10.77.0.2"), (machine, "eth0", network, "tap0", "10.77.0.1")]
    {
        let mac = there.command("cat").arg(format!("/sys/class/net/{other}/address")).output();
        let mac = String::from_utf8(mac.expect("cat starts").stdout).expect("an address");
        here.ip(&["neighbour", "replace", address, "lladdr", mac.trim(), "dev", device, "nud", "permanent"]);
    }
    let command = network.attach(Guest::new(Path::new("unused")), &[]);
    let socket = format!("{command:?}");
    let socket = socket.split("socket=").nth(1).and_then(|rest| rest.split(',').next()).expect("a socket");
    let stream = UnixStream::connect(socket).expect("the link listens");
    let (mut frames, mut to_link) =
        (device.try_clone().expect("a file"), stream.try_clone().expect("a stream"));
    // Both threads end when the stream is shut down: the next frame or the end of the stream tells them.
    thread::spawn(move || {
        let mut frame = vec![0; 65600];
        while let Ok(length) = frames.read(&mut frame) {
            let sent = to_link.write_all(&(length as u32).to_be_bytes());
            if sent.and_then(|()| to_link.write_all(&frame[..length])).is_err() {
                return;
            }
        }
    });
    let from_link = stream.try_clone().expect("a stream");
    thread::spawn(move || pump(from_link, device));
    stream
}

fn pump(mut from_link: UnixStream, mut device: File) {
    let mut length = [0; 4];
    while from_link.read_exact(&mut length).is_ok() {
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        if from_link.read_exact(&mut frame).is_err() {
            return;
        }
        let _ = device.write(&frame);
    }
}

fn replies_over(faults: Faults, count: u32) -> Option<u32> {
    let (network, machine) = (Network::new(Link::Faulty(faults))?, Network::new(Link::User)?);
    let stream = stand_in(&network, &machine);
    let replies = replies(&network, "10.77.0.2", count);
    let counts = network.counts().expect("a faulty link counts");
    let (frames, lost) = (counts.frames.load(Relaxed), counts.lost.load(Relaxed));
    assert_eq!((lost > 0, lost < frames), (faults.loss > 0.0, faults.loss < 1.0), "{lost} of {frames}");
    stream.shutdown(std::net::Shutdown::Both).expect("still connected");
    Some(replies)
}

#[test]
fn a_link_does_what_its_faults_say() {
    needs!("ping");
    let Some(all) = replies_over(Faults::default(), 50) else { return };
    // For the last ones ping waits little longer than the others took, which a busy machine may miss.
    assert!((45..=50).contains(&all), "{all}");
    let slow =
        Faults { delay: Duration::from_millis(20), duplicate: 0.3, reorder: 0.2, ..Default::default() };
    assert!(replies_over(slow, 20).is_some_and(|replies| replies >= 15));
    // Both ways lose: about a quarter of the echoes come back.
    let lossy = replies_over(Faults { loss: 0.5, ..Default::default() }, 100).expect("a link as before");
    assert!((5..60).contains(&lossy), "{lossy}");
    assert_eq!(replies_over(Faults { loss: 1.0, ..Default::default() }, 2), Some(0));
}

#[test]
fn a_guest_is_started_in_the_namespace() {
    let Some(network) = Network::new(Link::Tap { queues: 2 }) else { return };
    assert_eq!(network.endpoint(80).to_string(), "10.77.0.2:80");
    let guest = network.attach(Guest::new(Path::new("/no/such/image")), &[80]);
    let outcome = guest.run();
    assert!(outcome.messages.contains("/no/such/image"), "{}", outcome.messages);
    let output = network.command("ip").args(["-brief", "link", "show", "tap0"]).output().expect("ip starts");
    assert!(output.status.success());
    // The host itself does not see it.
    let outside = Command::new("ip").args(["link", "show", "tap0"]).output().expect("ip starts");
    let inside = network.command("cat").arg("/sys/class/net/tap0/address").output().expect("cat starts");
    assert!(
        !String::from_utf8_lossy(&outside.stdout).contains(String::from_utf8_lossy(&inside.stdout).trim())
    );
}

#[test]
fn published_ports_are_free_ones() {
    let Some(network) = Network::new(Link::User) else { return };
    let guest = network.attach(Guest::new(Path::new("image")), &[80, 443]);
    let options = format!("{guest:?}");
    for port in [80, 443] {
        let endpoint = network.endpoint(port);
        assert!(options.contains(&format!("{endpoint}:{port}/tcp")), "{options}");
        assert!(network.inside(|| std::net::TcpListener::bind(endpoint)).is_ok());
    }
}
