//! Routes: the table, and looking up how to reach a destination.

mod cache;
mod source;
mod table;

use alloc::{boxed::Box, sync::Arc};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use once_cell::race::OnceBox;
use rumpkern::{Errno, Result};

pub use self::table::{Entry, Kind, Protocol, add, list, remove};
pub(crate) use self::table::{
    add_connected, expire, interface_down, is_gateway, remove_connected, remove_of, remove_router,
};
use crate::{
    address,
    interface::{self, Interface},
    ip::path,
    link,
    neighbour::Neighbour,
};

/// Changes whenever routes may lead elsewhere.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Where to.
    pub destination: IpAddr,
    /// From which address, if that is settled.
    pub source: Option<IpAddr>,
    /// Through which interface, if that is settled (SO_BINDTODEVICE, a scope, IP_MULTICAST_IF).
    pub interface: Option<u32>,
}

impl Query {
    /// For a destination, whatever leads there.
    pub const fn to(destination: IpAddr) -> Self {
        Query { destination, source: None, interface: None }
    }
}

/// How to reach a destination. Connections keep it for as long as [`Route::is_valid`].
#[derive(Clone)]
pub struct Route {
    /// Through which interface.
    pub interface: Arc<Interface>,
    /// From which address.
    pub source: IpAddr,
    /// Whom the packets are handed to: the destination or a router.
    pub next_hop: IpAddr,
    /// The largest packet, IP header included, that is known to get through.
    pub mtu: usize,
    /// The destination is a broadcast address: only for those who said that they want that.
    pub broadcast: bool,
    pub(crate) neighbour: Arc<Neighbour>,
    generation: u64,
}

impl Route {
    /// Whether a lookup would still give the same, as far as is known.
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.generation == GENERATION.load(Ordering::Acquire)
    }

    /// The destination is in this machine.
    pub fn is_local(&self) -> bool {
        self.interface.is_loopback()
    }

    /// The destination answered: its router, or itself, is there (RFC 4861 7.3.1).
    #[inline]
    pub fn confirm(&self) {
        self.neighbour.confirm();
    }
}

/// Has everybody look routes up again.
pub(crate) fn invalidate() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
}

fn loopback_neighbour() -> Arc<Neighbour> {
    static NEIGHBOUR: OnceBox<Arc<Neighbour>> = OnceBox::new();
    NEIGHBOUR.get_or_init(|| Box::new(Arc::new(Neighbour::fixed(Ipv4Addr::LOCALHOST.into(), [0; 6])))).clone()
}

/// How to reach a destination. ENETUNREACH without a route, EHOSTUNREACH or EACCES if a route says so,
/// EADDRNOTAVAIL without an address to send from, ENODEV if the interface is not there, ENOBUFS if there are too
/// many neighbours.
pub fn lookup(query: &Query) -> Result<Route> {
    if let Some(route) = cache::get(query) {
        return Ok(route);
    }
    let route = find(query)?;
    cache::put(query, &route);
    Ok(route)
}

fn find(query: &Query) -> Result<Route> {
    let generation = GENERATION.load(Ordering::Acquire);
    let destination = query.destination;
    let wanted = match query.interface {
        Some(index) => Some(interface::by_index(index).ok_or(Errno::ENODEV)?),
        None => None,
    };
    if let Some(local) = local_source(destination, wanted.as_ref()) {
        let interface = interface::loopback();
        return Ok(Route {
            source: query.source.unwrap_or(local),
            next_hop: destination,
            mtu: interface.mtu().min(usize::from(u16::MAX)),
            broadcast: false,
            neighbour: loopback_neighbour(),
            interface,
            generation,
        });
    }
    let broadcast = match destination {
        IpAddr::V4(address) => broadcast_interface(address, wanted.as_ref()),
        IpAddr::V6(_) => None,
    };
    if broadcast.is_some() || destination.is_multicast() {
        let is_broadcast = broadcast.is_some();
        let interface = match broadcast {
            Some(interface) => interface,
            None => group_interface(query, wanted)?,
        };
        let source = match query.source {
            Some(source) => source,
            None => source::select(&interface, destination, destination)?,
        };
        let hardware = if interface.is_loopback() { [0; 6] } else { link::group_address(destination) };
        return Ok(Route {
            mtu: mtu(&interface, None, destination),
            source,
            next_hop: destination,
            broadcast: is_broadcast,
            neighbour: Arc::new(Neighbour::fixed(destination, hardware)),
            interface,
            generation,
        });
    }
    let (entry, interface) = match table::find(destination, query.interface, query.source) {
        Some(found) => found,
        None => on_link(destination, wanted).ok_or(Errno::ENETUNREACH)?,
    };
    match entry.kind {
        Kind::Unicast => {}
        Kind::Unreachable => return Err(Errno::EHOSTUNREACH),
        Kind::Prohibit => return Err(Errno::EACCES),
        Kind::Blackhole => return Err(Errno::EINVAL),
    }
    let next_hop = entry.gateway.unwrap_or(destination);
    let source = match query.source.or(entry.source) {
        Some(source) => source,
        None => source::select(&interface, next_hop, destination)?,
    };
    Ok(Route {
        source,
        next_hop,
        mtu: mtu(&interface, entry.mtu, destination),
        broadcast: false,
        neighbour: interface.neighbours.get(next_hop)?,
        interface,
        generation,
    })
}

fn mtu(interface: &Interface, limit: Option<usize>, destination: IpAddr) -> usize {
    let mut mtu = interface.mtu().min(limit.unwrap_or(usize::MAX));
    if destination.is_ipv6() {
        mtu = mtu.min(interface.learnt.mtu6());
    }
    path::mtu(destination).map_or(mtu, |path| mtu.min(path))
}

/// If a destination is in this machine: the address to send from.
fn local_source(destination: IpAddr, wanted: Option<&Arc<Interface>>) -> Option<IpAddr> {
    match destination {
        IpAddr::V4(address) if address.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V4(address) if address.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(address) if address.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(address) if address.is_loopback() => Some(destination),
        // The same link-local address may be somebody else's on another link.
        IpAddr::V6(address) if address::is_link_local(address) => match wanted {
            Some(interface) if !interface.is_loopback() => {
                interface.addresses.has(destination).then_some(destination)
            }
            _ => address::owner(destination).map(|_| destination),
        },
        _ if destination.is_multicast() => None,
        _ => address::owner(destination).map(|_| destination),
    }
}

/// The interface for a broadcast address.
fn broadcast_interface(address: Ipv4Addr, wanted: Option<&Arc<Interface>>) -> Option<Arc<Interface>> {
    let fits = |interface: &Arc<Interface>| {
        interface.is_up() && wanted.is_none_or(|wanted| wanted.index() == interface.index())
    };
    if address.is_broadcast() {
        return wanted.cloned().or_else(first_interface);
    }
    if let Some(wanted) = wanted.filter(|wanted| wanted.is_loopback()) {
        return address::is_broadcast(address).then(|| wanted.clone());
    }
    interface::list()
        .into_iter()
        .find(|interface| fits(interface) && interface.addresses.is_broadcast(address))
}

/// The interface for a group: the one asked for, or that has the source, or that leads there, or any.
fn group_interface(query: &Query, wanted: Option<Arc<Interface>>) -> Result<Arc<Interface>> {
    wanted
        .or_else(|| query.source.and_then(address::owner))
        .or_else(|| table::find(query.destination, None, None).map(|(_, interface)| interface))
        .or_else(first_interface)
        .ok_or(Errno::ENETUNREACH)
}

fn first_interface() -> Option<Arc<Interface>> {
    interface::list().into_iter().find(|interface| !interface.is_loopback() && interface.is_up())
}

/// Without a route: IPv6 link-local addresses are on the link that was asked for, or the only one.
fn on_link(destination: IpAddr, wanted: Option<Arc<Interface>>) -> Option<(Entry, Arc<Interface>)> {
    let IpAddr::V6(address) = destination else { return None };
    if !address::is_link_local(address) {
        return None;
    }
    let interface = wanted.filter(|interface| interface.is_up()).or_else(first_interface)?;
    Some((Entry::new(destination, 128, interface.index()), interface))
}
