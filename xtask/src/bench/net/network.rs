//! The network between guest and clients: a tap in a network namespace that only this process has.

use std::{env, net::Ipv4Addr, os::unix::process::CommandExt, process::Command};

use anyhow::{Result, bail};

use crate::host;

/// The host's address.
const HOST: &str = "10.77.0.1/24";
/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The guest's hardware address.
pub const MAC: &str = "52:54:00:77:00:02";
const TAP: &str = "tap0";
/// Says that the process is in its namespace.
const INSIDE: &str = "RUMPRUN_BENCH_NAMESPACE";

/// Whether [`enter`] has happened.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Starts this program anew in a network namespace; it ends with the process. Does not return unless that fails.
pub fn enter() -> Result<()> {
    let root = host::output(Command::new("id").arg("--user"))?.trim() == "0";
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !root {
        command.args(["--user", "--map-root-user"]);
    }
    let error = command.arg(env::current_exe()?).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
    bail!("cannot run unshare (Debian's util-linux): {error}")
}

/// A tap for one guest, made anew because the number of queues is fixed when it is made.
pub fn make_tap(queues: usize) -> Result<()> {
    let ip = |line: &str| host::run(Command::new("ip").args(line.split(' ')));
    // It may be there from the last guest.
    let _ = Command::new("ip").args(["tuntap", "del", "dev", TAP, "mode", "tap"]).arg("multi_queue").output();
    let _ = Command::new("ip").args(["link", "del", TAP]).output();
    let kind = if queues > 1 { " multi_queue" } else { "" };
    ip(&format!("tuntap add dev {TAP} mode tap vnet_hdr{kind}"))?;
    ip(&format!("address add {HOST} dev {TAP}"))?;
    ip(&format!("link set {TAP} up"))?;
    ip("link set lo up")
}

/// QEMU's words for an interface on the tap.
pub fn words(queues: usize) -> Vec<String> {
    let backend = format!("tap,id=net0,ifname={TAP},script=no,downscript=no,queues={queues}");
    let many = if queues > 1 { format!(",mq=on,vectors={}", 2 * queues + 2) } else { String::new() };
    let device = format!("virtio-net-pci,netdev=net0,mac={MAC}{many}");
    // The threads of virtual CPUs get names by which their time is found.
    let names = "guest,debug-threads=on".to_owned();
    ["-name".into(), names, "-netdev".into(), backend, "-device".into(), device].into()
}
