//! Checks on values that the types don't make.

use std::net::IpAddr;

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

/// An address with a prefix length.
pub fn network_address(text: &str) -> Result<(), String> {
    let good = text.split_once('/').is_some_and(|(address, prefix)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        prefix.parse::<u8>().is_ok_and(|prefix| prefix <= most)
    });
    match good {
        true => Ok(()),
        false => Err(format!("`{text}` is not an address with a prefix length, as 10.0.2.15/24")),
    }
}

/// An address.
pub fn address(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(|_| ()).map_err(|_| format!("`{text}` is not an IP address"))
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
