//! The drivers of network devices: every model at several numbers of CPUs and queues, cables that are pulled, devices
//! that are taken out under load.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tests::{
    Guest, bake,
    clients::ping,
    guest::Running,
    needs,
    network::{Link, Network},
    qmp::{self, Monitor},
};

/// A port of the image; see [`image`].
const GO_ON: u16 = 6000;

/// An image that waits until there is no `eth0` any more, then for a connection to [`GO_ON`], uses the loopback, and
/// ends.
fn image() -> PathBuf {
    let script = "while ip link | grep -q eth0; do sleep 0.2; done; \
                  echo eth0 is gone; nc -l -p 6000; ip link; nc -l -p 5000 -e cat & \
                  until echo by the loopback | nc 127.0.0.1 5000; do sleep 0.2; done";
    bake("nic", ["/bin/busybox", "--", "sh", "-c", script])
}

/// Whether the guest answers a ping.
fn answers(network: &Network, address: &str) -> bool {
    let mut command = network.command("ping");
    let output = command.args(["-q", "-c", "1", "-W", "5", address]).output().expect("ip starts");
    output.status.success()
}

#[track_caller]
fn all_answered(network: &Network, address: &str, count: u32, size: u32) {
    let (count, size) = (count.to_string(), size.to_string());
    ping(network, &["-c", &count, "-i", "0.002", "-W", "5", "-s", &size, address]);
}

fn ready(network: &Network, running: &mut Running, address: &str) {
    network.wait(running, "an answer", || answers(network, address).then_some(()));
}

#[test]
fn every_model_answers_at_any_number_of_cpus_and_queues() {
    needs!("busybox", "ping");
    for (machine, model) in
        [("microvm", "virtio"), ("q35", "virtio"), ("pc", "virtio"), ("q35", "e1000e"), ("pc", "e1000e")]
    {
        for (cpus, queues) in [(1_usize, 1_u16), (2, 1), (2, 2), (4, 4)] {
            // The 82574 gets one queue of the tap; with several CPUs it uses its own two.
            if model == "e1000e" && queues > 1 || machine == "pc" && cpus != 2 {
                continue;
            }
            let Some(network) = Network::new(Link::Tap { queues }) else { return };
            let guest = Guest::new(&image()).machine(machine).cpus(cpus);
            let mut running = network.attach(guest.option("--nic", model), &[]).start();
            let address = network.guest().to_string();
            println!("{machine} {model} {cpus} {queues}");
            ready(&network, &mut running, &address);
            for size in [1, 242, 243, 1400, 4100, 20_000] {
                all_answered(&network, &address, 30, size);
            }
            let address = network.guest6().expect("a tap").to_string();
            all_answered(&network, &address, 30, 1000);
            running.kill_qemu();
        }
    }
}

#[test]
fn a_pulled_cable_is_noticed_and_the_service_goes_on_afterwards() {
    needs!("busybox", "ping");
    for model in ["virtio", "e1000e"] {
        let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
        let (guest, socket) = qmp::attach(Guest::new(&image()).machine("q35").option("--nic", model));
        let mut running = network.attach(guest, &[]).start();
        let mut monitor = Monitor::open(&socket);
        let address = network.guest().to_string();
        ready(&network, &mut running, &address);
        for _ in 0..5 {
            monitor.set_link("nic0", false);
            assert!(!answers(&network, &address));
            monitor.set_link("nic0", true);
            network.wait(&mut running, "an answer", || answers(&network, &address).then_some(()));
        }
        all_answered(&network, &address, 50, 1000);
        running.kill_qemu();
    }
}

#[test]
fn a_device_is_taken_out_under_load_and_the_others_go_on() {
    needs!("busybox", "ping");
    for (model, cpus) in [("virtio", 1), ("virtio", 4), ("e1000e", 2)] {
        let Some(network) = Network::new(Link::Tap { queues: 1 }) else { return };
        network.add_tap("tap1", 1);
        network.ip(&["address", "add", "10.78.0.1/24", "dev", "tap1"]);
        let (guest, socket) = qmp::attach(Guest::new(&image()).machine("pc").cpus(cpus));
        let guest = network.attach_with(guest, &[], &format!("model={model},address=10.77.0.2/24"));
        let guest = guest.option("--net", format!("tap=tap1,model={model},address=10.78.0.2/24"));
        let mut running = guest.start();
        let mut monitor = Monitor::open(&socket);
        ready(&network, &mut running, "10.77.0.2");
        ready(&network, &mut running, "10.78.0.2");
        let mut flood = network.command("ping");
        flood.args(["-q", "-f", "-s", "1000", "10.77.0.2"]).stdout(Stdio::null());
        let mut flood = flood.spawn().expect("ping starts");
        all_answered(&network, "10.78.0.2", 50, 500);
        assert!(!running.console().contains("gone"), "eth0 is said to be gone while it is there");
        monitor.remove("nic0");
        all_answered(&network, "10.78.0.2", 50, 500);
        let _ = flood.kill();
        let _ = flood.wait();
        running.wait_for("eth0 is gone");
        let other = SocketAddr::from(([10, 78, 0, 2], GO_ON));
        let connect = || network.inside(|| TcpStream::connect_timeout(&other, Duration::from_secs(5))).ok();
        drop(network.wait(&mut running, "the guest at its other interface", connect));
        let outcome = running.wait();
        let console = outcome.exited(0);
        assert!(console.contains("by the loopback") && console.contains("eth1"), "{console}");
    }
}
