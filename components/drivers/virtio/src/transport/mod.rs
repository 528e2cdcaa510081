//! How a driver reaches its device: PCI or memory-mapped registers.

pub mod mmio;
pub mod pci;

use alloc::{boxed::Box, string::String};

use bitflags::bitflags;
use rumpuser::device::InterruptHandler;

bitflags! {
    /// The device status (virtio 1.2, section 2.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The device was noticed.
        const ACKNOWLEDGE = 1;
        /// There is a driver for it.
        const DRIVER = 2;
        /// The driver is ready.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device met an error that only a reset mends.
        const NEEDS_RESET = 64;
        /// The driver gave up.
        const FAILED = 128;
    }
}

/// Where a queue's parts are, as physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueAddresses {
    /// Number of descriptors.
    pub size: u16,
    /// The descriptor table. For legacy devices, the other parts follow it in the legacy layout.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

/// Where the used ring starts in the legacy layout.
pub const LEGACY_ALIGNMENT: usize = 4096;

/// Makes a handler.
pub type HandlerFactory<'a> = &'a dyn Fn(u16) -> InterruptHandler;

/// A device, as far as all virtio devices are alike.
pub trait Transport: Send + Sync {
    /// Which kind of device it is.
    fn device_type(&self) -> u32;

    /// Whether it follows the interface from before version 1.
    fn legacy(&self) -> bool;

    /// The device status.
    fn status(&self) -> Status;

    /// Sets the device status.
    fn set_status(&self, status: Status);

    /// Resets the device. Afterwards it touches no memory. False if it doesn't answer.
    fn reset(&self) -> bool {
        if self.status().is_empty() {
            return true;
        }
        self.set_status(Status::empty());
        // Nobody is there any more.
        if self.status() == Status::from_bits_retain(u8::MAX) {
            return false;
        }
        // Devices in software reset at once; the bound is for those that don't answer.
        for _ in 0..1_000_000 {
            if self.status().is_empty() {
                return true;
            }
            core::hint::spin_loop();
        }
        false
    }

    /// Gives the device up.
    fn fail(&self) {
        self.set_status(self.status() | Status::FAILED);
    }

    /// The features that the device offers.
    fn device_features(&self) -> u64;

    /// Sets the features that the driver takes.
    fn set_driver_features(&self, features: u64);

    /// The largest size of a queue; 0 if there is no such queue.
    fn queue_limit(&self, queue: u16) -> u16;

    /// Makes a queue live, which interrupts by the handler with that number, or not at all. After the interrupts
    /// are established. False if the device refuses.
    fn set_queue(&self, queue: u16, handler: Option<u16>, addresses: QueueAddresses) -> bool;

    /// Tells the device to look at a queue.
    fn notify(&self, queue: u16);

    /// Connects handlers 0 to `count - 1`, handler `n` on CPU `n` where the device has as many interrupts;
    /// otherwise one interrupt calls them all. `config` hears of changes of the configuration. Returns whether it
    /// worked.
    fn establish_interrupts(
        &self,
        count: u16,
        handler: HandlerFactory<'_>,
        config: Option<InterruptHandler>,
    ) -> bool;

    /// Sets what is called before the device is taken out, if that can be.
    fn set_removal_handler(&self, _handler: Box<dyn Fn() + Send + Sync>) {}

    /// Where the device is, for people: a PCI location, or the number of a window.
    fn location(&self) -> String;

    /// Reads the device's configuration; zeros beyond its end.
    fn read_config(&self, offset: usize, bytes: &mut [u8]);

    /// A counter that changes with the configuration, for reading fields that belong together.
    fn config_generation(&self) -> u32;
}

/// Reads configuration fields consistently.
pub fn read_config<const LENGTH: usize>(transport: &dyn Transport) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for _ in 0..100 {
        let before = transport.config_generation();
        transport.read_config(0, &mut bytes);
        if transport.config_generation() == before {
            break;
        }
    }
    bytes
}
