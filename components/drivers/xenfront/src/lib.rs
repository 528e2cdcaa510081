//! Frontends of the devices that other domains of Xen offer: network and block. Their rings are written by the backend,
//! which is not trusted: what it writes is checked before it is used.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod block;
#[cfg(test)]
mod model;
#[cfg(feature = "net")]
mod net;
mod ring;

use alloc::{format, sync::Arc};

use rumpuser::{
    device::{Driver, XenbusDevice},
    rumpuser_console_write,
};

/// The driver to register with the platform.
pub struct Xenfront;

/// A device can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused;

impl Driver for Xenfront {
    fn name(&self) -> &'static str {
        "xenfront"
    }

    fn attach_xenbus(&self, device: &Arc<dyn XenbusDevice>) -> bool {
        let result = match device.kind() {
            #[cfg(feature = "net")]
            "vif" => net::attach(device),
            "vbd" => block::attach(device),
            _ => return false,
        };
        if result.is_err() {
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
