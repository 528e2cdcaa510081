//! Locks for the kernel core. [`IrqLock`] is `rumpuser`'s; [`Spin`] is for code that has interrupts disabled anyway.

use core::sync::atomic::{AtomicBool, Ordering};

/// A spin lock that disables interrupts while held. Guards must be dropped in the reverse order of locking.
pub type IrqLock<T> = rumpuser::sync::InterruptLock<T>;
/// A spin lock whose user has disabled interrupts.
pub type Spin<T> = lock_api::Mutex<RawPlain, T>;

/// See [`Spin`].
pub struct RawPlain(AtomicBool);

// SAFETY: only the CPU whose compare-exchange succeeded holds the lock.
unsafe impl lock_api::RawMutex for RawPlain {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for it")]
    const INIT: Self = RawPlain(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        while self.0.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.0.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
    }

    fn try_lock(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}
