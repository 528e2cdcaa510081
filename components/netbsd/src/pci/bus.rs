//! The one bus that the tree sees, and the functions on it.

use alloc::{sync::Arc, vec::Vec};
use core::ffi::c_uint;

use rumpuser::{
    device::PciDevice,
    sync::{InterruptLock, SpinLock},
};

use crate::host;

/// Devices of a bus.
const DEVICES: usize = 32;
/// The command register, with the status above it, and its bit that turns the interrupt pin off.
const COMMAND: u16 = 4;
const PIN_OFF: u32 = 1 << 10;
/// The command register's bit that lets the function reach memory.
const BUS_MASTER: u32 = 1 << 2;
/// The header's type, and that of bridges.
const HEADER_TYPE: u16 = 0xe;
const TYPE: u32 = 0x7f;
const BRIDGE: u32 = 1;

/// A function as the tree sees it.
pub struct Function {
    /// The platform's.
    pub device: Arc<dyn PciDevice>,
    /// The command register without [`PIN_OFF`], as the tree wrote it last; and whether the pin is off.
    command: InterruptLock<(u32, bool)>,
}

impl Function {
    fn new(device: Arc<dyn PciDevice>) -> Arc<Self> {
        let command = device.config_read(COMMAND, 2) & !PIN_OFF;
        Arc::new(Function { device, command: InterruptLock::new((command, false)) })
    }

    /// Reads a word of configuration space.
    pub fn read(&self, register: u16) -> u32 {
        self.device.config_read(register, 4)
    }

    /// Writes a word of configuration space. The pin is the interrupt thread's alone.
    pub fn write(&self, register: u16, value: u32) {
        if register != COMMAND {
            return self.device.config_write(register, 4, value);
        }
        let mut command = self.command.lock();
        command.0 = value & 0xffff & !PIN_OFF;
        let pin = if command.1 { PIN_OFF } else { 0 };
        self.device.config_write(COMMAND, 4, value & !PIN_OFF | pin);
    }

    /// Lets the function reach memory: not all of the tree's drivers do.
    pub fn enable_bus_master(&self) {
        let mut command = self.command.lock();
        command.0 |= BUS_MASTER;
        self.device.config_write(COMMAND, 2, command.0 | if command.1 { PIN_OFF } else { 0 });
    }

    /// Turns the pin on or off, by one write: the register's other bits are known.
    pub fn set_pin(&self, on: bool) {
        let mut command = self.command.lock();
        command.1 = !on;
        self.device.config_write(COMMAND, 2, command.0 | if on { 0 } else { PIN_OFF });
    }
}

/// The functions of a device, by (segment, bus, device).
type Device = ((u16, u8, u8), Vec<Arc<dyn PciDevice>>);
/// (device, function) on the bus.
type Place = (u8, u8);

/// The functions: as they came, then at their places, once the tree looks.
struct Bus {
    found: Vec<Arc<dyn PciDevice>>,
    placed: Vec<(Place, Arc<Function>)>,
}

static BUS: SpinLock<Bus> = SpinLock::new(Bus { found: Vec::new(), placed: Vec::new() });

/// Adds a function, before the tree looks.
pub fn add(device: Arc<dyn PciDevice>) {
    BUS.lock().found.push(device);
}

/// The function at a place.
pub fn find(bus: c_uint, device: c_uint, function: c_uint) -> Option<Arc<Function>> {
    let place = (u8::try_from(device).ok()?, u8::try_from(function).ok()?);
    let mut all = BUS.lock();
    if !all.found.is_empty() {
        let found = core::mem::take(&mut all.found);
        drop(all);
        let placed = place_all(found);
        all = BUS.lock();
        all.placed = placed;
    }
    let found = all.placed.iter().find(|(taken, _)| bus == 0 && *taken == place);
    found.map(|(_, function)| function.clone())
}

fn is_bridge(device: &dyn PciDevice) -> bool {
    device.config_read(HEADER_TYPE, 1) & TYPE == BRIDGE
}

/// Places the functions of each device together: those of bus 0 where they are, the others where nothing is. Devices that
/// are nothing but bridges are left out.
fn place_all(found: Vec<Arc<dyn PciDevice>>) -> Vec<(Place, Arc<Function>)> {
    let mut devices: Vec<Device> = Vec::new();
    for function in found {
        let (segment, bus, device, _) = function.location();
        match devices.iter_mut().find(|(place, _)| *place == (segment, bus, device)) {
            Some((_, functions)) => functions.push(function),
            None => devices.push(((segment, bus, device), Vec::from([function]))),
        }
    }
    devices.retain(|(_, functions)| !functions.iter().all(|function| is_bridge(&**function)));
    // Those that stay where they are come first.
    devices.sort_by_key(|(place, _)| *place);
    let mut taken = [false; DEVICES];
    let mut placed = Vec::new();
    for ((segment, bus, device), functions) in devices {
        let own = usize::from(device).min(DEVICES - 1);
        let free = if (segment, bus) == (0, 0) { Some(own) } else { taken.iter().position(|taken| !taken) };
        let Some(number) = free else {
            host::console(b"PCI: there are more devices than the NetBSD components can see\n");
            break;
        };
        taken[number] = true;
        for function in functions {
            let place = (number as u8, function.location().3);
            placed.push((place, Function::new(function)));
        }
    }
    placed
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A function that has a header's type and remembers what was written to its command register.
    pub struct Fake {
        location: (u16, u8, u8, u8),
        header: u32,
        command: InterruptLock<u32>,
        /// Of MSI-X, whose capability it has if there are any.
        vectors: u32,
    }

    /// Where that capability is.
    const MSI_X: u16 = 0x40;
    const MSI_X_CONTROL: u16 = MSI_X + 2;

    impl PciDevice for Fake {
        fn location(&self) -> (u16, u8, u8, u8) {
            self.location
        }
        fn identifiers(&self) -> (u16, u16, u16, u16) {
            (0, 0, 0, 0)
        }
        fn class(&self) -> (u8, u8, u8) {
            (0, 0, 0)
        }
        fn config_read(&self, offset: u16, _size: u8) -> u32 {
            match offset {
                COMMAND => *self.command.lock(),
                HEADER_TYPE => self.header,
                MSI_X_CONTROL => self.vectors - 1,
                _ => 0,
            }
        }
        fn config_write(&self, offset: u16, size: u8, value: u32) {
            if offset == COMMAND {
                *self.command.lock() = if size == 4 { value & 0xffff } else { value };
            }
        }
        fn capabilities(&self, _identifier: u8) -> Vec<u16> {
            if self.vectors > 0 { vec![MSI_X] } else { Vec::new() }
        }
        fn map_bar(&self, _bar: u8) -> Option<rumpuser::device::Registers> {
            None
        }
        fn enable(&self) {}
        fn establish_interrupts(&self, _handlers: Vec<rumpuser::device::InterruptHandler>) -> bool {
            false
        }
    }

    fn fake(bus: u8, device: u8, function: u8, header: u32) -> Arc<dyn PciDevice> {
        Arc::new(Fake {
            location: (0, bus, device, function),
            header,
            command: InterruptLock::new(3),
            vectors: 0,
        })
    }

    /// A function with vectors of MSI-X.
    pub fn with_vectors(vectors: u32) -> Arc<Function> {
        let command = InterruptLock::new(3);
        Function::new(Arc::new(Fake { location: (0, 0, 0, 0), header: 0, command, vectors }))
    }

    fn places(found: Vec<Arc<dyn PciDevice>>) -> Vec<(Place, u8)> {
        place_all(found).iter().map(|(place, function)| (*place, function.device.location().1)).collect()
    }

    #[test]
    fn what_is_behind_bridges_gets_free_places() {
        let found = vec![
            fake(0, 0, 0, 0),
            fake(0, 1, 0, BRIDGE),
            fake(1, 0, 0, 0),
            fake(0, 2, 0, BRIDGE | 0x80),
            fake(2, 3, 0, 0x80),
            fake(2, 3, 1, 0),
            fake(0, 2, 1, 0),
        ];
        let expected = [((0, 0), 0), ((2, 0), 0), ((2, 1), 0), ((1, 0), 1), ((3, 0), 2), ((3, 1), 2)];
        assert_eq!(places(found), expected);
    }

    #[test]
    fn devices_that_find_no_place_are_left_out() {
        let many =
            (0..20).map(|device| fake(0, device, 0, 0)).chain((0..20).map(|device| fake(1, device, 0, 0)));
        assert_eq!(places(many.collect()).len(), DEVICES);
    }

    #[test]
    fn the_pin_is_not_the_tree_s() {
        let function = Function::new(fake(0, 0, 0, 0));
        let command = || function.device.config_read(COMMAND, 2);
        function.set_pin(false);
        function.enable_bus_master();
        assert_eq!(command(), 3 | BUS_MASTER | PIN_OFF);
        function.write(COMMAND, 2);
        assert_eq!(command(), 2 | PIN_OFF);
        function.set_pin(true);
        assert_eq!(command(), 2);
        function.write(COMMAND, 6 | PIN_OFF);
        assert_eq!(command(), 6);
    }
}
