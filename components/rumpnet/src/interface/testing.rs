//! A network device for tests on the host: it keeps what is sent, or passes it to another one, and on the way loses,
//! doubles, reorders, cuts and changes packets.

use alloc::{
    boxed::Box,
    collections::VecDeque,
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::Mutex;

use crate::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, TransmitError, Upcalls,
    },
    packet::{Chain, Checksum, Packet, Received, Segmentation},
};

/// What happens to packets on the way, in packets of 1000.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Are lost.
    pub lost: u32,
    /// Arrive twice.
    pub doubled: u32,
    /// Arrive after the next one.
    pub reordered: u32,
    /// Lose bytes at the end.
    pub cut: u32,
    /// Arrive with a changed byte.
    pub changed: u32,
}

/// A packet that the device was given to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The bytes, from the link header on.
    pub bytes: Vec<u8>,
    /// What the device was to do about the checksum.
    pub checksum: Checksum,
    /// Whether the device was to cut it.
    pub segmentation: Option<Segmentation>,
}

#[derive(Default)]
struct State {
    upcalls: Option<Box<dyn Upcalls>>,
    /// Sent, but not flushed.
    ring: VecDeque<(usize, Sent)>,
    /// Sent and flushed, without a peer.
    sent: Vec<Sent>,
    held: Option<Received>,
    peer: Weak<TestDevice>,
    faults: Faults,
    multicast: Vec<HardwareAddress>,
    random: u64,
}

/// The device.
pub struct TestDevice {
    properties: Properties,
    state: Mutex<State>,
    inbox: Vec<Mutex<VecDeque<Received>>>,
    armed: Vec<AtomicBool>,
    link: AtomicBool,
    moved: AtomicBool,
    ring_size: AtomicUsize,
    full: AtomicBool,
    stalled: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl TestDevice {
    /// A device with these offloads and queues, Ethernet, an MTU of 1500.
    pub fn new(offloads: Offloads, queues: usize) -> Arc<TestDevice> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [_, a, b, c] = number.to_be_bytes();
        Arc::new(TestDevice {
            properties: Properties {
                driver: "test",
                location: format!("test:{number}"),
                address: [2, 0, 0, a, b, c],
                mtu_limit: 9000,
                mtu: 1500,
                queues,
                offloads,
                fragment_limit: 17,
            },
            state: Mutex::new(State { random: u64::from(number) * 0x9e37_79b9, ..State::default() }),
            inbox: (0..queues).map(|_| Mutex::default()).collect(),
            armed: (0..queues).map(|_| AtomicBool::new(false)).collect(),
            link: AtomicBool::new(true),
            moved: AtomicBool::new(false),
            ring_size: AtomicUsize::new(256),
            full: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        })
    }

    /// Two devices at the ends of a wire.
    pub fn pair(offloads: Offloads, queues: usize) -> (Arc<TestDevice>, Arc<TestDevice>) {
        let (one, other) = (TestDevice::new(offloads, queues), TestDevice::new(offloads, queues));
        lock(&one.state).peer = Arc::downgrade(&other);
        lock(&other.state).peer = Arc::downgrade(&one);
        (one, other)
    }

    /// Sets what happens to what this device sends (with a peer) and what is injected.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// Plugs the cable in or out.
    pub fn set_link(&self, up: bool) {
        self.link.store(up, Ordering::SeqCst);
        if let Some(upcalls) = &lock(&self.state).upcalls {
            upcalls.link_changed();
        }
    }

    /// Takes it to another place of the network, without a pause that anybody sees.
    pub fn set_moved(&self) {
        self.moved.store(true, Ordering::SeqCst);
        self.set_link(true);
    }

    /// Takes the device away.
    pub fn vanish(&self) {
        if let Some(upcalls) = &lock(&self.state).upcalls {
            upcalls.gone();
        }
    }

    /// How many packets the ring holds until they are flushed.
    pub fn set_ring_size(&self, packets: usize) {
        self.ring_size.store(packets, Ordering::SeqCst);
        if self.full.swap(false, Ordering::SeqCst) {
            for queue in 0..self.properties.queues {
                if let Some(upcalls) = &lock(&self.state).upcalls {
                    upcalls.room(queue);
                }
            }
        }
    }

    /// Makes it take nothing off its ring, or go on. Flushes reach every device, those of other tests too.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::SeqCst);
    }

    /// What was sent since the last call, of a device without a peer. Another test's flush may have been about to reach it.
    pub fn take_sent(&self) -> Vec<Sent> {
        (0..self.properties.queues).for_each(|queue| self.flush(queue));
        core::mem::take(&mut lock(&self.state).sent)
    }

    /// The multicast addresses that are wanted.
    pub fn multicast(&self) -> Vec<HardwareAddress> {
        lock(&self.state).multicast.clone()
    }

    /// Lets a packet arrive, as bytes from the link header on, with the faults that are set.
    pub fn inject(&self, queue: usize, bytes: &[u8]) {
        let data = Chain::copy_of(bytes).expect("memory");
        self.arrive(queue, Received { data, ..Received::default() });
    }

    /// Lets a packet arrive, with the faults that are set.
    pub fn arrive(&self, queue: usize, packet: Received) {
        let mut state = lock(&self.state);
        let faults = state.faults;
        let mut happens = |per_mille: u32| {
            // xorshift64
            state.random ^= state.random << 13;
            state.random ^= state.random >> 7;
            state.random ^= state.random << 17;
            state.random % 1000 < u64::from(per_mille)
        };
        let (lost, doubled, reordered) =
            (happens(faults.lost), happens(faults.doubled), happens(faults.reordered));
        let (cut, changed) = (happens(faults.cut), happens(faults.changed));
        let held = state.held.take();
        let random = state.random as usize;
        let mut arriving = Vec::new();
        if !lost {
            let mut packet = packet;
            if (cut || changed) && !packet.data.is_empty() {
                let mut bytes = std::vec![0; packet.data.len()];
                packet.data.copy_to(0, &mut bytes);
                let position = random % bytes.len();
                if changed {
                    bytes[position] ^= 0x10;
                }
                if cut {
                    bytes.truncate(position);
                }
                packet.data = Chain::copy_of(&bytes).expect("memory");
                packet.checksum = Checksum::Unknown;
            }
            if doubled {
                arriving.push(Received { data: packet.data.clone(), ..packet });
            }
            if reordered && held.is_none() {
                state.held = Some(packet);
            } else {
                arriving.push(packet);
            }
        }
        arriving.extend(held);
        drop(state);
        lock(&self.inbox[queue]).extend(arriving);
        if self.armed[queue].swap(false, Ordering::SeqCst)
            && let Some(upcalls) = &lock(&self.state).upcalls
        {
            upcalls.interrupt(queue);
        }
    }
}

impl NetworkDevice for TestDevice {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn start(&self, upcalls: Box<dyn Upcalls>) {
        lock(&self.state).upcalls = Some(upcalls);
    }

    fn stop(&self) {
        lock(&self.state).upcalls = None;
    }

    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        assert!(packet.payload.fragments().len() <= self.properties.fragment_limit);
        let mut state = lock(&self.state);
        if state.ring.len() >= self.ring_size.load(Ordering::SeqCst) {
            self.full.store(true, Ordering::SeqCst);
            return Err(TransmitError::Full);
        }
        let packet = core::mem::take(packet);
        let (checksum, segmentation) = (packet.checksum, packet.segmentation);
        let mut bytes = packet.header.bytes().to_vec();
        for fragment in packet.payload.fragments() {
            bytes.extend_from_slice(fragment.bytes());
        }
        state.ring.push_back((queue, Sent { bytes, checksum, segmentation }));
        Ok(())
    }

    fn flush(&self, queue: usize) {
        if self.stalled.load(Ordering::SeqCst) {
            return;
        }
        let mut state = lock(&self.state);
        let (flushed, left) =
            core::mem::take(&mut state.ring).into_iter().partition(|(index, _)| *index == queue);
        state.ring = left;
        let flushed: VecDeque<(usize, Sent)> = flushed;
        let Some(peer) = state.peer.upgrade() else {
            state.sent.extend(flushed.into_iter().map(|(_, sent)| sent));
            return;
        };
        drop(state);
        if !self.link_up() || !peer.link_up() {
            return;
        }
        for (index, sent) in flushed {
            let data = Chain::copy_of(&sent.bytes).expect("memory");
            let segment_size = sent.segmentation.map_or(0, |segmentation| segmentation.size);
            peer.arrive(index, Received { data, checksum: sent.checksum, segment_size });
        }
    }

    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        for count in 0..budget {
            let Some(packet) = lock(&self.inbox[queue]).pop_front() else { return count };
            sink(packet);
        }
        budget
    }

    fn arm(&self, queue: usize) -> bool {
        self.armed[queue].store(true, Ordering::SeqCst);
        let waits = !lock(&self.inbox[queue]).is_empty();
        if waits {
            self.armed[queue].store(false, Ordering::SeqCst);
        }
        waits
    }

    fn disarm(&self, queue: usize) {
        self.armed[queue].store(false, Ordering::SeqCst);
    }

    fn wants_announcement(&self) -> bool {
        self.moved.swap(false, Ordering::SeqCst)
    }

    fn link_up(&self) -> bool {
        self.link.load(Ordering::SeqCst)
    }

    fn set_filter(&self, multicast: &[HardwareAddress], _all: bool) {
        lock(&self.state).multicast = multicast.to_vec();
    }

    fn statistics(&self) -> DeviceStatistics {
        DeviceStatistics::default()
    }
}

/// Waits for what another thread, which polls the loopback, may be about to do.
#[cfg(test)]
pub(crate) fn eventually<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(std::time::Instant::now() < end, "it never happened");
        super::poll();
        std::thread::yield_now();
    }
}
