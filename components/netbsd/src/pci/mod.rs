//! PCI for the tree's drivers: `rumpcomp_pci_*`. The platform's driver interface collects the functions.
//!
//! The rump kernel's PCI component looks at bus 0 alone and knows no bridges, so all functions are shown there: those that
//! are on it at their own places, those behind bridges as devices with numbers that are free.

pub mod bus;
pub mod interrupt;
pub mod memory;
pub mod messages;

use alloc::sync::Arc;
use core::ffi::{c_int, c_uint};

use rumpuser::{
    device::{Driver, PciDevice},
    sync::SpinLock,
};

use crate::errno::{ENXIO, Errno};

/// Maps device registers at a physical address, uncached and for ever; returns where.
pub type Map = fn(physical: u64, length: usize) -> usize;

/// Takes every function, for the tree's drivers to look at.
pub struct Collector {
    /// How registers are mapped.
    pub map: Map,
}

static MAP: SpinLock<Option<Map>> = SpinLock::new(None);

impl Driver for Collector {
    fn name(&self) -> &'static str {
        "netbsd"
    }

    fn attach_pci(&self, device: &Arc<dyn PciDevice>) -> bool {
        *MAP.lock() = Some(self.map);
        bus::add(device.clone());
        true
    }
}

/// I/O ports are there.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_iospace_init() -> Errno {
    0
}

/// # Safety
/// `value` is a place for a word.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpcomp_pci_confread(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    register: c_int,
    value: *mut c_uint,
) -> Errno {
    let found = bus::find(bus, device, function).zip(u16::try_from(register).ok());
    // What isn't there reads as ones.
    let read = found.map_or(c_uint::MAX, |(found, register)| found.read(register & !3));
    // SAFETY: the caller's promise.
    unsafe { *value = read };
    0
}

/// Writes a word of configuration space.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub extern "C" fn rumpcomp_pci_confwrite(
    bus: c_uint,
    device: c_uint,
    function: c_uint,
    register: c_int,
    value: c_uint,
) -> Errno {
    match bus::find(bus, device, function).zip(u16::try_from(register).ok()) {
        Some((found, register)) => {
            found.write(register & !3, value);
            0
        }
        None => ENXIO,
    }
}
