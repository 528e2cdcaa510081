//! The addresses of interfaces: assigning, removing, lifetimes, and the question "is this address ours?".

use alloc::{sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use rumpkern::{Errno, Result};
use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use crate::{
    change::{self, Change},
    interface::{self, Interface},
    ip::path,
    multicast, neighbour, route, service,
};

bitflags::bitflags! {
    /// What is particular about an address, with the values of Linux's `IFA_F_*`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct AddressFlags: u32 {
        /// Not the first one of its subnet.
        const SECONDARY = 0x01;
        /// No duplicate address detection.
        const NO_DETECTION = 0x02;
        /// Used while detection still runs (RFC 4429).
        const OPTIMISTIC = 0x04;
        /// Another machine has it.
        const DUPLICATE = 0x08;
        /// For existing connections only.
        const DEPRECATED = 0x20;
        /// Detection runs.
        const TENTATIVE = 0x40;
        /// Its lifetime doesn't end.
        const PERMANENT = 0x80;
        /// Has no route to its subnet.
        const NO_PREFIX_ROUTE = 0x200;
        /// Made from an identifier that is stable for the network (RFC 7217).
        const STABLE_PRIVACY = 0x800;
    }
}

/// Who assigned an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The image's configuration, or a program.
    Static,
    /// DHCP.
    Dhcp,
    /// The interface itself (IPv6 link-local, loopback).
    Kernel,
    /// A router's prefix (SLAAC).
    Router,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that name the subnet.
    pub prefix: u8,
    /// IPv4: the subnet's broadcast address, if it has one.
    pub broadcast: Option<Ipv4Addr>,
    /// What is particular about it.
    pub flags: AddressFlags,
    /// Who assigned it.
    pub origin: Origin,
    /// Until when it may be used, in monotonic nanoseconds, or [`NEVER`].
    pub valid_until: u64,
    /// Until when it is used for new connections.
    pub preferred_until: u64,
    /// When it was assigned.
    pub created: u64,
    /// When it was changed.
    pub updated: u64,
}

impl Address {
    /// An address without end, with the usual broadcast address.
    pub fn new(address: IpAddr, prefix: u8, origin: Origin) -> Self {
        let now = rumpuser_clock_monotonic();
        let broadcast = match address {
            IpAddr::V4(address) if prefix < 31 && !address.is_loopback() => Some(Ipv4Addr::from_bits(
                address.to_bits() | u32::MAX.checked_shr(prefix.into()).unwrap_or(0),
            )),
            _ => None,
        };
        Address {
            address,
            prefix,
            broadcast,
            flags: AddressFlags::PERMANENT,
            origin,
            valid_until: NEVER,
            preferred_until: NEVER,
            created: now,
            updated: now,
        }
    }

    /// Whether `other` is in its subnet.
    pub fn contains(&self, other: IpAddr) -> bool {
        prefix_contains(self.address, self.prefix, other)
    }

    /// Whether packets may have it as source and destination.
    pub fn is_usable(&self) -> bool {
        !self.flags.contains(AddressFlags::DUPLICATE)
            && (!self.flags.contains(AddressFlags::TENTATIVE)
                || self.flags.contains(AddressFlags::OPTIMISTIC))
    }
}

/// Whether `other` begins with the first `prefix` bits of `network`.
pub fn prefix_contains(network: IpAddr, prefix: u8, other: IpAddr) -> bool {
    common_prefix(network, other) >= u32::from(prefix) && network.is_ipv4() == other.is_ipv4()
}

/// How many bits two addresses have in common; 0 if their versions differ.
pub fn common_prefix(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// An address with the bits behind the prefix cleared.
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// IPv6: fe80::/10.
pub fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// How many IPv4 addresses are recognised without a lock.
const FAST: usize = 4;

/// The most addresses of an interface.
const LIMIT: usize = 256;

/// The addresses of one interface.
#[derive(Default)]
pub struct Addresses {
    list: SpinLock<Vec<Address>>,
    /// The first IPv4 addresses; 0: none.
    fast: [AtomicU32; FAST],
}

impl Addresses {
    /// A copy of the list.
    pub fn list(&self) -> Vec<Address> {
        self.list.lock().clone()
    }

    /// The address as it is assigned here.
    pub fn find(&self, address: IpAddr) -> Option<Address> {
        self.list.lock().iter().find(|entry| entry.address == address).cloned()
    }

    /// Whether a packet to `address` is for this interface.
    #[inline]
    pub fn has(&self, address: IpAddr) -> bool {
        if let IpAddr::V4(address) = address
            && self.fast.iter().any(|entry| entry.load(Ordering::Relaxed) == address.to_bits())
            && !address.is_unspecified()
        {
            return true;
        }
        self.list.lock().iter().any(|entry| entry.address == address && entry.is_usable())
    }

    /// Whether any is assigned, of the version or at all.
    pub fn has_version(&self, version4: bool) -> bool {
        self.list.lock().iter().any(|entry| entry.address.is_ipv4() == version4 && entry.is_usable())
    }

    /// Whether it is a subnet's broadcast address.
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        self.list.lock().iter().any(|entry| {
            entry.broadcast == Some(address)
                || (entry.prefix < 31
                    && !address.is_loopback()
                    && entry.address.is_ipv4()
                    && network_of(entry.address, entry.prefix) == IpAddr::V4(address)
                    && entry.address != IpAddr::V4(address))
        })
    }

    /// Runs `function` on an entry; the entry's new state is returned if it changed.
    pub(crate) fn change(&self, address: IpAddr, function: impl FnOnce(&mut Address)) -> Option<Address> {
        let mut list = self.list.lock();
        let entry = list.iter_mut().find(|entry| entry.address == address)?;
        let before = entry.clone();
        function(entry);
        let after = entry.clone();
        self.refresh(&list);
        (after != before).then_some(after)
    }

    fn refresh(&self, list: &[Address]) {
        let mut slots = self.fast.iter();
        for entry in list.iter().filter(|entry| entry.is_usable()) {
            if let IpAddr::V4(address) = entry.address
                && let Some(slot) = slots.next()
            {
                slot.store(address.to_bits(), Ordering::Relaxed);
            }
        }
        slots.for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
}

/// Assigns an address, with the route to its subnet; an assigned one gets the new lifetimes. Duplicates are
/// looked for while it is already used. EINVAL for addresses that no machine can have, ENOBUFS when there are
/// too many.
pub fn add(interface: &Arc<Interface>, mut new: Address) -> Result<()> {
    let bits = if new.address.is_ipv4() { 32 } else { 128 };
    if new.address.is_multicast() || new.address.is_unspecified() || new.prefix > bits {
        return Err(Errno::EINVAL);
    }
    let loopback = interface.is_loopback();
    if new.address.is_ipv6() && !loopback && !new.flags.contains(AddressFlags::NO_DETECTION) {
        new.flags |= AddressFlags::TENTATIVE | AddressFlags::OPTIMISTIC;
    }
    let is_new = {
        let mut list = interface.addresses.list.lock();
        let full = list.len() >= LIMIT;
        match list.iter_mut().find(|entry| entry.address == new.address) {
            Some(entry) => {
                let known = AddressFlags::TENTATIVE | AddressFlags::OPTIMISTIC | AddressFlags::DUPLICATE;
                new.flags = (new.flags - known) | (entry.flags & known);
                new.created = entry.created;
                *entry = new.clone();
                false
            }
            None if full => return Err(Errno::ENOBUFS),
            None => {
                let first = !list.iter().any(|entry| {
                    entry.prefix == new.prefix && entry.contains(new.address) && entry.address.is_ipv4()
                });
                new.flags.set(AddressFlags::SECONDARY, !first);
                list.push(new.clone());
                true
            }
        }
        .then(|| interface.addresses.refresh(&list))
        .is_some()
    };
    if new.valid_until != NEVER || new.preferred_until != NEVER {
        service::at(service::Task::Addresses, new.preferred_until.min(new.valid_until));
    }
    if is_new {
        if let IpAddr::V6(address) = new.address {
            multicast::join_solicited_node(interface, address);
        }
        if !new.flags.contains(AddressFlags::NO_PREFIX_ROUTE) && new.prefix < bits {
            route::add_connected(interface, &new);
        }
        if !loopback && interface.is_up() {
            neighbour::detection::start(interface, &new);
        }
    }
    route::invalidate();
    change::notify(&Change::Address { interface: interface.index(), address: new, gone: false });
    Ok(())
}

/// Takes an address away, and the routes and connections that depend on it. EADDRNOTAVAIL if it isn't assigned.
pub fn remove(interface: &Arc<Interface>, address: IpAddr) -> Result<()> {
    let gone = {
        let mut list = interface.addresses.list.lock();
        let place = list.iter().position(|entry| entry.address == address).ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = list.remove(place);
        if gone.address.is_ipv4()
            && !gone.flags.contains(AddressFlags::SECONDARY)
            && let Some(next) =
                list.iter_mut().find(|entry| entry.prefix == gone.prefix && entry.contains(gone.address))
        {
            next.flags.remove(AddressFlags::SECONDARY);
        }
        interface.addresses.refresh(&list);
        gone
    };
    if let IpAddr::V6(address) = address {
        multicast::leave_solicited_node(interface, address);
    }
    neighbour::detection::stop(interface, address);
    route::remove_connected(interface, &gone);
    route::invalidate();
    change::notify(&Change::Address { interface: interface.index(), address: gone, gone: true });
    Ok(())
}

/// Takes all addresses away.
pub fn remove_all(interface: &Arc<Interface>) {
    for entry in interface.addresses.list() {
        let _ = remove(interface, entry.address);
    }
}

/// The interface that has an address: traffic to it stays inside the machine.
pub fn owner(address: IpAddr) -> Option<Arc<Interface>> {
    interface::list().into_iter().find(|interface| interface.addresses.has(address))
}

/// Whether it is the broadcast address of a subnet of ours.
pub(crate) fn is_broadcast(address: Ipv4Addr) -> bool {
    interface::list().iter().any(|interface| interface.addresses.is_broadcast(address))
}

/// Whether a socket may bind to it: ours, unspecified, multicast or broadcast.
pub fn is_bindable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) if address.is_broadcast() || address.is_loopback() => return true,
        IpAddr::V4(address) if is_broadcast(address) => return true,
        _ => {}
    }
    address.is_unspecified() || address.is_multicast() || owner(address).is_some()
}

/// Ends lifetimes that are over; returns when to look again.
pub(crate) fn expire(now: u64) -> u64 {
    let mut next = NEVER;
    for interface in interface::list() {
        for entry in interface.addresses.list() {
            if entry.valid_until <= now {
                let _ = remove(&interface, entry.address);
                continue;
            }
            if entry.preferred_until <= now {
                let changed = interface
                    .addresses
                    .change(entry.address, |entry| entry.flags.insert(AddressFlags::DEPRECATED));
                if let Some(address) = changed {
                    route::invalidate();
                    change::notify(&Change::Address { interface: interface.index(), address, gone: false });
                }
            } else {
                next = next.min(entry.preferred_until);
            }
            next = next.min(entry.valid_until);
        }
    }
    next.min(route::expire(now)).min(path::expire(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_told_apart() {
        let four = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(prefix_contains(four("10.0.2.0"), 24, four("10.0.2.255")));
        assert!(!prefix_contains(four("10.0.2.0"), 24, four("10.0.3.0")));
        assert!(prefix_contains(four("0.0.0.0"), 0, four("10.0.3.0")));
        assert!(!prefix_contains(four("0.0.0.0"), 0, four("::")));
        assert!(prefix_contains(four("fe80::"), 64, four("fe80::1:2:3:4")));
        assert_eq!(network_of(four("10.1.2.3"), 0), four("0.0.0.0"));
        assert_eq!(network_of(four("10.1.2.3"), 31), four("10.1.2.2"));
        assert_eq!(network_of(four("2001:db8::ffff"), 112), four("2001:db8::"));
        assert_eq!(
            Address::new(four("10.0.2.15"), 24, Origin::Static).broadcast,
            Some(Ipv4Addr::new(10, 0, 2, 255))
        );
        assert_eq!(Address::new(four("10.0.2.15"), 31, Origin::Static).broadcast, None);
    }
}
