//! What routers advertise (RFC 4861 6.3, RFC 4862 5.5, RFC 4191, RFC 8106): default routes, prefixes, addresses, MTU,
//! name servers.
//!
//! Addresses end with the modified EUI-64 identifier of the interface: a server's address should follow from its
//! hardware address, and an image has nowhere to keep the secret that others are made from.

use alloc::{string::String, sync::Arc};
use core::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::Ordering,
};

use rumpuser::NEVER;

use crate::{
    address::{self, Address, AddressFlags, Origin},
    device::HardwareAddress,
    interface::Interface,
    neighbour::discovery,
    route::{self, Entry, Protocol},
    service::SECOND,
};
use netconfig::resolver::{From, Resolver};

/// Options, by their numbers.
mod option {
    pub const PREFIX: u8 = 3;
    pub const MTU: u8 = 5;
    pub const ROUTE: u8 = 24;
    pub const NAME_SERVERS: u8 = 25;
    pub const DOMAINS: u8 = 31;
}

/// Flags of a prefix.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// The most addresses that routers can make an interface have, and the most routes.
const ADDRESSES: usize = 16;
const ROUTES: usize = 32;
/// A router can't make an address end sooner than in this time (RFC 4862 5.5.3 e).
const TWO_HOURS: u64 = 2 * 3600;

/// The identifier of an interface (RFC 4291 appendix A).
fn identifier([a, b, c, d, e, f]: HardwareAddress) -> u64 {
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The address of an interface in a /64.
fn address_in(prefix: Ipv6Addr, hardware: HardwareAddress) -> Ipv6Addr {
    Ipv6Addr::from_bits(prefix.to_bits() >> 64 << 64 | u128::from(identifier(hardware)))
}

/// The link-local address of an interface.
pub(super) fn link_local(hardware: HardwareAddress) -> Ipv6Addr {
    address_in(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), hardware)
}

fn after(now: u64, seconds: u32) -> u64 {
    if seconds == u32::MAX { NEVER } else { now.saturating_add(u64::from(seconds) * SECOND) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn address_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

/// The metric of a route with the preference in a flags byte (RFC 4191 2.1); lower is better.
fn metric(flags: u8) -> Option<u32> {
    match flags >> 3 & 3 {
        0 => Some(1024),
        1 => Some(512),
        3 => Some(2048),
        _ => None,
    }
}

/// Takes an advertisement that neighbour discovery has checked.
pub(super) fn advertised(
    interface: &Arc<Interface>,
    router: Ipv6Addr,
    message: &[u8],
    now: u64,
    resolver: &mut Resolver,
) {
    let Some(&[_, _, _, _, hop_limit, flags, l0, l1]) = message.first_chunk::<8>() else { return };
    let Some(options) = message.get(16..).and_then(discovery::options) else { return };
    if hop_limit > 0 {
        interface.learnt.hop_limit.store(hop_limit, Ordering::Relaxed);
    }
    let lifetime = u16::from_be_bytes([l0, l1]);
    // A reserved preference counts as medium here.
    default_route(interface, router, lifetime.into(), metric(flags).unwrap_or(1024), now);
    for (kind, value) in options {
        match kind {
            option::PREFIX => drop(prefix(interface, value, now)),
            option::MTU => {
                if let Some(mtu) = word(value, 2)
                    && (1280..=interface.mtu() as u32).contains(&mtu)
                {
                    interface.learnt.mtu6.store(mtu as usize, Ordering::Relaxed);
                    route::invalidate();
                }
            }
            option::ROUTE => drop(more_specific_route(interface, router, value, now)),
            option::NAME_SERVERS => {
                let Some(lifetime) = word(value, 2) else { continue };
                let servers = value.get(6..).unwrap_or_default().chunks_exact(16);
                for server in servers.filter_map(|chunk| address_at(chunk, 0)) {
                    if !server.is_multicast() && !server.is_unspecified() {
                        let until = after(now, lifetime);
                        resolver.add_server(From::Router, interface.index(), server.into(), until);
                    }
                }
            }
            option::DOMAINS => {
                let Some(lifetime) = word(value, 2) else { continue };
                for domain in domains(value.get(6..).unwrap_or_default()) {
                    resolver.add_domain(From::Router, interface.index(), domain, after(now, lifetime));
                }
            }
            _ => {}
        }
    }
}

fn routes_of_routers(interface: &Interface) -> usize {
    let is_one = |entry: &&Entry| entry.protocol == Protocol::Router && entry.interface == interface.index();
    route::list().iter().filter(is_one).count()
}

fn default_route(interface: &Interface, router: Ipv6Addr, lifetime: u32, metric: u32, now: u64) {
    let entry = Entry {
        gateway: Some(router.into()),
        metric,
        protocol: Protocol::Router,
        valid_until: after(now, lifetime),
        ..Entry::new(Ipv6Addr::UNSPECIFIED.into(), 0, interface.index())
    };
    set_route(interface, entry, lifetime);
}

fn set_route(interface: &Interface, entry: Entry, lifetime: u32) {
    // With another preference it is another route.
    let known = route::list().into_iter().find(|other| {
        (other.destination, other.prefix, other.gateway, other.interface, other.protocol)
            == (entry.destination, entry.prefix, entry.gateway, entry.interface, entry.protocol)
    });
    if let Some(known) = &known
        && (lifetime == 0 || known.metric != entry.metric)
    {
        let _ = route::remove(
            known.destination,
            known.prefix,
            known.gateway,
            Some(known.interface),
            Some(known.metric),
        );
    }
    if lifetime > 0 && (known.is_some() || routes_of_routers(interface) < ROUTES) {
        let _ = route::add(entry);
    }
}

/// A prefix (RFC 4861 4.6.2): what is on the link, and what addresses are made from.
fn prefix(interface: &Arc<Interface>, value: &[u8], now: u64) -> Option<()> {
    let (&length, &flags) = (value.first()?, value.get(1)?);
    let (valid, preferred) = (word(value, 2)?, word(value, 6)?);
    let network = address_at(value, 14)?;
    if length > 128 || preferred > valid || network.is_multicast() || address::is_link_local(network) {
        return None;
    }
    if flags & ON_LINK != 0 {
        let entry = Entry {
            metric: 256,
            protocol: Protocol::Router,
            valid_until: after(now, valid),
            ..Entry::new(network.into(), length, interface.index())
        };
        set_route(interface, entry, valid);
    }
    if flags & AUTONOMOUS == 0 || length != 64 {
        return Some(());
    }
    let own = IpAddr::V6(address_in(network, interface.hardware()));
    let known = interface.addresses.find(own);
    let remaining = known.as_ref().map(|known| known.valid_until.saturating_sub(now) / SECOND);
    let lasts = match remaining {
        None if valid == 0 => return Some(()),
        None => valid,
        Some(remaining) => {
            if u64::from(valid) > TWO_HOURS || u64::from(valid) > remaining {
                valid
            } else {
                // Anybody on the link could have said it.
                remaining.min(TWO_HOURS).min(u32::MAX.into()) as u32
            }
        }
    };
    if known.as_ref().is_some_and(|known| known.origin != Origin::Router) {
        return Some(());
    }
    let from_routers = |entry: &&Address| entry.origin == Origin::Router;
    if known.is_none() && interface.addresses.list().iter().filter(from_routers).count() >= ADDRESSES {
        return None;
    }
    let new = Address {
        valid_until: after(now, lasts),
        preferred_until: after(now, preferred),
        flags: if preferred == 0 { AddressFlags::DEPRECATED } else { AddressFlags::empty() }
            | AddressFlags::NO_PREFIX_ROUTE,
        ..Address::new(own, length, Origin::Router)
    };
    address::add(interface, new).ok()
}

/// A route through the router (RFC 4191 2.3).
fn more_specific_route(interface: &Interface, router: Ipv6Addr, value: &[u8], now: u64) -> Option<()> {
    let (&length, &flags) = (value.first()?, value.get(1)?);
    let lifetime = word(value, 2)?;
    let metric = metric(flags)?;
    let mut octets = [0; 16];
    let given = value.get(6..).unwrap_or_default();
    let count = given.len().min(16);
    if length > 128 || usize::from(length.div_ceil(8)) > count {
        return None;
    }
    octets[..count].copy_from_slice(&given[..count]);
    if length == 0 {
        default_route(interface, router, lifetime, metric, now);
        return Some(());
    }
    let entry = Entry {
        gateway: Some(router.into()),
        metric,
        protocol: Protocol::Router,
        valid_until: after(now, lifetime),
        ..Entry::new(Ipv6Addr::from(octets).into(), length, interface.index())
    };
    set_route(interface, entry, lifetime);
    Some(())
}

/// The domains of a search list (RFC 8106 5.2): names as in DNS, without compression, padded with zeros.
fn domains(bytes: &[u8]) -> impl Iterator<Item = String> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let mut name: alloc::vec::Vec<u8> = alloc::vec::Vec::new();
        loop {
            let (&length, behind) = rest.split_first()?;
            if length == 0 {
                rest = behind;
                break;
            }
            let (label, behind) = behind.split_at_checked(length.into())?;
            if !name.is_empty() {
                name.push(b'.');
            }
            name.extend_from_slice(label);
            rest = behind;
        }
        netconfig::resolver::is_domain(&name).then(|| name.iter().map(|&byte| char::from(byte)).collect())
    })
}

/// Reads arbitrary bytes: for fuzzing.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    domains(bytes).for_each(|domain| assert!(domain.len() < 254));
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;

    /// For the tests of the protocols.
    pub fn resolver() -> Resolver {
        Resolver::new()
    }

    /// Takes an advertisement now; returns the text for resolvers.
    pub fn advertised(
        interface: &Arc<Interface>,
        router: Ipv6Addr,
        message: &[u8],
        resolver: &mut Resolver,
    ) -> String {
        super::advertised(interface, router, message, rumpuser::rumpuser_clock_monotonic(), resolver);
        resolver.text(|index| Some(crate::interface::by_index(index)?.name().into()))
    }

    #[test]
    fn addresses_follow_from_hardware_addresses() {
        assert_eq!(link_local([0x52, 0x54, 0, 0x12, 0x34, 0x56]).to_string(), "fe80::5054:ff:fe12:3456");
    }

    #[test]
    fn search_lists_are_read() {
        let names: Vec<String> = domains(b"\x07example\x03org\0\x05local\0\0\0").collect();
        assert_eq!(names, ["example.org", "local"]);
        assert_eq!(domains(b"\x07exam").count() + domains(b"\x02a b\0").count() + domains(b"").count(), 0);
    }
}
