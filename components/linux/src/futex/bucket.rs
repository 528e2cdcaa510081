//! The waiters of all futexes, in hashed buckets.

use alloc::{collections::VecDeque, sync::Arc};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rumpuser::{Thread, rumpuser_clock_monotonic, rumpuser_interrupted, rumpuser_park, sync::SpinLock};

use rumpkern::{Errno, wait::WaitError};

/// What identifies a futex: its address in an address space, or its place in a shared object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// In private memory.
    Private {
        /// The address space.
        space: usize,
        /// The address.
        address: usize,
    },
    /// In memory that several spaces may map.
    Shared {
        /// The object.
        object: usize,
        /// The byte in it.
        offset: u64,
    },
}

const BUCKETS: usize = 256;

impl Key {
    fn bucket(self) -> usize {
        let (high, low) = match self {
            Key::Private { space, address } => (space as u64 >> 4, address as u64 >> 2),
            Key::Shared { object, offset } => (!(object as u64 >> 4), offset >> 2),
        };
        // Fibonacci hashing spreads neighbouring words.
        let hash = (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 56) as usize % BUCKETS
    }
}

/// A thread that waits, on one futex or several.
pub struct Waiter {
    thread: Thread,
    /// 0 while it waits; then one more than the index of the futex that was woken.
    woken: AtomicU32,
    /// Where its (first) entry is.
    bucket: AtomicUsize,
}

impl Waiter {
    /// For a thread.
    pub fn new(thread: Thread) -> Arc<Self> {
        Arc::new(Waiter { thread, woken: AtomicU32::new(0), bucket: AtomicUsize::new(0) })
    }

    /// The index of the futex that was woken.
    pub fn woken(&self) -> Option<usize> {
        self.woken.load(Ordering::Acquire).checked_sub(1).map(|index| index as usize)
    }
}

struct Entry {
    key: Key,
    bitset: u32,
    index: u32,
    waiter: Arc<Waiter>,
}

static TABLE: [SpinLock<VecDeque<Entry>>; BUCKETS] = [const { SpinLock::new(VecDeque::new()) }; BUCKETS];

/// Enters a waiter that is in no queue. It must then look at the futex's value, and [`leave`] if it changed.
/// ENOMEM if there is no room.
pub fn enter(waiter: &Arc<Waiter>, key: Key, bitset: u32) -> Result<(), Errno> {
    waiter.woken.store(0, Ordering::Relaxed);
    enter_one_of(waiter, key, bitset, 0)
}

/// Enters a waiter for futex number `index` among several.
pub fn enter_one_of(waiter: &Arc<Waiter>, key: Key, bitset: u32, index: u32) -> Result<(), Errno> {
    let bucket = key.bucket();
    waiter.bucket.store(bucket, Ordering::Relaxed);
    let mut entries = TABLE[bucket].lock();
    entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    entries.push_back(Entry { key, bitset, index, waiter: waiter.clone() });
    Ok(())
}

/// Forgets earlier wake-ups of a waiter that enters several queues.
pub fn prepare(waiter: &Waiter) {
    waiter.woken.store(0, Ordering::Relaxed);
}

/// Takes a waiter out of its queue. Returns the index that was woken meanwhile, if one was: then it was out.
pub fn leave(waiter: &Arc<Waiter>) -> Option<usize> {
    loop {
        if let Some(index) = waiter.woken() {
            return Some(index);
        }
        let bucket = waiter.bucket.load(Ordering::Relaxed);
        let mut entries = TABLE[bucket].lock();
        if let Some(position) = entries.iter().position(|entry| Arc::ptr_eq(&entry.waiter, waiter)) {
            let entry = entries.remove(position);
            drop(entries);
            drop(entry);
            return None;
        }
        // It was woken, or requeued to another bucket, at this moment.
    }
}

/// Takes a waiter out of all queues, wherever its entries are. For waiters on several futexes.
pub fn leave_all(waiter: &Arc<Waiter>, keys: &[Key]) -> Option<usize> {
    let remove = |bucket: usize| {
        let mut entries = TABLE[bucket].lock();
        let before = entries.len();
        entries.retain(|entry| !Arc::ptr_eq(&entry.waiter, waiter));
        before - entries.len()
    };
    let mut removed: usize = keys.iter().map(|key| remove(key.bucket())).sum();
    if removed + usize::from(waiter.woken().is_some()) < keys.len() {
        removed += (0..BUCKETS).map(remove).sum::<usize>();
    }
    let _ = removed;
    waiter.woken()
}

/// Sleeps until the waiter is woken, the monotonic deadline passes, or the thread is interrupted. The waiter is
/// still in its queues after an error.
pub fn sleep(waiter: &Waiter, deadline: u64) -> Result<usize, WaitError> {
    loop {
        if let Some(index) = waiter.woken() {
            return Ok(index);
        }
        if rumpuser_interrupted() {
            return Err(WaitError::Interrupted);
        }
        if deadline != rumpuser::NEVER && rumpuser_clock_monotonic() >= deadline {
            return Err(WaitError::TimedOut);
        }
        rumpuser_park(deadline);
    }
}

/// Marks an entry's waiter as woken. False if another of its futexes was first.
fn wake_entry(entry: &Entry) -> bool {
    let first =
        entry.waiter.woken.compare_exchange(0, entry.index + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if first {
        entry.waiter.thread.unpark();
    }
    first
}

/// Wakes up to `count` waiters of a futex whose bitset meets `bitset`; returns how many.
pub fn wake(key: Key, count: usize, bitset: u32) -> usize {
    let mut entries = TABLE[key.bucket()].lock();
    wake_in(&mut entries, key, count, bitset)
}

fn wake_in(entries: &mut VecDeque<Entry>, key: Key, count: usize, bitset: u32) -> usize {
    let mut woken = 0;
    let mut position = 0;
    while woken < count && position < entries.len() {
        let entry = &entries[position];
        if entry.key != key || entry.bitset & bitset == 0 {
            position += 1;
        } else if let Some(entry) = entries.remove(position) {
            woken += usize::from(wake_entry(&entry));
        }
    }
    woken
}

/// Wakes up to `wake_count` waiters of `from` and moves up to `move_count` more to `to`; returns (woken, moved).
pub fn requeue(from: Key, to: Key, wake_count: usize, move_count: usize) -> (usize, usize) {
    let (source, target) = (from.bucket(), to.bucket());
    if source == target {
        let mut entries = TABLE[source].lock();
        let woken = wake_in(&mut entries, from, wake_count, u32::MAX);
        let mut moved = 0;
        for entry in entries.iter_mut().filter(|entry| entry.key == from).take(move_count) {
            entry.key = to;
            moved += 1;
        }
        return (woken, moved);
    }
    // In order of their numbers, so that two requeues cannot wait for each other.
    let (mut first, mut second);
    let (entries, destination) = if source < target {
        first = TABLE[source].lock();
        second = TABLE[target].lock();
        (&mut *first, &mut *second)
    } else {
        second = TABLE[target].lock();
        first = TABLE[source].lock();
        (&mut *first, &mut *second)
    };
    let woken = wake_in(entries, from, wake_count, u32::MAX);
    let mut moved = 0;
    let mut position = 0;
    // Without room the waiters stay; they are woken at the old place.
    let move_count =
        if destination.try_reserve(entries.len().min(move_count)).is_ok() { move_count } else { 0 };
    while moved < move_count && position < entries.len() {
        if entries[position].key != from {
            position += 1;
        } else if let Some(mut entry) = entries.remove(position) {
            entry.key = to;
            entry.waiter.bucket.store(target, Ordering::Relaxed);
            destination.push_back(entry);
            moved += 1;
        }
    }
    (woken, moved)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{thread, vec::Vec};

    use rumpuser::{NEVER, rumpuser_thread_current};

    use super::*;

    fn key(address: usize) -> Key {
        Key::Private { space: 0x7000, address }
    }

    fn wait_on(key: Key) -> thread::JoinHandle<Option<usize>> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let handle = thread::spawn(move || {
            let waiter = Waiter::new(rumpuser_thread_current());
            enter(&waiter, key, u32::MAX).unwrap();
            sender.send(()).unwrap();
            sleep(&waiter, NEVER).ok()
        });
        receiver.recv().unwrap();
        handle
    }

    #[test]
    fn wake_counts_and_other_futexes_are_left_alone() {
        let threads: Vec<_> = (0..3).map(|_| wait_on(key(0x1000))).collect();
        assert_eq!(wake(key(0x1004), 10, u32::MAX), 0);
        assert_eq!(wake(key(0x1000), 2, u32::MAX), 2);
        assert_eq!(wake(key(0x1000), 10, u32::MAX), 1);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Some(0));
        }
    }

    #[test]
    fn requeued_waiters_are_woken_at_their_new_place() {
        let threads: Vec<_> = (0..4).map(|_| wait_on(key(0x2000))).collect();
        assert_eq!(requeue(key(0x2000), key(0x3000), 1, usize::MAX), (1, 3));
        assert_eq!(wake(key(0x2000), 10, u32::MAX), 0);
        assert_eq!(wake(key(0x3000), 10, u32::MAX), 3);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Some(0));
        }
    }

    #[test]
    fn a_deadline_leaves_the_queue_clean() {
        let waiter = Waiter::new(rumpuser_thread_current());
        enter(&waiter, key(0x4000), 1).unwrap();
        let result = sleep(&waiter, rumpuser_clock_monotonic() + 1_000_000);
        assert_eq!(result, Err(WaitError::TimedOut));
        assert_eq!(wake(key(0x4000), 1, 2), 0);
        assert_eq!(leave(&waiter), None);
        assert_eq!(wake(key(0x4000), 1, u32::MAX), 0);
    }

    #[test]
    fn a_waiter_on_several_futexes_is_woken_once() {
        let waiter = Waiter::new(rumpuser_thread_current());
        let keys = [key(0x5000), key(0x5004), key(0x6000)];
        prepare(&waiter);
        for (index, &key) in keys.iter().enumerate() {
            enter_one_of(&waiter, key, u32::MAX, index as u32).unwrap();
        }
        assert_eq!(wake(keys[1], 1, u32::MAX), 1);
        assert_eq!(wake(keys[2], 1, u32::MAX), 0);
        assert_eq!(leave_all(&waiter, &keys), Some(1));
        assert_eq!(wake(keys[0], 1, u32::MAX), 0);
    }
}
