//! A function's interrupts: MSI-X, else MSI, else the pin.

use alloc::vec::Vec;

use rumpuser::device::{InterruptHandler, PciDevice, Registers};

use super::{
    Function, config,
    function::{COMMAND_MEMORY, COMMAND_PIN_OFF},
};
use crate::{guest, interrupts, io_apic::Signal, local_apic, machine};

const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;
const MSI_ENABLE: u32 = 1;
const MSI_64_BITS: u32 = 1 << 7;
const MSI_COUNT_MASK: u32 = 7 << 4;
const MSI_X_ENABLE: u32 = 1 << 15;
const MSI_X_MASK_ALL: u32 = 1 << 14;
const MSI_X_ENTRY: usize = 16;
const INTERRUPT_LINE: u16 = 0x3c;
const INTERRUPT_PIN: u16 = 0x3d;

/// The highest identifier of a local APIC that a message's address has room for.
pub const HIGHEST: u32 = 0xfe;

/// The address that a message goes to for a CPU to be interrupted. `None` beyond 8 bits of identifier.
fn message_address(cpu: u32) -> Option<u32> {
    (cpu <= HIGHEST).then_some(0xfee0_0000 | cpu << 12)
}

/// The CPU that the vector with this index goes to.
fn cpu_of(index: usize) -> usize {
    index % rumpuser::rumpuser_cpu_count().max(1)
}

/// The local APIC of that CPU.
fn target(index: usize) -> u32 {
    if let Some(target) = guest::target_of(cpu_of(index)) {
        return target;
    }
    let cpu = bmk::cpu::hardware_of(cpu_of(index));
    if message_address(cpu).is_some() { cpu } else { local_apic::identifier() }
}

/// Has the message of a table's entry go to another local APIC.
pub fn send_to(entry: Registers, target: u32) {
    if let Some(address) = message_address(target) {
        // It must not change while it may be sent.
        entry.write32(12, 1);
        entry.write32(0, address);
        entry.write32(12, 0);
    }
}

/// See [`PciDevice::establish_interrupts`].
pub fn establish(function: &Function, handlers: Vec<InterruptHandler>) -> bool {
    if handlers.is_empty() {
        return false;
    }
    if let Some(&capability) = function.capabilities(MSI_X).first()
        && (function.read(capability + 2, 2) & 0x7ff) as usize + 1 >= handlers.len()
    {
        return establish_msi_x(function, capability, handlers);
    }
    let Ok([handler]) = <[InterruptHandler; 1]>::try_from(handlers) else { return false };
    if let Some(&capability) = function.capabilities(MSI).first() {
        return establish_msi(function, capability, handler);
    }
    establish_pin(function, handler)
}

fn establish_msi_x(function: &Function, capability: u16, handlers: Vec<InterruptHandler>) -> bool {
    let table = function.read(capability + 4, 4);
    let Some(registers) = function.map_bar((table & 7) as u8) else { return false };
    let Some(entries) = registers.part((table & !7) as usize, handlers.len() * MSI_X_ENTRY) else {
        return false;
    };
    function.change_command(COMMAND_MEMORY | COMMAND_PIN_OFF, 0);
    guest::forget(|place| place == place_of(function));
    let control = function.read(capability + 2, 2);
    function.write(capability + 2, 2, control | MSI_X_ENABLE | MSI_X_MASK_ALL);
    for (index, handler) in handlers.into_iter().enumerate() {
        let address = message_address(target(index));
        let (Some(address), Some(vector)) = (address, guest::allocate_vector(handler)) else {
            function.write(capability + 2, 2, control & !MSI_X_ENABLE);
            return false;
        };
        let Some(entry) = entries.part(index * MSI_X_ENTRY, MSI_X_ENTRY) else { return false };
        entry.write32(0, address);
        entry.write32(4, 0);
        entry.write32(8, vector.into());
        entry.write32(12, 0);
        guest::follow(place_of(function), entry, cpu_of(index));
    }
    function.write(capability + 2, 2, control & !MSI_X_MASK_ALL | MSI_X_ENABLE);
    true
}

fn place_of(function: &Function) -> (u8, u8, u8) {
    let place = function.location;
    (place.bus, place.device, place.function)
}

/// See [`PciDevice::release_interrupts`].
pub fn release(function: &Function) {
    guest::forget(|place| place == place_of(function));
    if let Some(&capability) = function.capabilities(MSI_X).first() {
        let control = function.read(capability + 2, 2);
        function.write(capability + 2, 2, control & !MSI_X_ENABLE);
    }
}

fn establish_msi(function: &Function, capability: u16, handler: InterruptHandler) -> bool {
    let Some(address) = message_address(target(0)) else { return false };
    let Some(vector) = guest::allocate_vector(handler) else { return false };
    let control = function.read(capability + 2, 2);
    function.write(capability + 4, 4, address);
    let data = if control & MSI_64_BITS != 0 {
        function.write(capability + 8, 4, 0);
        capability + 12
    } else {
        capability + 8
    };
    function.write(data, 2, vector.into());
    function.change_command(COMMAND_PIN_OFF, 0);
    function.write(capability + 2, 2, control & !MSI_COUNT_MASK | MSI_ENABLE);
    true
}

/// See [`PciDevice::establish_message_interrupt`].
pub fn establish_message(function: &Function, handler: InterruptHandler) -> bool {
    let capability = function.capabilities(MSI).first().copied();
    capability.is_some_and(|capability| establish_msi(function, capability, handler))
}

/// See [`PciDevice::establish_pin_interrupt`].
pub fn establish_pin(function: &Function, handler: InterruptHandler) -> bool {
    let Some((interrupt, signal)) = pin_interrupt(function) else { return false };
    function.change_command(0, COMMAND_PIN_OFF);
    interrupts::establish(interrupt, signal, handler)
}

/// The global interrupt that the function's pin is wired to. The tables say it in byte code only, so it follows the
/// chipset: an ICH9 wires the pins to inputs 16 to 23; elsewhere it is the ISA interrupt that the firmware chose.
fn pin_interrupt(function: &Function) -> Option<(u32, Signal)> {
    const ICH9: u32 = 0x2918_8086;
    let mut pin = match function.read(INTERRUPT_PIN, 1) {
        pin @ 1..=4 => pin - 1,
        _ => return None,
    };
    if guest::target().is_some() {
        let interrupt = guest::pin_interrupt(function.location.device, pin);
        return function.bridge.is_none().then_some((interrupt, Signal::PCI));
    }
    let mut device = u32::from(function.location.device);
    let mut bridge = function.bridge.as_ref();
    while let Some(above) = bridge {
        // A bridge passes pins on in turn.
        pin = (pin + device) % 4;
        device = above.location.device.into();
        bridge = above.bridge.as_ref();
    }
    if config::port_read((0, 0x1f, 0), 0, 4) == ICH9 {
        let input = if device < 25 { 20 + (device + pin) % 4 } else { 16 + pin };
        return Some((input, Signal::PCI));
    }
    let line = function.read(INTERRUPT_LINE, 1) as u8;
    if !(1..=15).contains(&line) {
        return None;
    }
    let (interrupt, signal) = machine::isa_interrupt(line);
    // Without an override, the line is still a PCI interrupt.
    Some((interrupt, if signal == Signal::ISA { Signal::PCI } else { signal }))
}
