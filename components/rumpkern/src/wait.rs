//! Wait queues: threads that sleep until a condition holds, and observers that hear of changes.

use alloc::{collections::VecDeque, sync::Arc};
use core::sync::atomic::{AtomicUsize, Ordering, fence};

use rumpuser::{
    NEVER, Thread, rumpuser_clock_monotonic, rumpuser_interrupted, rumpuser_park, rumpuser_thread_current,
    sync::InterruptLock,
};

use crate::{
    Errno,
    poll::{Events, Observer},
};

/// Why a wait ended without its condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// The deadline passed.
    TimedOut,
    /// The thread's interrupt flag is set (a signal is to be handled).
    Interrupted,
}

impl From<WaitError> for Errno {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => Errno::ETIMEDOUT,
            WaitError::Interrupted => Errno::EINTR,
        }
    }
}

/// Threads and observers that wait for one thing. All methods but the waits may be called in interrupt
/// handlers and with spin locks held.
pub struct WaitQueue {
    threads: InterruptLock<VecDeque<Thread>>,
    observers: InterruptLock<VecDeque<Arc<dyn Observer>>>,
    /// Threads and observers, so that a wake-up without either costs one load.
    population: AtomicUsize,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        WaitQueue {
            threads: InterruptLock::new(VecDeque::new()),
            observers: InterruptLock::new(VecDeque::new()),
            population: AtomicUsize::new(0),
        }
    }

    /// Sleeps until `condition` gives a value, the monotonic `deadline` passes, or the thread is interrupted.
    /// The condition is tried first, and again after every wake-up; it may take locks that wakers hold.
    pub fn wait<T>(&self, deadline: u64, condition: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        self.wait_while(deadline, true, condition)
    }

    /// As [`WaitQueue::wait`], but only the condition ends it.
    pub fn wait_uninterruptible<T>(&self, condition: impl FnMut() -> Option<T>) -> T {
        match self.wait_while(NEVER, false, condition) {
            Ok(value) => value,
            Err(error) => unreachable!("a wait without deadline or interruption ended: {error:?}"),
        }
    }

    fn wait_while<T>(
        &self,
        deadline: u64,
        interruptible: bool,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        if let Some(value) = condition() {
            return Ok(value);
        }
        let me = rumpuser_thread_current();
        loop {
            self.population.fetch_add(1, Ordering::SeqCst);
            self.threads.lock().push_back(me.clone());
            let value = condition();
            let interrupted = interruptible && rumpuser_interrupted();
            let expired = deadline != NEVER && rumpuser_clock_monotonic() >= deadline;
            // A lock taken in the condition may have slept, and so used up the unpark of a wake-up that came
            // meanwhile: such a thread is no longer queued, and must look again.
            if value.is_none() && !interrupted && !expired && self.is_queued(&me) {
                rumpuser_park(deadline);
            }
            let still_queued = self.remove(&me);
            if let Some(value) = value {
                if !still_queued {
                    // A wake-up meant for one thread reached this one, which no longer needs it.
                    self.wake_one();
                }
                return Ok(value);
            }
            if interrupted || expired {
                if !still_queued {
                    self.wake_one();
                }
                return Err(if interrupted { WaitError::Interrupted } else { WaitError::TimedOut });
            }
        }
    }

    /// Whether anybody waits. What the caller changed before is seen by whoever joins later, even if it was a plain
    /// store.
    fn is_waited_on(&self) -> bool {
        fence(Ordering::SeqCst);
        self.population.load(Ordering::Relaxed) > 0
    }

    fn is_queued(&self, me: &Thread) -> bool {
        self.threads.lock().iter().any(|thread| thread.id() == me.id())
    }

    fn remove(&self, me: &Thread) -> bool {
        let mut threads = self.threads.lock();
        let position = threads.iter().position(|thread| thread.id() == me.id());
        let removed = position.and_then(|index| threads.remove(index));
        drop(threads);
        if removed.is_some() {
            self.population.fetch_sub(1, Ordering::SeqCst);
        }
        removed.is_some()
    }

    /// Wakes the thread that has waited longest.
    pub fn wake_one(&self) {
        if self.is_waited_on() {
            let thread = self.threads.lock().pop_front();
            if let Some(thread) = thread {
                self.population.fetch_sub(1, Ordering::SeqCst);
                thread.unpark();
            }
        }
    }

    /// Wakes every thread that waits now. One that finds its condition still unmet and queues again, perhaps before
    /// this returns (a wake-up may preempt the waker), is left for the next wake-up.
    pub fn wake_all(&self) {
        if self.is_waited_on() {
            let waiting = self.threads.lock().len();
            for _ in 0..waiting {
                self.wake_one();
            }
        }
    }

    /// Tells observers of `events` and wakes every thread.
    pub fn notify(&self, events: Events) {
        if self.is_waited_on() {
            self.tell_observers(events);
            self.wake_all();
        }
    }

    /// Tells observers of `events` and wakes one thread: for changes that one thread can consume whole.
    pub fn notify_one(&self, events: Events) {
        if self.is_waited_on() {
            self.tell_observers(events);
            self.wake_one();
        }
    }

    fn tell_observers(&self, events: Events) {
        for observer in self.observers.lock().iter() {
            observer.notify(events);
        }
    }

    /// Adds an observer.
    pub fn observe(&self, observer: &Arc<dyn Observer>) {
        self.population.fetch_add(1, Ordering::SeqCst);
        self.observers.lock().push_back(observer.clone());
    }

    /// Removes an observer, however often it was added.
    pub fn unobserve(&self, observer: &Arc<dyn Observer>) {
        let mut observers = self.observers.lock();
        let before = observers.len();
        observers.retain(|other| !Arc::ptr_eq(other, observer));
        let removed = before - observers.len();
        drop(observers);
        self.population.fetch_sub(removed, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::AtomicU32;

    #[test]
    fn a_waiter_sees_the_wake_up() {
        let shared = Arc::new((WaitQueue::new(), AtomicU32::new(0)));
        let other = shared.clone();
        let thread = std::thread::spawn(move || {
            other.0.wait(NEVER, || (other.1.load(Ordering::SeqCst) > 0).then_some(7))
        });
        shared.1.store(1, Ordering::SeqCst);
        shared.0.wake_one();
        assert_eq!(thread.join().unwrap(), Ok(7));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let queue = WaitQueue::new();
        let deadline = rumpuser_clock_monotonic() + 1_000_000;
        assert_eq!(queue.wait(deadline, || None::<()>), Err(WaitError::TimedOut));
        assert_eq!(queue.population.load(Ordering::SeqCst), 0);
    }
}
