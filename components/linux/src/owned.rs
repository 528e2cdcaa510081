//! A value that its thread reads without a lock, and that other threads may look at.
#![allow(unsafe_code, reason = "hands out references that only the owning thread's discipline keeps valid")]

use core::cell::UnsafeCell;

use rumpuser::sync::SpinLock;

use crate::task::Task;

/// A value inside a [`Task`]. The task's own thread reads it freely; replacing it, and reading it from elsewhere,
/// takes a lock.
pub struct Owned<T> {
    lock: SpinLock<()>,
    value: UnsafeCell<T>,
}

// SAFETY: other threads only get clones, made under the lock that every change takes; references go to the owning
// thread alone, see `get`.
unsafe impl<T: Send + Sync> Sync for Owned<T> {}

impl<T> Owned<T> {
    /// A value.
    pub const fn new(value: T) -> Self {
        Owned { lock: SpinLock::new(()), value: UnsafeCell::new(value) }
    }

    /// The value, for the thread that runs `owner`. Panics elsewhere.
    #[inline]
    pub fn get<'a>(&'a self, owner: &'a Task) -> &'a T {
        assert!(owner.is_current());
        // SAFETY: only the owning thread changes the value, in `replace`, whose caller promises that no
        // reference is in use.
        unsafe { &*self.value.get() }
    }

    /// A clone of the value, for any thread.
    pub fn clone_value(&self) -> T
    where
        T: Clone,
    {
        let _guard = self.lock.lock();
        // SAFETY: changes take the lock.
        unsafe { &*self.value.get() }.clone()
    }

    /// Replaces the value; returns the old one.
    ///
    /// # Safety
    /// Called by the owning thread (or before it runs), while no reference from [`Owned::get`] is in use.
    pub unsafe fn replace(&self, value: T) -> T {
        let _guard = self.lock.lock();
        // SAFETY: the caller holds no reference, and other threads read under the lock.
        core::mem::replace(unsafe { &mut *self.value.get() }, value)
    }
}
