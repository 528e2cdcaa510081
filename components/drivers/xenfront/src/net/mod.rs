//! The network frontend (Xen, public/io/netif.h): a pair of rings for each CPU where the backend has several queues, checksums
//! and segmentation left to the backend, packets of several pages. When another backend takes the place of the one before,
//! it gets new rings; what was on the way is lost, as on a wire.

pub mod connect;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use alloc::{boxed::Box, string::ToString, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use once_cell::race::OnceBox;
use rumpnet::{
    device::{DeviceStatistics, HardwareAddress, NetworkDevice, Properties, TransmitError, Upcalls},
    packet::{Packet, Received},
};
use rumpuser::{
    device::{XenbusDevice, xenbus_state},
    sync::SpinLock,
};

use crate::{Networks, Refused, ring::Violation};
use receive::Receive;
use transmit::Transmit;

/// A backend of which nothing is left.
const GONE: u32 = 0;

/// A pair of rings; none without a backend.
struct Queue {
    channel: AtomicU32,
    receive: SpinLock<Option<Receive>>,
    transmit: SpinLock<Option<Transmit>>,
    /// The transmit ring was full, and an event is to tell when it no longer is.
    full: AtomicBool,
}

impl Queue {
    const fn new() -> Queue {
        Queue {
            channel: AtomicU32::new(0),
            receive: SpinLock::new(None),
            transmit: SpinLock::new(None),
            full: AtomicBool::new(false),
        }
    }
}

/// A network device.
pub struct Net {
    device: Arc<dyn XenbusDevice>,
    properties: Properties,
    /// Whoever uses it takes packets that nobody has summed or cut.
    takes_offloads: bool,
    queues: Box<[Queue]>,
    /// How many of them the backend has.
    used: AtomicUsize,
    upcalls: OnceBox<Box<dyn Upcalls>>,
    stopped: AtomicBool,
    connected: AtomicBool,
    /// The backend doesn't keep to the protocol.
    broken: AtomicBool,
    /// The backend is another one, perhaps elsewhere: the neighbours are to be told.
    moved: AtomicBool,
}

/// Takes a network device into use.
pub fn attach(device: &Arc<dyn XenbusDevice>, networks: &Networks) -> Result<(), Refused> {
    let net = connect::open(device, networks.offloads)?;
    let (changing, resuming, waiting) = (Arc::downgrade(&net), Arc::downgrade(&net), net.clone());
    if !(networks.attach)(net) {
        return Err(Refused);
    }
    device.set_state_handler(Box::new(move |state| {
        if let Some(net) = changing.upgrade() {
            net.backend_changed(state);
        }
    }));
    device.set_resume_handler(Box::new(move || resuming.upgrade().is_some_and(|net| net.reconnect())));
    // It may have changed before anybody listened.
    let connected = xenbus_state::CONNECTED.to_string();
    if device.backend_value("state").is_some_and(|state| state.trim() == connected) {
        waiting.backend_changed(xenbus_state::CONNECTED);
    }
    Ok(())
}

impl Net {
    fn notify(&self, queue: &Queue) {
        let channel = queue.channel.load(Ordering::Relaxed);
        if channel != 0 {
            self.device.notify(channel);
        }
    }

    fn upcall(&self, call: impl FnOnce(&dyn Upcalls)) {
        if let Some(upcalls) = self.upcalls.get()
            && !self.stopped.load(Ordering::SeqCst)
        {
            call(&**upcalls);
        }
    }

    /// The event of a pair of rings.
    fn interrupt(&self, index: usize) {
        if self.queues[index].full.swap(false, Ordering::SeqCst) {
            let sharing = (index..self.queues.len()).step_by(self.used());
            sharing.for_each(|queue| self.upcall(|upcalls| upcalls.room(queue)));
        }
        self.upcall(|upcalls| upcalls.interrupt(index));
    }

    /// How many of the queues have rings.
    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed).max(1)
    }

    /// Gives a device up whose backend doesn't keep to the protocol.
    fn check<T>(&self, result: Result<T, Violation>) -> Option<T> {
        if result.is_err() && !self.broken.swap(true, Ordering::SeqCst) {
            self.connected.store(false, Ordering::SeqCst);
            self.upcall(|upcalls| upcalls.gone());
        }
        result.ok()
    }

    pub fn backend_changed(&self, state: u32) {
        let stopped = self.stopped.load(Ordering::SeqCst);
        match state {
            // Another may come in its place.
            GONE if !stopped => self.disconnect(),
            xenbus_state::CONNECTED if self.waits() => {
                self.begin();
                self.moved.store(true, Ordering::SeqCst);
                self.upcall(|upcalls| upcalls.link_changed());
                (0..self.used()).for_each(|index| self.interrupt(index));
            }
            xenbus_state::CLOSING | xenbus_state::CLOSED | GONE => {
                self.connected.store(false, Ordering::SeqCst);
                self.upcall(|upcalls| upcalls.gone());
                self.stop();
                // The interface keeps the device for ever.
                if state != xenbus_state::CLOSING {
                    self.release();
                }
            }
            _ => {}
        }
    }

    /// Whether the backend has rings with which it doesn't work yet.
    fn waits(&self) -> bool {
        !self.connected.load(Ordering::SeqCst)
            && !self.broken.load(Ordering::SeqCst)
            && self.has_rings()
            && !self.stopped.load(Ordering::SeqCst)
    }

    fn has_rings(&self) -> bool {
        self.queues.iter().any(|queue| queue.transmit.lock().is_some())
    }

    fn disconnect(&self) {
        self.connected.store(false, Ordering::SeqCst);
        if self.has_rings() {
            self.close_events();
            self.release();
            self.upcall(|upcalls| upcalls.link_changed());
        }
    }

    fn close_events(&self) {
        for queue in &self.queues {
            let channel = queue.channel.swap(0, Ordering::SeqCst);
            if channel != 0 {
                self.device.close_event(channel);
            }
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
            self.close_events();
            if self.has_rings() {
                // So that the backend lets go of the pages.
                self.device.set_state(xenbus_state::CLOSED);
            }
        }
    }

    fn transmit(&self, queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TransmitError::Refused);
        }
        let queue = &self.queues[queue % self.used()];
        let mut transmit = queue.transmit.lock();
        let Some(transmit) = &mut *transmit else { return Err(TransmitError::Refused) };
        if transmit.is_low() {
            self.check(transmit.reclaim());
        }
        let mut result = transmit.add(packet);
        if result == Err(TransmitError::Full) {
            // Whoever filled the ring may not have flushed yet.
            if transmit.show() {
                self.notify(queue);
            }
            queue.full.store(true, Ordering::SeqCst);
            if self.check(transmit.arm()) == Some(true) {
                self.check(transmit.reclaim());
                result = transmit.add(packet);
            }
        }
        result
    }

    fn flush(&self, queue: usize) {
        let queue = &self.queues[queue % self.used()];
        if !self.stopped.load(Ordering::Relaxed) && queue.transmit.lock().as_mut().is_some_and(Transmit::show)
        {
            self.notify(queue);
        }
    }

    fn receive(&self, queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        if self.stopped.load(Ordering::Relaxed) {
            return 0;
        }
        let queue = &self.queues[queue];
        let mut receive = queue.receive.lock();
        let Some(receive) = &mut *receive else { return 0 };
        let mut count = 0;
        while count < budget
            && let Some(packet) = self.check(receive.next()).flatten()
        {
            sink(packet);
            count += 1;
        }
        if receive.show() {
            self.notify(queue);
        }
        count
    }

    fn arm(&self, queue: usize) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        let queue = &self.queues[queue];
        if let Some(transmit) = &mut *queue.transmit.lock() {
            self.check(transmit.reclaim());
        }
        let armed = queue.receive.lock().as_ref().map_or(Ok(false), Receive::arm);
        self.check(armed).unwrap_or(false)
    }

    fn disarm(&self, _queue: usize) {
        // The event that was wanted comes once at most.
    }

    /// Bulk comes in the backend's batches, with an event for each; a timer would cost more than that.
    fn set_moderation(&self, _queue: usize, _microseconds: u32) -> bool {
        true
    }

    fn link_up(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    fn wants_announcement(&self) -> bool {
        self.moved.swap(false, Ordering::SeqCst)
    }

    fn set_filter(&self, _multicast: &[HardwareAddress], _all: bool) {
        // The backend sends everything that the bridge does.
    }

    fn statistics(&self) -> DeviceStatistics {
        let mut sum = DeviceStatistics::default();
        for queue in &self.queues {
            if let Some(receive) = &*queue.receive.lock() {
                sum.receive_errors += receive.errors;
                sum.receive_missed += receive.missed;
            }
            sum.transmit_errors += queue.transmit.lock().as_ref().map_or(0, |transmit| transmit.errors);
        }
        sum
    }
}
