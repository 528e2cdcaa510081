//! The loopback device: what is sent on a queue is received on it, at the next flush.

use alloc::{boxed::Box, collections::VecDeque, string::String, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::{rumpuser_cpu_count, sync::SpinLock};

use crate::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, TransmitError, Upcalls,
    },
    packet::{Checksum, Packet, Received},
};

/// Packets that a queue holds until they are delivered.
pub(super) const LIMIT: usize = 1024;

#[derive(Default)]
struct Queue {
    packets: SpinLock<VecDeque<Received>>,
    length: AtomicUsize,
}

/// The device.
pub struct Loopback {
    properties: Properties,
    queues: Vec<Queue>,
}

impl Loopback {
    /// With a queue for each CPU.
    pub fn new() -> Self {
        let queues = rumpuser_cpu_count().max(1);
        Loopback {
            properties: Properties {
                driver: "loopback",
                location: String::new(),
                address: [0; 6],
                mtu_limit: 65536,
                mtu: 65536,
                queues,
                offloads: Offloads::all(),
                fragment_limit: usize::MAX,
            },
            queues: (0..queues).map(|_| Queue::default()).collect(),
        }
    }
}

impl NetworkDevice for Loopback {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn start(&self, _upcalls: Box<dyn Upcalls>) {}

    fn stop(&self) {}

    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        let queue = &self.queues[queue];
        // Nothing makes room but delivery, for which the sender may hold a lock: what is too much is lost.
        if queue.length.load(Ordering::Relaxed) >= LIMIT {
            return Err(TransmitError::Refused);
        }
        let packet = core::mem::take(packet);
        let segment_size = packet.segmentation.map_or(0, |segmentation| segmentation.size);
        let checksum = match packet.checksum {
            Checksum::Unknown => Checksum::Verified,
            known => known,
        };
        let Ok(data) = packet.into_chain() else { return Err(TransmitError::Refused) };
        let mut packets = queue.packets.lock();
        packets.push_back(Received { data, checksum, segment_size });
        queue.length.store(packets.len(), Ordering::Release);
        Ok(())
    }

    fn flush(&self, _queue: usize) {}

    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        let queue = &self.queues[queue];
        let mut count = 0;
        while count < budget && queue.length.load(Ordering::Acquire) > 0 {
            // One by one: the receiver may send.
            let mut packets = queue.packets.lock();
            let next = packets.pop_front();
            queue.length.store(packets.len(), Ordering::Release);
            drop(packets);
            let Some(packet) = next else { break };
            sink(packet);
            count += 1;
        }
        count
    }

    fn arm(&self, queue: usize) -> bool {
        self.queues[queue].length.load(Ordering::SeqCst) > 0
    }

    fn disarm(&self, _queue: usize) {}

    fn link_up(&self) -> bool {
        true
    }

    fn set_filter(&self, _multicast: &[HardwareAddress], _all: bool) {}

    fn statistics(&self) -> DeviceStatistics {
        DeviceStatistics::default()
    }
}
