//! Reader-writer locks: `rumpuser_rw_*`. A waiting writer holds off new readers.

use alloc::boxed::Box;
use core::{
    ffi::c_int,
    sync::atomic::{AtomicU32, Ordering},
};

use rumpuser::{NEVER, rumpuser_curlwp, sync::SpinLock};

use crate::{
    errno::{EBUSY, EINVAL, Errno},
    upcall,
    wait::WaitList,
};

/// `RUMPUSER_RW_READER`.
pub const READER: c_int = 0;
/// `RUMPUSER_RW_WRITER`.
pub const WRITER: c_int = 1;

struct State {
    readers: u32,
    writer: bool,
    owner: *mut (),
}

// SAFETY: the owner is compared, never followed.
unsafe impl Send for State {}

/// `struct rumpuser_rw`.
pub struct ReadWriteLock {
    state: SpinLock<State>,
    writers_waiting: AtomicU32,
    waiters: WaitList,
}

impl ReadWriteLock {
    /// A free one.
    pub fn new() -> Self {
        ReadWriteLock {
            state: SpinLock::new(State { readers: 0, writer: false, owner: core::ptr::null_mut() }),
            writers_waiting: AtomicU32::new(0),
            waiters: WaitList::new(),
        }
    }

    /// Takes it if it is free for `mode`.
    pub fn try_enter(&self, mode: c_int) -> bool {
        let owner = rumpuser_curlwp();
        let waits = self.writers_waiting.load(Ordering::SeqCst) > 0;
        self.take(mode, owner, waits)
    }

    fn take(&self, mode: c_int, owner: *mut (), writer_waits: bool) -> bool {
        let mut state = self.state.lock();
        if mode == WRITER {
            let free = !state.writer && state.readers == 0;
            if free {
                state.writer = true;
                state.owner = owner;
            }
            free
        } else {
            let free = !state.writer && !writer_waits;
            state.readers += u32::from(free);
            free
        }
    }

    /// Takes it; the virtual CPU is given up while it waits.
    pub fn enter(&self, mode: c_int) {
        if self.try_enter(mode) {
            return;
        }
        let owner = rumpuser_curlwp();
        upcall::without_cpu(core::ptr::null_mut(), || {
            if mode == WRITER {
                self.writers_waiting.fetch_add(1, Ordering::SeqCst);
            }
            loop {
                let mut taken = false;
                self.waiters.wait(NEVER, || {
                    let waits = self.writers_waiting.load(Ordering::SeqCst) > 0;
                    taken = self.take(mode, owner, waits);
                    !taken
                });
                if taken {
                    break;
                }
            }
            if mode == WRITER {
                // Readers that were held off look again when this writer lets go.
                self.writers_waiting.fetch_sub(1, Ordering::SeqCst);
            }
        });
    }

    /// Lets go, whatever the caller holds.
    pub fn exit(&self) {
        let mut state = self.state.lock();
        if state.writer {
            state.writer = false;
            state.owner = core::ptr::null_mut();
        } else {
            state.readers = state.readers.saturating_sub(1);
        }
        let free = state.readers == 0;
        drop(state);
        if free {
            self.waiters.wake_all();
        }
    }

    fn try_upgrade(&self) -> bool {
        let mut state = self.state.lock();
        let alone = !state.writer && state.readers == 1;
        if alone {
            *state = State { readers: 0, writer: true, owner: rumpuser_curlwp() };
        }
        alone
    }

    fn downgrade(&self) {
        *self.state.lock() = State { readers: 1, writer: false, owner: core::ptr::null_mut() };
        self.waiters.wake_all();
    }

    fn held(&self, mode: c_int) -> bool {
        let state = self.state.lock();
        if mode == WRITER { state.writer && state.owner == rumpuser_curlwp() } else { state.readers > 0 }
    }
}

impl Default for ReadWriteLock {
    fn default() -> Self {
        Self::new()
    }
}

/// # Safety
/// The pointer is to a place for a pointer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_init(place: *mut *mut ReadWriteLock) {
    // SAFETY: the caller's promise.
    unsafe { *place = Box::into_raw(Box::new(ReadWriteLock::new())) }
}

/// # Safety
/// The lock came from `rumpuser_rw_init`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_enter(mode: c_int, lock: &ReadWriteLock) {
    lock.enter(mode);
}

/// # Safety
/// As above.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_tryenter(mode: c_int, lock: &ReadWriteLock) -> Errno {
    match mode {
        READER | WRITER => {
            if lock.try_enter(mode) {
                0
            } else {
                EBUSY
            }
        }
        _ => EINVAL,
    }
}

/// # Safety
/// As above, and the caller holds it as a reader.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_tryupgrade(lock: &ReadWriteLock) -> Errno {
    if lock.try_upgrade() { 0 } else { EBUSY }
}

/// # Safety
/// As above, and the caller holds it as a writer.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_downgrade(lock: &ReadWriteLock) {
    lock.downgrade();
}

/// # Safety
/// As above, and the caller holds it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_exit(lock: &ReadWriteLock) {
    lock.exit();
}

/// # Safety
/// The lock came from `rumpuser_rw_init` and isn't used any more.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_destroy(lock: *mut ReadWriteLock) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(lock) });
}

/// # Safety
/// The lock came from `rumpuser_rw_init`; the place is one for an `int`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn rumpuser_rw_held(mode: c_int, lock: &ReadWriteLock, place: *mut c_int) {
    // SAFETY: the caller's promise.
    unsafe { *place = lock.held(mode).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_do_not() {
        let lock = ReadWriteLock::new();
        assert!(lock.try_enter(READER) && lock.try_enter(READER) && !lock.try_enter(WRITER));
        assert!(!lock.try_upgrade());
        lock.exit();
        assert!(lock.try_upgrade() && !lock.try_enter(READER) && lock.held(WRITER));
        lock.downgrade();
        assert!(lock.try_enter(READER) && !lock.held(WRITER));
        lock.exit();
        lock.exit();
        assert!(lock.try_enter(WRITER));
    }
}
