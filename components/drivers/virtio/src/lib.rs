//! Virtio (version 1.2): transports over PCI and memory-mapped registers, split queues, disks, networks, entropy devices.
//!
//! The device is not trusted: what it writes is checked before it is used as an index or a length, so that a
//! faulty or hostile one can deliver wrong data, but not corrupt memory.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod block;
pub mod entropy;
mod features;
#[cfg(test)]
mod model;
#[cfg(feature = "net")]
mod net;
mod queue;
mod transport;

use alloc::{boxed::Box, format, sync::Arc};

use rumpuser::{
    device::{Driver, MmioDevice, PciDevice},
    rumpuser_console_write,
};
use transport::{Transport, mmio, pci};

/// The device types that have a driver here (virtio 1.2, section 5).
mod device_type {
    #[cfg(feature = "net")]
    pub const NETWORK: u32 = 1;
    pub const BLOCK: u32 = 2;
    pub const ENTROPY: u32 = 4;
}

/// The driver to register with the platform.
pub struct Virtio {
    /// Takes random bytes from entropy devices. Called in interrupt handlers.
    pub entropy: fn(&[u8]),
}

impl Virtio {
    fn attach(&self, transport: Box<dyn Transport>) -> bool {
        let transport: Arc<dyn Transport> = transport.into();
        let kind = transport.device_type();
        let result = match kind {
            #[cfg(feature = "net")]
            device_type::NETWORK => net::attach(transport.clone()),
            device_type::BLOCK => block::attach(transport.clone()),
            device_type::ENTROPY => entropy::attach(transport.clone(), self.entropy),
            _ => return false,
        };
        if result.is_err() {
            transport.fail();
            let message = format!("virtio: a device of type {kind} does not work\n");
            rumpuser_console_write(message.as_bytes());
        }
        // A device that failed is of no use to another driver either.
        true
    }
}

impl Driver for Virtio {
    fn name(&self) -> &'static str {
        "virtio"
    }

    fn attach_pci(&self, device: &Arc<dyn PciDevice>) -> bool {
        pci::Pci::new(device).is_some_and(|transport| self.attach(Box::new(transport)))
    }

    fn attach_mmio(&self, device: &Arc<dyn MmioDevice>) -> bool {
        mmio::Mmio::new(device).is_some_and(|transport| self.attach(Box::new(transport)))
    }
}
