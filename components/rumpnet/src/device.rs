//! What a network device offers to the interfaces: the small contract that every driver implements.
//!
//! A driver moves packets between rings and memory, and nothing else: when to poll, when to want interrupts, how
//! much to moderate them, and what a packet means is decided above it, the same for all drivers.

use alloc::{boxed::Box, string::String};

use crate::packet::{Packet, Received};

/// A hardware (MAC) address.
pub type HardwareAddress = [u8; 6];

bitflags::bitflags! {
    /// What a device does by itself.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Offloads: u32 {
        /// Sums what is sent ([`crate::packet::Checksum::Partial`]).
        const CHECKSUM = 1;
        /// Cuts TCP over IPv4 ([`crate::packet::Segmentation`]).
        const SEGMENTATION_4 = 2;
        /// Cuts TCP over IPv6.
        const SEGMENTATION_6 = 4;
        /// Cuts segments with CWR as ECN wants it.
        const SEGMENTATION_ECN = 8;
        /// Packets never leave the machine: no sums, no link header is looked at.
        const LOOPBACK = 16;
    }
}

/// What stays the same for as long as a device is attached.
#[derive(Debug, Clone)]
pub struct Properties {
    /// The driver, as `ethtool -i` names it.
    pub driver: &'static str,
    /// Where the device is (`0000:00:03.0`).
    pub location: String,
    /// Its hardware address.
    pub address: HardwareAddress,
    /// The largest packet without link header, in bytes.
    pub mtu_limit: usize,
    /// The packet size to begin with (1500, or what the device advises).
    pub mtu: usize,
    /// Pairs of a transmit and a receive queue. Pair `n` interrupts CPU `n % count`.
    pub queues: usize,
    /// What it does by itself.
    pub offloads: Offloads,
    /// The most payload fragments of a packet.
    pub fragment_limit: usize,
}

/// What counters a device keeps itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceStatistics {
    /// Packets that came while the receive ring was full, or no memory was left to refill it.
    pub receive_missed: u64,
    /// Packets received broken (CRC, length, a descriptor that makes no sense).
    pub receive_errors: u64,
    /// Packets that could not be sent.
    pub transmit_errors: u64,
}

/// What passed a device, as it counts itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `interface::Statistics`")]
pub struct Traffic {
    pub receive_packets: u64,
    pub receive_bytes: u64,
    pub transmit_packets: u64,
    pub transmit_bytes: u64,
}

/// Why a packet was not taken. It stays with the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransmitError {
    /// The ring is full. The upcall [`Upcalls::room`] follows when there is room again.
    Full,
    /// The packet can't be sent as it is (too many fragments, too long), or the device is gone.
    Refused,
}

/// What a device tells its interface. All may be called in interrupt handlers.
pub trait Upcalls: Send + Sync {
    /// An armed receive queue has packets (or a transmit queue completions): poll it.
    fn interrupt(&self, queue: usize);
    /// A transmit queue that was full has room.
    fn room(&self, queue: usize);
    /// The link came up or went down.
    fn link_changed(&self);
    /// The device is gone for good, or broken: it takes no packets any more.
    fn gone(&self);
}

/// A network device. Methods are called from any thread and CPU, for one queue often at the same time from
/// several: a driver has a lock per ring. None may sleep, except [`NetworkDevice::start`],
/// [`NetworkDevice::stop`] and [`NetworkDevice::traffic`].
pub trait NetworkDevice: Send + Sync {
    /// What it is.
    fn properties(&self) -> &Properties;
    /// Turns it on. Interrupts come from now on, for queues that are armed.
    fn start(&self, upcalls: Box<dyn Upcalls>);
    /// Turns it off; no upcall comes after it returned, and the device touches no memory.
    fn stop(&self);
    /// Puts a packet on a transmit ring, taking its payload's references until it was sent; also frees what was
    /// sent earlier. The device may wait for [`NetworkDevice::flush`] before it looks.
    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError>;
    /// Rings the doorbell for what was put on the ring since the last time, if the device wants to hear it.
    fn flush(&self, queue: usize);
    /// Takes up to `budget` received packets in order, and refills the ring. Returns how many.
    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize;
    /// Wants an interrupt for the next packet. True if there is one already: then it is as if not armed.
    fn arm(&self, queue: usize) -> bool;
    /// Wants no interrupts for a while.
    fn disarm(&self, queue: usize);
    /// The least time between interrupts of a queue, in microseconds, where the device can; otherwise the
    /// interface delays arming.
    fn set_moderation(&self, _queue: usize, _microseconds: u32) -> bool {
        false
    }
    /// Whether there is a carrier.
    fn link_up(&self) -> bool;
    /// Whether the machine moved to another place of the network since the last call (a migration), so that the
    /// neighbours are to be told. Asked after [`Upcalls::link_changed`].
    fn wants_announcement(&self) -> bool {
        false
    }
    /// (Mbit/s, full duplex), if known.
    fn link_speed(&self) -> Option<(u32, bool)> {
        None
    }
    /// Which multicast addresses are wanted; `all` for every packet of the wire.
    fn set_filter(&self, multicast: &[HardwareAddress], all: bool);
    /// Its own counters.
    fn statistics(&self) -> DeviceStatistics;
    /// What passed, if that is not what went through [`NetworkDevice::transmit`] and [`NetworkDevice::receive`]. May
    /// sleep.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}
