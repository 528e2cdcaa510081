//! Locks over the hypercalls. Three kinds: [`SpinLock`] (short, no sleeping inside, thread context only),
//! [`InterruptLock`] (also taken in interrupt handlers), [`Mutex`]/[`RwLock`] (sleep; the default choice).

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use lock_api::GuardNoSend;

use crate::{
    NEVER, Thread, rumpuser_interrupts_disable, rumpuser_interrupts_restore, rumpuser_park,
    rumpuser_preempt_disable, rumpuser_preempt_enable, rumpuser_thread_current,
};

/// A spin lock that disables preemption while held.
pub type SpinLock<T> = lock_api::Mutex<RawSpin, T>;
/// Its guard.
pub type SpinGuard<'a, T> = lock_api::MutexGuard<'a, RawSpin, T>;
/// A spin lock that disables interrupts while held.
pub type InterruptLock<T> = lock_api::Mutex<RawInterrupt, T>;
/// A sleeping mutex: spins briefly, then parks.
pub type Mutex<T> = lock_api::Mutex<RawSleep, T>;
/// Its guard.
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawSleep, T>;
/// A sleeping reader-writer lock; a waiting writer holds off new readers.
pub type RwLock<T> = lock_api::RwLock<RawSleepRw, T>;
/// Its read guard.
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawSleepRw, T>;
/// Its write guard.
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawSleepRw, T>;

/// See [`SpinLock`].
pub struct RawSpin(AtomicBool);

fn spin_until_taken(flag: &AtomicBool) {
    while flag.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        while flag.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    }
}

// SAFETY: only the thread whose compare-exchange succeeded holds the lock.
unsafe impl lock_api::RawMutex for RawSpin {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for it")]
    const INIT: Self = RawSpin(AtomicBool::new(false));
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        rumpuser_preempt_disable();
        spin_until_taken(&self.0);
    }

    fn try_lock(&self) -> bool {
        rumpuser_preempt_disable();
        let taken = self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !taken {
            rumpuser_preempt_enable();
        }
        taken
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
        rumpuser_preempt_enable();
    }
}

/// See [`InterruptLock`].
pub struct RawInterrupt {
    held: AtomicBool,
    state: AtomicUsize,
}

// SAFETY: as for `RawSpin`; the saved interrupt state is written and read only by the holder.
unsafe impl lock_api::RawMutex for RawInterrupt {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for it")]
    const INIT: Self = RawInterrupt { held: AtomicBool::new(false), state: AtomicUsize::new(0) };
    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let state = rumpuser_interrupts_disable();
        spin_until_taken(&self.held);
        self.state.store(state, Ordering::Relaxed);
    }

    fn try_lock(&self) -> bool {
        let state = rumpuser_interrupts_disable();
        let taken = self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if taken {
            self.state.store(state, Ordering::Relaxed);
        } else {
            rumpuser_interrupts_restore(state);
        }
        taken
    }

    unsafe fn unlock(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.held.store(false, Ordering::Release);
        rumpuser_interrupts_restore(state);
    }
}

/// How often a sleeping lock looks before it parks.
const SPINS: u32 = 100;

/// The parked threads of a sleeping lock.
type Waiters = InterruptLock<VecDeque<Thread>>;

/// Parks until `take` succeeds; `take` is retried after every wake-up.
fn sleep_until(waiters: &Waiters, waiting: &AtomicU32, mut take: impl FnMut() -> bool) {
    for _ in 0..SPINS {
        if take() {
            return;
        }
        core::hint::spin_loop();
    }
    let me = rumpuser_thread_current();
    waiting.fetch_add(1, Ordering::SeqCst);
    loop {
        waiters.lock().push_back(me.clone());
        let taken = take();
        if !taken {
            rumpuser_park(NEVER);
        }
        waiters.lock().retain(|thread| thread.id() != me.id());
        if taken || take() {
            break;
        }
    }
    waiting.fetch_sub(1, Ordering::SeqCst);
    // The park above may have used up an unpark that was meant for a wait around this lock.
    me.unpark();
}

fn wake_one(waiters: &Waiters, waiting: &AtomicU32) {
    if waiting.load(Ordering::SeqCst) > 0
        && let Some(thread) = waiters.lock().pop_front()
    {
        thread.unpark();
    }
}

/// See [`Mutex`].
pub struct RawSleep {
    held: AtomicBool,
    waiting: AtomicU32,
    waiters: Waiters,
}

// SAFETY: only the thread whose compare-exchange succeeded holds the lock.
unsafe impl lock_api::RawMutex for RawSleep {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for it")]
    const INIT: Self = RawSleep {
        held: AtomicBool::new(false),
        waiting: AtomicU32::new(0),
        waiters: InterruptLock::new(VecDeque::new()),
    };
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        if !self.try_lock() {
            sleep_until(&self.waiters, &self.waiting, || self.try_lock());
        }
    }

    fn try_lock(&self) -> bool {
        self.held.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        self.held.store(false, Ordering::SeqCst);
        wake_one(&self.waiters, &self.waiting);
    }
}

/// See [`RwLock`]. `state` counts readers; [`WRITER`] marks a writer.
pub struct RawSleepRw {
    state: AtomicU32,
    writers_waiting: AtomicU32,
    waiting: AtomicU32,
    waiters: Waiters,
}

const WRITER: u32 = u32::MAX;

impl RawSleepRw {
    fn wake_all(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            for thread in self.waiters.lock().drain(..) {
                thread.unpark();
            }
        }
    }
}

// SAFETY: readers are counted, a writer needs the count at zero, each by one atomic step.
unsafe impl lock_api::RawRwLock for RawSleepRw {
    #[allow(clippy::declare_interior_mutable_const, reason = "lock_api asks for it")]
    const INIT: Self = RawSleepRw {
        state: AtomicU32::new(0),
        writers_waiting: AtomicU32::new(0),
        waiting: AtomicU32::new(0),
        waiters: InterruptLock::new(VecDeque::new()),
    };
    type GuardMarker = lock_api::GuardSend;

    fn lock_shared(&self) {
        if !self.try_lock_shared() {
            sleep_until(&self.waiters, &self.waiting, || self.try_lock_shared());
        }
    }

    fn try_lock_shared(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state < WRITER - 1
            && self.writers_waiting.load(Ordering::SeqCst) == 0
            && self.state.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_shared(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake_all();
        }
    }

    fn lock_exclusive(&self) {
        if !self.try_lock_exclusive() {
            self.writers_waiting.fetch_add(1, Ordering::SeqCst);
            sleep_until(&self.waiters, &self.waiting, || self.try_lock_exclusive());
            self.writers_waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        self.state.compare_exchange(0, WRITER, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock_exclusive(&self) {
        self.state.store(0, Ordering::SeqCst);
        self.wake_all();
    }
}
