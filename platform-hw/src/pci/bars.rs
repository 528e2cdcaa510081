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
/// Devices aren't put lower than this, however little memory there is: firmware keeps things behind it, and host
/// bridges that pass on less than the whole hole (QEMU's microvm) pass on this.
const HOLE_START: u64 = 0xc000_0000;
const BIGGEST: u64 = 1 << 30;

/// A memory BAR.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// Its address; 0 if it has none yet.
    pub address: u64,
    /// Its size.
    pub size: u64,
    wide: bool,
}

/// The BARs of a function, by number; `None` for those that are no memory BARs.
pub type Bars = [Option<Bar>; 6];

/// Reads and sizes all BARs of a function. At once, because hypervisors rebuild their memory map whenever a function
/// starts or stops decoding.
pub fn inspect(function: &Function) -> Bars {
    let mut bars = [None; 6];
    let command = function.command();
    // While the registers hold all ones, the function must not decode addresses.
    function.change_command(0, COMMAND_MEMORY | COMMAND_PORTS);
    let mut bar = 0;
    while bar < function.bar_count() {
        let found = inspect_one(function, bar);
        bars[usize::from(bar)] = found;
        bar += if found.is_some_and(|bar| bar.wide) { 2 } else { 1 };
    }
    function.change_command(command & (COMMAND_MEMORY | COMMAND_PORTS), 0);
    bars
}

fn inspect_one(function: &Function, bar: u8) -> Option<Bar> {
    let register = FIRST_BAR + 4 * u16::from(bar);
    let low = function.read(register, 4);
    if low & PORT_SPACE != 0 {
        return None;
    }
    let wide = low & TYPE_MASK == TYPE_64_BITS;
    if wide && bar + 1 >= function.bar_count() {
        return None;
    }
    function.write(register, 4, u32::MAX);
    let low_mask = function.read(register, 4);
    function.write(register, 4, low);
    let mut high = 0;
    let mut high_mask = u32::MAX;
    if wide {
        high = function.read(register + 4, 4);
        function.write(register + 4, 4, u32::MAX);
        high_mask = function.read(register + 4, 4);
        function.write(register + 4, 4, high);
    }
    if low_mask & !MEMORY_FLAGS == 0 && (!wide || high_mask == 0) {
        return None;
    }
    let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !MEMORY_FLAGS);
    let size = (!mask).checked_add(1)?;
    let address = u64::from(high) << 32 | u64::from(low & !MEMORY_FLAGS);
    size.is_power_of_two().then_some(Bar { address, size, wide })
}

/// Gives an address to each BAR that has none, where that is possible.
pub fn assign(function: &Function, bars: &mut Bars) {
    // Behind a bridge, the address would have to be inside the bridge's window.
    if function.bridge.is_some() {
        return;
    }
    for (number, bar) in (0..).zip(bars.iter_mut()) {
        let Some(bar) = bar.as_mut().filter(|bar| bar.address == 0 && bar.size <= BIGGEST) else { continue };
        let Some(address) = allocate(bar.size) else { continue };
        let register = FIRST_BAR + 4 * number;
        let command = function.command();
        function.change_command(0, COMMAND_MEMORY);
        function.write(register, 4, address as u32);
        if bar.wide {
            function.write(register + 4, 4, (address >> 32) as u32);
        }
        function.change_command(command & COMMAND_MEMORY, 0);
        bar.address = address;
    }
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
        for bar in inspect(&function).iter().flatten().filter(|bar| bar.address != 0) {
            taken.push((bar.address, bar.address.saturating_add(bar.size)));
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
