//! PCI functions of a domain of Xen's that has a PC's: those that the hypervisor passes through. Everything else of the machine is
//! the other platform's, which takes a vector for its own interrupts and ends them itself.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::boxed::Box;

use bmk::platform::BootInformation;
use rumpuser::device::InterruptHandler;

use crate::{bus, local_apic};

/// The local APIC that messages go to: that of the CPU that always runs. [`NONE`] on a PC.
static TARGET: AtomicU32 = AtomicU32::new(NONE);
const NONE: u32 = u32::MAX;

/// Prepares for [`start`], on the boot CPU.
pub fn prepare(boot: &BootInformation) {
    local_apic::discover(LOCAL_APIC);
    TARGET.store(local_apic::identifier(), Ordering::Relaxed);
    bus::keep(boot);
}

/// Where the registers are, unless they are MSRs.
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Finds the functions that are there, or have come since, and offers them to the drivers. Thread context.
pub fn start() {
    bus::start_pci();
}

/// The local APIC that messages go to, in such a domain.
pub(crate) fn target() -> Option<u32> {
    Some(TARGET.load(Ordering::Relaxed)).filter(|target| *target != NONE)
}

/// A vector for a handler.
pub(crate) fn allocate_vector(handler: InterruptHandler) -> Option<u8> {
    if target().is_none() {
        return bmk::trap::allocate_vector(handler);
    }
    bmk::trap::allocate_vector(Box::new(move || {
        handler();
        local_apic::end_of_interrupt();
    }))
}
