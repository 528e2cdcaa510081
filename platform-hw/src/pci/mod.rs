//! The PCI bus: finds the functions, recursively through bridges, and hands them to drivers.

mod bars;
mod config;
mod function;
mod hotplug;
pub mod interrupts;

use alloc::{sync::Arc, vec::Vec};

use crate::machine;

use config::{Access, BusAccess, Location};
pub use config::{port_read, port_write};
pub use function::Function;

const HEADER_TYPE: u16 = 0x0e;
const MULTIFUNCTION: u32 = 0x80;
const BRIDGE: u32 = 1;
const SECONDARY_BUS: u16 = 0x19;
/// Bridges behind bridges; more than that is a loop.
const DEEPEST: usize = 16;

/// A bus: the way to its segment and to its functions, and the bridge it is behind.
struct Bus {
    segment: u16,
    number: u8,
    access: Access,
    functions: BusAccess,
    bridge: Option<Arc<Function>>,
}

/// All functions of all buses.
pub fn scan() -> Vec<Arc<Function>> {
    let mut functions = Vec::new();
    let windows = machine::get().map_or(&[][..], |machine| &machine.pci_windows);
    for &(segment, first, last, address) in windows {
        scan_bus(segment, first, Access::Window(address, first, last), None, 0, &mut functions);
    }
    if functions.is_empty() && config::ports_present() {
        scan_bus(0, 0, Access::Ports, None, 0, &mut functions);
    }
    functions
}

fn scan_bus(
    segment: u16,
    number: u8,
    access: Access,
    bridge: Option<Arc<Function>>,
    depth: usize,
    functions: &mut Vec<Arc<Function>>,
) {
    let Some(reached) = access.bus(number) else { return };
    let bus = &Bus { segment, number, access, functions: reached, bridge };
    for device in 0..32 {
        let last = match probe(bus, device, 0, depth, functions) {
            Some(header) if header & MULTIFUNCTION != 0 => 7,
            _ => 0,
        };
        for function in 1..=last {
            probe(bus, device, function, depth, functions);
        }
    }
}

/// Looks at one function, and behind it if it is a bridge. Returns its header type if it is there.
fn probe(bus: &Bus, device: u8, number: u8, depth: usize, functions: &mut Vec<Arc<Function>>) -> Option<u32> {
    let location = Location { segment: bus.segment, bus: bus.number, device, function: number };
    let function = Arc::new(Function::new(location, bus.functions.function(location)?, bus.bridge.clone())?);
    let header = function.read(HEADER_TYPE, 1);
    functions.push(function.clone());
    if header & !MULTIFUNCTION == BRIDGE && depth < DEEPEST {
        let secondary = function.read(SECONDARY_BUS, 1) as u8;
        // 0: the firmware left the bridge alone; nothing behind it can be reached.
        if secondary > bus.number {
            scan_bus(bus.segment, secondary, bus.access, Some(function), depth + 1, functions);
        }
    }
    Some(header)
}
