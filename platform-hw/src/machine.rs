//! What the machine consists of, as the firmware's tables tell, or as PCs are where there are none.

use alloc::vec::Vec;

use crate::{
    aml::{EventDevice, VirtioMmio},
    io_apic::Signal,
    once::Once,
    register::Register,
};

/// The machine.
#[derive(Default)]
pub struct Machine {
    /// Whether there were ACPI tables.
    pub has_tables: bool,
    /// APIC identifiers of the usable CPUs, the boot CPU first.
    pub cpus: Vec<u32>,
    /// Physical address of the local APICs' registers.
    pub local_apic: u64,
    /// I/O APICs: (physical address, first global interrupt).
    pub io_apics: Vec<(u64, u32)>,
    /// ISA interrupts that aren't what they would be by default: (ISA, global, signal).
    pub overrides: Vec<(u8, u32, Signal)>,
    /// Physical address of the HPET.
    pub hpet: Option<u64>,
    /// The power management timer, and whether it has 32 bits (24 otherwise).
    pub pm_timer: Option<(Register, bool)>,
    /// PCI configuration windows: (segment, first bus, last bus, physical address of bus 0).
    pub pci_windows: Vec<(u16, u8, u8, u64)>,
    /// The register of the real-time clock that has the century.
    pub century_register: Option<u8>,
    /// Switching off and resetting.
    pub power: Power,
    /// Virtio-mmio devices in the DSDT.
    pub virtio_mmio: Vec<VirtioMmio>,
    /// The event device of a hardware-reduced machine.
    pub event_device: Option<EventDevice>,
}

/// Registers for switching off, resetting and the power button.
#[derive(Default)]
pub struct Power {
    /// PM1 control registers, with the sleep type of S5.
    pub control: [Option<(Register, u8)>; 2],
    /// The sleep control register of a hardware-reduced machine, with the sleep type of S5.
    pub sleep_control: Option<(Register, u8)>,
    /// The reset register and what to write there.
    pub reset: Option<(Register, u8)>,
    /// The PM1 status registers and, behind them, the PM1 enable registers: (status, enable).
    pub events: [Option<(Register, Register)>; 2],
    /// The general-purpose event registers: (status, enable).
    pub general_events: Option<(Register, Register)>,
    /// The ISA interrupt of those events.
    pub interrupt: Option<u8>,
    /// The port and the value that turn ACPI mode on.
    pub enable: Option<(u16, u8)>,
}

static MACHINE: Once<Machine> = Once::new();

/// Makes the machine known, once.
pub fn set(machine: Machine) {
    MACHINE.set(machine);
}

/// The machine, once it is known.
pub fn get() -> Option<&'static Machine> {
    MACHINE.get()
}

/// The global interrupt and the signal of an ISA interrupt.
pub fn isa_interrupt(irq: u8) -> (u32, Signal) {
    let overrides = get().map_or(&[][..], |machine| &machine.overrides);
    match overrides.iter().find(|entry| entry.0 == irq) {
        Some(&(_, interrupt, signal)) => (interrupt, signal),
        None => (u32::from(irq), Signal::ISA),
    }
}
