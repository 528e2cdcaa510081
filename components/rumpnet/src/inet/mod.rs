//! What sockets of IPv4 and IPv6 have in common.
//!
//! Inside, an IPv4 address is always itself: an IPv6 socket's mapped addresses (::ffff:a.b.c.d) are taken apart
//! when they come in and put together when a program sees them.

pub mod control;

pub mod errors;
pub mod memberships;
pub mod message;
pub mod options;
pub mod stream;

use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use rumpkern::{Errno, Result};

use crate::socket::{Address, Domain};

/// The first port that any program may bind to (net.ipv4.ip_unprivileged_port_start).
pub static FIRST_UNPRIVILEGED_PORT: AtomicU16 = AtomicU16::new(1024);

/// See [`FIRST_UNPRIVILEGED_PORT`].
pub fn first_unprivileged_port() -> u16 {
    FIRST_UNPRIVILEGED_PORT.load(Relaxed)
}

/// An address as it is kept inside.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(six) => match six.ip().to_ipv4_mapped() {
            Some(four) => SocketAddr::new(four.into(), six.port()),
            None => address,
        },
        four => four,
    }
}

/// An address as a socket of the family shows it.
pub fn present(domain: Domain, address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(four) if domain == Domain::Inet6 => {
            SocketAddr::new(four.ip().to_ipv6_mapped().into(), four.port())
        }
        other => other,
    }
}

/// The unspecified address of a family.
pub fn unspecified(domain: Domain) -> SocketAddr {
    match domain {
        Domain::Inet6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        _ => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
    }
}

/// An address that a packet came from, with the link that its scope needs.
pub fn with_scope(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(six) if is_link_scoped(six) => SocketAddrV6::new(six, port, 0, interface).into(),
        other => SocketAddr::new(other, port),
    }
}

/// Whether an address means something on its link only.
pub fn is_link_scoped(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
        || address.segments()[0] & 0xff0f == 0xff02
        || address.segments()[0] & 0xff0f == 0xff01
}

/// The scope of an address, or 0.
pub fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(six) => six.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Where to reach somebody, in the form used inside: the unspecified address is this machine (as in Linux), and
/// the version must suit the socket. EAFNOSUPPORT, ENETUNREACH.
pub fn destination(domain: Domain, version6_only: bool, address: &Address) -> Result<SocketAddr> {
    let Address::Internet(internet) = address else { return Err(Errno::EAFNOSUPPORT) };
    let mut destination = canonical(*internet);
    match destination.ip() {
        IpAddr::V4(_) if domain == Domain::Inet6 && version6_only => return Err(Errno::ENETUNREACH),
        IpAddr::V6(_) if domain == Domain::Inet => return Err(Errno::EAFNOSUPPORT),
        IpAddr::V4(four) if four.is_unspecified() => destination.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(six) if six.is_unspecified() => destination.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4_inside() {
        let mapped: SocketAddr = "[::ffff:1.2.3.4]:80".parse().unwrap();
        let four: SocketAddr = "1.2.3.4:80".parse().unwrap();
        assert_eq!(canonical(mapped), four);
        assert_eq!(present(Domain::Inet6, four), mapped);
        assert_eq!(present(Domain::Inet, four), four);
        assert_eq!(canonical("[::1]:80".parse().unwrap()), "[::1]:80".parse().unwrap());
    }

    #[test]
    fn the_unspecified_address_is_this_machine() {
        let reach =
            |domain, text: &str| destination(domain, false, &Address::Internet(text.parse().unwrap()));
        assert_eq!(reach(Domain::Inet, "0.0.0.0:9"), Ok("127.0.0.1:9".parse().unwrap()));
        assert_eq!(reach(Domain::Inet6, "[::]:9"), Ok("[::1]:9".parse().unwrap()));
        assert_eq!(reach(Domain::Inet, "[::1]:9"), Err(Errno::EAFNOSUPPORT));
        let four = Address::Internet("[::ffff:1.2.3.4]:80".parse().unwrap());
        assert_eq!(destination(Domain::Inet6, true, &four), Err(Errno::ENETUNREACH));
    }
}
