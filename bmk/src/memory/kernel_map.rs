//! The kernel's own page table: built at boot, extended for device registers and stacks.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rumpuser::{OutOfMemory, memory::PAGE_SIZE};

use super::{
    frames::{self, For},
    layout::{DEVICES, Table, entry, index, table},
};
use crate::lock::IrqLock;

static ROOT: AtomicU64 = AtomicU64::new(0);
static EXTEND: IrqLock<()> = IrqLock::new(());
static NEXT_DEVICE: AtomicUsize = AtomicUsize::new(DEVICES);

/// Flags of ordinary kernel data.
pub const DATA: u64 =
    entry::PRESENT | entry::WRITE | entry::ACCESSED | entry::DIRTY | entry::GLOBAL | entry::NO_EXECUTE;

/// The physical address of the kernel's top-level table.
pub fn root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Sets the top-level table, once it is loaded.
pub fn set_root(physical: u64) {
    ROOT.store(physical, Ordering::Relaxed);
}

/// Maps `physical..physical + length` at `address` in the largest pages that fit, up to `largest` (a level).
/// `allocate` yields zeroed frames for tables.
pub fn map(
    root: u64,
    mut address: usize,
    mut physical: u64,
    mut length: u64,
    flags: u64,
    largest: usize,
    allocate: &mut dyn FnMut() -> Result<u64, OutOfMemory>,
) -> Result<(), OutOfMemory> {
    while length > 0 {
        let level = (0..=largest)
            .rev()
            .find(|&level| {
                let size = (PAGE_SIZE as u64) << (9 * level);
                (address as u64 | physical).is_multiple_of(size) && length >= size
            })
            .unwrap_or(0);
        let slot = &walk(root, address, level, allocate)?[index(address, level)];
        let large = if level > 0 { entry::LARGE } else { 0 };
        slot.store(physical | flags | large, Ordering::Release);
        let size = (PAGE_SIZE as u64) << (9 * level);
        address += size as usize;
        physical += size;
        length = length.saturating_sub(size);
    }
    Ok(())
}

/// The table of `level` that holds the entry for `address`, with the tables above it made as needed.
fn walk(
    root: u64,
    address: usize,
    level: usize,
    allocate: &mut dyn FnMut() -> Result<u64, OutOfMemory>,
) -> Result<&'static Table, OutOfMemory> {
    // SAFETY: tables of the kernel are never freed.
    let mut current = unsafe { table(root) };
    for above in (level + 1..4).rev() {
        let slot = &current[index(address, above)];
        let mut value = slot.load(Ordering::Acquire);
        if value == 0 {
            value = allocate()? | entry::PRESENT | entry::WRITE | entry::ACCESSED;
            slot.store(value, Ordering::Release);
        }
        // SAFETY: as above.
        current = unsafe { table(value) };
    }
    Ok(current)
}

fn allocate_table() -> Result<u64, OutOfMemory> {
    let frame = frames::allocate(0, For::Kernel)?;
    frames::zero(frame, 1);
    Ok(frame.physical())
}

/// Maps one page of kernel memory.
pub fn map_page(address: usize, physical: u64, flags: u64) -> Result<(), OutOfMemory> {
    let _guard = EXTEND.lock();
    map(root(), address, physical, PAGE_SIZE as u64, flags, 0, &mut allocate_table)
}

/// Unmaps one page of kernel memory, without a flush; returns what was there.
pub fn unmap_page(address: usize) -> u64 {
    let _guard = EXTEND.lock();
    walk(root(), address, 0, &mut || Err(OutOfMemory))
        .map_or(0, |table| table[index(address, 0)].swap(0, Ordering::AcqRel) & entry::ADDRESS)
}

fn map_anew(physical: u64, length: usize, flags: u64) -> usize {
    let offset = (physical % PAGE_SIZE as u64) as usize;
    let pages = (offset + length).div_ceil(PAGE_SIZE);
    let _guard = EXTEND.lock();
    // A guard page stays free behind each window.
    let address = NEXT_DEVICE.fetch_add((pages + 1) * PAGE_SIZE, Ordering::Relaxed);
    let first = physical - offset as u64;
    map(root(), address, first, (pages * PAGE_SIZE) as u64, flags, 0, &mut allocate_table)
        .expect("memory for device page tables");
    address + offset
}

/// Maps device registers, uncached; returns their virtual address. The mapping is for ever.
pub fn map_device(physical: u64, length: usize) -> usize {
    map_anew(physical, length, DATA | entry::CACHE_DISABLE | entry::WRITE_THROUGH)
}

/// Maps firmware tables (ACPI), cached; returns their virtual address. The mapping is for ever.
pub fn map_firmware(physical: u64, length: usize) -> usize {
    map_anew(physical, length, DATA)
}

/// Makes sure that the top-level entry for `address` exists.
pub fn prepare(
    root: u64,
    address: usize,
    allocate: &mut dyn FnMut() -> Result<u64, OutOfMemory>,
) -> Result<(), OutOfMemory> {
    walk(root, address, 2, allocate).map(drop)
}
