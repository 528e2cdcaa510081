//! Interfaces: what the protocols see of network devices. Names, flags, counters, sending with what the device
//! lacks done in software. Receiving is in [`polling`].
//!
//! Sending only puts packets on rings; [`flush`], called with no locks held, tells the devices, and delivers what
//! the loopback holds. [`Posted::flush`] sees to it that what the caller sent has arrived.

mod coalesce;
mod loopback;
pub mod moderation;
mod offload;
mod polling;
mod posted;
mod registry;
pub mod tap;
#[cfg(any(test, feature = "host"))]
pub mod testing;
#[cfg(test)]
mod tests;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::sync::{Mutex, SpinLock};

use crate::{
    address::Addresses,
    configuration::Learnt,
    device::{HardwareAddress, NetworkDevice, Offloads, TransmitError},
    multicast::Groups,
    neighbour,
    packet::{Checksum, Packet},
};
pub use polling::{Sleeper, poll, wait};
pub use posted::{Posted, flush};
pub use registry::{
    CHANGES, Protocols, attach, by_index, by_name, generation, list, loopback, set_protocols,
};

/// The length of an Ethernet header.
pub const LINK_HEADER: usize = 14;
/// The smallest MTU that can be set (RFC 791).
const LEAST_MTU: usize = 68;
/// Packets that wait for room on a transmit ring.
const BACKLOG: usize = 512;

bitflags::bitflags! {
    /// `IFF_*`, with Linux's values.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// It is on.
        const UP = 0x1;
        /// It has a broadcast address.
        const BROADCAST = 0x2;
        /// It leads back.
        const LOOPBACK = 0x8;
        /// It is on and has a carrier.
        const RUNNING = 0x40;
        /// It takes every packet on the wire.
        const PROMISCUOUS = 0x100;
        /// It takes every multicast packet.
        const ALL_MULTICAST = 0x200;
        /// It can do multicast.
        const MULTICAST = 0x1000;
        /// The carrier is there.
        const LOWER_UP = 0x1_0000;
    }
}

/// Counts of one direction of a queue.
#[derive(Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    fn count(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A pair of queues of the device, as the interface uses it.
#[repr(align(64))]
#[derive(Default)]
struct Queue {
    /// Held by whoever polls.
    poll: SpinLock<moderation::Moderation>,
    /// An interrupt will tell of the next packet.
    armed: AtomicBool,
    /// Something was put on the transmit ring since the last flush.
    dirty: AtomicBool,
    /// The ring was full, and has room now.
    room: AtomicBool,
    /// What waits for room on the ring.
    backlog: SpinLock<VecDeque<Packet>>,
    backlog_length: AtomicUsize,
    /// How long to wait before interrupts are wanted again, in nanoseconds: as moderation wants it, and as far as
    /// the device doesn't see to it.
    wanted_delay: AtomicU64,
    delay: AtomicU64,
    received: Counters,
    transmitted: Counters,
}

impl Queue {
    fn delay(&self) -> u64 {
        self.delay.load(Ordering::Relaxed)
    }
}

/// What passed an interface since it was attached. As `struct rtnl_link_stats64` counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub receive_packets: u64,
    /// Bytes received, with link headers.
    pub receive_bytes: u64,
    /// Packets that came broken.
    pub receive_errors: u64,
    /// Received packets that nobody wanted.
    pub receive_dropped: u64,
    /// Packets that came while the ring was full.
    pub receive_missed: u64,
    /// Packets sent; one that the device cuts counts once.
    pub transmit_packets: u64,
    /// Bytes sent, with link headers.
    pub transmit_bytes: u64,
    /// Packets that could not be sent.
    pub transmit_errors: u64,
    /// Packets for which there was no room.
    pub transmit_dropped: u64,
}

/// Which packets the device is asked for.
#[derive(Default)]
struct Filter {
    /// How often each address is wanted.
    multicast: BTreeMap<HardwareAddress, usize>,
    promiscuous: usize,
    all_multicast: usize,
}

/// An interface.
pub struct Interface {
    name: String,
    index: u32,
    device: Arc<dyn NetworkDevice>,
    // Copies of the device's properties.
    hardware: HardwareAddress,
    offloads: Offloads,
    fragment_limit: usize,
    mtu: AtomicUsize,
    up: AtomicBool,
    carrier: AtomicBool,
    gone: AtomicBool,
    /// Its neighbours are to be told that it is somewhere else.
    pub(crate) moved: AtomicBool,
    /// The carrier may have changed, or the device is gone: to be looked at by a thread.
    event: AtomicBool,
    state: AtomicU32,
    filter: Mutex<Filter>,
    queues: Box<[Queue]>,
    /// Its IP addresses.
    pub addresses: Addresses,
    /// The machines on its link.
    pub neighbours: neighbour::Table,
    /// The groups that it takes packets of.
    pub groups: Groups,
    /// What its link says about itself.
    pub learnt: Learnt,
}

impl Interface {
    fn new(name: String, index: u32, device: Arc<dyn NetworkDevice>) -> Interface {
        let properties = device.properties();
        let (mtu, offloads) = (properties.mtu, properties.offloads);
        let queues = (0..properties.queues.max(1)).map(|_| Queue::default()).collect();
        Interface {
            name,
            index,
            hardware: properties.address,
            offloads,
            fragment_limit: properties.fragment_limit,
            mtu: AtomicUsize::new(mtu),
            up: AtomicBool::new(true),
            carrier: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            event: AtomicBool::new(false),
            state: AtomicU32::new(0),
            filter: Mutex::default(),
            queues,
            device,
            addresses: Addresses::default(),
            neighbours: neighbour::Table::default(),
            groups: Groups::default(),
            learnt: Learnt::default(),
        }
    }

    /// `lo`, `eth0` and so on.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number: 1 for the loopback, others from 2.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The device behind it.
    pub fn device(&self) -> &Arc<dyn NetworkDevice> {
        &self.device
    }

    /// Its hardware address.
    pub fn hardware(&self) -> HardwareAddress {
        self.hardware
    }

    /// Whether packets on it never leave the machine.
    pub fn is_loopback(&self) -> bool {
        self.offloads.contains(Offloads::LOOPBACK)
    }

    /// Whether it is on.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether it is on and has a carrier.
    pub fn is_running(&self) -> bool {
        self.is_up() && self.carrier.load(Ordering::Relaxed) && !self.is_gone()
    }

    /// Whether the device was taken away or broke down.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Its flags, as SIOCGIFFLAGS and netlink show them.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::from_bits_retain(self.state.load(Ordering::Relaxed));
        flags |= if self.is_loopback() { Flags::LOOPBACK } else { Flags::BROADCAST | Flags::MULTICAST };
        flags.set(Flags::UP, self.is_up());
        flags.set(Flags::RUNNING, self.is_running());
        flags.set(Flags::LOWER_UP, self.is_running());
        flags
    }

    /// Turns it on or off.
    pub fn set_up(&self, up: bool) {
        if self.up.swap(up, Ordering::SeqCst) != up {
            registry::changed(self.index);
        }
    }

    /// The largest packet without link header, in bytes.
    pub fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Changes the MTU. EINVAL if the device can't.
    pub fn set_mtu(&self, mtu: usize) -> Result<()> {
        if !(LEAST_MTU..=self.device.properties().mtu_limit).contains(&mtu) {
            return Err(Errno::EINVAL);
        }
        if self.mtu.swap(mtu, Ordering::SeqCst) != mtu {
            registry::changed(self.index);
        }
        Ok(())
    }

    /// How many pairs of queues the device has.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The queue that packets leave by, if any number may be asked for.
    #[inline]
    fn place(&self, queue: usize) -> usize {
        if queue < self.queues.len() { queue } else { queue % self.queues.len() }
    }

    /// What passed. May sleep.
    pub fn statistics(&self) -> Statistics {
        let device = self.device.statistics();
        let mut sum = Statistics {
            receive_errors: device.receive_errors,
            receive_missed: device.receive_missed,
            transmit_errors: device.transmit_errors,
            ..Statistics::default()
        };
        if let Some(traffic) = self.device.traffic() {
            return Statistics {
                receive_packets: traffic.receive_packets,
                receive_bytes: traffic.receive_bytes,
                transmit_packets: traffic.transmit_packets,
                transmit_bytes: traffic.transmit_bytes,
                ..sum
            };
        }
        for queue in &self.queues {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            sum.receive_packets += load(&queue.received.packets);
            sum.receive_bytes += load(&queue.received.bytes);
            sum.receive_dropped += load(&queue.received.dropped);
            sum.transmit_packets += load(&queue.transmitted.packets);
            sum.transmit_bytes += load(&queue.transmitted.bytes);
            sum.transmit_dropped += load(&queue.transmitted.dropped);
        }
        sum
    }

    /// Counts a received packet of that queue as dropped.
    pub fn count_receive_drop(&self, queue: usize) {
        if let Some(queue) = self.queues.get(queue) {
            queue.received.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Wants packets to a multicast address; as often as [`Interface::leave`] is called for it. May sleep.
    pub fn join(&self, address: HardwareAddress) {
        let mut filter = self.filter.lock();
        *filter.multicast.entry(address).or_default() += 1;
        self.apply(&filter);
    }

    /// Ends [`Interface::join`]. May sleep.
    pub fn leave(&self, address: HardwareAddress) {
        let mut filter = self.filter.lock();
        if let Some(count) = filter.multicast.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                filter.multicast.remove(&address);
            }
        }
        self.apply(&filter);
    }

    /// Wants (or, `wanted` false, no longer wants) every packet on the wire, or every multicast packet if
    /// `multicast_only`. Counted. May sleep.
    pub fn set_promiscuous(&self, wanted: bool, multicast_only: bool) {
        let mut filter = self.filter.lock();
        let count = if multicast_only { &mut filter.all_multicast } else { &mut filter.promiscuous };
        *count = if wanted { *count + 1 } else { count.saturating_sub(1) };
        self.apply(&filter);
    }

    fn apply(&self, filter: &Filter) {
        let mut state = Flags::empty();
        state.set(Flags::PROMISCUOUS, filter.promiscuous > 0);
        state.set(Flags::ALL_MULTICAST, filter.all_multicast > 0);
        self.state.store(state.bits(), Ordering::Relaxed);
        let multicast: alloc::vec::Vec<HardwareAddress> = filter.multicast.keys().copied().collect();
        self.device.set_filter(&multicast, !state.is_empty());
    }

    /// Puts a packet, link header included, on a transmit ring, taking its payload. What the device can't do
    /// is done here, so a packet may always have a partial checksum and a segmentation. It leaves at the next
    /// [`flush`]. `Full`: so many packets wait already that it was dropped (and counted); `Refused`: the
    /// interface is off or the packet can't be sent.
    pub fn transmit(&self, queue: usize, packet: &mut Packet) -> core::result::Result<(), TransmitError> {
        let index = self.place(queue);
        if !self.up.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed) {
            self.queues[index].transmitted.dropped.fetch_add(1, Ordering::Relaxed);
            return Err(TransmitError::Refused);
        }
        if tap::active() {
            tap::sent(self, packet);
        }
        let fits = packet.payload.fragments().len() <= self.fragment_limit;
        if fits && offload::offers(self.offloads, packet) {
            return self.put(index, packet);
        }
        offload::transmit(self, index, packet)
    }

    /// Puts a packet that the device can do as it is on a ring, or behind those that wait for room.
    fn put(&self, index: usize, packet: &mut Packet) -> core::result::Result<(), TransmitError> {
        let queue = &self.queues[index];
        let length = packet.len();
        let mut result = Err(TransmitError::Full);
        if queue.backlog_length.load(Ordering::Acquire) == 0 {
            result = self.device.transmit(index, packet);
        }
        if result == Err(TransmitError::Full) {
            result = self.put_behind(index, packet);
        }
        match result {
            Ok(()) => {
                queue.transmitted.count(1, length);
                // Even if it is set: who clears it meanwhile may have looked at the ring before.
                queue.dirty.store(true, Ordering::Release);
            }
            Err(_) => {
                queue.transmitted.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    #[cold]
    fn put_behind(&self, index: usize, packet: &mut Packet) -> core::result::Result<(), TransmitError> {
        let queue = &self.queues[index];
        {
            let mut backlog = queue.backlog.lock();
            if backlog.len() >= BACKLOG {
                return Err(TransmitError::Full);
            }
            backlog.push_back(core::mem::take(packet));
            queue.backlog_length.store(backlog.len(), Ordering::Release);
        }
        // The upcall about room may have come before the packet was there to be sent.
        self.send_backlog(index);
        Ok(())
    }

    /// Moves packets that wait to the ring, as far as there is room.
    fn send_backlog(&self, index: usize) {
        let queue = &self.queues[index];
        let mut backlog = queue.backlog.lock();
        while let Some(packet) = backlog.front_mut() {
            if self.device.transmit(index, packet) == Err(TransmitError::Full) {
                break;
            }
            // What was refused is dropped.
            backlog.pop_front();
            queue.dirty.store(true, Ordering::Release);
        }
        queue.backlog_length.store(backlog.len(), Ordering::Release);
    }

    /// What the interface makes of a packet that a device received: drops it if the interface is off.
    fn accepts(&self) -> bool {
        self.up.load(Ordering::Relaxed) && !self.gone.load(Ordering::Relaxed)
    }
}

/// Whether a packet is complete as it is.
fn is_plain(packet: &Packet) -> bool {
    !matches!(packet.checksum, Checksum::Partial { .. }) && packet.segmentation.is_none()
}
