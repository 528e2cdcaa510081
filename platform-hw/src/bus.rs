//! Brings devices and drivers together.

use alloc::{string::String, sync::Arc, vec::Vec};

use bmk::platform::BootInformation;
use rumpuser::{
    device::{Driver, MmioDevice, PciDevice},
    sync::{InterruptLock, Mutex},
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

/// The places of the functions that the drivers have seen.
static SEEN: Mutex<Vec<(u16, u8, u8, u8)>> = Mutex::new(Vec::new());

/// Finds PCI functions that the drivers have not seen.
pub fn start_pci() {
    let drivers = *DRIVERS.lock();
    if drivers.is_empty() {
        return;
    }
    // Held meanwhile: one at a time.
    let mut seen = SEEN.lock();
    let found = pci::scan();
    seen.retain(|place| found.iter().any(|function| function.location() == *place));
    for device in found {
        if seen.contains(&device.location()) {
            continue;
        }
        seen.push(device.location());
        let device: Arc<dyn PciDevice> = device;
        let _taken = drivers.iter().any(|driver| driver.attach_pci(&device));
    }
}

/// Finds the devices and offers them to the drivers.
pub fn start() {
    start_pci();
    let drivers = *DRIVERS.lock();
    for device in mmio::find() {
        let device: Arc<dyn MmioDevice> = device;
        let _taken = drivers.iter().any(|driver| driver.attach_mmio(&device));
    }
}
