//! Where things are in the kernel's half of the address space, and the format of page table entries.

use core::sync::atomic::{AtomicU64, Ordering};

/// All of physical memory, read-write except for the kernel's own image; never executable.
pub const DIRECT_MAP: usize = 0xffff_8000_0000_0000;
/// How much of it there can be: one top-level entry.
pub const DIRECT_MAP_LENGTH: u64 = 1 << 39;
/// Kernel stacks.
pub const STACKS: usize = 0xffff_c000_0000_0000;
/// Device registers and firmware tables.
pub const DEVICES: usize = 0xffff_c080_0000_0000;
/// The kernel: the top 2 GiB.
pub const KERNEL_BASE: usize = 0xffff_ffff_8000_0000;

/// Page table entry bits (SDM volume 3, section 4.5).
pub mod entry {
    /// The entry is valid for the CPU.
    pub const PRESENT: u64 = 1;
    /// Writes allowed.
    pub const WRITE: u64 = 1 << 1;
    /// User mode allowed.
    pub const USER: u64 = 1 << 2;
    /// Write-through.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Not cached.
    pub const CACHE_DISABLE: u64 = 1 << 4;
    /// Accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// Written.
    pub const DIRTY: u64 = 1 << 6;
    /// A large page, above the lowest level.
    pub const LARGE: u64 = 1 << 7;
    /// Survives a change of address space in the TLB.
    pub const GLOBAL: u64 = 1 << 8;
    /// Ours: unmapped, but TLBs may not know yet.
    pub const DYING: u64 = 1 << 9;
    /// No instruction fetches.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The physical address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// A page table of any level.
pub type Table = [AtomicU64; 512];

/// Where a physical address is in the direct map.
#[inline]
pub fn direct(physical: u64) -> usize {
    DIRECT_MAP + physical as usize
}

/// The table at a physical address.
///
/// # Safety
/// A page table must stand there, and stay there as long as the reference is used.
#[inline]
pub unsafe fn table(physical: u64) -> &'static Table {
    // SAFETY: the direct map covers it; entries are atomic, so shared references are fine.
    unsafe { &*(direct(physical & entry::ADDRESS) as *const Table) }
}

/// The index of `address` in its table of `level` (0 is the lowest).
#[inline]
pub fn index(address: usize, level: usize) -> usize {
    address >> (12 + 9 * level) & 511
}

/// Distance between the kernel's link address and its load address.
static KERNEL_DELTA: AtomicU64 = AtomicU64::new(0);

/// Tells where the kernel was loaded.
pub fn set_kernel_delta(delta: u64) {
    KERNEL_DELTA.store(delta, Ordering::Relaxed);
}

/// The physical address of something in the kernel image or the direct map.
#[inline]
pub fn physical(address: usize) -> u64 {
    if address >= KERNEL_BASE {
        (address - KERNEL_BASE) as u64 + KERNEL_DELTA.load(Ordering::Relaxed)
    } else {
        (address - DIRECT_MAP) as u64
    }
}
