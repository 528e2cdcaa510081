//! Which address to send from (RFC 6724 section 5; RFC 1122 3.3.4.3 for IPv4).

use alloc::sync::Arc;
use core::net::{IpAddr, Ipv6Addr};

use rumpkern::{Errno, Result};

use crate::{
    address::{self, Address, AddressFlags},
    interface::{self, Interface},
};

/// The scope of an address, as in multicast addresses: 1 interface, 2 link, 5 site, 14 global.
fn scope(address: Ipv6Addr) -> u8 {
    match address {
        _ if address.is_multicast() => address.octets()[1] & 0xf,
        _ if address.is_loopback() || address::is_link_local(address) => 2,
        _ if address.segments()[0] & 0xffc0 == 0xfec0 => 5,
        _ => 14,
    }
}

/// The label of the policy table (RFC 6724 2.1).
fn label(address: Ipv6Addr) -> u8 {
    let segments = address.segments();
    match segments {
        _ if address.is_loopback() => 0,
        _ if address.to_ipv4_mapped().is_some() => 4,
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        [first, ..] if first & 0xfe00 == 0xfc00 => 13,
        [first, ..] if first & 0xffc0 == 0xfec0 => 11,
        [0x3ffe, ..] => 12,
        [0, 0, 0, 0, 0, 0, ..] => 3,
        _ => 1,
    }
}

/// The address of an interface (or of another, if it has none) to send from. EADDRNOTAVAIL if there is none.
pub(super) fn select(interface: &Arc<Interface>, next_hop: IpAddr, destination: IpAddr) -> Result<IpAddr> {
    let own = interface.addresses.list();
    let chosen = match destination {
        IpAddr::V4(_) => select4(&own, next_hop),
        IpAddr::V6(destination) => select6(&own, destination),
    };
    if let Some(address) = chosen {
        return Ok(address);
    }
    for other in interface::list() {
        if other.index() == interface.index() || other.is_loopback() {
            continue;
        }
        let others = other.addresses.list();
        let chosen = match destination {
            IpAddr::V4(_) => select4(&others, next_hop),
            IpAddr::V6(destination) => select6(&others, destination)
                .filter(|address| matches!(address, IpAddr::V6(address) if scope(*address) == 14)),
        };
        if let Some(address) = chosen {
            return Ok(address);
        }
    }
    Err(Errno::EADDRNOTAVAIL)
}

fn select4(own: &[Address], next_hop: IpAddr) -> Option<IpAddr> {
    let usable = |entry: &&Address| entry.address.is_ipv4() && entry.is_usable();
    let fits = |entry: &&Address| entry.contains(next_hop) && !entry.flags.contains(AddressFlags::SECONDARY);
    own.iter()
        .filter(usable)
        .find(fits)
        .or_else(|| own.iter().filter(usable).find(|entry| !entry.flags.contains(AddressFlags::DEPRECATED)))
        .or_else(|| own.iter().find(usable))
        .map(|entry| entry.address)
}

fn select6(own: &[Address], destination: Ipv6Addr) -> Option<IpAddr> {
    let wanted = scope(destination);
    own.iter()
        .filter(|entry| entry.is_usable())
        .filter_map(|entry| match entry.address {
            IpAddr::V6(address) => Some((entry, address)),
            IpAddr::V4(_) => None,
        })
        .max_by_key(|(entry, address)| {
            let own_scope = scope(*address);
            // Rule 2: large enough, and then as small as can be; else as large as can be.
            let reach = if own_scope >= wanted {
                (true, -i16::from(own_scope))
            } else {
                (false, i16::from(own_scope))
            };
            (
                *address == destination,
                reach,
                !entry.flags.intersects(AddressFlags::DEPRECATED | AddressFlags::TENTATIVE),
                label(*address) == label(destination),
                address::common_prefix(entry.address, destination.into()).min(entry.prefix.into()),
            )
        })
        .map(|(entry, _)| entry.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Origin;

    fn choose(own: &[(&str, AddressFlags)], destination: &str) -> alloc::string::String {
        use alloc::string::ToString;
        let own: alloc::vec::Vec<Address> = own
            .iter()
            .map(|(text, flags)| Address {
                flags: *flags,
                ..Address::new(text.parse().unwrap(), 64, Origin::Static)
            })
            .collect();
        select6(&own, destination.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn sources_are_chosen_by_scope_then_age_then_prefix() {
        let none = AddressFlags::empty();
        let own = [("fe80::1", none), ("2001:db8:1::1", none), ("2001:db8:2::1", none), ("fd00::1", none)];
        assert_eq!(choose(&own, "2001:db8:2::9"), "2001:db8:2::1");
        assert_eq!(choose(&own, "2001:db8:1::9"), "2001:db8:1::1");
        assert_eq!(choose(&own, "fe80::9"), "fe80::1");
        assert_eq!(choose(&own, "ff02::1"), "fe80::1");
        assert_eq!(choose(&own, "fd00:1::9"), "fd00::1");
        let own = [("fe80::1", none), ("2001:db8:1::1", AddressFlags::DEPRECATED), ("2001:db8:2::1", none)];
        assert_eq!(choose(&own, "2001:db8:1::9"), "2001:db8:2::1");
        assert_eq!(choose(&own, "2001:db8:1::1"), "2001:db8:1::1");
        assert_eq!(choose(&own[..1], "2001:db8:1::1"), "fe80::1");
    }
}
