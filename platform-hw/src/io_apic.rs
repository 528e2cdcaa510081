//! The I/O APICs: which CPU and vector a global system interrupt goes to. The 8259s are masked.

use alloc::vec::Vec;

use rumpuser::{device::Registers, sync::InterruptLock};

use crate::port;

const SELECT: usize = 0;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;

const LOW_ACTIVE: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// How a line signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Level-triggered; otherwise by edge.
    pub level: bool,
    /// Active low; otherwise active high.
    pub low: bool,
}

impl Signal {
    /// ISA: by edge, active high.
    pub const ISA: Signal = Signal { level: false, low: false };
    /// PCI interrupt pins: level, active low.
    pub const PCI: Signal = Signal { level: true, low: true };
}

struct IoApic {
    registers: Registers,
    first: u32,
    count: u32,
}

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        self.registers.write32(SELECT, register);
        self.registers.read32(WINDOW)
    }

    fn write(&self, register: u32, value: u32) {
        self.registers.write32(SELECT, register);
        self.registers.write32(WINDOW, value);
    }
}

static IO_APICS: InterruptLock<Vec<IoApic>> = InterruptLock::new(Vec::new());

/// Adds the I/O APIC at a physical address, whose first input is the global interrupt `first`. All are masked.
pub fn add(address: u64, first: u32) {
    let registers = crate::map(address, 0x20);
    let mut io_apic = IoApic { registers, first, count: 0 };
    let version = io_apic.read(VERSION);
    if version == u32::MAX || version == 0 {
        return;
    }
    io_apic.count = (version >> 16 & 0xff) + 1;
    for line in 0..io_apic.count {
        io_apic.write(REDIRECTION + 2 * line, MASKED);
    }
    IO_APICS.lock().push(io_apic);
}

/// Routes a global system interrupt to a vector of the CPU with that APIC identifier. False if no I/O APIC has it.
pub fn route(interrupt: u32, signal: Signal, cpu: u32, vector: u8) -> bool {
    let io_apics = IO_APICS.lock();
    let found =
        io_apics.iter().find(|io_apic| (io_apic.first..io_apic.first + io_apic.count).contains(&interrupt));
    // A redirection entry has room for 8 bits of APIC identifier.
    let (Some(io_apic), 0..=0xfe) = (found, cpu) else { return false };
    let entry = REDIRECTION + 2 * (interrupt - io_apic.first);
    let level = if signal.level { LEVEL } else { 0 };
    let polarity = if signal.low { LOW_ACTIVE } else { 0 };
    io_apic.write(entry, MASKED);
    io_apic.write(entry + 1, cpu << 24);
    io_apic.write(entry, u32::from(vector) | level | polarity);
    true
}

/// Silences the 8259 pair: remapped away from the exceptions, then masked.
pub fn mask_8259() {
    const FIRST: u16 = 0x20;
    const SECOND: u16 = 0xa0;
    for (base, vector, cascade) in [(FIRST, 0x20, 4), (SECOND, 0x28, 2)] {
        port::write8(base, 0x11);
        port::write8(base + 1, vector);
        port::write8(base + 1, cascade);
        port::write8(base + 1, 1);
        port::write8(base + 1, 0xff);
    }
}
