//! Futexes with priority inheritance: the kernel hands ownership to the waiter that came first. Nobody's priority
//! is raised meanwhile, since the scheduler is fair: the owner runs.
//!
//! The word holds the owner's tid, FUTEX_WAITERS while someone waits, and FUTEX_OWNER_DIED.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use linux_raw_sys::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS};
use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{
    NEVER, rumpuser_clock_monotonic, rumpuser_user_compare_exchange, rumpuser_user_load, sync::Mutex,
};

use super::{bucket::Key, key};
use crate::{registry, task::Task};

/// Who waits for a contended futex.
struct Contended {
    owner: i32,
    /// The word's address in the address space of those that wait.
    address: usize,
    waiters: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    tid: i32,
    queue: WaitQueue,
    granted: core::sync::atomic::AtomicBool,
}

type Order = (u8, usize, u64);

/// All contended ones. The lock is held while the words are looked at and changed, which may fault: it sleeps.
static CONTENDED: Mutex<BTreeMap<Order, Contended>> = Mutex::new(BTreeMap::new());

fn order(key: Key) -> Order {
    match key {
        Key::Private { space, address } => (0, space, address as u64),
        Key::Shared { object, offset } => (1, object, offset),
    }
}

/// What a look at the word led to.
enum Attempt {
    Taken,
    Owned(i32),
}

/// Takes the futex if it is free; otherwise marks it as waited for, if `mark`.
fn attempt(task: &Task, address: usize, mark: bool) -> Result<Attempt> {
    let tid = task.tid() as u32;
    let mut word = rumpuser_user_load(address)?;
    loop {
        let owner = word & FUTEX_TID_MASK;
        if owner == tid {
            return Err(Errno::EDEADLK);
        }
        let wanted = if owner == 0 {
            tid | word & (FUTEX_OWNER_DIED | FUTEX_WAITERS)
        } else if mark {
            word | FUTEX_WAITERS
        } else {
            return Ok(Attempt::Owned(owner as i32));
        };
        let found = rumpuser_user_compare_exchange(address, word, wanted)?;
        if found == word {
            return Ok(if owner == 0 { Attempt::Taken } else { Attempt::Owned(owner as i32) });
        }
        word = found;
    }
}

/// FUTEX_LOCK_PI.
pub fn lock(task: &Task, address: usize, private: bool, deadline: u64) -> Result<usize> {
    let order = order(key(task, address, private)?);
    let waiter = {
        let mut contended = CONTENDED.lock();
        let owner = match attempt(task, address, true)? {
            Attempt::Taken => return Ok(0),
            Attempt::Owned(owner) => owner,
        };
        if registry::task(owner).is_none() {
            return Err(Errno::ESRCH);
        }
        let waiter = Arc::new(Waiter { tid: task.tid(), queue: WaitQueue::new(), granted: false.into() });
        let entry =
            contended.entry(order).or_insert_with(|| Contended { owner, address, waiters: VecDeque::new() });
        entry.owner = owner;
        entry.waiters.push_back(waiter.clone());
        waiter
    };
    let granted = || waiter.granted.load(core::sync::atomic::Ordering::Acquire).then_some(());
    let result = waiter.queue.wait(deadline, granted);
    if result.is_ok() {
        return Ok(0);
    }
    let mut contended = CONTENDED.lock();
    if granted().is_some() {
        return Ok(0);
    }
    if let Some(entry) = contended.get_mut(&order) {
        entry.waiters.retain(|other| !Arc::ptr_eq(other, &waiter));
        if entry.waiters.is_empty() {
            contended.remove(&order);
        }
    }
    if deadline != NEVER && rumpuser_clock_monotonic() >= deadline {
        return Err(Errno::ETIMEDOUT);
    }
    Err(Errno::EINTR)
}

/// FUTEX_TRYLOCK_PI.
pub fn try_lock(task: &Task, address: usize, private: bool) -> Result<usize> {
    key(task, address, private)?;
    let _contended = CONTENDED.lock();
    match attempt(task, address, false)? {
        Attempt::Taken => Ok(0),
        Attempt::Owned(_) => Err(Errno::EAGAIN),
    }
}

/// FUTEX_UNLOCK_PI.
pub fn unlock(task: &Task, address: usize, private: bool) -> Result<usize> {
    let order = order(key(task, address, private)?);
    let mut contended = CONTENDED.lock();
    if rumpuser_user_load(address)? & FUTEX_TID_MASK != task.tid() as u32 {
        return Err(Errno::EPERM);
    }
    hand_over(&mut contended, order, address, 0)
}

/// Gives the futex to the first waiter, or frees it.
fn hand_over(
    contended: &mut BTreeMap<Order, Contended>,
    order: Order,
    address: usize,
    flags: u32,
) -> Result<usize> {
    let next = contended.get_mut(&order).and_then(|entry| entry.waiters.pop_front());
    let more = contended.get(&order).is_some_and(|entry| !entry.waiters.is_empty());
    let word = match &next {
        Some(waiter) => waiter.tid as u32 | flags | if more { FUTEX_WAITERS } else { 0 },
        None => flags,
    };
    let written = super::modify(address, |_| Ok(word));
    if let Some(waiter) = next {
        if let Some(entry) = contended.get_mut(&order) {
            entry.owner = waiter.tid;
        }
        waiter.granted.store(true, core::sync::atomic::Ordering::Release);
        waiter.queue.wake_all();
    }
    if !more {
        contended.remove(&order);
    }
    written.map(|_| 0)
}

/// A task ends: what it owns and others wait for goes to them, marked.
pub fn owner_ends(task: &Task) {
    let mut contended = CONTENDED.lock();
    if contended.is_empty() {
        return;
    }
    let owned: alloc::vec::Vec<(Order, usize)> = contended
        .iter()
        .filter(|(_, entry)| entry.owner == task.tid())
        .map(|(&order, entry)| (order, entry.address))
        .collect();
    for (order, address) in owned {
        // An address that is gone has no one left who could care.
        let _ = hand_over(&mut contended, order, address, FUTEX_OWNER_DIED);
    }
}
