//! One PCI function, as a driver sees it.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use rumpuser::{
    device::{InterruptHandler, PciDevice, Registers},
    sync::Mutex,
};

use super::{
    bars::{self, Bars},
    config::{FunctionAccess, Location},
    hotplug, interrupts,
};

/// Registers of every function.
const VENDOR: u16 = 0x00;
const DEVICE: u16 = 0x02;
const COMMAND: u16 = 0x04;
const STATUS: u16 = 0x06;
const INTERFACE: u16 = 0x09;
const SUBCLASS: u16 = 0x0a;
const CLASS: u16 = 0x0b;
const HEADER_TYPE: u16 = 0x0e;
const SUBSYSTEM_VENDOR: u16 = 0x2c;
const SUBSYSTEM: u16 = 0x2e;
const CAPABILITIES: u16 = 0x34;
const HAS_CAPABILITIES: u32 = 1 << 4;
/// Bits of the command register.
pub const COMMAND_PORTS: u32 = 1;
/// Memory decoding.
pub const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
/// The interrupt pin is off.
pub const COMMAND_PIN_OFF: u32 = 1 << 10;

/// What is known of a function's BARs, and what is mapped.
#[derive(Default)]
struct Mapped {
    bars: Option<Bars>,
    windows: [Option<Registers>; 6],
}

/// A PCI function.
pub struct Function {
    /// Where it is.
    pub location: Location,
    /// The bridge it is behind.
    pub bridge: Option<Arc<Function>>,
    access: FunctionAccess,
    mapped: Mutex<Mapped>,
}

impl Function {
    /// The function at a place; `None` if nothing is there.
    pub fn new(
        location: Location,
        access: FunctionAccess,
        bridge: Option<Arc<Function>>,
    ) -> Option<Function> {
        let vendor = access.read(VENDOR, 2);
        let present = vendor != 0xffff && vendor != 0;
        present.then(|| Function { location, bridge, access, mapped: Mutex::new(Mapped::default()) })
    }

    /// Reads configuration space.
    pub fn read(&self, offset: u16, size: u8) -> u32 {
        self.access.read(offset, size)
    }

    /// Writes configuration space.
    pub fn write(&self, offset: u16, size: u8, value: u32) {
        self.access.write(offset, size, value);
    }

    /// Sets and clears bits of the command register.
    pub fn change_command(&self, set: u32, clear: u32) {
        let command = self.read(COMMAND, 2);
        let changed = command & !clear | set;
        if changed != command {
            self.write(COMMAND, 2, changed);
        }
    }

    /// The command register.
    pub fn command(&self) -> u32 {
        self.read(COMMAND, 2)
    }

    /// How many BARs its header has.
    pub fn bar_count(&self) -> u8 {
        match self.read(HEADER_TYPE, 1) & 0x7f {
            0 => 6,
            1 => 2,
            _ => 0,
        }
    }
}

impl PciDevice for Function {
    fn location(&self) -> (u16, u8, u8, u8) {
        let Location { segment, bus, device, function } = self.location;
        (segment, bus, device, function)
    }

    fn identifiers(&self) -> (u16, u16, u16, u16) {
        let word = |offset| self.read(offset, 2) as u16;
        (word(VENDOR), word(DEVICE), word(SUBSYSTEM_VENDOR), word(SUBSYSTEM))
    }

    fn class(&self) -> (u8, u8, u8) {
        let byte = |offset| self.read(offset, 1) as u8;
        (byte(CLASS), byte(SUBCLASS), byte(INTERFACE))
    }

    fn config_read(&self, offset: u16, size: u8) -> u32 {
        self.read(offset, size)
    }

    fn config_write(&self, offset: u16, size: u8, value: u32) {
        self.write(offset, size, value);
    }

    fn capabilities(&self, identifier: u8) -> Vec<u16> {
        let mut found = Vec::new();
        if self.read(STATUS, 2) & HAS_CAPABILITIES == 0 {
            return found;
        }
        let mut offset = self.read(CAPABILITIES, 1) as u16 & 0xfc;
        // The list has room for 48 entries; a longer one is a loop.
        for _ in 0..48 {
            if offset < 0x40 {
                break;
            }
            let header = self.read(offset, 2);
            if header & 0xff == u32::from(identifier) {
                found.push(offset);
            }
            offset = (header >> 8) as u16 & 0xfc;
        }
        found
    }

    fn map_bar(&self, bar: u8) -> Option<Registers> {
        let mut mapped = self.mapped.lock();
        let Mapped { bars, windows } = &mut *mapped;
        let window = windows.get_mut(usize::from(bar))?;
        if window.is_none() {
            let bars = bars.get_or_insert_with(|| {
                let mut bars = bars::inspect(self);
                bars::assign(self, &mut bars);
                bars
            });
            let bar = bars[usize::from(bar)].filter(|bar| bar.address != 0)?;
            *window = Some(crate::map(bar.address, usize::try_from(bar.size).ok()?));
        }
        *window
    }

    fn enable(&self) {
        self.change_command(COMMAND_MEMORY | COMMAND_BUS_MASTER, 0);
    }

    fn set_removal_handler(&self, handler: Box<dyn Fn() + Send + Sync>) {
        hotplug::register(self.location.bus, self.location.device, handler);
    }

    fn establish_interrupts(&self, handlers: Vec<InterruptHandler>) -> bool {
        interrupts::establish(self, handlers)
    }

    fn release_interrupts(&self) {
        interrupts::release(self);
    }

    fn establish_message_interrupt(&self, handler: InterruptHandler) -> bool {
        interrupts::establish_message(self, handler)
    }

    fn establish_pin_interrupt(&self, handler: InterruptHandler) -> bool {
        interrupts::establish_pin(self, handler)
    }
}
