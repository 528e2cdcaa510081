//! What interfaces need of the host: free ports, taps, bridges, and the right to use them.

use std::{
    env, fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::{Backend, Error, Nic, Protocol, Publish, holder, words::capture_file};

/// The program with which QEMU opens taps in bridges for users who may not.
pub const BRIDGE_HELPER: &str = "/usr/lib/qemu/qemu-bridge-helper";
const TUN: &str = "/dev/net/tun";
/// CAP_NET_ADMIN's bit, capability.h.
const NET_ADMIN: u32 = 12;

/// How an interface gets its link on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Nothing of the host but ports and sockets, or a tap with one queue.
    Plain,
    /// A tap that was made for several queues.
    MultiQueue,
    /// A tap that QEMU makes, and that goes when QEMU does.
    New,
    /// QEMU's setuid program.
    Helper,
}

/// Looks whether the host has what each interface needs, and how it is to be had.
pub fn prepare(nics: &[Nic], capture: Option<&Path>) -> Result<Vec<Link>, Error> {
    if nics.iter().any(|nic| nic.script.is_some()) {
        return Err(Error::Options("`script` is for xl, on Xen's dom0".into()));
    }
    let links = nics.iter().map(link).collect::<Result<Vec<Link>, _>>()?;
    if let Some(capture) = capture {
        // QEMU's filters refuse a back end with several queues.
        let several = |(nic, link): &(&Nic, &Link)| nic.queues() > 1 || **link == Link::MultiQueue;
        if let Some((nic, _)) = nics.iter().zip(&links).find(several) {
            let name = nic.backend.name();
            return Err(Error::Options(format!(
                "--capture takes one queue, and {name} has several; tcpdump -w FILE.pcap -i TAP captures on the host"
            )));
        }
        if links.contains(&Link::Helper) {
            return Err(Error::Options(
                "--capture in a bridge needs root; tcpdump captures on the host".into(),
            ));
        }
        for index in 0..nics.len() {
            let path = capture_file(capture, index);
            fs::File::create(&path).map_err(|source| Error::Capture { path, source })?;
        }
    }
    Ok(links)
}

fn link(nic: &Nic) -> Result<Link, Error> {
    match &nic.backend {
        Backend::User(published) => published.iter().try_for_each(free).map(|()| Link::Plain),
        Backend::Tap(name) => tap(name, nic.queues()),
        Backend::Bridge(name) => bridge(name, nic.queues()),
        Backend::Socket(path) => match fs::metadata(path) {
            Ok(_) => Ok(Link::Plain),
            Err(error) => Err(Error::Link {
                name: path.display().to_string(),
                reason: format!("no such socket: {error}"),
            }),
        },
    }
}

/// Whether a port can be published now, tried by binding it as QEMU will.
fn free(publish: &Publish) -> Result<(), Error> {
    let address = SocketAddrV4::new(publish.address.unwrap_or(Ipv4Addr::UNSPECIFIED), publish.host);
    let result = match publish.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let publish = *publish;
    let Err(error) = result else { return Ok(()) };
    Err(match error.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { holder: holder::of_port(&publish), publish },
        io::ErrorKind::PermissionDenied => Error::Port {
            publish,
            reason: "ports below 1024 are root's (or: sysctl net.ipv4.ip_unprivileged_port_start)".into(),
        },
        io::ErrorKind::AddrNotAvailable => {
            Error::Port { publish, reason: format!("{} is not an address of this host", address.ip()) }
        }
        _ => Error::Port { publish, reason: error.to_string() },
    })
}

/// iproute2's program, also where sbin is not on the path.
fn ip() -> Command {
    let mut command = Command::new("ip");
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    if let Ok(path) = env::join_paths(folders) {
        command.env("PATH", path);
    }
    command
}

/// What the kernel says of a link; `None` if there is none of that name.
fn look(name: &str) -> Result<Option<Value>, Error> {
    let output = ip()
        .args(["-json", "-details", "link", "show", "dev", name])
        .output()
        .map_err(|error| Error::Tool(format!("ip does not start ({error}): apt install iproute2")))?;
    let links: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(links.get(0).filter(|link| link["ifname"] == name).cloned())
}

fn kind(link: &Value) -> &str {
    link["linkinfo"]["info_kind"].as_str().unwrap_or("network card")
}

fn wrong<T>(name: &str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Link { name: name.into(), reason: reason.into() })
}

/// Whether this process may change the network.
fn may_administrate() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 << NET_ADMIN != 0)
}

/// Whether taps can be opened at all; why not otherwise.
fn tun() -> Result<(), String> {
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("there is no {TUN}: sudo modprobe tun"))
        }
        Err(error) => Err(format!("{TUN} cannot be opened ({error}): be root, or sudo chmod 666 {TUN}")),
    }
}

fn tap(name: &str, queues: u16) -> Result<Link, Error> {
    if let Err(reason) = tun() {
        return wrong(name, reason);
    }
    let several = if queues > 1 { " multi_queue" } else { "" };
    let make = format!("sudo ip tuntap add dev {name} mode tap user $USER vnet_hdr{several}");
    let Some(link) = look(name)? else {
        if !may_administrate() {
            return wrong(
                name,
                format!("no such tap, and only root makes one: {make} && sudo ip link set {name} up"),
            );
        }
        return Ok(Link::New);
    };
    let data = &link["linkinfo"]["info_data"];
    if kind(&link) != "tun" || data["type"] != "tap" {
        return wrong(name, format!("this is no tap but a {}; make another: {make}", kind(&link)));
    }
    if !may_administrate() && !ours(data) {
        return wrong(name, format!("the tap belongs to somebody else; make one of your own: {make}"));
    }
    let multi_queue = data["multi_queue"] == true;
    if queues > 1 && !multi_queue {
        let again = format!("sudo ip tuntap del dev {name} mode tap && {make}");
        return wrong(
            name,
            format!("the tap has one queue, and {queues} are asked for; make it again: {again}"),
        );
    }
    if !multi_queue && let Some(holder) = holder::of_tap(name) {
        return wrong(name, format!("the tap is in use by {holder}"));
    }
    Ok(if multi_queue { Link::MultiQueue } else { Link::Plain })
}

/// Whether a tap may be opened by this process's user; a tap without an owner may be by anybody.
fn ours(data: &Value) -> bool {
    let user = rustix::process::geteuid().as_raw();
    match &data["user"] {
        Value::Null => data["group"].is_null(),
        Value::Number(number) => number.as_u64() == Some(user.into()),
        Value::String(name) => env::var("USER").is_ok_and(|ours| ours == *name) || *name == user.to_string(),
        _ => false,
    }
}

fn bridge(name: &str, queues: u16) -> Result<Link, Error> {
    let Some(link) = look(name)? else {
        return wrong(
            name,
            format!(
                "no such bridge; make it: sudo ip link add {name} type bridge && sudo ip link set {name} up"
            ),
        );
    };
    if kind(&link) != "bridge" {
        return wrong(name, format!("this is no bridge but a {}; for a tap, use --tap", kind(&link)));
    }
    if may_administrate() {
        return match tun() {
            Ok(()) => Ok(Link::New),
            Err(reason) => wrong(name, reason),
        };
    }
    // Others need QEMU's setuid program, and the bridge in its list.
    let setuid = fs::metadata(BRIDGE_HELPER).is_ok_and(|metadata| metadata.mode() & 0o4000 != 0);
    if setuid && queues == 1 {
        return Ok(Link::Helper);
    }
    wrong(
        name,
        format!(
            "only root attaches to a bridge; or: sudo chmod u+s {BRIDGE_HELPER} && echo allow {name} | sudo tee -a \
             /etc/qemu/bridge.conf (one queue)"
        ),
    )
}

/// What the host can do for interfaces, for `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// Which options it is for.
    pub purpose: &'static str,
    /// What is missing, if something is.
    pub missing: Option<String>,
}

/// Taps and bridges, in this order.
pub fn abilities() -> [Ability; 2] {
    let tun = tun().err();
    let tap = tun.clone().or_else(|| {
        (!may_administrate()).then(|| "existing taps only; making them needs root (CAP_NET_ADMIN)".into())
    });
    let setuid = fs::metadata(BRIDGE_HELPER).is_ok_and(|metadata| metadata.mode() & 0o4000 != 0);
    let bridge = match (may_administrate(), setuid) {
        (true, _) => tun,
        (false, true) => None,
        (false, false) => Some(format!("needs root, or: sudo chmod u+s {BRIDGE_HELPER}")),
    };
    [Ability { purpose: "run --tap", missing: tap }, Ability { purpose: "run --bridge", missing: bridge }]
}
