//! A cell written once, read without a lock.

use alloc::boxed::Box;
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicPtr, Ordering},
};

/// See the module.
pub struct Once<T: Send + Sync + 'static>(AtomicPtr<T>, PhantomData<T>);

impl<T: Send + Sync + 'static> Once<T> {
    /// Empty.
    pub const fn new() -> Self {
        Once(AtomicPtr::new(core::ptr::null_mut()), PhantomData)
    }

    /// Fills the cell, for good; a second value is dropped.
    pub fn set(&self, value: T) {
        let pointer = Box::into_raw(Box::new(value));
        let filled =
            self.0.compare_exchange(core::ptr::null_mut(), pointer, Ordering::AcqRel, Ordering::Acquire);
        if filled.is_err() {
            // SAFETY: the pointer came from `into_raw` just now, and nobody else has seen it.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }

    /// The value.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: the cell holds null or a leaked, never changed box.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }
}
