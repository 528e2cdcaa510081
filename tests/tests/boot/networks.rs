//! Network options of `run`, with a guest: published ports, taps, several interfaces, models, captures, bad links.

use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

use tests::{
    Guest, bake,
    guest::Running,
    needs,
    network::{Link, Network, faults::Faults},
    scratch,
};

const PORT: u16 = 80;
/// What the guest serves.
const CONTENT_BYTES: usize = 300_000;

/// The file that the guest serves.
fn content() -> Vec<u8> {
    (0..CONTENT_BYTES / 10).flat_map(|number| format!("{number:09}\n").into_bytes()).collect()
}

/// A web server (busybox's) over a folder with one large file.
fn web() -> PathBuf {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let folder = scratch().join("networks-www");
        fs::create_dir_all(&folder).expect("a folder of ours");
        fs::write(folder.join("file"), content()).expect("written");
        let rootfs = format!("{}:/www", folder.display());
        let server = ["/bin/busybox", "--rootfs", &rootfs, "--", "httpd", "-f", "-p", "80", "-h", "/www"];
        bake("networks", server)
    };
    IMAGE.get_or_init(make).clone()
}

fn guest() -> Guest {
    Guest::new(&web()).timeout(180)
}

/// Fetches the file and looks at every byte.
#[track_caller]
fn fetch(network: &Network, running: &mut Running) {
    network.answer(running, PORT, b"GET /file HTTP/1.0\r\n\r\n");
    let url = format!("http://{}/file", network.endpoint(PORT));
    let output =
        network.command("curl").args(["--silent", "--show-error", "--max-time", "100", &url]).output();
    let output = output.expect("curl starts");
    let expected = content();
    assert!(
        output.status.success() && output.stdout == expected,
        "{} of {} bytes: {}\n{}",
        output.stdout.len(),
        expected.len(),
        String::from_utf8_lossy(&output.stderr),
        running.console()
    );
}

#[test]
fn published_ports_lead_to_the_guest() {
    needs!("busybox", "curl");
    let Some(network) = Network::new(Link::User) else { return };
    // With an address by DHCP, and with a static one that moves the user network.
    for options in ["", "address=192.168.9.9/24,gateway=192.168.9.1"] {
        let mut running = network.attach_with(guest(), &[PORT], "").option("--cpus", "2");
        if !options.is_empty() {
            running = running.option("--net", format!("user,{options}"));
        }
        let mut running = running.start();
        fetch(&network, &mut running);
    }
}

#[test]
fn taps_with_several_queues_and_other_models() {
    needs!("busybox", "curl");
    for (queues, options) in [(2, ""), (1, ",model=e1000e")] {
        let Some(network) = Network::new(Link::Tap { queues }) else { return };
        let address = format!("address=10.77.0.2/24,address=fd77::2/64,gateway=10.77.0.1{options}");
        let mut running = network.attach_with(guest(), &[PORT], &address).start();
        fetch(&network, &mut running);
        let url = format!("http://[{}]/file", network.guest6().expect("a tap has IPv6"));
        let output =
            network.command("curl").args(["--silent", "--globoff", "--max-time", "60", &url]).output();
        assert_eq!(output.expect("curl starts").stdout.len(), CONTENT_BYTES, "{}", running.console());
    }
}

#[test]
fn interfaces_have_the_order_of_the_options() {
    needs!("busybox", "curl", "ping");
    let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
    network.add_tap("tap1", 1);
    // The second has the smaller address.
    let first = "address=10.77.0.2/24,mac=52:54:00:00:00:09";
    let second = "tap=tap1,address=10.78.0.2/24,mac=52:54:00:00:00:01,model=e1000e";
    let guest = network.attach_with(guest(), &[PORT], first).option("--net", second);
    let mut running = guest.start();
    fetch(&network, &mut running);
    let console = running.console();
    assert!(console.contains("eth0: 10.77.0.2/24") && console.contains("eth1: 10.78.0.2/24"), "{console}");
    // The other one answers on its own link.
    network.ip(&["address", "add", "10.78.0.1/24", "dev", "tap1"]);
    let mut ping = network.command("ping");
    let output = ping.args(["-c", "1", "-W", "10", "10.78.0.2"]).output().expect("ping starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let neighbours =
        network.command("ip").args(["neighbour", "show", "dev", "tap1"]).output().expect("ip starts");
    let neighbours = String::from_utf8_lossy(&neighbours.stdout).into_owned();
    assert!(neighbours.contains("52:54:00:00:00:01"), "{neighbours}");
}

#[test]
fn guests_in_a_bridge_reach_the_host_and_captures_show_it() {
    needs!("busybox", "curl", "tcpdump");
    let Some(network) = Network::new(Link::Bridge) else { return };
    let capture = scratch().join(format!("networks-{}.pcap", std::process::id()));
    let mut running = network.attach(guest(), &[PORT]).option("--capture", &capture).start();
    fetch(&network, &mut running);
    drop(running);
    let mut tcpdump = std::process::Command::new("tcpdump");
    tcpdump.args(["-n", "-r"]).arg(&capture).arg("src 10.77.0.2 and tcp src port 80");
    let output = tcpdump.output().expect("tcpdump starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.77.0.2.80 > 10.77.0.1."), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Flags [S.]") && text.contains("HTTP: HTTP/1."), "{text}");
    fs::remove_file(capture).expect("ours");
}

#[test]
fn bad_links_deliver_every_byte() {
    needs!("busybox", "curl");
    for loss in [0.001, 0.01, 0.05] {
        let faults = Faults {
            loss,
            reorder: loss,
            duplicate: loss,
            delay: Duration::from_millis(2),
            ..Default::default()
        };
        let Some(network) = Network::new(Link::Faulty(faults)) else { return };
        let mut running = network.attach(guest(), &[PORT]).start();
        fetch(&network, &mut running);
    }
}
