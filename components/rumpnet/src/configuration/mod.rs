//! How interfaces get their addresses: the loopback's, the configured ones, routers and DHCP.

use alloc::sync::Arc;
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use rumpuser::NEVER;

use crate::{
    address::{self, Address, AddressFlags, Origin},
    interface::{self, Interface, Protocols},
    ip::counters,
    link, multicast, neighbour, route, service,
};

/// What routers said on an interface.
#[derive(Default)]
pub struct Routers {
    /// IPv6's MTU, if a router said so; 0 if not.
    mtu: AtomicUsize,
}

impl Routers {
    /// The largest IPv6 packet that routers allow on the link.
    pub(crate) fn mtu(&self) -> usize {
        match self.mtu.load(Ordering::Relaxed) {
            0 => usize::MAX,
            mtu => mtu,
        }
    }
}

static PROTOCOLS: Protocols = Protocols { input: link::input, changed };

/// Connects the internet protocols to the interfaces: those that are there, and those that come. Once.
pub fn start() {
    counters::register();
    interface::set_protocols(&PROTOCOLS);
    let lo = interface::loopback();
    let kernel = |address: IpAddr, prefix| Address {
        flags: AddressFlags::PERMANENT | AddressFlags::NO_PREFIX_ROUTE,
        ..Address::new(address, prefix, Origin::Kernel)
    };
    // They can't fail: the loopback has room for them.
    let _ = address::add(&lo, kernel(Ipv4Addr::LOCALHOST.into(), 8));
    let _ = address::add(&lo, kernel(Ipv6Addr::LOCALHOST.into(), 128));
}

/// An interface came, went, or changed.
fn changed(interface: &Arc<Interface>) {
    if interface.is_loopback() {
        return;
    }
    service::start();
    multicast::interface_attached(interface);
    if interface.is_gone() || !interface.is_up() {
        interface.neighbours.clear();
        route::interface_down(interface.index());
        if interface.is_gone() {
            address::remove_all(interface);
        }
    } else if interface.is_running() {
        neighbour::detection::start_all(interface);
    }
    route::invalidate();
}

/// A router told of itself.
pub(crate) fn router_advertised(_interface: &Arc<Interface>, _router: Ipv6Addr, _message: &[u8]) {}

/// A machine that may have been a router isn't one any more.
pub(crate) fn no_router(interface: &Interface, router: Ipv6Addr) {
    route::remove_router(interface, router.into());
}

/// An address that was given to us is somebody else's.
pub(crate) fn address_in_use(interface: &Arc<Interface>, address: IpAddr) {
    let _ = address::remove(interface, address);
}

/// Does what is due; returns when the next is.
pub(crate) fn run(_now: u64) -> u64 {
    NEVER
}
