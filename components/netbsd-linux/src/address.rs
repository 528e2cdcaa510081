//! Internet addresses as NetBSD's kernel has them (`struct sockaddr_in`, `struct sockaddr_in6`).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use rumpnet::{inet::present, socket::Domain};

/// `AF_INET`, `AF_INET6`.
pub const INET: u8 = 2;
pub const INET6: u8 = 24;
/// Bytes of an address of each family.
const INET_SIZE: usize = 16;
const INET6_SIZE: usize = 28;

/// An address, and room for one.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Encoded {
    /// The bytes; the first tells how many count.
    pub bytes: [u8; 32],
}

impl Encoded {
    /// Room.
    pub const fn empty() -> Self {
        Encoded { bytes: [0; 32] }
    }

    /// An address of no family, with which a connection is dissolved.
    pub fn nowhere() -> Self {
        let mut encoded = Self::empty();
        encoded.bytes[0] = INET_SIZE as u8;
        encoded
    }

    /// An address for a socket of a family: IPv4 addresses of IPv6 sockets are mapped.
    pub fn new(domain: Domain, address: SocketAddr) -> Self {
        let mut encoded = Self::empty();
        let bytes = &mut encoded.bytes;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match present(domain, address) {
            SocketAddr::V4(four) => {
                bytes[..2].copy_from_slice(&[INET_SIZE as u8, INET]);
                bytes[4..8].copy_from_slice(&four.ip().octets());
            }
            SocketAddr::V6(six) => {
                bytes[..2].copy_from_slice(&[INET6_SIZE as u8, INET6]);
                bytes[4..8].copy_from_slice(&six.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&six.ip().octets());
                bytes[24..28].copy_from_slice(&six.scope_id().to_le_bytes());
            }
        }
        encoded
    }

    /// Bytes that count.
    pub fn length(&self) -> usize {
        usize::from(self.bytes[0]).min(self.bytes.len())
    }

    /// The address; `None` if it is of another family.
    pub fn decode(&self) -> Option<SocketAddr> {
        let bytes = &self.bytes;
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match bytes[1] {
            INET => {
                let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
                Some(SocketAddrV4::new(address, port).into())
            }
            INET6 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(&bytes[8..24]);
                let flow = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
                let scope = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
                Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

/// Whether an address is of this machine's loopback.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for (domain, text) in [
            (Domain::Inet, "10.0.2.15:8080"),
            (Domain::Inet6, "[2001:db8::1]:53"),
            (Domain::Inet6, "[fe80::1%3]:1"),
            (Domain::Inet6, "[::ffff:1.2.3.4]:1"),
        ] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Encoded::new(domain, address).decode(), Some(address));
        }
        let mapped = Encoded::new(Domain::Inet6, "1.2.3.4:5".parse().unwrap());
        assert_eq!((mapped.decode(), mapped.length()), (Some("[::ffff:1.2.3.4]:5".parse().unwrap()), 28));
        assert_eq!(Encoded::nowhere().decode(), None);
    }
}
