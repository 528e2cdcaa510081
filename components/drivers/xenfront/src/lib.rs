//! Frontends of the devices that other domains of Xen offer: network and block. Their rings are written by the backend,
//! which is not trusted: what it writes is checked before it is used.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "host"))]
extern crate std;

mod block;
#[cfg(any(test, feature = "host"))]
pub mod fuzz;
#[cfg(any(test, feature = "host"))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzzing uses a part of it"))]
mod model;
mod net;
mod page;
mod ring;

use alloc::{format, sync::Arc};

use rumpnet::device::NetworkDevice;
use rumpuser::{
    device::{Driver, XenbusDevice, xenbus_state},
    rumpuser_console_write,
};

/// The driver to register with the platform.
pub struct Xenfront {
    /// Who takes network devices.
    pub networks: Networks,
}

/// A user of network devices.
pub struct Networks {
    /// Takes a device into use; false if it can't.
    pub attach: fn(Arc<dyn NetworkDevice>) -> bool,
    /// Whether it can have the device sum and cut what it sends, and takes packets that nobody has summed or cut.
    pub offloads: bool,
}

impl Networks {
    /// The project's own.
    pub const BUILT_IN: Networks =
        Networks { attach: |device| rumpnet::interface::attach(device).is_some(), offloads: true };
}

/// A device can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused;

impl Driver for Xenfront {
    fn name(&self) -> &'static str {
        "xenfront"
    }

    fn attach_xenbus(&self, device: &Arc<dyn XenbusDevice>) -> bool {
        let result = match device.kind() {
            "vif" => net::attach(device, &self.networks),
            // What an HVM domain starts from, and no driver of a machine reads.
            "vbd" if device.frontend_value("device-type").is_some_and(|kind| kind.trim() == "cdrom") => {
                return false;
            }
            "vbd" => block::attach(device),
            _ => return false,
        };
        if result.is_err() {
            device.set_state(xenbus_state::CLOSED);
            let message = format!("xenfront: {} {} does not work\n", device.kind(), device.number());
            rumpuser_console_write(message.as_bytes());
        }
        true
    }
}

/// Whether the backend says yes to something.
fn offers(device: &dyn XenbusDevice, feature: &str) -> bool {
    device.backend_value(feature).is_some_and(|value| value.trim() == "1")
}
