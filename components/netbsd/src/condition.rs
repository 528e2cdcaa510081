//! Condition variables: `rumpuser_cv_*`.

use alloc::boxed::Box;
use core::{
    ffi::c_int,
    sync::atomic::{AtomicU32, Ordering},
};

use rumpuser::NEVER;

use crate::{
    clock,
    errno::{ETIMEDOUT, Errno},
    mutex::{KERNEL, Mutex, SPIN},
    upcall,
    user::interrupt,
    wait::WaitList,
};

/// `struct rumpuser_cv`.
pub struct Condition {
    waiters: WaitList,
    waiting: AtomicU32,
}

impl Condition {
    /// Nobody waits.
    pub fn new() -> Self {
        Condition { waiters: WaitList::new(), waiting: AtomicU32::new(0) }
    }

    /// Waits with `mutex` released, and the virtual CPU given up; returns whether it was signalled.
    pub fn wait(&self, mutex: &Mutex, deadline: u64) -> bool {
        let interlock = core::ptr::from_ref(mutex).cast_mut().cast();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut locks = 0;
        let enter = || {
            locks = upcall::unschedule(interlock);
            mutex.exit();
            true
        };
        let interruptible = interrupt::sleeper();
        let woken = match interruptible {
            Some(lwp) => self.waiters.wait_unless(deadline, enter, || interrupt::is_due(lwp)),
            None => self.waiters.wait(deadline, enter),
        };
        if let Some(lwp) = interruptible.filter(|_| !woken) {
            interrupt::note(lwp);
        }
        // A spinning kernel mutex is taken after the CPU, as everybody else does; all others before it.
        if mutex.flags & (SPIN | KERNEL) == SPIN | KERNEL {
            upcall::schedule(locks, interlock);
            mutex.enter_keeping_cpu();
        } else {
            mutex.enter_keeping_cpu();
            upcall::schedule(locks, interlock);
            mutex.adopt();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        woken
    }

    /// Whether somebody has begun to wait since before the caller last held the mutex.
    #[inline]
    fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Waits with `mutex` released, and keeps the virtual CPU if there is one.
    pub fn wait_keeping_cpu(&self, mutex: &Mutex) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.waiters.wait(NEVER, || {
            mutex.exit();
            true
        });
        mutex.enter_keeping_cpu();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Condition {
    fn default() -> Self {
        Self::new()
    }
}

/// # Safety
/// The pointer is to a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_init(place: *mut *mut Condition) {
    // SAFETY: the caller's promise.
    unsafe { *place = Box::into_raw(Box::new(Condition::new())) }
}

/// # Safety
/// The variable came from `rumpuser_cv_init` and isn't used any more.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_destroy(condition: *mut Condition) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(condition) });
}

/// # Safety
/// Both came from their `init`; the caller holds the mutex.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_wait(condition: &Condition, mutex: &Mutex) {
    condition.wait(mutex, NEVER);
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_wait_nowrap(condition: &Condition, mutex: &Mutex) {
    condition.wait_keeping_cpu(mutex);
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_timedwait(
    condition: &Condition,
    mutex: &Mutex,
    seconds: i64,
    nanoseconds: i64,
) -> Errno {
    if condition.wait(mutex, clock::deadline(seconds, nanoseconds)) { 0 } else { ETIMEDOUT }
}

/// # Safety
/// The variable came from `rumpuser_cv_init`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_signal(condition: &Condition) {
    if condition.is_awaited() {
        condition.waiters.wake_one();
    }
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_broadcast(condition: &Condition) {
    if condition.is_awaited() {
        condition.waiters.wake_all();
    }
}

/// # Safety
/// As above; the place is one for an `int`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_cv_has_waiters(condition: &Condition, place: *mut c_int) {
    // SAFETY: the caller's promise.
    unsafe { *place = (condition.waiting.load(Ordering::SeqCst) > 0).into() }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;

    #[test]
    fn a_signal_ends_a_wait_and_time_does() {
        let shared = Arc::new((Mutex::new(0), Condition::new(), core::sync::atomic::AtomicBool::new(false)));
        shared.0.enter();
        assert!(!shared.1.wait(&shared.0, clock::deadline(0, 1_000_000)));
        let other = shared.clone();
        let thread = std::thread::spawn(move || {
            other.0.enter();
            other.2.store(true, Ordering::SeqCst);
            other.1.waiters.wake_one();
            other.0.exit();
        });
        while !shared.2.load(Ordering::SeqCst) {
            shared.1.wait(&shared.0, NEVER);
        }
        assert!(!shared.0.try_enter());
        shared.0.exit();
        thread.join().expect("it doesn't panic");
        assert_eq!(shared.1.waiting.load(Ordering::SeqCst), 0);
    }
}
