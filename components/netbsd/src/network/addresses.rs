//! Socket addresses as NetBSD lays them out.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `AF_INET`, `AF_ROUTE`, `AF_LINK`, `AF_INET6`.
pub const INET: u8 = 2;
/// See [`INET`].
pub const ROUTE: u8 = 34;
/// See [`INET`].
pub const LINK: u8 = 18;
/// See [`INET`].
pub const INET6: u8 = 24;

/// `struct sockaddr_in`.
pub fn inet(address: Ipv4Addr, port: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[16, INET]);
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// `struct sockaddr_in6`; the interface's index matters for link-local addresses.
pub fn inet6(address: Ipv6Addr, scope: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..2].copy_from_slice(&[28, INET6]);
    bytes[8..24].copy_from_slice(&address.octets());
    bytes[24..].copy_from_slice(&scope.to_ne_bytes());
    bytes
}

/// A socket address of either family.
pub fn socket(address: IpAddr, port: u16) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => inet(address, port).to_vec(),
        IpAddr::V6(address) => {
            let mut bytes = inet6(address, 0).to_vec();
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            bytes
        }
    }
}

/// The address in a socket address.
pub fn of_socket(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes.get(1)? {
        INET => bytes.get(4..8)?.try_into().ok().map(|octets: [u8; 4]| octets.into()),
        INET6 => bytes.get(8..24)?.try_into().ok().map(|octets: [u8; 16]| octets.into()),
        _ => None,
    }
}

/// An address for a routing message, whose parts are padded to 8 bytes, and where link-local ones carry the
/// interface's index in their second pair of bytes.
pub fn for_route(address: IpAddr, index: u32) -> Vec<u8> {
    let mut bytes = match address {
        IpAddr::V4(address) => inet(address, 0).to_vec(),
        IpAddr::V6(address) => {
            let mut bytes = inet6(address, 0).to_vec();
            if address.segments()[0] & 0xffc0 == 0xfe80 {
                bytes[10..12].copy_from_slice(&(index as u16).to_be_bytes());
            }
            bytes
        }
    };
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The mask of a prefix, in the family of an address.
pub fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(_) => {
            Ipv4Addr::from(u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or(0)).into()
        }
        IpAddr::V6(_) => {
            Ipv6Addr::from(u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_layout() {
        assert_eq!(inet(Ipv4Addr::new(10, 0, 2, 15), 68)[..8], [16, 2, 0, 68, 10, 0, 2, 15]);
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            assert_eq!(of_socket(&socket(address, 1)), Some(address));
            assert_eq!(of_socket(&socket(address, 1)[..7]), None);
        }
        assert_eq!(socket(Ipv6Addr::LOCALHOST.into(), 0x801)[..4], [28, INET6, 8, 1]);
        let local: Ipv6Addr = "fe80::5".parse().unwrap();
        let route = for_route(local.into(), 3);
        assert_eq!((route.len(), &route[8..12], route[23]), (32, &[0xfe, 0x80, 0, 3][..], 5));
        assert_eq!(mask(local.into(), 64), "ffff:ffff:ffff:ffff::".parse::<IpAddr>().unwrap());
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        assert_eq!((mask(any, 0), mask(any, 24)), (any, Ipv4Addr::new(255, 255, 255, 0).into()));
    }
}
