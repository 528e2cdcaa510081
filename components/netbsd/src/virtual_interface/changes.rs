//! Interfaces while the image runs: the thread that makes and configures those of devices that come, turns those off whose
//! devices are gone, and tells the neighbours when a device has moved.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use rumpnet::device::TransmitError;
use rumpuser::{rumpuser_clock_monotonic, rumpuser_park};

use super::{LOOK, PATIENCE, PORTS, Port, make, name, packet_of};
use crate::{event::Event, network};

/// Something has changed.
static CHANGED: Event = Event::new();

/// May be called in interrupt handlers.
pub fn happened() {
    CHANGED.raise();
}

/// Follows changes from now on. The interfaces of [`super::create`] have been configured.
pub fn watch() {
    CHANGED.follow("interfaces", look);
}

fn look() {
    let ports: Vec<Arc<Port>> = PORTS.lock().0.clone();
    for (number, port) in ports.iter().enumerate() {
        if port.changed.swap(false, Ordering::SeqCst) {
            follow(number, port);
        }
    }
}

fn follow(number: usize, port: &Arc<Port>) {
    let name = name(number);
    let configured = port.configured.load(Ordering::SeqCst);
    // Another device can't take its place meanwhile.
    let gone = Some(port.device.lock()).filter(|_| port.is_gone()).map(|device| device.clone());
    if let Some(device) = gone {
        device.stop();
        if configured {
            port.configured.store(false, Ordering::SeqCst);
            network::went(&name);
        }
        return;
    }
    let device = port.device();
    let moved = device.link_up() && device.wants_announcement();
    let has_interface = !port.interface.load(Ordering::SeqCst).is_null();
    if !configured {
        if !has_interface && !make(number) {
            return;
        }
        port.configured.store(true, Ordering::SeqCst);
        network::came(&name);
    }
    if has_interface && (moved || port.moved.swap(false, Ordering::SeqCst)) {
        network::moved(&name, |frame| send(port, frame));
    }
}

/// Sends a frame, without a virtual CPU.
fn send(port: &Port, frame: &[u8]) {
    let Some(mut packet) = packet_of(&[frame]) else { return };
    let device = port.device();
    let deadline = rumpuser_clock_monotonic() + PATIENCE;
    while device.transmit(0, &mut packet) == Err(TransmitError::Full) && rumpuser_clock_monotonic() < deadline
    {
        rumpuser_park(rumpuser_clock_monotonic() + LOOK);
    }
    device.flush(0);
}
