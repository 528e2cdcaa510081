//! The hardware side of user address spaces: 4-level page tables, with 2 MiB pages that split when needed.
//!
//! An unmapping first takes the entries away from the CPU and marks them dying, then flushes, then releases the
//! frames and tables: one flush for a whole range, and no list of what to free.

use alloc::sync::Arc;
use core::{
    ops::Range,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use rumpuser::{
    Frame, OutOfMemory, Protection,
    memory::{LARGE_PAGE_SIZE, PAGE_SIZE, USER_END},
    sync::SpinLock,
};

use super::{
    frames::{self, For},
    kernel_map,
    layout::{Table, entry, index, table},
    shootdown,
};

/// Entries of a 2 MiB page's worth of small pages.
pub(super) const ENTRIES: usize = 512;
/// How many tables of 2 MiB are unmapped under one hold of the lock.
const PIECE: usize = 32;

/// The hardware side of an address space. A CPU that has it loaded holds a reference.
pub struct AddressSpace {
    pub(super) root: u64,
    /// CPUs whose CR3 points here.
    pub active: AtomicU64,
    pub(super) tables: SpinLock<Spares>,
    pub(super) resident: AtomicUsize,
}

/// Tables set aside, one for each 2 MiB page, so that splitting cannot fail: a list through their first words.
pub(super) struct Spares(u64);

impl Spares {
    pub(super) fn put(&mut self, physical: u64) {
        // SAFETY: the table is unused and ours.
        unsafe { table(physical)[0].store(self.0, Ordering::Relaxed) };
        self.0 = physical;
    }

    pub(super) fn take(&mut self) -> u64 {
        let physical = self.0;
        assert!(physical != 0, "a table was set aside for every large page");
        // SAFETY: as above.
        self.0 = unsafe { table(physical)[0].swap(0, Ordering::Relaxed) };
        physical
    }
}

pub(super) fn allocate_table() -> Result<u64, OutOfMemory> {
    let frame = frames::allocate(0, For::User)?;
    frames::zero(frame, 1);
    Ok(frame.physical())
}

pub(super) fn free_table(physical: u64) {
    frames::release(Frame((physical & entry::ADDRESS) / PAGE_SIZE as u64));
}

pub(super) fn flags(protection: Protection) -> u64 {
    if protection.is_empty() {
        return entry::USER;
    }
    let mut flags = entry::PRESENT | entry::USER | entry::ACCESSED | entry::DIRTY;
    if protection.contains(Protection::WRITE) {
        flags |= entry::WRITE;
    }
    if !protection.contains(Protection::EXECUTE) {
        flags |= entry::NO_EXECUTE;
    }
    flags
}

pub(super) fn protection(value: u64) -> Protection {
    if value & entry::PRESENT == 0 {
        return Protection::empty();
    }
    let mut protection = Protection::READ;
    protection.set(Protection::WRITE, value & entry::WRITE != 0);
    protection.set(Protection::EXECUTE, value & entry::NO_EXECUTE == 0);
    protection
}

pub(super) fn frame(value: u64) -> Frame {
    Frame((value & entry::ADDRESS) / PAGE_SIZE as u64)
}

/// The lowest-level page of `value`'s large page that `address` is in.
pub(super) fn part(value: u64, address: usize) -> Frame {
    Frame(frame(value).0 + index(address, 0) as u64)
}

pub(super) fn release_large(value: u64) {
    let first = frame(value).0;
    (first..first + ENTRIES as u64).for_each(|number| frames::release(Frame(number)));
}

/// The part of a range from `start` on that one lowest-level table serves, and whether that is all the table serves.
fn span(start: usize, end: usize) -> (Range<usize>, bool) {
    let span = start..next(start, LARGE_PAGE_SIZE, end);
    // Behind `USER_END` nothing is ever mapped.
    let whole = start.is_multiple_of(LARGE_PAGE_SIZE)
        && (span.end - start == LARGE_PAGE_SIZE || span.end == USER_END);
    (span, whole)
}

/// Releases the frames of entries, which no TLB knows any more; returns how many there were.
fn release_all(entries: &[AtomicU64]) -> usize {
    let mut released = 0;
    for slot in entries {
        let value = slot.load(Ordering::Relaxed);
        if value != 0 {
            slot.store(0, Ordering::Relaxed);
            frames::release(frame(value));
            released += 1;
        }
    }
    released
}

pub(super) fn next(address: usize, size: usize, end: usize) -> usize {
    ((address & !(size - 1)) + size).min(end)
}

pub(super) fn check(range: &Range<usize>) {
    assert!(
        range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE) && range.end <= USER_END,
        "user range {range:x?}"
    );
}

impl AddressSpace {
    pub(super) fn new() -> Result<Arc<Self>, OutOfMemory> {
        if !frames::available(8) {
            return Err(OutOfMemory);
        }
        let root = allocate_table()?;
        // SAFETY: both are top-level tables; the kernel's half is complete since boot.
        let (new, kernel) = unsafe { (table(root), table(kernel_map::root())) };
        for slot in 256..ENTRIES {
            new[slot].store(kernel[slot].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(Arc::new(AddressSpace {
            root,
            active: AtomicU64::new(0),
            tables: SpinLock::new(Spares(0)),
            resident: AtomicUsize::new(0),
        }))
    }

    /// What CR3 takes.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The slot for `address` in the table of `level`, if the tables above it exist. Stops at a large page or a
    /// dying entry.
    pub(super) fn find(&self, address: usize, level: usize) -> Option<&'static AtomicU64> {
        // SAFETY: tables live while the lock is held, which the callers hold.
        let mut current = unsafe { table(self.root) };
        for above in (level + 1..4).rev() {
            let value = current[index(address, above)].load(Ordering::Relaxed);
            if value & entry::PRESENT == 0 || value & entry::LARGE != 0 {
                return None;
            }
            // SAFETY: as above.
            current = unsafe { table(value) };
        }
        Some(&current[index(address, level)])
    }

    /// As `find`, making tables and splitting a large page on the way.
    pub(super) fn make(
        &self,
        spares: &mut Spares,
        address: usize,
        level: usize,
    ) -> Result<&'static AtomicU64, OutOfMemory> {
        self.make_table(spares, address, level).map(|table| &table[index(address, level)])
    }

    /// The table of `level` for `address`, made as needed.
    pub(super) fn make_table(
        &self,
        spares: &mut Spares,
        address: usize,
        level: usize,
    ) -> Result<&'static Table, OutOfMemory> {
        // SAFETY: as in `find`.
        let mut current = unsafe { table(self.root) };
        for above in (level + 1..4).rev() {
            let slot = &current[index(address, above)];
            let mut value = slot.load(Ordering::Relaxed);
            if value & entry::LARGE != 0 {
                self.split(spares, slot, address);
                value = slot.load(Ordering::Relaxed);
            } else if value == 0 {
                value = allocate_table()? | entry::PRESENT | entry::WRITE | entry::USER | entry::ACCESSED;
                slot.store(value, Ordering::Release);
            }
            // SAFETY: as above.
            current = unsafe { table(value) };
        }
        Ok(current)
    }

    /// Replaces a 2 MiB page by a table of the same small pages.
    pub(super) fn split(&self, spares: &mut Spares, slot: &AtomicU64, address: usize) {
        let value = slot.load(Ordering::Relaxed);
        let physical = spares.take();
        let flags = value & !(entry::ADDRESS | entry::LARGE);
        // SAFETY: the spare table is ours.
        let small = unsafe { table(physical) };
        for (number, entry) in small.iter().enumerate() {
            entry.store((frame(value).physical() + (number * PAGE_SIZE) as u64) | flags, Ordering::Relaxed);
        }
        let upper = physical | entry::PRESENT | entry::WRITE | entry::USER | entry::ACCESSED;
        slot.store(upper, Ordering::SeqCst);
        let start = address & !(LARGE_PAGE_SIZE - 1);
        shootdown::flush(&self.active, start, 1);
    }

    /// Calls `visit(address, slot, level)` for each mapped leaf of the range, in order; large pages that the range
    /// covers in part are split first.
    pub(super) fn leaves(
        &self,
        spares: &mut Spares,
        range: Range<usize>,
        visit: &mut dyn FnMut(&mut Spares, usize, &AtomicU64, usize),
    ) {
        let mut address = range.start;
        while address < range.end {
            let Some(level) = (1..4).rev().find(|&level| {
                self.find(address, level).is_none_or(|slot| {
                    let value = slot.load(Ordering::Relaxed);
                    value == 0 || level == 1 && value & entry::LARGE != 0
                })
            }) else {
                // A lowest-level table: all of the range that is in it.
                let end = next(address, LARGE_PAGE_SIZE, range.end);
                let value = self.find(address, 1).map_or(0, |slot| slot.load(Ordering::Relaxed));
                // SAFETY: the entry points to a table, which stays while the lock is held.
                let small = unsafe { table(value) };
                for address in (address..end).step_by(PAGE_SIZE) {
                    let slot = &small[index(address, 0)];
                    if slot.load(Ordering::Relaxed) != 0 {
                        visit(spares, address, slot, 0);
                    }
                }
                address = end;
                continue;
            };
            let size = PAGE_SIZE << (9 * level);
            let end = next(address, size, range.end);
            if let Some(slot) = self.find(address, level)
                && slot.load(Ordering::Relaxed) != 0
            {
                if end - address < LARGE_PAGE_SIZE {
                    self.split(spares, slot, address);
                    continue;
                }
                visit(spares, address, slot, 1);
            }
            address = end;
        }
    }

    pub(super) fn unmap(&self, range: Range<usize>) {
        let mut start = range.start;
        while let Some((from, directory)) = self.next_directory(start, range.end) {
            start = from;
            let end = next(start, LARGE_PAGE_SIZE << 9, range.end);
            while start < end {
                start = self.unmap_piece(directory, start..end);
            }
        }
    }

    /// The first GiB at or behind `start` that has a directory, and where it (or the rest of it) begins.
    fn next_directory(&self, mut start: usize, end: usize) -> Option<(usize, &'static Table)> {
        let _guard = self.tables.lock();
        // SAFETY: the root and what its entries point to stay as long as the address space; so do directories.
        let root = unsafe { table(self.root) };
        while start < end {
            let upper = root[index(start, 3)].load(Ordering::Relaxed);
            if upper == 0 {
                start = next(start, LARGE_PAGE_SIZE << 18, end);
                continue;
            }
            // SAFETY: as above.
            let upper = unsafe { table(upper) };
            let first = index(start, 2);
            match upper[first..].iter().position(|slot| slot.load(Ordering::Relaxed) != 0) {
                Some(0) => {
                    let value = upper[first].load(Ordering::Relaxed);
                    // SAFETY: as above.
                    return Some((start, unsafe { table(value) }));
                }
                found => {
                    let skipped = found.unwrap_or(ENTRIES - first);
                    start = (start & !((LARGE_PAGE_SIZE << 9) - 1)) + skipped * (LARGE_PAGE_SIZE << 9);
                }
            }
        }
        None
    }

    /// Unmaps the start of a range inside a GiB, with one flush; returns where the rest begins.
    fn unmap_piece(&self, directory: &'static Table, range: Range<usize>) -> usize {
        let mut spares = self.tables.lock();
        let mut start = range.start;
        let mut tables = 0;
        let mut changed = false;
        while start < range.end && tables < PIECE {
            // Most entries are empty.
            let rest = &directory[index(start, 1)..=index(range.end - 1, 1)];
            match rest.iter().position(|slot| slot.load(Ordering::Relaxed) != 0) {
                None => {
                    start = range.end;
                    break;
                }
                Some(0) => {}
                Some(skipped) => start = (start & !(LARGE_PAGE_SIZE - 1)) + skipped * LARGE_PAGE_SIZE,
            }
            let slot = &directory[index(start, 1)];
            let (span, whole) = span(start, range.end);
            tables += 1;
            if slot.load(Ordering::Relaxed) & entry::LARGE != 0 && !whole {
                self.split(&mut spares, slot, start);
            }
            if whole {
                slot.store(slot.load(Ordering::Relaxed) & !entry::PRESENT | entry::DYING, Ordering::Relaxed);
                changed = true;
            } else {
                // SAFETY: the entry points to a table, which stays while the lock is held.
                let small = unsafe { table(slot.load(Ordering::Relaxed)) };
                for slot in &small[index(span.start, 0)..=index(span.end - 1, 0)] {
                    let value = slot.load(Ordering::Relaxed);
                    if value != 0 {
                        slot.store(value & !entry::PRESENT | entry::DYING, Ordering::Relaxed);
                        changed = true;
                    }
                }
            }
            start = span.end;
        }
        if !changed {
            return start;
        }
        core::sync::atomic::fence(Ordering::SeqCst);
        shootdown::flush(&self.active, range.start, (start - range.start) / PAGE_SIZE);
        let end = start;
        let mut start = range.start;
        let mut released = 0;
        while start < end && tables > 0 {
            let slot = &directory[index(start, 1)];
            if slot.load(Ordering::Relaxed) == 0 {
                start = next(start, LARGE_PAGE_SIZE, end);
                continue;
            }
            tables -= 1;
            let (span, whole) = span(start, range.end);
            let value = slot.load(Ordering::Relaxed);
            if value != 0 && whole {
                slot.store(0, Ordering::Relaxed);
                if value & entry::LARGE != 0 {
                    release_large(value);
                    free_table(spares.take());
                    released += ENTRIES;
                } else {
                    // SAFETY: the table was taken out of the tree, and no TLB knows it any more.
                    released += release_all(unsafe { table(value) });
                    free_table(value);
                }
            } else if value != 0 {
                // SAFETY: as above: not whole, so it is a table.
                let small = unsafe { table(value) };
                released += release_all(&small[index(span.start, 0)..=index(span.end - 1, 0)]);
            }
            start = span.end;
        }
        self.resident.fetch_sub(released, Ordering::Relaxed);
        end
    }

    /// Releases the tables of the user half, when nothing is mapped and no CPU uses them.
    fn free_tables(&self, physical: u64, level: usize) {
        // Directories are empty: the tables below them went with what they mapped.
        if level > 1 {
            // SAFETY: nothing else refers to the tables any more.
            let current: &Table = unsafe { table(physical) };
            let entries = if level == 3 { 256 } else { ENTRIES };
            for slot in &current[..entries] {
                let value = slot.load(Ordering::Relaxed);
                if value != 0 {
                    self.free_tables(value & entry::ADDRESS, level - 1);
                }
            }
        }
        free_table(physical);
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.free_tables(self.root, 3);
    }
}
