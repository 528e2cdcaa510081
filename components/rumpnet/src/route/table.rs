//! The routing table: bounded, ordered so that the first entry that fits is the best.

use alloc::{sync::Arc, vec::Vec};
use core::net::IpAddr;

use rumpkern::{Errno, Result};
use rumpuser::{NEVER, sync::SpinLock};

use super::invalidate;
use crate::{
    address::{self, Address, Origin},
    change::{self, Change},
    interface::{self, Interface},
};

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sends them on.
    Unicast,
    /// Drops them silently.
    Blackhole,
    /// Says that there is no way.
    Unreachable,
    /// Says that it is forbidden.
    Prohibit,
}

/// Who made a route, with the values of Linux's `RTPROT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Follows from an address.
    Kernel = 2,
    /// The image's configuration.
    Boot = 3,
    /// A program.
    Static = 4,
    /// A router's advertisement.
    Router = 9,
    /// DHCP.
    Dhcp = 16,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The destinations: a network's address, the bits behind the prefix 0.
    pub destination: IpAddr,
    /// How many bits name the network.
    pub prefix: u8,
    /// The router; `None`: the destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// The interface's index.
    pub interface: u32,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Of several routes the one with the smallest is taken.
    pub metric: u32,
    /// Packets are at most so long.
    pub mtu: Option<usize>,
    /// What it does.
    pub kind: Kind,
    /// Who made it.
    pub protocol: Protocol,
    /// Until when it holds, in monotonic nanoseconds.
    pub valid_until: u64,
}

impl Entry {
    /// A route to what is on the link.
    pub fn new(destination: IpAddr, prefix: u8, interface: u32) -> Self {
        Entry {
            destination: address::network_of(destination, prefix),
            prefix,
            gateway: None,
            interface,
            source: None,
            metric: 0,
            mtu: None,
            kind: Kind::Unicast,
            protocol: Protocol::Static,
            valid_until: NEVER,
        }
    }

    fn is_same(&self, other: &Entry) -> bool {
        (self.destination, self.prefix, self.gateway, self.interface, self.metric)
            == (other.destination, other.prefix, other.gateway, other.interface, other.metric)
    }

    fn order(&self) -> (bool, core::cmp::Reverse<u8>, u32) {
        (self.destination.is_ipv6(), core::cmp::Reverse(self.prefix), self.metric)
    }
}

/// The most routes.
const LIMIT: usize = 1024;

static TABLE: SpinLock<Vec<Entry>> = SpinLock::new(Vec::new());

/// All routes, the more specific first.
pub fn list() -> Vec<Entry> {
    TABLE.lock().clone()
}

/// Adds a route, or replaces the one to the same place by the same way. EINVAL for one that makes no sense,
/// ENETUNREACH if the router is not on the link, ENODEV without the interface, ENOBUFS when there are too many.
pub fn add(mut entry: Entry) -> Result<()> {
    let interface = interface::by_index(entry.interface).ok_or(Errno::ENODEV)?;
    let bits = if entry.destination.is_ipv4() { 32 } else { 128 };
    if entry.prefix > bits || entry.destination.is_multicast() {
        return Err(Errno::EINVAL);
    }
    if let Some(gateway) = entry.gateway {
        if gateway.is_ipv4() != entry.destination.is_ipv4()
            || gateway.is_multicast()
            || gateway.is_unspecified()
        {
            return Err(Errno::EINVAL);
        }
        let link_local = matches!(gateway, IpAddr::V6(gateway) if address::is_link_local(gateway));
        let on_link =
            find(gateway, Some(interface.index()), None).is_some_and(|(way, _)| way.gateway.is_none());
        if !link_local && !on_link {
            return Err(Errno::ENETUNREACH);
        }
    }
    entry.destination = address::network_of(entry.destination, entry.prefix);
    {
        let mut table = TABLE.lock();
        let full = table.len() >= LIMIT;
        match table.iter_mut().find(|other| other.is_same(&entry)) {
            Some(other) => *other = entry.clone(),
            None if full => return Err(Errno::ENOBUFS),
            None => {
                let place = table.partition_point(|other| other.order() <= entry.order());
                table.insert(place, entry.clone());
            }
        }
    }
    if entry.valid_until != NEVER {
        crate::service::at(crate::service::Task::Addresses, entry.valid_until);
    }
    invalidate();
    change::notify(&Change::Route { entry, gone: false });
    Ok(())
}

/// Whether a neighbour is a router of ours.
pub(crate) fn is_gateway(address: IpAddr) -> bool {
    TABLE.lock().iter().any(|entry| entry.gateway == Some(address))
}

/// Removes the routes that `fits` says.
fn remove_where(fits: impl Fn(&Entry) -> bool) -> usize {
    let mut gone = Vec::new();
    TABLE.lock().retain(|entry| {
        let fits = fits(entry);
        if fits {
            gone.push(entry.clone());
        }
        !fits
    });
    if !gone.is_empty() {
        invalidate();
    }
    let count = gone.len();
    for entry in gone {
        change::notify(&Change::Route { entry, gone: true });
    }
    count
}

/// Removes the routes to a network; gateway, interface and metric only need to agree where they are given.
/// ESRCH if there is none.
pub fn remove(
    destination: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    interface: Option<u32>,
    metric: Option<u32>,
) -> Result<()> {
    let count = remove_where(|entry| {
        (entry.destination, entry.prefix) == (address::network_of(destination, prefix), prefix)
            && (gateway.is_none() || gateway == entry.gateway)
            && interface.is_none_or(|index| index == entry.interface)
            && metric.is_none_or(|metric| metric == entry.metric)
    });
    if count == 0 { Err(Errno::ESRCH) } else { Ok(()) }
}

/// The best route to a destination whose interface is up.
pub(super) fn find(
    destination: IpAddr,
    interface: Option<u32>,
    source: Option<IpAddr>,
) -> Option<(Entry, Arc<Interface>)> {
    let fitting: Vec<Entry> = TABLE
        .lock()
        .iter()
        .filter(|entry| {
            address::prefix_contains(entry.destination, entry.prefix, destination)
                && interface.is_none_or(|index| index == entry.interface)
        })
        .cloned()
        .collect();
    let mut best: Option<(Entry, Arc<Interface>)> = None;
    for entry in fitting {
        if best.as_ref().is_some_and(|(other, _)| other.prefix != entry.prefix) {
            break;
        }
        let Some(interface) = interface::by_index(entry.interface).filter(|interface| interface.is_up())
        else {
            continue;
        };
        // Of equal routes, one through the interface that has the source, and a router that is there.
        let is_better = match &best {
            None => true,
            Some((other, _)) if other.metric != entry.metric => false,
            Some((other, of)) => {
                let suits =
                    |interface: &Interface| source.is_some_and(|source| interface.addresses.has(source));
                let failed = |entry: &Entry, interface: &Interface| {
                    entry
                        .gateway
                        .and_then(|gateway| interface.neighbours.find(gateway))
                        .is_some_and(|router| router.state() == crate::neighbour::State::Failed)
                };
                (suits(&interface) && !suits(of)) || (failed(other, of) && !failed(&entry, &interface))
            }
        };
        if is_better {
            best = Some((entry, interface));
        }
    }
    best
}

/// The route to an address's subnet.
fn connected(interface: &Interface, address: &Address) -> Entry {
    Entry {
        source: address.address.is_ipv4().then_some(address.address),
        protocol: Protocol::Kernel,
        metric: if address.address.is_ipv6() { 256 } else { 0 },
        valid_until: NEVER,
        ..Entry::new(address.address, address.prefix, interface.index())
    }
}

/// Adds the route to an address's subnet.
pub(crate) fn add_connected(interface: &Arc<Interface>, address: &Address) {
    let mut entry = connected(interface, address);
    if address.origin == Origin::Router {
        entry.valid_until = address.valid_until;
    }
    if !TABLE.lock().iter().any(|other| other.is_same(&entry)) {
        let _ = add(entry);
    }
}

/// Removes the route to an address's subnet, if no other address needs it, and routes that send from it.
pub(crate) fn remove_connected(interface: &Arc<Interface>, gone: &Address) {
    let entry = connected(interface, gone);
    let next = interface.addresses.list().into_iter().find(|other| {
        other.prefix == gone.prefix && address::network_of(other.address, other.prefix) == entry.destination
    });
    remove_where(|other| other.source == Some(gone.address) || (next.is_none() && other.is_same(&entry)));
    match next {
        Some(next) => add_connected(interface, &next),
        // Routers of the subnet are no longer on the link.
        None => {
            remove_where(|other| {
                other.interface == interface.index()
                    && other.gateway.is_some_and(|gateway| gone.contains(gateway))
                    && other.protocol != Protocol::Router
            });
        }
    }
}

/// Removes the route through a router that no longer wants to be one.
pub(crate) fn remove_router(interface: &Interface, gateway: IpAddr) {
    remove_where(|entry| {
        entry.interface == interface.index()
            && entry.gateway == Some(gateway)
            && entry.protocol == Protocol::Router
    });
}

/// Removes the routes through an interface that somebody made.
pub(crate) fn remove_of(index: u32, protocol: Protocol) {
    remove_where(|entry| entry.interface == index && entry.protocol == protocol);
}

/// Removes all routes through an interface.
pub(crate) fn interface_down(index: u32) {
    remove_where(|entry| entry.interface == index);
}

/// Removes routes whose time is over; returns when to look again.
pub(crate) fn expire(now: u64) -> u64 {
    remove_where(|entry| entry.valid_until <= now);
    TABLE.lock().iter().map(|entry| entry.valid_until).min().unwrap_or(NEVER)
}
