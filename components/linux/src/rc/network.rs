//! The network of an image: its configuration handed to the internet layer, `/etc/resolv.conf`, and how long programs
//! wait for addresses.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;

use image::config::{Configuration, DHCP, Network};
use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpnet::configuration::{self, Settings, Setup};
use rumpuser::{rumpuser_clock_monotonic, sync::Mutex};
use rumpvfs::{
    access::Credentials,
    namei::Lookup,
    vnode::{AttributeChanges, Creation, Kind},
};

use crate::console;

/// How long programs wait for an address by DHCP. Most need none to begin.
const PATIENCE: u64 = 1_000_000_000;
const RESOLVER: &[u8] = b"/etc/resolv.conf";
/// The longest file that is compared.
const LONGEST: usize = 4096;

/// What `/etc/resolv.conf` has if nobody but the baker or the kernel wrote it.
static OURS: Mutex<String> = Mutex::new(String::new());

/// Remembers what the baker wrote, from the configuration as it was baked.
pub fn baked(configuration: &Configuration) {
    let servers = configuration.networks.iter().flat_map(|network| &network.nameservers);
    *OURS.lock() = servers.map(|server| alloc::format!("nameserver {server}\n")).collect();
}

/// Hands the configuration over, and waits for a while until addresses are there.
pub fn start(configuration: &Configuration) {
    configuration::configure(Settings {
        host_name: configuration.hostname.clone(),
        interfaces: configuration.networks.iter().map(setup).collect(),
        resolver_changed,
    });
    // Interfaces are found together with disks.
    rumpdev::block::wait_for_search();
    configuration::wait_ready(rumpuser_clock_monotonic() + PATIENCE);
}

/// An interface's configuration. The baker and the launcher checked it; what can't be read is said and left out.
fn setup(network: &Network) -> Setup {
    let bad = |what: &str, value: &str| {
        console::message(format_args!("{}: the {what} {value} can't be read", network.interface));
    };
    let mut setup = Setup {
        name: network.interface.clone(),
        dhcp: network.addresses.is_empty(),
        mtu: network.mtu.map(usize::from),
        ..Setup::default()
    };
    if let Some(mac) = &network.mac {
        setup.hardware = hardware(mac);
        if setup.hardware.is_none() {
            bad("MAC address", mac);
        }
    }
    for text in &network.addresses {
        if text == DHCP {
            setup.dhcp = true;
            continue;
        }
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            Some((address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?))
        });
        match parsed {
            Some(address) => setup.addresses.push(address),
            None => bad("address", text),
        }
    }
    let parse = |what, texts: &[String]| -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for text in texts {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => bad(what, text),
            }
        }
        addresses
    };
    setup.gateways = parse("gateway", &network.gateways);
    setup.name_servers = parse("name server", &network.nameservers);
    setup
}

/// Six bytes, in hexadecimal with colons between them.
fn hardware(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// Writes the text, unless the image or a program has put something else there.
fn resolver_changed(text: &str) {
    match write_resolver(text) {
        // A root that can't be written to has its own.
        Ok(()) | Err(Errno::EROFS) => {}
        Err(error) => console::message(format_args!("cannot write /etc/resolv.conf: {error:?}")),
    }
}

fn write_resolver(text: &str) -> Result<()> {
    let Some(root) = super::root() else { return Ok(()) };
    let credentials = Credentials::root();
    let lookup = Lookup::new(&root, &root, &credentials);
    let file = match lookup.resolve(RESOLVER, true) {
        Ok(file) => file,
        Err(Errno::ENOENT) => {
            let creation =
                Creation { kind: Kind::Regular, permissions: 0o644, uid: 0, gid: 0, target: b"", rdev: 0 };
            lookup.create(RESOLVER, &creation)?
        }
        Err(error) => return Err(error),
    };
    let vnode = file.vnode();
    let mut present = alloc::vec![0; LONGEST];
    let length = vnode.read_at(0, &mut Sink::kernel(&mut present))?;
    let mut ours = OURS.lock();
    if length > 0 && present[..length] != *ours.as_bytes() {
        return Ok(());
    }
    let mut source = Source::kernel(text.as_bytes());
    let mut offset = 0;
    while source.remaining() > 0 {
        let count = vnode.write_at(offset as u64, &mut source)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        offset += count;
    }
    if offset < length {
        vnode
            .set_attributes(&AttributeChanges { size: Some(offset as u64), ..AttributeChanges::default() })?;
    }
    *ours = text.to_string();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read() {
        let network = Network {
            interface: "eth0".into(),
            mac: Some("52:54:00:12:34:56".into()),
            addresses: ["10.0.0.2/24".into(), "fd00::2/64".into(), "dhcp".into(), "nonsense".into()].into(),
            gateways: ["10.0.0.1".into()].into(),
            nameservers: ["10.0.0.1".into(), "x".into()].into(),
            mtu: Some(1400),
        };
        let setup = setup(&network);
        assert_eq!(setup.hardware, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(setup.addresses.len(), 2);
        assert!(setup.dhcp && setup.mtu == Some(1400));
        assert_eq!((setup.gateways.len(), setup.name_servers.len()), (1, 1));
        assert!(self::setup(&Network::default()).dhcp);
        assert_eq!(hardware("52:54:00:12:34"), None);
        assert_eq!(hardware("52:54:00:12:34:5g"), None);
    }
}
