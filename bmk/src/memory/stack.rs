//! Kernel stacks: each in a slot of its own with an unmapped guard below it; kept for reuse.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpuser::{Frame, OutOfMemory, memory::PAGE_SIZE};

use super::{
    frames::{self, For},
    kernel_map, layout, shootdown,
};
use crate::lock::IrqLock;

/// Bytes of a stack.
pub const SIZE: usize = 32 << 10;
/// Distance between stacks, each of which ends at a multiple of it.
pub const SLOT: usize = 64 << 10;
/// How many unused stacks stay mapped.
const KEEP: usize = 32;

static NEXT: AtomicUsize = AtomicUsize::new(layout::STACKS);
/// Tops of unused stacks that are mapped.
static MAPPED: IrqLock<Vec<usize>> = IrqLock::new(Vec::new());
/// Tops of slots without memory.
static EMPTY: IrqLock<Vec<usize>> = IrqLock::new(Vec::new());

/// Takes a stack; returns its top.
pub fn allocate() -> Result<usize, OutOfMemory> {
    if let Some(top) = MAPPED.lock().pop() {
        return Ok(top);
    }
    if !frames::available(SIZE / PAGE_SIZE) {
        return Err(OutOfMemory);
    }
    let empty = EMPTY.lock().pop();
    let top = empty.unwrap_or_else(|| NEXT.fetch_add(SLOT, Ordering::Relaxed) + SLOT);
    for page in 0..SIZE / PAGE_SIZE {
        let frame = frames::allocate(0, For::Kernel);
        let address = top - SIZE + page * PAGE_SIZE;
        let mapped = frame.and_then(|frame| {
            kernel_map::map_page(address, frame.physical(), kernel_map::DATA)
                .inspect_err(|_| frames::release(frame))
        });
        if let Err(error) = mapped {
            unmap(top);
            EMPTY.lock().push(top);
            return Err(error);
        }
    }
    Ok(top)
}

/// Gives a stack back. Safe with interrupts disabled; [`trim`] returns surplus memory later.
pub fn release(top: usize) {
    MAPPED.lock().push(top);
}

/// Frees the memory of stacks that are unlikely to be used again. Thread context, interrupts enabled.
pub fn trim() {
    let surplus = {
        let mut mapped = MAPPED.lock();
        if mapped.len() <= 2 * KEEP {
            return;
        }
        mapped.split_off(KEEP)
    };
    for top in surplus {
        unmap(top);
        EMPTY.lock().push(top);
    }
}

fn unmap(top: usize) {
    let mut freed = [0; SIZE / PAGE_SIZE];
    for (page, freed) in freed.iter_mut().enumerate() {
        *freed = kernel_map::unmap_page(top - SIZE + page * PAGE_SIZE);
    }
    shootdown::flush_kernel();
    for physical in freed.into_iter().filter(|&physical| physical != 0) {
        frames::release(Frame(physical / PAGE_SIZE as u64));
    }
}

/// Whether `address` is in the guard of a stack.
pub fn is_guard(address: usize) -> bool {
    (layout::STACKS..NEXT.load(Ordering::Relaxed)).contains(&address) && address % SLOT < SLOT - SIZE
}
