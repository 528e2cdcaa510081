//! The list of threads that wait for something, under all sleeping hypercalls.

use alloc::collections::VecDeque;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

use rumpuser::{Thread, rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current, sync::SpinLock};

/// A waiting thread, on its own stack.
struct Waiter {
    thread: Thread,
    woken: AtomicBool,
}

/// Threads that wait, the longest first. Interrupt handlers leave it alone.
pub struct WaitList {
    waiters: SpinLock<VecDeque<NonNull<Waiter>>>,
    /// How many, to look at without the lock.
    length: AtomicUsize,
}

// SAFETY: a waiter is in the list only while its thread is in `wait`, and is used under the lock.
unsafe impl Send for WaitList {}
// SAFETY: as above.
unsafe impl Sync for WaitList {}

impl WaitList {
    /// Nobody waits.
    pub const fn new() -> Self {
        WaitList { waiters: SpinLock::new(VecDeque::new()), length: AtomicUsize::new(0) }
    }

    /// Waits until woken or until the monotonic `deadline`; returns whether it was woken. `enter` is called once the
    /// thread is in the list: a wake from then on counts. If it returns false, the wait is over at once.
    pub fn wait(&self, deadline: u64, enter: impl FnOnce() -> bool) -> bool {
        self.wait_unless(deadline, enter, || false)
    }

    /// As [`wait`](Self::wait); also ends, as if by time, when `over` says so, which is asked before each sleep.
    pub fn wait_unless(
        &self,
        deadline: u64,
        enter: impl FnOnce() -> bool,
        mut over: impl FnMut() -> bool,
    ) -> bool {
        let waiter = Waiter { thread: rumpuser_thread_current(), woken: AtomicBool::new(false) };
        let node = NonNull::from(&waiter);
        let mut list = self.waiters.lock();
        list.push_back(node);
        // Before `enter` looks; the other side is in `len`.
        self.length.fetch_add(1, Ordering::SeqCst);
        drop(list);
        if enter() {
            while !waiter.woken.load(Ordering::Acquire) {
                if deadline <= rumpuser_clock_monotonic() || over() {
                    break;
                }
                rumpuser_park(deadline);
            }
        }
        if waiter.woken.load(Ordering::Acquire) {
            return true;
        }
        let mut list = self.waiters.lock();
        let place = list.iter().position(|&other| other == node);
        // Not in the list: woken since.
        let Some(place) = place else { return true };
        list.remove(place);
        self.length.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Takes the first from the list; he may go on as soon as this is done.
    fn next(&self) -> Option<Thread> {
        let mut list = self.waiters.lock();
        let node = list.pop_front()?;
        self.length.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: it was in the list, so its thread is still in `wait`, and stays there until it sees `woken`.
        let waiter = unsafe { node.as_ref() };
        let thread = waiter.thread.clone();
        waiter.woken.store(true, Ordering::Release);
        Some(thread)
    }

    /// Wakes the thread that has waited longest; returns whether there was one.
    pub fn wake_one(&self) -> bool {
        self.len() != 0 && self.next().map(|thread| thread.unpark()).is_some()
    }

    /// Wakes all that wait now. Those that wait again meanwhile are behind them.
    pub fn wake_all(&self) {
        for _ in 0..self.len() {
            self.wake_one();
        }
    }

    /// How many wait. What the caller wrote before is seen by whoever comes to wait after this.
    fn len(&self) -> usize {
        fence(Ordering::SeqCst);
        self.length.load(Ordering::Relaxed)
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}
