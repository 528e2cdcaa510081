//! Base address registers: their size, and an address for those that the firmware left without one.

use alloc::vec::Vec;

use rumpuser::sync::Mutex;

use super::{
    Function,
    function::{COMMAND_MEMORY, COMMAND_PORTS},
    scan,
};
use crate::{bus, machine};

const FIRST_BAR: u16 = 0x10;
const PORT_SPACE: u32 = 1;
const TYPE_MASK: u32 = 6;
const TYPE_64_BITS: u32 = 4;
const MEMORY_FLAGS: u32 = 15;
/// Where the chipset's own registers start (I/O APIC, HPET, local APIC, firmware).
const HOLE_END: u64 = 0xfec0_0000;
/// Devices aren't put lower than this, however little memory there is: firmware keeps things behind it.
const HOLE_START: u64 = 0x8000_0000;
const BIGGEST: u64 = 1 << 30;

/// A memory BAR: its address (0: none yet), its size, and whether it has 64 bits.
struct Bar {
    address: u64,
    size: u64,
    wide: bool,
}

/// Reads and sizes a BAR; `None` if it isn't a memory BAR.
fn inspect(function: &Function, bar: u8) -> Option<Bar> {
    if bar >= function.bar_count() {
        return None;
    }
    let register = FIRST_BAR + 4 * u16::from(bar);
    let low = function.read(register, 4);
    if low & PORT_SPACE != 0 {
        return None;
    }
    let wide = low & TYPE_MASK == TYPE_64_BITS;
    if wide && bar + 1 >= function.bar_count() {
        return None;
    }
    let high = if wide { function.read(register + 4, 4) } else { 0 };
    // While the registers hold all ones, the function must not decode addresses.
    let command = function.command();
    function.change_command(0, COMMAND_MEMORY | COMMAND_PORTS);
    function.write(register, 4, u32::MAX);
    let low_mask = function.read(register, 4);
    function.write(register, 4, low);
    let mut high_mask = u32::MAX;
    if wide {
        function.write(register + 4, 4, u32::MAX);
        high_mask = function.read(register + 4, 4);
        function.write(register + 4, 4, high);
    }
    function.change_command(command & (COMMAND_MEMORY | COMMAND_PORTS), 0);
    if low_mask & !MEMORY_FLAGS == 0 && (!wide || high_mask == 0) {
        return None;
    }
    let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !MEMORY_FLAGS);
    let size = (!mask).checked_add(1)?;
    let address = u64::from(high) << 32 | u64::from(low & !MEMORY_FLAGS);
    size.is_power_of_two().then_some(Bar { address, size, wide })
}

/// The address and the size of a memory BAR, assigning the address if need be.
pub fn place(function: &Function, bar: u8) -> Option<(u64, u64)> {
    let Bar { mut address, size, wide } = inspect(function, bar)?;
    if size > BIGGEST {
        return None;
    }
    if address == 0 {
        // Behind a bridge, the address would have to be inside the bridge's window.
        if function.bridge.is_some() {
            return None;
        }
        address = allocate(size)?;
        let register = FIRST_BAR + 4 * u16::from(bar);
        let command = function.command();
        function.change_command(0, COMMAND_MEMORY);
        function.write(register, 4, address as u32);
        if wide {
            function.write(register + 4, 4, (address >> 32) as u32);
        }
        function.change_command(command & COMMAND_MEMORY, 0);
    }
    Some((address, size))
}

/// Address ranges below 4 GiB that are taken: (start, end).
static TAKEN: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// What memory, configuration windows, bridges and the other BARs occupy.
fn survey() -> Vec<(u64, u64)> {
    let mut taken = Vec::from([(0, HOLE_START)]);
    taken.extend(
        bus::boot().iter().flat_map(|boot| &boot.memory).map(|(start, length)| (*start, start + length)),
    );
    for &(_, first, last, address) in machine::get().map_or(&[][..], |machine| &machine.pci_windows) {
        taken.push((address + (u64::from(first) << 20), address + ((u64::from(last) + 1) << 20)));
    }
    for function in scan() {
        for bar in 0..function.bar_count() {
            if let Some(bar) = inspect(&function, bar).filter(|bar| bar.address != 0) {
                taken.push((bar.address, bar.address.saturating_add(bar.size)));
            }
        }
        if function.bar_count() == 2 {
            // A bridge's memory and prefetchable windows, in units of 1 MiB.
            for register in [0x20, 0x24] {
                let start = u64::from(function.read(register, 2) & 0xfff0) << 16;
                let end = (u64::from(function.read(register + 2, 2) & 0xfff0) << 16) + (1 << 20);
                if start < end {
                    taken.push((start, end));
                }
            }
        }
    }
    taken
}

fn allocate(size: u64) -> Option<u64> {
    let mut taken = TAKEN.lock();
    if taken.is_empty() {
        *taken = survey();
    }
    // Whole pages, so that no two devices share one.
    let size = size.max(4096);
    let mut address = HOLE_START.next_multiple_of(size);
    while address + size <= HOLE_END {
        match taken.iter().find(|(start, end)| *start < address + size && address < *end) {
            Some((_, end)) => address = end.next_multiple_of(size),
            None => {
                taken.push((address, address + size));
                return Some(address);
            }
        }
    }
    None
}
