//! The network frontend (Xen, public/io/netif.h): one pair of rings, checksums and segmentation left to the backend,
//! packets of several pages.

mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use alloc::{boxed::Box, format, string::ToString, sync::Arc};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use once_cell::race::OnceBox;
use rumpnet::{
    device::{
        DeviceStatistics, HardwareAddress, NetworkDevice, Offloads, Properties, TransmitError, Upcalls,
    },
    interface,
    packet::{Packet, Received},
};
use rumpuser::{
    device::{XenbusDevice, xenbus_state},
    sync::SpinLock,
};

use crate::{Refused, offers, ring::Violation};
use receive::Receive;
use transmit::{MOST_FRAGMENTS, Transmit};

const USUAL_MTU: usize = 1500;
/// The largest packet, less the link header.
const LARGEST_MTU: usize = 65535 - 14;

/// A network device.
struct Net {
    device: Arc<dyn XenbusDevice>,
    properties: Properties,
    channel: AtomicU32,
    receive: SpinLock<Receive>,
    transmit: SpinLock<Transmit>,
    /// The transmit ring was full, and an event is to tell when it no longer is.
    full: AtomicBool,
    upcalls: OnceBox<Box<dyn Upcalls>>,
    stopped: AtomicBool,
    connected: AtomicBool,
}

/// Takes a network device into use.
pub fn attach(device: &Arc<dyn XenbusDevice>) -> Result<(), Refused> {
    let net = open(device)?;
    let weak = Arc::downgrade(&net);
    interface::attach(net).ok_or(Refused)?;
    device.set_state_handler(Box::new(move |state| {
        if let Some(net) = weak.upgrade() {
            net.backend_changed(state);
        }
    }));
    Ok(())
}

/// Reads `xx:xx:xx:xx:xx:xx`.
fn hardware_address(text: &str) -> Option<HardwareAddress> {
    let mut address = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut address {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(address)
}

/// Sets up the device.
fn open(device: &Arc<dyn XenbusDevice>) -> Result<Arc<Net>, Refused> {
    if device.wait_for_backend(&[xenbus_state::INIT_WAIT]) != xenbus_state::INIT_WAIT {
        return Err(Refused);
    }
    let has = |feature| offers(&**device, feature);
    // Every backend of this century copies received packets, and takes packets in pieces.
    if !has("feature-rx-copy") || !has("feature-sg") {
        return Err(Refused);
    }
    let address = device.frontend_value("mac").and_then(|mac| hardware_address(&mac)).ok_or(Refused)?;
    let (receive, receive_reference) = Receive::new(device.clone())?;
    let (transmit, transmit_reference) = Transmit::new(device.clone())?;
    let mut offloads = Offloads::empty();
    offloads.set(Offloads::SEGMENTATION_4, has("feature-gso-tcpv4"));
    offloads.set(Offloads::SEGMENTATION_6, has("feature-gso-tcpv6") && has("feature-ipv6-csum-offload"));
    // One switch for both versions of IP.
    offloads.set(Offloads::CHECKSUM, has("feature-ipv6-csum-offload"));
    if !offloads.contains(Offloads::CHECKSUM) {
        offloads = Offloads::empty();
    }
    let net = Arc::new(Net {
        device: device.clone(),
        properties: Properties {
            driver: "xenfront",
            location: format!("vif-{}", device.number()),
            address,
            mtu_limit: LARGEST_MTU,
            mtu: USUAL_MTU,
            queues: 1,
            offloads,
            fragment_limit: MOST_FRAGMENTS,
        },
        channel: AtomicU32::new(0),
        receive: SpinLock::new(receive),
        transmit: SpinLock::new(transmit),
        full: AtomicBool::new(false),
        upcalls: OnceBox::new(),
        stopped: AtomicBool::new(false),
        connected: AtomicBool::new(false),
    });
    let interrupted = Arc::downgrade(&net);
    let handler = move || {
        if let Some(net) = interrupted.upgrade() {
            net.interrupt();
        }
    };
    let channel = device.establish_event(0, Box::new(handler)).ok_or(Refused)?;
    net.channel.store(channel, Ordering::SeqCst);
    net.receive.lock().show();
    let yes = || "1".to_string();
    let published = device.publish(&[
        ("tx-ring-ref", transmit_reference.to_string()),
        ("rx-ring-ref", receive_reference.to_string()),
        ("event-channel", channel.to_string()),
        ("request-rx-copy", yes()),
        ("feature-rx-notify", yes()),
        ("feature-sg", yes()),
        ("feature-gso-tcpv4", yes()),
        ("feature-gso-tcpv6", yes()),
        ("feature-ipv6-csum-offload", yes()),
    ]);
    device.set_state(xenbus_state::CONNECTED);
    let ends = [xenbus_state::CONNECTED, xenbus_state::CLOSING, xenbus_state::CLOSED];
    if !published || device.wait_for_backend(&ends) != xenbus_state::CONNECTED {
        device.close_event(channel);
        device.set_state(xenbus_state::CLOSED);
        return Err(Refused);
    }
    net.connected.store(true, Ordering::SeqCst);
    net.notify();
    Ok(net)
}

impl Net {
    fn notify(&self) {
        self.device.notify(self.channel.load(Ordering::Relaxed));
    }

    fn upcall(&self, call: impl FnOnce(&dyn Upcalls)) {
        if let Some(upcalls) = self.upcalls.get()
            && !self.stopped.load(Ordering::SeqCst)
        {
            call(&**upcalls);
        }
    }

    fn interrupt(&self) {
        if self.full.swap(false, Ordering::SeqCst) {
            self.upcall(|upcalls| upcalls.room(0));
        }
        self.upcall(|upcalls| upcalls.interrupt(0));
    }

    /// Gives a device up whose backend doesn't keep to the protocol.
    fn check<T>(&self, result: Result<T, Violation>) -> Option<T> {
        if result.is_err() && self.connected.swap(false, Ordering::SeqCst) {
            self.upcall(|upcalls| upcalls.gone());
        }
        result.ok()
    }

    fn backend_changed(&self, state: u32) {
        let up = state == xenbus_state::CONNECTED;
        if up || !self.connected.swap(false, Ordering::SeqCst) {
            return;
        }
        self.upcall(|upcalls| upcalls.gone());
        self.stop();
        self.device.set_state(xenbus_state::CLOSED);
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
            self.device.close_event(self.channel.load(Ordering::Relaxed));
        }
    }

    fn transmit(&self, _queue: usize, packet: &mut Packet) -> Result<(), TransmitError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(TransmitError::Refused);
        }
        let mut transmit = self.transmit.lock();
        if transmit.is_low() {
            self.check(transmit.reclaim());
        }
        let mut result = transmit.add(packet);
        if result == Err(TransmitError::Full) {
            // Whoever filled the ring may not have flushed yet.
            if transmit.show() {
                self.notify();
            }
            self.full.store(true, Ordering::SeqCst);
            if self.check(transmit.arm()) == Some(true) {
                self.check(transmit.reclaim());
                result = transmit.add(packet);
            }
        }
        result
    }

    fn flush(&self, _queue: usize) {
        if !self.stopped.load(Ordering::Relaxed) && self.transmit.lock().show() {
            self.notify();
        }
    }

    fn receive(&self, _queue: usize, budget: usize, sink: &mut dyn FnMut(Received)) -> usize {
        if self.stopped.load(Ordering::Relaxed) {
            return 0;
        }
        let mut receive = self.receive.lock();
        let mut count = 0;
        while count < budget
            && let Some(packet) = self.check(receive.next()).flatten()
        {
            sink(packet);
            count += 1;
        }
        if receive.show() {
            self.notify();
        }
        count
    }

    fn arm(&self, _queue: usize) -> bool {
        if self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        self.check(self.transmit.lock().reclaim());
        let armed = self.receive.lock().arm();
        self.check(armed).unwrap_or(false)
    }

    fn disarm(&self, _queue: usize) {
        // The event that was wanted comes once at most.
    }

    fn link_up(&self) -> bool {
        self.connected.load(Ordering::SeqCst)
    }

    fn set_filter(&self, _multicast: &[HardwareAddress], _all: bool) {
        // The backend sends everything that the bridge does.
    }

    fn statistics(&self) -> DeviceStatistics {
        let (receive_errors, receive_missed) = {
            let receive = self.receive.lock();
            (receive.errors, receive.missed)
        };
        DeviceStatistics { receive_missed, receive_errors, transmit_errors: self.transmit.lock().errors }
    }
}
