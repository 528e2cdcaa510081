//! Mutexes: `rumpuser_mutex_*`. They spin briefly, then sleep; the kernel's own (`RUMPUSER_MTX_KMUTEX`) know their owner.

use alloc::boxed::Box;
use core::{
    ffi::{c_int, c_void},
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use rumpuser::{NEVER, rumpuser_cpu_count, rumpuser_curlwp};

use crate::{
    errno::{EBUSY, Errno},
    upcall,
    wait::WaitList,
};

/// The holder keeps its virtual CPU while it waits for it (`RUMPUSER_MTX_SPIN`).
pub const SPIN: c_int = 1;
/// The mutex has an owner (`RUMPUSER_MTX_KMUTEX`).
pub const KERNEL: c_int = 2;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may wait.
const CONTENDED: u32 = 2;
/// How often a thread looks before it sleeps.
const SPINS: u32 = 200;

/// `struct rumpuser_mtx`.
pub struct Mutex {
    state: AtomicU32,
    /// [`SPIN`] and [`KERNEL`].
    pub flags: c_int,
    owner: AtomicPtr<()>,
    waiters: WaitList,
}

impl Mutex {
    /// A free one.
    pub fn new(flags: c_int) -> Self {
        Mutex {
            state: AtomicU32::new(FREE),
            flags,
            owner: AtomicPtr::new(core::ptr::null_mut()),
            waiters: WaitList::new(),
        }
    }

    /// Notes the calling thread's LWP as the owner: it may have had none when it took the mutex.
    pub fn adopt(&self) {
        self.set_owner();
    }

    /// Those without an owner that anybody asks for have one too: that is cheaper than to look.
    #[inline]
    fn set_owner(&self) {
        self.owner.store(rumpuser_curlwp(), Ordering::Relaxed);
    }

    /// Takes it if it is free.
    #[inline]
    pub fn try_enter(&self) -> bool {
        let taken = self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if taken {
            self.set_owner();
        }
        taken
    }

    /// Takes it without giving the virtual CPU up.
    #[inline]
    pub fn enter_keeping_cpu(&self) {
        if !self.try_enter() {
            self.enter_slowly();
        }
    }

    /// Takes it; the virtual CPU is given up meanwhile unless the mutex is one that spins.
    #[inline]
    pub fn enter(&self) {
        if !self.try_enter() {
            self.enter_contended();
        }
    }

    #[cold]
    fn enter_contended(&self) {
        if self.flags & SPIN != 0 {
            self.enter_slowly();
        } else if !self.spin() {
            upcall::without_cpu(core::ptr::null_mut(), || self.enter_slowly());
            // The owner is the LWP, which is the thread's again only now.
            self.set_owner();
        }
    }

    /// Watches for the mutex to come free; returns whether it was taken.
    fn spin(&self) -> bool {
        let spins = if rumpuser_cpu_count() > 1 { SPINS } else { 1 };
        for _ in 0..spins {
            if self.state.load(Ordering::Relaxed) == FREE && self.try_enter() {
                return true;
            }
            spin_loop();
        }
        false
    }

    #[cold]
    fn enter_slowly(&self) {
        if self.spin() {
            return;
        }
        // Whoever finds the mutex contended wakes somebody when it lets go; whoever takes it here may be the last.
        let take = || self.state.swap(CONTENDED, Ordering::Acquire) == FREE;
        loop {
            let mut taken = false;
            self.waiters.wait(NEVER, || {
                taken = take();
                !taken
            });
            if taken {
                break;
            }
        }
        self.set_owner();
    }

    /// Lets go.
    #[inline]
    pub fn exit(&self) {
        self.owner.store(core::ptr::null_mut(), Ordering::Relaxed);
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        self.waiters.wake_one();
    }
}

/// # Safety
/// The pointer is to a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_init(place: *mut *mut Mutex, flags: c_int) {
    // SAFETY: the caller's promise.
    unsafe { *place = Box::into_raw(Box::new(Mutex::new(flags))) }
}

/// # Safety
/// The mutex came from `rumpuser_mutex_init`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_enter(mutex: &Mutex) {
    mutex.enter();
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_enter_nowrap(mutex: &Mutex) {
    mutex.enter_keeping_cpu();
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_tryenter(mutex: &Mutex) -> Errno {
    if mutex.try_enter() { 0 } else { EBUSY }
}

/// # Safety
/// As above, and the caller holds it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_exit(mutex: &Mutex) {
    mutex.exit();
}

/// # Safety
/// The mutex came from `rumpuser_mutex_init` and isn't used any more.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_destroy(mutex: *mut Mutex) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(mutex) });
}

/// # Safety
/// The mutex came from `rumpuser_mutex_init`; the place is one for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_mutex_owner(mutex: &Mutex, place: *mut *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { *place = mutex.owner.load(Ordering::Relaxed).cast() }
}

/// `mutex_enter(9)` in the place of the kernel's own, which would only call [`rumpuser_mutex_enter`]: a request over HTTP takes
/// and lets go some fifty mutexes.
///
/// # Safety
/// The place holds a mutex of `rumpuser_mutex_init`'s.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_mutex_enter(place: &&Mutex) {
    place.enter();
}

/// `mutex_spin_enter(9)`: see [`__wrap_rumpns_mutex_enter`].
///
/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_mutex_spin_enter(place: &&Mutex) {
    place.enter_keeping_cpu();
}

/// `mutex_exit(9)`: see [`__wrap_rumpns_mutex_enter`].
///
/// # Safety
/// As above, and the caller holds the mutex.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_mutex_exit(place: &&Mutex) {
    place.exit();
}

/// `mutex_spin_exit(9)`: see [`__wrap_rumpns_mutex_enter`].
///
/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn __wrap_rumpns_mutex_spin_exit(place: &&Mutex) {
    place.exit();
}

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec::Vec};
    use core::cell::UnsafeCell;

    use super::*;

    struct Shared(Mutex, UnsafeCell<u64>);
    // SAFETY: the cell is used with the mutex held.
    unsafe impl Sync for Shared {}
    // SAFETY: as above.
    unsafe impl Send for Shared {}

    #[test]
    fn one_thread_at_a_time() {
        for flags in [0, SPIN, KERNEL] {
            let shared = Arc::new(Shared(Mutex::new(flags), UnsafeCell::new(0)));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let shared = shared.clone();
                    std::thread::spawn(move || {
                        for _ in 0..2000 {
                            shared.0.enter();
                            // SAFETY: the mutex is held.
                            unsafe { *shared.1.get() += 1 };
                            shared.0.exit();
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("it doesn't panic"));
            shared.0.enter();
            assert!(!shared.0.try_enter());
            // SAFETY: the mutex is held.
            assert_eq!(unsafe { *shared.1.get() }, 8000);
        }
    }
}
