//! The command line's `network=` words: one interface each, its name first, then `key=value` between commas.
//!
//! ```text
//! network=eth0,mac=52:54:00:12:34:56,address=10.0.0.2/24,address=fd00::2/64,gateway=10.0.0.1,nameserver=10.0.0.1,mtu=9000
//! ```
//!
//! `address`, `gateway` and `nameserver` may be repeated; `address=dhcp` asks for DHCP. Each key that is given replaces
//! all that was baked for it, the others stay.

use alloc::{
    string::{String, ToString},
    vec::Vec,
};

use crate::config::Network;

/// What such a word begins with.
pub const PREFIX: &[u8] = b"network=";

/// Reads what stands behind `network=`. Unknown keys and values that aren't text are left out.
pub fn parse(text: &[u8]) -> Network {
    let text = String::from_utf8_lossy(text);
    let mut parts = text.split(',');
    let mut network = Network { interface: parts.next().unwrap_or_default().into(), ..Default::default() };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key {
            "mac" => network.mac = Some(value.into()),
            "address" => network.addresses.push(value.into()),
            "gateway" => network.gateways.push(value.into()),
            "nameserver" => network.nameservers.push(value.into()),
            "mtu" => network.mtu = value.parse().ok(),
            _ => {}
        }
    }
    network
}

/// Writes what [`parse`] reads.
pub fn render(network: &Network) -> String {
    let mut text = network.interface.clone();
    let mut add = |key: &str, value: &str| text.extend([",", key, "=", value]);
    if let Some(mac) = &network.mac {
        add("mac", mac);
    }
    for (key, values) in [
        ("address", &network.addresses),
        ("gateway", &network.gateways),
        ("nameserver", &network.nameservers),
    ] {
        values.iter().for_each(|value| add(key, value));
    }
    if let Some(mtu) = network.mtu {
        add("mtu", &mtu.to_string());
    }
    text
}

/// Changes the entry of `networks` for the same interface accordingly, or adds one.
pub fn apply(change: &Network, networks: &mut Vec<Network>) {
    let Some(entry) = networks.iter_mut().find(|entry| entry.interface == change.interface) else {
        networks.push(change.clone());
        return;
    };
    if change.mac.is_some() {
        entry.mac.clone_from(&change.mac);
    }
    for (old, new) in [
        (&mut entry.addresses, &change.addresses),
        (&mut entry.gateways, &change.gateways),
        (&mut entry.nameservers, &change.nameservers),
    ] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    entry.mtu = change.mtu.or(entry.mtu);
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn full() -> Network {
        Network {
            interface: "eth1".into(),
            mac: Some("52:54:00:00:00:01".into()),
            addresses: vec!["10.0.0.2/24".into(), "fd00::2/64".into()],
            gateways: vec!["10.0.0.1".into()],
            nameservers: vec!["10.0.0.1".into(), "fd00::1".into()],
            mtu: Some(9000),
        }
    }

    #[test]
    fn words_read_back() {
        let bare = Network { interface: "eth0".into(), ..Default::default() };
        for network in [full(), bare] {
            assert_eq!(parse(render(&network).as_bytes()), network);
        }
        let odd = parse(b"eth0,mtu=x,nonsense,address,=,colour=red,\xff");
        assert_eq!(odd, Network { interface: "eth0".into(), ..Default::default() });
    }

    #[test]
    fn what_is_given_replaces_what_was_baked() {
        let mut networks = vec![full()];
        apply(&parse(b"eth1,address=dhcp,nameserver=9.9.9.9"), &mut networks);
        apply(&parse(b"eth0,mtu=1400"), &mut networks);
        assert_eq!(networks[0].addresses, ["dhcp"]);
        assert_eq!(networks[0].gateways, full().gateways);
        assert_eq!(networks[0].nameservers, ["9.9.9.9"]);
        assert_eq!(networks[0].mtu, Some(9000));
        assert_eq!((networks[1].interface.as_str(), networks[1].mtu), ("eth0", Some(1400)));
    }
}
