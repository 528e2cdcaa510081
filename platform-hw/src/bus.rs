//! Brings devices and drivers together.

use alloc::{string::String, sync::Arc, vec::Vec};

use bmk::platform::BootInformation;
use rumpuser::{
    device::{Driver, MmioDevice, PciDevice},
    sync::InterruptLock,
};

use crate::{mmio, once::Once, pci};

/// What the buses need of the boot loader's information.
pub struct Boot {
    /// Usable memory: (physical start, bytes).
    pub memory: Vec<(u64, u64)>,
    /// The loader's command line.
    pub command_line: String,
}

static BOOT: Once<Boot> = Once::new();
static DRIVERS: InterruptLock<&[&dyn Driver]> = InterruptLock::new(&[]);

/// Keeps what the buses need later.
pub fn keep(boot: &BootInformation) {
    BOOT.set(Boot { memory: boot.memory.clone(), command_line: boot.command_line.clone() });
}

/// What [`keep`] kept.
pub fn boot() -> Option<&'static Boot> {
    BOOT.get()
}

/// Names the drivers, in the order in which they see a device. Before the devices start.
pub fn set_drivers(drivers: &'static [&'static dyn Driver]) {
    *DRIVERS.lock() = drivers;
}

/// Finds the devices and offers them to the drivers.
pub fn start() {
    let drivers = *DRIVERS.lock();
    if drivers.is_empty() {
        return;
    }
    for device in pci::scan() {
        let device: Arc<dyn PciDevice> = device;
        let _taken = drivers.iter().any(|driver| driver.attach_pci(&device));
    }
    for device in mmio::find() {
        let device: Arc<dyn MmioDevice> = device;
        let _taken = drivers.iter().any(|driver| driver.attach_mmio(&device));
    }
}
