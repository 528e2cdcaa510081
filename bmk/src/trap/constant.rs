//! System calls that the entry code answers by itself, from a table of the thread: no register is saved, no Rust
//! code runs.

use core::{
    alloc::Layout,
    cell::Cell,
    ptr::null,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{cpu, machine, schedule};

/// How many calls the table covers.
pub const CALLS: usize = 256;

/// For each call number the answer plus one, or 0 for calls that are served as usual.
pub type Table = [AtomicU32; CALLS];

static NONE: Table = [const { AtomicU32::new(0) }; CALLS];

/// A thread's table; made with the first answer.
pub struct Constants(Cell<*const Table>);

impl Constants {
    /// Without answers.
    pub const fn new() -> Self {
        Constants(Cell::new(null()))
    }

    /// What the entry code reads.
    #[inline]
    pub fn table(&self) -> *const Table {
        if self.0.get().is_null() { &NONE } else { self.0.get() }
    }
}

impl Default for Constants {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Constants {
    fn drop(&mut self) {
        if !self.0.get().is_null() {
            // SAFETY: made by `set` with this layout, and the thread is gone.
            unsafe { alloc::alloc::dealloc(self.0.get().cast_mut().cast(), Layout::new::<Table>()) };
        }
    }
}

/// See `rumpuser_set_constant_call`.
pub fn set(number: usize, value: Option<u32>) {
    let own = &cpu::current_thread().constants;
    if own.0.get().is_null() {
        // SAFETY: the layout has a size; zeroes are a valid table. Without memory the calls are served as usual.
        own.0.set(unsafe { alloc::alloc::alloc_zeroed(Layout::new::<Table>()) }.cast());
        if own.0.get().is_null() {
            return;
        }
        let state = machine::interrupts_disable();
        cpu::current().constants.set(own.table());
        schedule::interrupts_restore(state);
    }
    // SAFETY: made above, and freed with the thread.
    if let Some(slot) = unsafe { &*own.table() }.get(number) {
        // The largest value has no room for the one more: served as usual.
        slot.store(value.map_or(0, |value| value.wrapping_add(1)), Ordering::Relaxed);
    }
}
