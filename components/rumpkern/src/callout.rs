//! Callouts: functions that a kernel thread calls at a deadline (NetBSD: callout(9)).

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use rumpuser::{
    CpuSet, NEVER, OutOfMemory, Thread, ThreadSpec, rumpuser_clock_monotonic, rumpuser_park,
    rumpuser_thread_create,
    sync::{Mutex, SpinLock},
};

type Function = Box<dyn Fn() + Send + Sync>;

struct Entry {
    id: u64,
    function: Function,
    /// When it is due; [`NEVER`]: not scheduled. Changed with the queue locked.
    deadline: AtomicU64,
}

/// Pending entries in order of their deadlines.
static QUEUE: SpinLock<BTreeMap<(u64, u64), Arc<Entry>>> = SpinLock::new(BTreeMap::new());
static SERVICE: Mutex<Option<Thread>> = Mutex::new(None);
static WAKER: SpinLock<Option<Thread>> = SpinLock::new(None);

/// A function to be called later, by the callout thread: it must not sleep for long. Dropping the callout
/// cancels it.
pub struct Callout {
    entry: Arc<Entry>,
}

impl Callout {
    /// A callout that is not scheduled.
    pub fn new(function: impl Fn() + Send + Sync + 'static) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Callout {
            entry: Arc::new(Entry { id, function: Box::new(function), deadline: AtomicU64::new(NEVER) }),
        }
    }

    /// Calls the function once, at the monotonic `deadline` (instead of an earlier appointment);
    /// [`NEVER`] cancels. Fails only if the thread that serves callouts cannot be started.
    pub fn schedule(&self, deadline: u64) -> Result<(), OutOfMemory> {
        if deadline == NEVER {
            self.cancel();
            return Ok(());
        }
        start_service()?;
        let first = {
            let mut queue = QUEUE.lock();
            let old = self.entry.deadline.swap(deadline, Ordering::Relaxed);
            queue.remove(&(old, self.entry.id));
            queue.insert((deadline, self.entry.id), self.entry.clone());
            queue.first_key_value().is_some_and(|(&(_, id), _)| id == self.entry.id)
        };
        if first {
            let thread = WAKER.lock().clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
        Ok(())
    }

    /// Takes the appointment back; returns whether there was one. The function may still be running.
    pub fn cancel(&self) -> bool {
        let mut queue = QUEUE.lock();
        let old = self.entry.deadline.swap(NEVER, Ordering::Relaxed);
        let entry = queue.remove(&(old, self.entry.id));
        drop(queue);
        entry.is_some()
    }
}

impl Drop for Callout {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn start_service() -> Result<(), OutOfMemory> {
    if WAKER.lock().is_some() {
        return Ok(());
    }
    let mut service = SERVICE.lock();
    if service.is_none() {
        let spec = ThreadSpec { name: String::from("callout"), affinity: CpuSet::MAX, main: Box::new(serve) };
        let thread = rumpuser_thread_create(spec)?;
        thread.set_nice(-20);
        *WAKER.lock() = Some(thread.clone());
        *service = Some(thread);
    }
    Ok(())
}

fn serve() {
    loop {
        let now = rumpuser_clock_monotonic();
        let mut next = NEVER;
        let due = {
            let mut queue = QUEUE.lock();
            match queue.first_key_value() {
                Some((&(deadline, _), _)) if deadline <= now => {
                    let entry = queue.pop_first().map(|(_, entry)| entry);
                    if let Some(entry) = &entry {
                        entry.deadline.store(NEVER, Ordering::Relaxed);
                    }
                    entry
                }
                Some((&(deadline, _), _)) => {
                    next = deadline;
                    None
                }
                None => None,
            }
        };
        match due {
            Some(entry) => (entry.function)(),
            None => rumpuser_park(next),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn callouts_fire_once_at_their_last_time() {
        let (sender, receiver) = mpsc::channel();
        let make = |name: u32| {
            let sender = sender.clone();
            Callout::new(move || sender.send(name).unwrap())
        };
        let (first, second, cancelled) = (make(1), make(2), make(3));
        let now = rumpuser_clock_monotonic();
        const FAR: u64 = 1_000_000_000_000;
        cancelled.schedule(now + FAR).unwrap();
        second.schedule(now + FAR).unwrap();
        second.schedule(now + 40_000_000).unwrap();
        assert_eq!(receiver.recv(), Ok(2));
        first.schedule(now + FAR).unwrap();
        first.schedule(now + 20_000_000).unwrap();
        assert_eq!(receiver.recv(), Ok(1));
        assert!(cancelled.cancel());
        assert!(!cancelled.cancel());
        assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err());
    }
}
