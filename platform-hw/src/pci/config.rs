//! Configuration space: by memory (PCI Express) or by the ports 0xcf8 and 0xcfc.

use alloc::vec::Vec;

use rumpuser::{device::Registers, sync::InterruptLock};

use crate::port;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// Bytes of configuration space: by port, by memory, and of a whole bus by memory.
const PORT_SPACE: u16 = 256;
const SPACE: usize = 4096;
const BUS_SPACE: usize = 1 << 20;

/// The two ports go together.
static PORTS: InterruptLock<()> = InterruptLock::new(());

/// Where a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The segment (PCI domain).
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// The device on the bus.
    pub device: u8,
    /// The function of the device.
    pub function: u8,
}

/// How a segment's configuration space is reached.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// By memory: the address of bus 0, first and last bus.
    Window(u64, u8, u8),
    /// By the ports.
    Ports,
}

/// How one function's configuration space is reached.
#[derive(Debug, Clone, Copy)]
pub enum FunctionAccess {
    /// By memory.
    Registers(Registers),
    /// By the ports.
    Ports(Location),
}

/// The buses whose windows are mapped, by physical address.
static MAPPED: InterruptLock<Vec<(u64, Registers)>> = InterruptLock::new(Vec::new());

impl Access {
    /// The way to the functions of a bus; `None` if the window doesn't reach it.
    pub fn bus(self, number: u8) -> Option<BusAccess> {
        let Access::Window(address, first, last) = self else { return Some(BusAccess::Ports) };
        if !(first..=last).contains(&number) {
            return None;
        }
        let physical = address.checked_add(u64::from(number) * BUS_SPACE as u64)?;
        let mut mapped = MAPPED.lock();
        let known = mapped.iter().find(|bus| bus.0 == physical).map(|bus| bus.1);
        let registers = known.unwrap_or_else(|| {
            let registers = crate::map(physical, BUS_SPACE);
            mapped.push((physical, registers));
            registers
        });
        Some(BusAccess::Registers(registers))
    }
}

/// How the functions of a bus are reached.
#[derive(Debug, Clone, Copy)]
pub enum BusAccess {
    /// By memory.
    Registers(Registers),
    /// By the ports.
    Ports,
}

impl BusAccess {
    /// The way to one function.
    pub fn function(&self, location: Location) -> Option<FunctionAccess> {
        match self {
            BusAccess::Ports => Some(FunctionAccess::Ports(location)),
            BusAccess::Registers(bus) => {
                let offset =
                    usize::from(location.device & 31) << 15 | usize::from(location.function & 7) << 12;
                bus.part(offset, SPACE).map(FunctionAccess::Registers)
            }
        }
    }
}

impl FunctionAccess {
    /// Reads 1, 2 or 4 bytes; all ones where there is nothing.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        match self {
            FunctionAccess::Ports(at) => port_read((at.bus, at.device, at.function), offset, size),
            FunctionAccess::Registers(registers) => match (size, usize::from(offset)) {
                (1, offset) if offset < SPACE => registers.read8(offset).into(),
                (2, offset) if offset < SPACE && offset % 2 == 0 => registers.read16(offset).into(),
                (4, offset) if offset < SPACE && offset % 4 == 0 => registers.read32(offset),
                _ => u32::MAX,
            },
        }
    }

    /// Writes 1, 2 or 4 bytes.
    pub fn write(&self, offset: u16, size: u8, value: u32) {
        match self {
            FunctionAccess::Ports(at) => port_write((at.bus, at.device, at.function), offset, size, value),
            FunctionAccess::Registers(registers) => match (size, usize::from(offset)) {
                (1, offset) if offset < SPACE => registers.write8(offset, value as u8),
                (2, offset) if offset < SPACE && offset % 2 == 0 => registers.write16(offset, value as u16),
                (4, offset) if offset < SPACE && offset % 4 == 0 => registers.write32(offset, value),
                _ => {}
            },
        }
    }
}

/// Whether the ports exist.
pub fn ports_present() -> bool {
    let _guard = PORTS.lock();
    port::write32(ADDRESS, ENABLE);
    port::read32(ADDRESS) == ENABLE
}

/// Selects a register; returns the data port for it, or `None` if the ports don't reach it.
fn select((bus, device, function): (u8, u8, u8), offset: u16, size: u8) -> Option<u16> {
    if offset >= PORT_SPACE || !matches!(size, 1 | 2 | 4) || !offset.is_multiple_of(size.into()) {
        return None;
    }
    let function = u32::from(device & 31) << 11 | u32::from(function & 7) << 8;
    port::write32(ADDRESS, ENABLE | u32::from(bus) << 16 | function | u32::from(offset & 0xfc));
    Some(DATA + (offset & 3))
}

/// Reads configuration space by the ports; the place is (bus, device, function).
pub fn port_read(place: (u8, u8, u8), offset: u16, size: u8) -> u32 {
    let _guard = PORTS.lock();
    match (select(place, offset, size), size) {
        (Some(data), 1) => port::read8(data).into(),
        (Some(data), 2) => port::read16(data).into(),
        (Some(data), _) => port::read32(data),
        (None, _) => u32::MAX,
    }
}

/// Writes configuration space by the ports; the place is (bus, device, function).
pub fn port_write(place: (u8, u8, u8), offset: u16, size: u8, value: u32) {
    let _guard = PORTS.lock();
    match (select(place, offset, size), size) {
        (Some(data), 1) => port::write8(data, value as u8),
        (Some(data), 2) => port::write16(data, value as u16),
        (Some(data), _) => port::write32(data, value),
        (None, _) => {}
    }
}
