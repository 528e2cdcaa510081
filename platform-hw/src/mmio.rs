//! Virtio-mmio devices: named by the DSDT, by `virtio_mmio.device=` parameters of the command line (as Linux
//! documents them), or found where QEMU's microvm puts them.

use alloc::{sync::Arc, vec::Vec};

use rumpuser::device::{InterruptHandler, MmioDevice, Registers};

use crate::{aml::VirtioMmio, bus, interrupts, io_apic::Signal, machine, port};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The registers before the device's configuration.
const LEAST_LENGTH: u64 = 0x100;
const MOST_LENGTH: u64 = 1 << 20;

/// Where QEMU's microvm without ACPI has its devices, and their first interrupt.
const MICROVM_BASE: u64 = 0xfeb0_0000;
const MICROVM_STEP: u64 = 0x200;
const MICROVM_COUNT: u32 = 8;
const MICROVM_INTERRUPT: u32 = 5;

struct Device {
    registers: Registers,
    interrupt: u32,
    signal: Signal,
}

impl MmioDevice for Device {
    fn registers(&self) -> Registers {
        self.registers
    }

    fn establish_interrupt(&self, handler: InterruptHandler) -> bool {
        interrupts::establish(self.interrupt, self.signal, handler)
    }
}

/// A number as Linux writes them: decimal, or hexadecimal after `0x`; with K, M or G behind it.
fn number(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(1 << shift)
}

/// Reads `<size>@<base>:<irq>[:<id>]`.
fn parameter(text: &str) -> Option<VirtioMmio> {
    let (length, rest) = text.split_once('@')?;
    let mut fields = rest.split(':');
    let address = number(fields.next()?)?;
    let interrupt = u32::try_from(number(fields.next()?)?).ok()?;
    let (interrupt, signal) = match u8::try_from(interrupt) {
        Ok(irq @ 0..=15) => machine::isa_interrupt(irq),
        _ => (interrupt, Signal::ISA),
    };
    Some(VirtioMmio { address, length: number(length)?, interrupt, signal })
}

fn candidates() -> Vec<VirtioMmio> {
    let mut found: Vec<VirtioMmio> = Vec::new();
    let command_line = bus::boot().map_or("", |boot| &boot.command_line);
    found.extend(
        command_line
            .split_ascii_whitespace()
            .filter_map(|word| parameter(word.strip_prefix("virtio_mmio.device=")?)),
    );
    let machine = machine::get();
    found.extend(machine.iter().flat_map(|machine| &machine.virtio_mmio));
    let tables = machine.is_some_and(|machine| machine.has_tables);
    if found.is_empty() && !tables && port::hypervisor_cpuid(0x4000_0000) != [0; 4] {
        found.extend((0..MICROVM_COUNT).map(|index| VirtioMmio {
            address: MICROVM_BASE + u64::from(index) * MICROVM_STEP,
            length: MICROVM_STEP,
            interrupt: MICROVM_INTERRUPT + index,
            signal: Signal::ISA,
        }));
    }
    found.sort_by_key(|device| device.address);
    found.dedup_by_key(|device| device.address);
    found
}

/// The devices that are there. QEMU has registers for more places than devices; those have the device number 0.
pub fn find() -> Vec<Arc<impl MmioDevice>> {
    candidates()
        .into_iter()
        .filter(|place| (LEAST_LENGTH..=MOST_LENGTH).contains(&place.length) && place.address % 4 == 0)
        .filter_map(|place| {
            let registers = crate::map(place.address, place.length as usize);
            let present = registers.read32(0) == MAGIC && registers.read32(8) != 0;
            present.then(|| Arc::new(Device { registers, interrupt: place.interrupt, signal: place.signal }))
        })
        .collect()
}
