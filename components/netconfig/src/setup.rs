//! What an image says of an interface, read from its text.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

use image::config::{DHCP, Network};

use crate::HardwareAddress;

/// What is configured for an interface.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// It is the one with this hardware address, whatever its name.
    pub hardware: Option<HardwareAddress>,
    /// Its addresses, with the bits that name the subnet.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether it has one from DHCP.
    pub dhcp: bool,
    /// Default routers.
    pub gateways: Vec<IpAddr>,
    /// Name servers.
    pub name_servers: Vec<IpAddr>,
    /// The MTU in bytes, if not the device's.
    pub mtu: Option<usize>,
}

impl Setup {
    /// Reads an interface's settings. The baker and the launcher checked them; what can't be read all the same is left
    /// out, and `bad` is told what it is, and its text.
    pub fn read(network: &Network, mut bad: impl FnMut(&str, &str)) -> Self {
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
            match prefixed(text) {
                Some(address) => setup.addresses.push(address),
                None => bad("address", text),
            }
        }
        let mut parse = |what, texts: &[String]| -> Vec<IpAddr> {
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

    /// The settings of an interface by its hardware address, or else by its name; without any it asks DHCP.
    pub fn find(all: &[Setup], name: &str, hardware: HardwareAddress) -> Setup {
        let by_hardware = all.iter().find(|setup| setup.hardware == Some(hardware));
        let by_name = all.iter().find(|setup| setup.hardware.is_none() && setup.name == name);
        by_hardware.or(by_name).cloned().unwrap_or_else(|| Setup { dhcp: true, ..Setup::default() })
    }
}

/// An address with the bits of its subnet.
pub fn prefixed(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    Some((address, prefix.parse().ok().filter(|prefix| *prefix <= most)?))
}

/// Six bytes, in hexadecimal with colons between them.
fn hardware(text: &str) -> Option<HardwareAddress> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read() {
        let network = Network {
            interface: "eth0".into(),
            mac: Some("52:54:00:12:34:56".into()),
            addresses: ["10.0.0.2/24".into(), "fd00::2/64".into(), "dhcp".into(), "10.0.0.2/33".into()]
                .into(),
            gateways: ["10.0.0.1".into()].into(),
            nameservers: ["10.0.0.1".into(), "x".into()].into(),
            mtu: Some(1400),
        };
        let mut complaints = Vec::new();
        let setup = Setup::read(&network, |what, text| complaints.push(alloc::format!("{what} {text}")));
        assert_eq!(complaints, ["address 10.0.0.2/33", "name server x"]);
        assert_eq!(setup.hardware, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(setup.addresses.len(), 2);
        assert!(setup.dhcp && setup.mtu == Some(1400));
        assert_eq!((setup.gateways.len(), setup.name_servers.len()), (1, 1));
        assert!(Setup::read(&Network::default(), |_, _| {}).dhcp);
        assert_eq!(hardware("52:54:00:12:34"), None);
        assert_eq!(hardware("52:54:00:12:34:5g"), None);
    }

    #[test]
    fn hardware_addresses_go_before_names() {
        let named = Setup { name: "eth0".into(), mtu: Some(1), ..Setup::default() };
        let known = Setup { name: "eth0".into(), hardware: Some([7; 6]), mtu: Some(2), ..Setup::default() };
        let all = [named, known];
        assert_eq!(Setup::find(&all, "eth0", [7; 6]).mtu, Some(2));
        assert_eq!(Setup::find(&all, "eth0", [8; 6]).mtu, Some(1));
        assert!(Setup::find(&all, "eth1", [8; 6]).dhcp);
    }
}
