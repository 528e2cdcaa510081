//! The list of threads that wait for something, under all sleeping hypercalls.

use alloc::collections::VecDeque;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering},
};

use rumpuser::{
    Thread, rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current, sync::InterruptLock,
};

/// A waiting thread, on its own stack.
struct Waiter {
    thread: Thread,
    woken: AtomicBool,
}

/// Threads that wait, the longest first.
pub struct WaitList(InterruptLock<VecDeque<NonNull<Waiter>>>);

// SAFETY: a waiter is in the list only while its thread is in `wait`, and is used under the lock.
unsafe impl Send for WaitList {}
// SAFETY: as above.
unsafe impl Sync for WaitList {}

impl WaitList {
    /// Nobody waits.
    pub const fn new() -> Self {
        WaitList(InterruptLock::new(VecDeque::new()))
    }

    /// Waits until woken or until the monotonic `deadline`; returns whether it was woken. `enter` is called once the
    /// thread is in the list: a wake from then on counts. If it returns false, the wait is over at once.
    pub fn wait(&self, deadline: u64, enter: impl FnOnce() -> bool) -> bool {
        let waiter = Waiter { thread: rumpuser_thread_current(), woken: AtomicBool::new(false) };
        let node = NonNull::from(&waiter);
        self.0.lock().push_back(node);
        if enter() {
            while !waiter.woken.load(Ordering::Acquire) {
                if deadline <= rumpuser_clock_monotonic() {
                    break;
                }
                rumpuser_park(deadline);
            }
        }
        if waiter.woken.load(Ordering::Acquire) {
            return true;
        }
        let mut list = self.0.lock();
        let place = list.iter().position(|&other| other == node);
        // Not in the list: woken since.
        place.map(|place| list.remove(place)).is_none()
    }

    /// Wakes the thread that has waited longest; returns whether there was one.
    pub fn wake_one(&self) -> bool {
        let mut list = self.0.lock();
        let thread = list.pop_front().map(wake);
        drop(list);
        thread.map(|thread| thread.unpark()).is_some()
    }

    /// Wakes all that wait now. Those that wait again meanwhile are behind them.
    pub fn wake_all(&self) {
        let waiting = self.0.lock().len();
        for _ in 0..waiting {
            let mut list = self.0.lock();
            let Some(thread) = list.pop_front().map(wake) else { break };
            drop(list);
            thread.unpark();
        }
    }

    /// Whether anybody waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

/// Marks a waiter that was taken from the list. The thread may go on as soon as it sees the mark.
fn wake(node: NonNull<Waiter>) -> Thread {
    // SAFETY: it was in the list, so its thread is still in `wait`, and stays there until it sees `woken`.
    let waiter = unsafe { node.as_ref() };
    let thread = waiter.thread.clone();
    waiter.woken.store(true, Ordering::Release);
    thread
}
