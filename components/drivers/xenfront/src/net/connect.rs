//! How a network device and its backend find each other: at first, after the domain was restored, and when a backend has taken
//! the place of another.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use once_cell::race::OnceBox;
use rumpnet::device::{HardwareAddress, Offloads, Properties};
use rumpuser::{
    device::{XenbusDevice, xenbus_state},
    rumpuser_cpu_count,
};

use super::{Net, Queue, receive::Receive, transmit::MOST_FRAGMENTS, transmit::Transmit};
use crate::{Refused, offers};

const USUAL_MTU: usize = 1500;
/// The largest packet, less the link header.
const LARGEST_MTU: usize = 65535 - 14;
/// The most queues: each has a page in every slot of its receive ring, 1 MiB.
const QUEUES: usize = 8;
/// What this frontend takes.
const FEATURES: [&str; 3] = ["request-rx-copy", "feature-rx-notify", "feature-sg"];
/// What it takes for those who take packets that nobody has summed or cut, and what it says otherwise.
const OFFLOADS: [&str; 3] = ["feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"];
const NO_OFFLOADS: [&str; 1] = ["feature-no-csum-offload"];

/// Reads `xx:xx:xx:xx:xx:xx`.
fn hardware_address(text: &str) -> Option<HardwareAddress> {
    let mut address = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut address {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(address)
}

fn address(device: &dyn XenbusDevice) -> Option<HardwareAddress> {
    hardware_address(&device.frontend_value("mac")?)
}

/// Waits until a backend is ready for a frontend.
fn meet(device: &dyn XenbusDevice) -> Result<(), Refused> {
    let waits = device.wait_for_backend(&[xenbus_state::INIT_WAIT]) == xenbus_state::INIT_WAIT;
    // Every backend of this century copies received packets, and takes packets in pieces.
    if waits && offers(device, "feature-rx-copy") && offers(device, "feature-sg") {
        Ok(())
    } else {
        Err(Refused)
    }
}

fn offloads(device: &dyn XenbusDevice) -> Offloads {
    // One switch for both versions of IP.
    if !offers(device, "feature-ipv6-csum-offload") {
        return Offloads::empty();
    }
    let mut offloads = Offloads::CHECKSUM;
    offloads.set(Offloads::SEGMENTATION_4, offers(device, "feature-gso-tcpv4"));
    offloads.set(Offloads::SEGMENTATION_6, offers(device, "feature-gso-tcpv6"));
    offloads
}

/// How many queues the backend has.
fn queues(device: &dyn XenbusDevice) -> usize {
    device.backend_value("multi-queue-max-queues").and_then(|count| count.trim().parse().ok()).unwrap_or(1)
}

/// Sets up the device.
pub fn open(device: &Arc<dyn XenbusDevice>, takes_offloads: bool) -> Result<Arc<Net>, Refused> {
    meet(&**device)?;
    let address = address(&**device).ok_or(Refused)?;
    let count = queues(&**device).clamp(1, rumpuser_cpu_count().clamp(1, QUEUES));
    let net = Arc::new(Net {
        device: device.clone(),
        properties: Properties {
            driver: "xenfront",
            location: format!("vif-{}", device.number()),
            address,
            mtu_limit: LARGEST_MTU,
            mtu: USUAL_MTU,
            queues: count,
            offloads: if takes_offloads { offloads(&**device) } else { Offloads::empty() },
            fragment_limit: MOST_FRAGMENTS,
        },
        takes_offloads,
        queues: (0..count).map(|_| Queue::new()).collect(),
        used: AtomicUsize::new(count),
        upcalls: OnceBox::new(),
        stopped: AtomicBool::new(false),
        connected: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        moved: AtomicBool::new(false),
    });
    net.connect()?;
    Ok(net)
}

impl Net {
    /// Makes rings, and shows them to a backend that waits for them.
    fn connect(self: &Arc<Self>) -> Result<(), Refused> {
        let result = self.offer_rings();
        if result.is_err() {
            self.close_events();
            self.release();
        }
        result
    }

    fn offer_rings(self: &Arc<Self>) -> Result<(), Refused> {
        let offloads: &[&str] = if self.takes_offloads { &OFFLOADS } else { &NO_OFFLOADS };
        let features = FEATURES.iter().chain(offloads);
        let mut values: Vec<(String, String)> =
            features.map(|feature| (feature.to_string(), "1".into())).collect();
        let count = queues(&*self.device).clamp(1, self.queues.len());
        self.used.store(count, Ordering::SeqCst);
        let several = count > 1;
        if self.queues.len() > 1 {
            // The backend before may have had more.
            values.push(("multi-queue-num-queues".into(), count.to_string()));
        }
        for (index, queue) in self.queues.iter().take(count).enumerate() {
            let prefix = if several { format!("queue-{index}/") } else { String::new() };
            let (mut receive, receive_reference) = Receive::new(self.device.clone())?;
            let (transmit, transmit_reference) = Transmit::new(self.device.clone())?;
            receive.show();
            *queue.receive.lock() = Some(receive);
            *queue.transmit.lock() = Some(transmit);
            let interrupted = Arc::downgrade(self);
            let handler = move || {
                if let Some(net) = interrupted.upgrade() {
                    net.interrupt(index);
                }
            };
            let cpu = index % rumpuser_cpu_count().max(1);
            let channel = self.device.establish_event(cpu, Box::new(handler)).ok_or(Refused)?;
            queue.channel.store(channel, Ordering::SeqCst);
            values.push((format!("{prefix}tx-ring-ref"), transmit_reference.to_string()));
            values.push((format!("{prefix}rx-ring-ref"), receive_reference.to_string()));
            values.push((format!("{prefix}event-channel"), channel.to_string()));
        }
        let values: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let published = self.device.publish(&values);
        self.device.set_state(xenbus_state::CONNECTED);
        let ends = [xenbus_state::CONNECTED, xenbus_state::CLOSING, xenbus_state::CLOSED];
        match self.device.wait_for_backend(&ends) {
            _ if !published => Err(Refused),
            xenbus_state::CONNECTED => {
                self.begin();
                Ok(())
            }
            // It takes its time (a script of the backend's host, for one): the carrier is missing until then.
            xenbus_state::INIT_WAIT | xenbus_state::INITIALISED => Ok(()),
            _ => Err(Refused),
        }
    }

    /// The backend works with the rings from now on.
    pub(super) fn begin(&self) {
        self.connected.store(true, Ordering::SeqCst);
        self.queues.iter().for_each(|queue| self.notify(queue));
    }

    /// Takes all pages back.
    pub(super) fn release(&self) {
        for queue in &self.queues {
            let receive = queue.receive.lock().take();
            let transmit = queue.transmit.lock().take();
            drop((receive, transmit));
        }
    }

    /// Goes on with a backend that has taken the place of the one before, if it offers as much. The channels of before are
    /// closed, or those of another domain.
    pub fn reconnect(self: &Arc<Self>) -> bool {
        if self.stopped.load(Ordering::SeqCst) || self.broken.load(Ordering::SeqCst) {
            return false;
        }
        self.connected.store(false, Ordering::SeqCst);
        self.queues.iter().for_each(|queue| queue.channel.store(0, Ordering::SeqCst));
        self.release();
        self.upcall(|upcalls| upcalls.link_changed());
        let device = &*self.device;
        // What the interface knows of the device has to hold.
        let fits = meet(device).is_ok()
            && address(device) == Some(self.properties.address)
            && offloads(device).contains(self.properties.offloads);
        if !fits || self.connect().is_err() {
            let gone = device.backend_value("state").is_none();
            if !gone {
                self.upcall(|upcalls| upcalls.gone());
            }
            return gone;
        }
        if !self.connected.load(Ordering::SeqCst) {
            return true;
        }
        self.moved.store(true, Ordering::SeqCst);
        self.upcall(|upcalls| upcalls.link_changed());
        for index in 0..self.used() {
            self.queues[index].full.store(true, Ordering::SeqCst);
            self.interrupt(index);
        }
        true
    }
}
