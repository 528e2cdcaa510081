//! A thread that waits for what others tell it, interrupt handlers too.

use alloc::{boxed::Box, format};
use core::sync::atomic::{AtomicBool, Ordering};

use rumpuser::{
    CpuSet, NEVER, Thread, rumpuser_clock_monotonic, rumpuser_park, rumpuser_thread_current,
    sync::InterruptLock,
};

use crate::{host, kernel, thread};

/// What one thread waits for.
pub struct Event {
    thread: InterruptLock<Option<Thread>>,
    raised: AtomicBool,
}

impl Event {
    /// Nobody waits, nothing was told.
    pub const fn new() -> Self {
        Event { thread: InterruptLock::new(None), raised: AtomicBool::new(false) }
    }

    /// Tells the thread.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    /// Has a thread of its own, which has a process of the kernel's, call `look` now and whenever it is told something. `what`: what
    /// it looks at.
    pub fn follow(&'static self, what: &str, look: fn()) {
        let main = move || {
            kernel::become_process();
            self.enter();
            loop {
                look();
                self.wait(NEVER);
            }
        };
        if thread::spawn(what.into(), CpuSet::MAX, Box::new(main)).is_err() {
            host::console(format!("too little memory for {what} that come and go\n").as_bytes());
        }
    }

    /// Has the calling thread woken from now on.
    pub fn enter(&self) {
        *self.thread.lock() = Some(rumpuser_thread_current());
    }

    /// Has no thread woken any more.
    pub fn leave(&self) {
        let thread = self.thread.lock().take();
        drop(thread);
    }

    /// Whether it was raised since this was last asked or waited for.
    pub fn take(&self) -> bool {
        self.raised.swap(false, Ordering::SeqCst)
    }

    /// Waits until it is raised, until the monotonic deadline at most; returns whether it was.
    pub fn wait(&self, deadline: u64) -> bool {
        loop {
            if self.take() {
                return true;
            }
            if rumpuser_clock_monotonic() >= deadline {
                return false;
            }
            rumpuser_park(deadline);
        }
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}
