//! The power button: a fixed event of the PM1 registers, or an event of a hardware-reduced machine's event device.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use rumpuser::device::InterruptHandler;

use crate::{interrupts, io_apic::Signal, machine, port, register::Register};

const BUTTON: u16 = 1 << 8;
/// What an event device says for the power button.
const EVENT_BUTTON: u32 = 2;
const ACPI_MODE: u16 = 1;

/// Listens to the button; the first call counts.
pub fn start() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    if STARTED.swap(true, Ordering::AcqRel) {
        return;
    }
    let Some(machine) = machine::get() else { return };
    if let Some(device) = machine.event_device {
        let selector = Register::Memory(crate::map_address(device.selector, 4));
        let handler = move || {
            if selector.read32() & EVENT_BUTTON != 0 {
                bmk::console::request_stop();
            }
        };
        interrupts::establish(device.interrupt, device.signal, Box::new(handler));
    }
    start_fixed_button(machine);
}

/// The power button as a fixed event of the PM1 registers.
fn start_fixed_button(machine: &'static machine::Machine) {
    let power = &machine.power;
    let Some((status, enable)) = power.events[0] else { return };
    if let (Some((control, _)), Some((port, value))) = (power.control[0], power.enable)
        && control.read16() & ACPI_MODE == 0
    {
        port::write8(port, value);
        for _ in 0..10_000 {
            if control.read16() & ACPI_MODE != 0 {
                break;
            }
            core::hint::spin_loop();
        }
    }
    let handler = move || {
        let events = status.read16();
        // Written back, what was set is cleared, and the line with it.
        status.write16(events);
        if events & BUTTON != 0 {
            bmk::console::request_stop();
        }
    };
    if establish(Box::new(handler)) {
        status.write16(u16::MAX);
        enable.write16(BUTTON);
    }
}

/// Connects a handler to the interrupt of ACPI events. Returns whether it worked.
pub fn establish(handler: InterruptHandler) -> bool {
    let Some(machine) = machine::get() else { return false };
    let Some(irq) = machine.power.interrupt else { return false };
    // The tables' interrupt is level-triggered and active low unless an override says otherwise.
    let overridden = machine.overrides.iter().any(|entry| entry.0 == irq);
    if overridden {
        interrupts::establish_isa(irq, handler)
    } else {
        interrupts::establish(irq.into(), Signal::PCI, handler)
    }
}
