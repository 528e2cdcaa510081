//! Checks on values that the types don't make.

use std::net::IpAddr;

use image::config::DHCP;

use crate::launch::MacAddress;

/// An absolute path, for a place in the image.
pub fn absolute(path: &str) -> Result<Vec<u8>, String> {
    match path.starts_with('/') && !path.contains('\0') {
        true => Ok(path.as_bytes().to_vec()),
        false => Err(format!("`{path}` is not an absolute path of the image")),
    }
}

/// A variable's name.
pub fn variable(name: &str) -> Result<(), String> {
    match !name.is_empty() && !name.contains(['=', '\0']) {
        true => Ok(()),
        false => Err(format!("`{name}` can't be the name of a variable")),
    }
}

/// A host name, RFC 1123 with Linux's limit.
pub fn hostname(name: &str) -> Result<(), String> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
    };
    match name.len() <= 64 && name.split('.').all(label) {
        true => Ok(()),
        false => Err(format!("`{name}` is not a host name: letters, digits, `-` and `.`, at most 64")),
    }
}

/// An address with a prefix length, or `dhcp`.
pub fn network_address(text: &str) -> Result<(), String> {
    if text == DHCP {
        return Ok(());
    }
    match prefixed(text) {
        Some((address, _)) if address.is_unspecified() || address.is_multicast() => {
            Err(format!("`{text}` can't be the address of an interface"))
        }
        Some(_) => Ok(()),
        None => Err(format!("`{text}` is not an address with a prefix length, as 10.0.2.15/24")),
    }
}

/// A network, or with `/0` all addresses of a family.
pub fn network(text: &str) -> Result<(), String> {
    match text.strip_suffix("/0").map(|all| all.parse::<IpAddr>().is_ok()).unwrap_or(prefixed(text).is_some())
    {
        true => Ok(()),
        false => Err(format!("`{text}` is not a network, as 10.0.2.0/24")),
    }
}

/// Splits an address and its prefix length.
pub fn prefixed(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| (1..=most).contains(prefix))?;
    Some((address, prefix))
}

/// An address.
pub fn address(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(|_| ()).map_err(|_| format!("`{text}` is not an IP address"))
}

/// Default gateways: one for each family.
pub fn gateways(texts: &[impl AsRef<str>]) -> Result<(), String> {
    let mut families = [false; 2];
    for text in texts {
        let text = text.as_ref();
        let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
        let family = usize::from(address.is_ipv6());
        if std::mem::replace(&mut families[family], true) {
            return Err(format!("`{text}` is a second gateway for IPv{}", [4, 6][family]));
        }
    }
    Ok(())
}

/// A MAC address of one machine.
pub fn mac(text: &str) -> Result<(), String> {
    text.parse::<MacAddress>().map(|_| ())
}

/// An MTU in bytes: IPv4's least is 68 (RFC 791, section 3.2); IPv6 needs 1280.
pub fn mtu(number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|mtu| *mtu >= 68)
        .ok_or_else(|| format!("{number} is not an MTU: 68 to 65535 bytes"))
}

/// An interface's name.
pub fn interface(name: &str) -> Result<(), String> {
    let good = (1..16).contains(&name.len())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_-.".contains(character));
    match good {
        true => Ok(()),
        false => Err(format!("`{name}` is not an interface's name: at most 15 letters and digits, as eth0")),
    }
}
