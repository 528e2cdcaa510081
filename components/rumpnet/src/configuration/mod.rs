//! How interfaces get their addresses: the loopback's, configured ones, DHCP, routers; and what is said about them.

pub mod dhcp;
mod events;
mod interfaces;
pub mod slaac;

use alloc::{string::String, sync::Arc, vec::Vec};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
};

pub use netconfig::Setup;
use netconfig::resolver::Resolver;
use rumpkern::wait::WaitQueue;
use rumpuser::sync::Mutex;

use self::{events::Event, interfaces::Managed};
use crate::{
    address::{self, Address, AddressFlags, Origin},
    change::{self, Change},
    interface::{self, Interface, Protocols},
    ip::counters,
    link, service,
};

/// What an interface's link says about itself.
#[derive(Default)]
pub struct Learnt {
    /// IPv6's MTU, if a router said so; 0 if not.
    mtu6: AtomicUsize,
    /// The hop limit that routers want; 0 if they don't say.
    hop_limit: AtomicU8,
    /// A DHCP client runs.
    dhcp: AtomicBool,
}

impl Learnt {
    /// The largest IPv6 packet that routers allow on the link.
    pub(crate) fn mtu6(&self) -> usize {
        match self.mtu6.load(Ordering::Relaxed) {
            0 => usize::MAX,
            mtu => mtu,
        }
    }

    /// The hop limit of packets for which nobody wants another.
    pub fn hop_limit(&self) -> u8 {
        match self.hop_limit.load(Ordering::Relaxed) {
            0 => 64,
            limit => limit,
        }
    }
}

/// What is configured in all.
pub struct Settings {
    /// The host name, for DHCP.
    pub host_name: String,
    /// The interfaces; those that aren't there get an address by DHCP.
    pub interfaces: Vec<Setup>,
    /// Takes the text of `/etc/resolv.conf` whenever it changes. Called in thread context, may sleep.
    pub resolver_changed: fn(&str),
}

struct State {
    settings: Settings,
    managed: Vec<Managed>,
    resolver: Resolver,
    text: String,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
/// Told when interfaces may have got their addresses.
static PROGRESS: WaitQueue = WaitQueue::new();
static PROTOCOLS: Protocols = Protocols { input: link::input, changed };

/// Connects the internet protocols to the interfaces, those that are there and those that come, and gives the loopback
/// its addresses. Others get none until [`configure`].
pub fn start() {
    counters::register();
    interface::set_protocols(&PROTOCOLS);
    let lo = interface::loopback();
    let kernel = |address: IpAddr, prefix| Address {
        flags: AddressFlags::PERMANENT | AddressFlags::NO_PREFIX_ROUTE | AddressFlags::NO_DETECTION,
        ..Address::new(address, prefix, Origin::Kernel)
    };
    // They can't fail: the loopback has room for them.
    let _ = address::add(&lo, kernel(Ipv4Addr::LOCALHOST.into(), 8));
    let _ = address::add(&lo, kernel(Ipv6Addr::LOCALHOST.into(), 128));
}

/// Configures the interfaces that are there and those that come. Once, after [`start`].
pub fn configure(settings: Settings) {
    *STATE.lock() =
        Some(State { settings, managed: Vec::new(), resolver: Resolver::new(), text: String::new() });
    service::start();
    for interface in interface::list() {
        changed(&interface);
    }
}

/// Waits until every interface with a carrier has the addresses that it is to have, at most until the monotonic
/// `deadline`.
pub fn wait_ready(deadline: u64) {
    // That the deadline passed or a stop is asked for is no failure: programs start without.
    let _ = PROGRESS.wait(deadline, || is_ready().then_some(()));
}

fn is_ready() -> bool {
    let state = STATE.lock();
    let Some(state) = &*state else { return true };
    interface::list().iter().filter(|interface| !interface.is_loopback() && interface.is_running()).all(
        |interface| {
            state.managed.iter().any(|managed| {
                managed.interface.index() == interface.index()
                    && managed.client.as_ref().is_none_or(|client| client.is_bound())
            })
        },
    )
}

/// An interface came, went, or changed. Its name is that of the hook.
fn changed(interface: &Arc<Interface>) {
    change::notify(&Change::Link { interface: interface.index(), gone: interface.is_gone() });
    if !interface.is_loopback() && crate::socket::outside().is_none() {
        service::start();
        events::push(Event::Changed { interface: interface.index() });
    }
}

/// A router told of itself.
pub(crate) fn router_advertised(interface: &Interface, router: Ipv6Addr, message: &[u8]) {
    events::push(Event::Router { interface: interface.index(), router, message: message.to_vec() });
}

/// A machine that may have been a router isn't one any more.
pub(crate) fn no_router(interface: &Interface, router: Ipv6Addr) {
    events::push(Event::NoRouter { interface: interface.index(), router });
}

/// An address that was given to us is somebody else's.
pub(crate) fn address_in_use(interface: &Interface, address: IpAddr) {
    events::push(Event::InUse { interface: interface.index(), address });
}

/// Does what is due; returns when the next is.
pub(crate) fn run(now: u64) -> u64 {
    let mut changes = false;
    while let Some(event) = events::pop() {
        changes = true;
        interfaces::handle(event, now);
    }
    let (next, text) = {
        let mut state = STATE.lock();
        let Some(state) = &mut *state else { return u64::MAX };
        let next = interfaces::run(state, now).min(state.resolver.expire(now));
        let name = |index| Some(String::from(interface::by_index(index)?.name()));
        let text = state.resolver.text(name);
        let is_new = text != state.text;
        state.text.clone_from(&text);
        (next, is_new.then_some((text, state.settings.resolver_changed)))
    };
    if let Some((text, tell)) = text {
        tell(&text);
    }
    if changes {
        PROGRESS.wake_all();
    }
    next
}
