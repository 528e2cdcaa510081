//! The network device (virtio 1.2, section 5.1): a pair of queues for each CPU where the device has several, checksums
//! and segmentation left to it, received packets in as many pages as they need.

mod control;
mod header;
mod receive;
mod ring;
#[cfg(test)]
mod tests;
mod transmit;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use once_cell::race::OnceBox;
use rumpnet::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, TransmitError, Upcalls,
    },
    interface,
    packet::{Packet, Received},
};
use rumpuser::{
    device::InterruptHandler, rumpuser_cpu_count, rumpuser_getrandom, rumpuser_memory_statistics,
    sync::SpinLock,
};

use crate::{
    features::{self, Features, Refused},
    transport::{Status, Transport, read_config},
};
use control::Control;
use receive::{Broken, Receive};
use ring::Ring;
use transmit::{MOST_FRAGMENTS, Transmit};

/// The largest rings that are made.
const LARGEST_RECEIVE: u16 = 256;
const LARGEST_TRANSMIT: u16 = 256;
/// Receive rings get at most this part of the memory, together.
const MEMORY_PART: u64 = 32;
const LEAST_PAGES: usize = 32;

const LINK_HEADER: usize = 14;
/// What fits into a page beside the headers.
const PAGE_MTU: usize = 4096 - header::LENGTH - LINK_HEADER;
/// The largest IP packet.
const LARGEST_MTU: usize = 65535;
const USUAL_MTU: usize = 1500;

/// Bits of the configuration's status.
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;
const SPEED_UNKNOWN: u32 = u32::MAX;

/// The configuration's fields, as far as they are looked at.
struct Config {
    address: HardwareAddress,
    status: u16,
    pairs: u16,
    mtu: u16,
    speed: u32,
    duplex: u8,
}

fn config(transport: &dyn Transport) -> Config {
    let bytes: [u8; 17] = read_config(transport);
    let word = |offset: usize| u16::from_le_bytes([bytes[offset], bytes[offset + 1]]);
    let [a, b, c, d, e, f, ..] = bytes;
    Config {
        address: [a, b, c, d, e, f],
        status: word(6),
        pairs: word(8),
        mtu: word(10),
        speed: u32::from(word(12)) | u32::from(word(14)) << 16,
        duplex: bytes[16],
    }
}

/// A pair of queues.
struct Pair {
    receive_ring: Ring,
    transmit_ring: Ring,
    receive: SpinLock<Receive>,
    transmit: SpinLock<Transmit>,
    /// How far the receive ring was looked at, for the interrupt handler.
    looked: AtomicU16,
    /// The transmit ring was full, and an interrupt is to tell when it no longer is.
    full: AtomicBool,
}

/// A network device.
struct Net {
    transport: Arc<dyn Transport>,
    features: Features,
    properties: Properties,
    pairs: Vec<Pair>,
    control: Option<SpinLock<Control>>,
    upcalls: OnceBox<Box<dyn Upcalls>>,
    stopped: AtomicBool,
    transmit_errors: AtomicU64,
}

/// Takes a network device into use.
pub fn attach(transport: Arc<dyn Transport>) -> Result<(), Refused> {
    let device = open(transport)?;
    let leaving = device.clone();
    interface::attach(device.clone()).ok_or(Refused)?;
    device.transport.set_removal_handler(Box::new(move || {
        leaving.give_up();
        leaving.stop();
    }));
    Ok(())
}

/// Sets up the device.
fn open(transport: Arc<dyn Transport>) -> Result<Arc<Net>, Refused> {
    let wanted = Features::NET_CHECKSUM
        | Features::NET_GUEST_CHECKSUM
        | Features::NET_MTU
        | Features::NET_ADDRESS
        | Features::NET_GUEST_TSO4
        | Features::NET_GUEST_TSO6
        | Features::NET_GUEST_ECN
        | Features::NET_HOST_TSO4
        | Features::NET_HOST_TSO6
        | Features::NET_HOST_ECN
        | Features::NET_MERGED_BUFFERS
        | Features::NET_STATUS
        | Features::NET_CONTROL
        | Features::NET_CONTROL_RECEIVE
        | Features::NET_ANNOUNCE
        | Features::NET_QUEUES
        | Features::NET_SPEED;
    let features = features::negotiate_with(&*transport, wanted, sensible)?;
    let config = config(&*transport);
    let has = |feature| features.contains(feature);
    let count = if has(Features::NET_QUEUES) {
        config.pairs.clamp(1, rumpuser_cpu_count().min(64) as u16)
    } else {
        1
    };
    let header_length = if transport.legacy() && !has(Features::NET_MERGED_BUFFERS) {
        header::LEGACY_LENGTH
    } else {
        header::LENGTH
    };
    let pages = rumpuser_memory_statistics().total / 4096 / MEMORY_PART / u64::from(count);
    let pages = (pages as usize).max(LEAST_PAGES);
    let mut pairs = Vec::new();
    for index in 0..count {
        let pair = || {
            let receive_ring = Ring::new(transport.queue_limit(2 * index), LARGEST_RECEIVE, features)?;
            let transmit_ring = Ring::new(transport.queue_limit(2 * index + 1), LARGEST_TRANSMIT, features)?;
            Ok(Pair {
                receive: SpinLock::new(Receive::new(&receive_ring, pages, features, header_length)?),
                transmit: SpinLock::new(Transmit::new(&transmit_ring, features, header_length)?),
                receive_ring,
                transmit_ring,
                looked: AtomicU16::new(0),
                full: AtomicBool::new(false),
            })
        };
        if transport.queue_limit(2 * index) == 0 || transport.queue_limit(2 * index + 1) == 0 {
            break;
        }
        let pair: Result<Pair, rumpuser::OutOfMemory> = pair();
        pairs.push(pair.map_err(|_| Refused)?);
    }
    if pairs.is_empty() {
        return Err(Refused);
    }
    // The control queue is behind all pairs that the device has.
    let control = 2 * if has(Features::NET_QUEUES) { config.pairs } else { 1 };
    let control = if has(Features::NET_CONTROL) && transport.queue_limit(control) > 0 {
        let queue = Control::new(control, transport.queue_limit(control), features);
        Some((control, queue.map_err(|_| Refused)?))
    } else {
        None
    };
    let control_addresses = control.as_ref().map(|(index, control)| (*index, control.addresses()));
    let net = Arc::new(Net {
        properties: properties(&*transport, features, &config, pairs.len()),
        transport,
        features,
        pairs,
        control: control.map(|(_, control)| SpinLock::new(control)),
        upcalls: OnceBox::new(),
        stopped: AtomicBool::new(false),
        transmit_errors: AtomicU64::new(0),
    });
    if !net.connect(control_addresses) {
        net.transport.reset();
        return Err(Refused);
    }
    Ok(net)
}

/// Leaves out what is of no use without something else (virtio 1.2, section 5.1.3.1), or to this driver.
fn sensible(mut features: Features) -> Features {
    let joined = Features::NET_GUEST_TSO4 | Features::NET_GUEST_TSO6 | Features::NET_GUEST_ECN;
    let cut = Features::NET_HOST_TSO4 | Features::NET_HOST_TSO6 | Features::NET_HOST_ECN;
    if !features.contains(Features::NET_CHECKSUM) {
        features.remove(cut);
    }
    // Without merging, every buffer would have to take 64 KiB.
    if !features.contains(Features::NET_GUEST_CHECKSUM | Features::NET_MERGED_BUFFERS) {
        features.remove(joined);
    }
    if !features.contains(Features::NET_CONTROL) {
        features.remove(Features::NET_CONTROL_RECEIVE | Features::NET_ANNOUNCE | Features::NET_QUEUES);
    }
    features
}

fn properties(transport: &dyn Transport, features: Features, config: &Config, queues: usize) -> Properties {
    let has = |feature| features.contains(feature);
    let mut offloads = Offloads::empty();
    offloads.set(Offloads::CHECKSUM, has(Features::NET_CHECKSUM));
    offloads.set(Offloads::SEGMENTATION_4, has(Features::NET_HOST_TSO4));
    offloads.set(Offloads::SEGMENTATION_6, has(Features::NET_HOST_TSO6));
    offloads.set(Offloads::SEGMENTATION_ECN, has(Features::NET_HOST_ECN));
    let address = if has(Features::NET_ADDRESS) {
        config.address
    } else {
        let mut address = [0; 6];
        rumpuser_getrandom(&mut address);
        // Of one machine, and made up by ourselves.
        address[0] = address[0] & !1 | 2;
        address
    };
    let mtu_limit = if has(Features::NET_MERGED_BUFFERS) { LARGEST_MTU } else { PAGE_MTU };
    let advised = if has(Features::NET_MTU) { usize::from(config.mtu) } else { USUAL_MTU };
    let mtu_limit = if has(Features::NET_MTU) { mtu_limit.min(advised).max(68) } else { mtu_limit };
    Properties {
        driver: "virtio_net",
        location: transport.location(),
        address,
        mtu_limit,
        mtu: advised.clamp(68, mtu_limit),
        queues,
        offloads,
        fragment_limit: MOST_FRAGMENTS,
    }
}

impl Net {
    /// Connects interrupts, makes the queues live, and starts the device.
    fn connect(self: &Arc<Self>, control: Option<(u16, crate::transport::QueueAddresses)>) -> bool {
        let handler = |index: u16| -> InterruptHandler {
            let net = self.clone();
            Box::new(move || net.interrupt(index.into()))
        };
        let config: Option<InterruptHandler> = if self.features.contains(Features::NET_STATUS) {
            let net = self.clone();
            Some(Box::new(move || {
                net.upcall(|upcalls| upcalls.link_changed());
            }))
        } else {
            None
        };
        if !self.transport.establish_interrupts(self.pairs.len() as u16, &handler, config) {
            return false;
        }
        for (index, pair) in (0..).zip(&self.pairs) {
            if !self.transport.set_queue(2 * index, Some(index), pair.receive_ring.addresses())
                || !self.transport.set_queue(2 * index + 1, Some(index), pair.transmit_ring.addresses())
            {
                return false;
            }
            pair.receive_ring.want_none(0);
        }
        if let Some((index, addresses)) = control
            && !self.transport.set_queue(index, None, addresses)
        {
            return false;
        }
        features::start(&*self.transport);
        for (index, pair) in (0..).zip(&self.pairs) {
            if pair.receive.lock().publish(&pair.receive_ring) {
                self.transport.notify(2 * index);
            }
        }
        if let Some(control) = &self.control {
            let mut control = control.lock();
            if self.features.contains(Features::NET_CONTROL_RECEIVE) {
                control.set_filter(&*self.transport, &[], false);
            }
            let pairs = self.pairs.len() as u16;
            if pairs > 1 && !control.set_pairs(&*self.transport, pairs) {
                return false;
            }
        }
        true
    }

    fn upcall(&self, call: impl FnOnce(&dyn Upcalls)) {
        if let Some(upcalls) = self.upcalls.get()
            && !self.stopped.load(Ordering::SeqCst)
        {
            call(&**upcalls);
        }
    }

    /// The interrupt handler of a pair.
    fn interrupt(&self, index: usize) {
        let Some(pair) = self.pairs.get(index) else { return };
        if pair.full.load(Ordering::SeqCst) && pair.full.swap(false, Ordering::SeqCst) {
            self.upcall(|upcalls| upcalls.room(index));
        }
        // An interrupt may be of other queues than this one.
        if pair.receive_ring.used_index() != pair.looked.load(Ordering::Relaxed) {
            self.upcall(|upcalls| upcalls.interrupt(index));
        }
    }

    /// The device broke the rules: it is not used any more.
    #[cold]
    fn give_up(&self) {
        if !self.stopped.load(Ordering::SeqCst) {
            self.upcall(|upcalls| upcalls.gone());
        }
    }

    fn reclaim(&self, pair: &Pair, transmit: &mut Transmit) {
        if let Err(Broken) = transmit.reclaim(&pair.transmit_ring) {
            self.give_up();
        }
    }
}

impl NetworkDevice for Net {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn start(&self, upcalls: Box<dyn Upcalls>) {
        let _ = self.upcalls.set(Box::new(upcalls));
    }

    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.transport.reset();
        }
    }

    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        let pair = &self.pairs[queue];
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TransmitError::Refused);
        }
        let mut transmit = pair.transmit.lock();
        if transmit.is_low(&pair.transmit_ring) {
            self.reclaim(pair, &mut transmit);
        }
        let mut result = transmit.add(&pair.transmit_ring, packet);
        if result == Err(TransmitError::Full) {
            // The device must have heard of what fills the ring, whoever flushes.
            if transmit.wants_notification(&pair.transmit_ring) {
                self.transport.notify(2 * queue as u16 + 1);
            }
            pair.full.store(true, Ordering::SeqCst);
            if transmit.want_room(&pair.transmit_ring) {
                self.reclaim(pair, &mut transmit);
                result = transmit.add(&pair.transmit_ring, packet);
            }
        }
        if result == Err(TransmitError::Refused) {
            self.transmit_errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn flush(&self, queue: usize) {
        let pair = &self.pairs[queue];
        if pair.transmit.lock().wants_notification(&pair.transmit_ring)
            && !self.stopped.load(Ordering::Relaxed)
        {
            self.transport.notify(2 * queue as u16 + 1);
        }
    }

    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        let pair = &self.pairs[queue];
        let mut receive = pair.receive.lock();
        let mut count = 0;
        while count < budget {
            match receive.next(&pair.receive_ring) {
                Ok(Some(packet)) => sink(packet),
                Ok(None) => break,
                Err(Broken) => {
                    self.give_up();
                    break;
                }
            }
            count += 1;
        }
        pair.looked.store(receive.used(), Ordering::Relaxed);
        let notify = receive.publish(&pair.receive_ring);
        drop(receive);
        if notify && !self.stopped.load(Ordering::Relaxed) {
            self.transport.notify(2 * queue as u16);
        }
        count
    }

    fn arm(&self, queue: usize) -> bool {
        let pair = &self.pairs[queue];
        // Nobody may send for long: what was sent is given back before. A full ring has asked for an interrupt, and
        // its sender gives back.
        if !pair.full.load(Ordering::SeqCst) {
            self.reclaim(pair, &mut pair.transmit.lock());
        }
        let receive = pair.receive.lock();
        pair.receive_ring.want_interrupt(receive.used());
        receive.waits(&pair.receive_ring) && !self.stopped.load(Ordering::Relaxed)
    }

    fn disarm(&self, queue: usize) {
        let pair = &self.pairs[queue];
        if !pair.receive_ring.interrupts_once() {
            pair.receive_ring.want_none(0);
        }
    }

    fn link_up(&self) -> bool {
        if self.transport.status().contains(Status::NEEDS_RESET) {
            self.give_up();
        }
        !self.features.contains(Features::NET_STATUS) || config(&*self.transport).status & LINK_UP != 0
    }

    fn wants_announcement(&self) -> bool {
        self.features.contains(Features::NET_ANNOUNCE)
            && config(&*self.transport).status & ANNOUNCE != 0
            && self.control.as_ref().is_some_and(|control| control.lock().announced(&*self.transport))
    }

    fn link_speed(&self) -> Option<(u32, bool)> {
        if !self.features.contains(Features::NET_SPEED) {
            return None;
        }
        let config = config(&*self.transport);
        (config.speed != SPEED_UNKNOWN).then_some((config.speed, config.duplex == 1))
    }

    fn set_filter(&self, multicast: &[HardwareAddress], all: bool) {
        if let Some(control) = &self.control
            && self.features.contains(Features::NET_CONTROL_RECEIVE)
            && !self.stopped.load(Ordering::Relaxed)
        {
            control.lock().set_filter(&*self.transport, multicast, all);
        }
    }

    fn statistics(&self) -> DeviceStatistics {
        let mut sum = DeviceStatistics {
            transmit_errors: self.transmit_errors.load(Ordering::Relaxed),
            ..DeviceStatistics::default()
        };
        for pair in &self.pairs {
            let receive = pair.receive.lock();
            sum.receive_missed += receive.missed;
            sum.receive_errors += receive.errors;
        }
        sum
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Before the rings' memory goes.
        self.stop();
    }
}
