//! Other machines with our addresses: looking for them while an address is already used (RFC 5227 for IPv4,
//! RFC 4862 5.4 with RFC 4429 for IPv6), and what is done about one.
//!
//! A server must answer as soon as it runs, so no address waits for its probes. One that DHCP gave is given back
//! when somebody else has it; one that is configured is kept and defended, and the console says so.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::net::{IpAddr, Ipv6Addr};

use rumpuser::{NEVER, rumpuser_clock_monotonic, sync::SpinLock};

use super::{arp, discovery};
use crate::{
    address::{Address, AddressFlags, Origin},
    change::{self, Change},
    configuration,
    device::HardwareAddress,
    interface::{self, Interface},
    ip::counters,
    report::report,
    route,
    service::{self, SECOND, Task},
};

/// How many ARP probes are sent before the address is announced.
const PROBES: u8 = 3;
/// How many times it is announced.
const ANNOUNCEMENTS: u8 = 2;
/// The least time between two defences (RFC 5227 2.4: DEFEND_INTERVAL).
const DEFEND_INTERVAL: u64 = 10 * SECOND;
/// How many conflicts are remembered.
const CONFLICTS: usize = 16;

/// An address that is being looked after.
struct Running {
    interface: u32,
    address: IpAddr,
    step: u8,
    due: u64,
}

/// A machine that uses an address of ours.
struct Conflict {
    interface: u32,
    address: IpAddr,
    hardware: HardwareAddress,
    reported: bool,
    /// It was heard since the last defence.
    heard: bool,
    /// It came up while the address was being probed.
    early: bool,
    defended: u64,
}

static RUNNING: SpinLock<Vec<Running>> = SpinLock::new(Vec::new());
static CONFLICT: SpinLock<Vec<Conflict>> = SpinLock::new(Vec::new());

/// Looks whether another machine has the address. Again, if it is done already: the link may be another one.
pub(crate) fn start(interface: &Arc<Interface>, address: &Address) {
    if address.flags.contains(AddressFlags::NO_DETECTION) || interface.is_loopback() {
        return;
    }
    let now = rumpuser_clock_monotonic();
    {
        let mut running = RUNNING.lock();
        running.retain(|entry| (entry.interface, entry.address) != (interface.index(), address.address));
        running.push(Running { interface: interface.index(), address: address.address, step: 0, due: now });
    }
    service::at(Task::Detection, now);
}

/// The address is no longer ours.
pub(crate) fn stop(interface: &Interface, address: IpAddr) {
    RUNNING.lock().retain(|entry| (entry.interface, entry.address) != (interface.index(), address));
    CONFLICT.lock().retain(|entry| (entry.interface, entry.address) != (interface.index(), address));
}

/// Whether the address is still being probed.
fn is_early(interface: u32, address: IpAddr) -> bool {
    RUNNING
        .lock()
        .iter()
        .any(|entry| (entry.interface, entry.address) == (interface, address) && entry.step <= PROBES)
}

/// Looks at an ARP message; returns whether it comes from a machine that uses an address of ours.
pub(super) fn heard(interface: &Arc<Interface>, message: &arp::Message) -> bool {
    if interface.addresses.has(message.sender.into()) {
        conflict(interface, message.sender.into(), message.sender_hardware);
        return true;
    }
    let target = IpAddr::V4(message.target);
    if message.sender.is_unspecified()
        && message.request
        && interface.addresses.has(target)
        && is_early(interface.index(), target)
    {
        conflict(interface, target, message.sender_hardware);
    }
    false
}

/// Another machine uses an address of ours.
pub(super) fn conflict(interface: &Arc<Interface>, address: IpAddr, hardware: HardwareAddress) {
    counters::icmp::NEIGHBOUR_CONFLICTS.increment();
    let now = rumpuser_clock_monotonic();
    let early = is_early(interface.index(), address);
    {
        let mut conflicts = CONFLICT.lock();
        let same = |entry: &&mut Conflict| {
            (entry.interface, entry.address, entry.hardware) == (interface.index(), address, hardware)
        };
        let full = conflicts.len() >= CONFLICTS;
        match conflicts.iter_mut().find(same) {
            Some(entry) => entry.heard = true,
            None if !full => conflicts.push(Conflict {
                interface: interface.index(),
                address,
                hardware,
                reported: false,
                heard: true,
                early,
                defended: 0,
            }),
            None => return,
        }
    }
    service::at(Task::Detection, now);
}

/// Another machine has an address that we have only just begun to use (IPv6): it is not ours.
pub(super) fn duplicate(interface: &Arc<Interface>, address: Ipv6Addr, hardware: Option<HardwareAddress>) {
    conflict(interface, address.into(), hardware.unwrap_or_default());
    let changed = interface.addresses.change(address.into(), |entry| {
        entry.flags.remove(AddressFlags::OPTIMISTIC);
        entry.flags.insert(AddressFlags::DUPLICATE | AddressFlags::TENTATIVE);
    });
    if let Some(address) = changed {
        RUNNING
            .lock()
            .retain(|entry| (entry.interface, entry.address) != (interface.index(), address.address));
        route::invalidate();
        change::notify(&Change::Address { interface: interface.index(), address, gone: false });
    }
}

/// What is to be done for an address now.
enum Action {
    Probe,
    Announce,
    Finish,
}

/// Does what is due; returns when the next is.
pub(crate) fn run(now: u64) -> u64 {
    let mut actions = Vec::new();
    let mut next = NEVER;
    RUNNING.lock().retain_mut(|entry| {
        if entry.due > now {
            next = next.min(entry.due);
            return true;
        }
        let probes = if entry.address.is_ipv4() { PROBES } else { 1 };
        let announcements = if entry.address.is_ipv4() { ANNOUNCEMENTS } else { 0 };
        let step = entry.step;
        entry.step += 1;
        let (action, wait) = match step {
            _ if step < probes => (Action::Probe, SECOND),
            _ if step < probes + announcements => (Action::Announce, 2 * SECOND),
            _ => (Action::Finish, 0),
        };
        let done = matches!(action, Action::Finish);
        actions.push((entry.interface, entry.address, action));
        entry.due = now + wait;
        if !done {
            next = next.min(entry.due);
        }
        !done
    });
    for (index, address, action) in actions {
        let Some(interface) = interface::by_index(index) else { continue };
        match (action, address) {
            (Action::Probe, IpAddr::V4(address)) => arp::probe(&interface, address),
            (Action::Announce, IpAddr::V4(address)) => arp::announce(&interface, address),
            (Action::Probe, IpAddr::V6(address)) => discovery::probe(&interface, address),
            (Action::Finish, IpAddr::V6(_)) => finish(&interface, address),
            _ => {}
        }
    }
    next.min(handle_conflicts(now))
}

/// Nobody else has the IPv6 address.
fn finish(interface: &Arc<Interface>, address: IpAddr) {
    let changed = interface.addresses.change(address, |entry| {
        entry.flags.remove(AddressFlags::TENTATIVE | AddressFlags::OPTIMISTIC);
    });
    if let Some(address) = changed {
        change::notify(&Change::Address { interface: interface.index(), address, gone: false });
    }
}

fn handle_conflicts(now: u64) -> u64 {
    let mut next = NEVER;
    let mut news = Vec::new();
    for entry in CONFLICT.lock().iter_mut().filter(|entry| entry.heard) {
        let first = !core::mem::replace(&mut entry.reported, true);
        let defend = entry.defended == 0 || now.saturating_sub(entry.defended) >= DEFEND_INTERVAL;
        if defend {
            entry.heard = false;
            entry.defended = now;
        } else {
            next = next.min(entry.defended + DEFEND_INTERVAL);
        }
        news.push((entry.interface, entry.address, entry.hardware, first, entry.early, defend));
    }
    for (index, address, hardware, first, early, defend) in news {
        let Some(interface) = interface::by_index(index) else { continue };
        let Some(entry) = interface.addresses.find(address) else { continue };
        let gives_up = entry.flags.contains(AddressFlags::DUPLICATE);
        let declines = early && entry.origin == Origin::Dhcp;
        if first {
            let what = match (gives_up, declines) {
                (true, _) => "not used",
                (_, true) => "given back",
                _ => "kept",
            };
            report(format_args!(
                "{}: duplicate address {address}, also used by {}: {what}",
                interface.name(),
                if hardware == [0; 6] { "another machine".into() } else { hardware_text(hardware) }
            ));
        }
        if gives_up {
            continue;
        }
        if declines {
            configuration::address_in_use(&interface, address);
            continue;
        }
        if defend {
            match address {
                IpAddr::V4(address) => arp::announce(&interface, address),
                IpAddr::V6(address) => discovery::announce(&interface, address),
            }
        }
    }
    next
}

/// A hardware address as it is usually written.
pub(crate) fn hardware_text([a, b, c, d, e, f]: HardwareAddress) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Tells everybody on the link at once that the addresses of an interface are here, before anything is probed: they have been in
/// use all the time, but the machine has moved, and what switches and neighbours know of it may lead elsewhere.
pub(crate) fn announce_all(interface: &Arc<Interface>) {
    for entry in interface.addresses.list() {
        match entry.address {
            IpAddr::V4(address) => arp::announce(interface, address),
            IpAddr::V6(address) if !entry.flags.contains(AddressFlags::TENTATIVE) => {
                discovery::announce(interface, address);
            }
            IpAddr::V6(_) => {}
        }
    }
}

/// Looks after all addresses of an interface (again): it came up, perhaps on another link.
pub(crate) fn start_all(interface: &Arc<Interface>) {
    for entry in interface.addresses.list() {
        if entry.address.is_ipv6() && !entry.flags.contains(AddressFlags::NO_DETECTION) {
            interface.addresses.change(entry.address, |entry| {
                entry.flags.remove(AddressFlags::DUPLICATE);
                entry.flags.insert(AddressFlags::TENTATIVE | AddressFlags::OPTIMISTIC);
            });
        }
        start(interface, &entry);
    }
}
