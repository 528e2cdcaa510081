//! NetBSD's interfaces as programs see them by netlink, ioctl, `/proc/net` and `/sys`: each has a likeness among the
//! personality's interfaces, with its addresses and routes. Packets don't pass through it.

pub mod messages;
#[cfg(not(test))]
mod watch;

use alloc::{boxed::Box, string::String};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpnet::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, Traffic, TransmitError,
        Upcalls,
    },
    packet::{Packet, Received},
};
use rumpuser::sync::SpinLock;

#[cfg(not(test))]
pub use watch::start;
#[cfg(not(test))]
use watch::traffic;

/// The largest MTU.
const MTU_MOST: usize = 65_535;

/// An interface's likeness.
pub struct Likeness {
    properties: Properties,
    index: u32,
    carrier: AtomicBool,
    upcalls: SpinLock<Option<Box<dyn Upcalls>>>,
}

impl Likeness {
    /// Of an interface that is seen for the first time.
    pub fn new(seen: &messages::Seen) -> Self {
        Likeness {
            properties: Properties {
                driver: "netbsd",
                location: String::new(),
                address: seen.hardware,
                mtu_limit: MTU_MOST,
                mtu: seen.mtu.min(MTU_MOST),
                queues: 1,
                offloads: Offloads::empty(),
                fragment_limit: 1,
            },
            index: seen.index,
            carrier: AtomicBool::new(seen.carrier),
            upcalls: SpinLock::new(None),
        }
    }

    /// The number of the interface.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The interface's carrier came or went.
    pub fn set_carrier(&self, carrier: bool) {
        if self.carrier.swap(carrier, Ordering::AcqRel) != carrier
            && let Some(upcalls) = &*self.upcalls.lock()
        {
            upcalls.link_changed();
        }
    }
}

impl NetworkDevice for Likeness {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn start(&self, upcalls: Box<dyn Upcalls>) {
        *self.upcalls.lock() = Some(upcalls);
    }

    fn stop(&self) {}

    fn transmit(&self, _queue: usize, _packet: &mut Packet) -> Result<(), TransmitError> {
        Err(TransmitError::Refused)
    }

    fn flush(&self, _queue: usize) {}

    fn receive(&self, _queue: usize, _budget: usize, _sink: &mut dyn FnMut(Received)) -> usize {
        0
    }

    fn arm(&self, _queue: usize) -> bool {
        false
    }

    fn disarm(&self, _queue: usize) {}

    fn link_up(&self) -> bool {
        self.carrier.load(Ordering::Acquire)
    }

    fn set_filter(&self, _multicast: &[HardwareAddress], _all: bool) {}

    fn statistics(&self) -> DeviceStatistics {
        DeviceStatistics::default()
    }

    fn traffic(&self) -> Option<Traffic> {
        let [receive_packets, receive_bytes, transmit_packets, transmit_bytes] = traffic(self.index)?;
        Some(Traffic { receive_packets, receive_bytes, transmit_packets, transmit_bytes })
    }
}

#[cfg(test)]
fn traffic(_index: u32) -> Option<[u64; 4]> {
    None
}
