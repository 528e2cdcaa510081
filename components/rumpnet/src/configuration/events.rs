//! What the configuration hears from others: packets, changes. It is handled by the service thread, which may sleep.

use alloc::{collections::VecDeque, vec::Vec};
use core::net::{IpAddr, Ipv6Addr};

use rumpuser::{rumpuser_clock_monotonic, sync::SpinLock};

use crate::service::{self, Task};

/// Something happened on an interface (by its index).
pub(super) enum Event {
    /// It came, went, or changed.
    Changed { interface: u32 },
    /// A message for the DHCP client.
    Dhcp { interface: u32, message: Vec<u8> },
    /// A router's advertisement.
    Router { interface: u32, router: Ipv6Addr, message: Vec<u8> },
    /// A neighbour says that it is no router.
    NoRouter { interface: u32, router: Ipv6Addr },
    /// An address that DHCP gave is somebody else's.
    InUse { interface: u32, address: IpAddr },
}

/// The most packets that wait.
const LIMIT: usize = 64;

static EVENTS: SpinLock<VecDeque<Event>> = SpinLock::new(VecDeque::new());

/// Has something handled. Packets are dropped when many wait.
pub(super) fn push(event: Event) {
    {
        let mut events = EVENTS.lock();
        let is_packet = !matches!(event, Event::Changed { .. });
        if is_packet && events.len() >= LIMIT {
            return;
        }
        events.push_back(event);
    }
    service::at(Task::Configuration, rumpuser_clock_monotonic());
}

/// The next one.
pub(super) fn pop() -> Option<Event> {
    EVENTS.lock().pop_front()
}
