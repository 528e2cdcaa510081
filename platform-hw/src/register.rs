//! A register of the firmware's tables: an I/O port or a place in memory.

use acpi::address::{AddressSpace, GenericAddress};

use crate::port;

/// A register and how wide its accesses are.
#[derive(Debug, Clone, Copy)]
pub enum Register {
    /// In I/O space, at this port.
    Port(u16),
    /// In memory, at this mapped address.
    Memory(usize),
}

impl Register {
    /// From a generic address; maps it if it is in memory. `None` for other spaces and for address 0.
    pub fn new(address: GenericAddress) -> Option<Register> {
        match address.address_space {
            AddressSpace::SystemIo => {
                u16::try_from(address.address).ok().filter(|port| *port != 0).map(Register::Port)
            }
            AddressSpace::SystemMemory if address.address != 0 => {
                Some(Register::Memory(crate::map_address(address.address, 8)))
            }
            _ => None,
        }
    }

    /// The register `bytes` further.
    pub fn offset(self, bytes: u16) -> Register {
        match self {
            Register::Port(port) => Register::Port(port.wrapping_add(bytes)),
            Register::Memory(address) => Register::Memory(address + usize::from(bytes)),
        }
    }

    /// Reads two bytes.
    pub fn read16(self) -> u16 {
        match self {
            Register::Port(port) => port::read16(port),
            // SAFETY: `new` mapped the register.
            Register::Memory(address) => unsafe { (address as *const u16).read_volatile() },
        }
    }

    /// Reads four bytes.
    pub fn read32(self) -> u32 {
        match self {
            Register::Port(port) => port::read32(port),
            // SAFETY: `new` mapped the register.
            Register::Memory(address) => unsafe { (address as *const u32).read_volatile() },
        }
    }

    /// Writes a byte.
    pub fn write8(self, value: u8) {
        match self {
            Register::Port(port) => port::write8(port, value),
            // SAFETY: `new` mapped the register.
            Register::Memory(address) => unsafe { (address as *mut u8).write_volatile(value) },
        }
    }

    /// Writes two bytes.
    pub fn write16(self, value: u16) {
        match self {
            Register::Port(port) => port::write16(port, value),
            // SAFETY: `new` mapped the register.
            Register::Memory(address) => unsafe { (address as *mut u16).write_volatile(value) },
        }
    }
}
