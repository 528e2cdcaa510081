//! Advisory locks: flock(2), the record locks of fcntl(2), and those of open file descriptions.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use rumpkern::{Errno, Result, wait::WaitQueue};
use rumpuser::{NEVER, sync::Mutex};

use crate::vnode::Vnode;

/// Whose a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A process (F_SETLK): gone when it closes any descriptor of the file.
    Process(i32),
    /// An open file description (F_OFD_SETLK), by a number of its own.
    Description(u64),
    /// An open file description, by flock(2): another set of locks.
    Whole(u64),
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Shared with other readers.
    Shared,
    /// With nobody.
    Exclusive,
    /// No lock.
    Unlocked,
}

/// A lock on the bytes `start..=end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// Whose.
    pub owner: Owner,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` reaches beyond every end of the file.
    pub end: u64,
    /// Not shared.
    pub exclusive: bool,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether the two can't be held together.
    fn conflicts(&self, other: &Lock) -> bool {
        let same_kind = matches!(self.owner, Owner::Whole(_)) == matches!(other.owner, Owner::Whole(_));
        same_kind && self.owner != other.owner && (self.exclusive || other.exclusive) && self.overlaps(other)
    }
}

/// The locks of one file.
#[derive(Default)]
struct FileLocks {
    held: Mutex<Vec<Lock>>,
    changed: WaitQueue,
}

type Key = (u64, u64);

static FILES: Mutex<BTreeMap<Key, Arc<FileLocks>>> = Mutex::new(BTreeMap::new());
/// Files in the table: closing a descriptor costs one load while nobody locks anything.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Who waits for whom, for the detection of deadlocks.
static WAITS: Mutex<BTreeMap<Owner, Vec<Owner>>> = Mutex::new(BTreeMap::new());

fn key(vnode: &Arc<dyn Vnode>) -> Result<Key> {
    let attributes = vnode.attributes()?;
    Ok((attributes.device, attributes.inode))
}

fn find(key: Key) -> Option<Arc<FileLocks>> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    FILES.lock().get(&key).cloned()
}

fn find_or_add(key: Key) -> Arc<FileLocks> {
    let mut files = FILES.lock();
    let locks = files.entry(key).or_default().clone();
    COUNT.store(files.len(), Ordering::Release);
    locks
}

/// Forgets a file without locks that nobody waits for.
fn tidy(key: Key) {
    let mut files = FILES.lock();
    if let Some(locks) = files.get(&key)
        && Arc::strong_count(locks) == 1
        && locks.held.lock().is_empty()
    {
        files.remove(&key);
    }
    COUNT.store(files.len(), Ordering::Release);
}

/// Replaces what the owner has in the lock's range; `keep`: by the lock itself.
fn replace(held: &mut Vec<Lock>, lock: Lock, keep: bool) {
    let mut result = Vec::with_capacity(held.len() + 2);
    let mut merged = lock;
    for old in held.drain(..) {
        if old.owner != lock.owner {
            result.push(old);
            continue;
        }
        let touches = old.start <= lock.end.saturating_add(1) && lock.start <= old.end.saturating_add(1);
        if keep && old.exclusive == lock.exclusive && touches {
            merged.start = merged.start.min(old.start);
            merged.end = merged.end.max(old.end);
            continue;
        }
        if !old.overlaps(&lock) {
            result.push(old);
            continue;
        }
        if old.start < lock.start {
            result.push(Lock { end: lock.start - 1, ..old });
        }
        if old.end > lock.end {
            result.push(Lock { start: lock.end + 1, ..old });
        }
    }
    if keep {
        result.push(merged);
    }
    *held = result;
}

/// Whether `me` would wait for itself if it waited for `blockers`.
fn deadlocks(me: Owner, blockers: &[Owner], waits: &BTreeMap<Owner, Vec<Owner>>) -> bool {
    let mut seen = BTreeSet::new();
    let mut stack = blockers.to_vec();
    while let Some(owner) = stack.pop() {
        if owner == me {
            return true;
        }
        if seen.insert(owner)
            && let Some(next) = waits.get(&owner)
        {
            stack.extend_from_slice(next);
        }
    }
    false
}

/// The first lock in the way of `wanted` (F_GETLK).
pub fn conflict(vnode: &Arc<dyn Vnode>, wanted: &Lock) -> Result<Option<Lock>> {
    let Some(locks) = find(key(vnode)?) else { return Ok(None) };
    let held = locks.held.lock();
    Ok(held.iter().filter(|lock| lock.conflicts(wanted)).min_by_key(|lock| lock.start).copied())
}

/// Takes, changes or gives up a lock on the bytes `start..=end`. With a conflict: EAGAIN, or, with `wait`, sleeps
/// until it is gone; EDEADLK if that would never be, EINTR if interrupted.
pub fn set(vnode: &Arc<dyn Vnode>, owner: Owner, start: u64, end: u64, mode: Mode, wait: bool) -> Result<()> {
    let key = key(vnode)?;
    let lock = Lock { owner, start, end, exclusive: mode == Mode::Exclusive };
    if mode == Mode::Unlocked {
        if let Some(locks) = find(key) {
            replace(&mut locks.held.lock(), lock, false);
            locks.changed.wake_all();
            drop(locks);
            tidy(key);
        }
        return Ok(());
    }
    let locks = find_or_add(key);
    if matches!(owner, Owner::Whole(_)) && wait {
        // flock(2) gives up the old lock before it waits for the new one.
        let mut held = locks.held.lock();
        if held.iter().any(|other| other.conflicts(&lock)) {
            held.retain(|other| other.owner != owner);
            locks.changed.wake_all();
        }
    }
    let result = locks.changed.wait(NEVER, || {
        let mut held = locks.held.lock();
        let mut blockers: Vec<Owner> =
            held.iter().filter(|other| other.conflicts(&lock)).map(|other| other.owner).collect();
        if blockers.is_empty() {
            replace(&mut held, lock, true);
            return Some(Ok(()));
        }
        if !wait {
            return Some(Err(Errno::EAGAIN));
        }
        blockers.dedup();
        let mut waits = WAITS.lock();
        if matches!(owner, Owner::Process(_)) && deadlocks(owner, &blockers, &waits) {
            return Some(Err(Errno::EDEADLK));
        }
        waits.insert(owner, blockers);
        None
    });
    WAITS.lock().remove(&owner);
    let result = result.map_err(Errno::from).and_then(|result| result);
    if result.is_ok() {
        // A lock that became shared, or moved, may let others in.
        locks.changed.wake_all();
    }
    drop(locks);
    if result.is_err() {
        tidy(key);
    }
    result
}

/// Gives up all locks of an owner on a file: a descriptor was closed.
pub fn release(vnode: &Arc<dyn Vnode>, owner: Owner) {
    if COUNT.load(Ordering::Acquire) == 0 {
        return;
    }
    let _ = set(vnode, owner, 0, u64::MAX, Mode::Unlocked, false);
}

/// flock(2) by an open file description.
pub fn flock(vnode: &Arc<dyn Vnode>, description: u64, mode: Mode, wait: bool) -> Result<()> {
    set(vnode, Owner::Whole(description), 0, u64::MAX, mode, wait)
}

/// All locks with the device and inode numbers of their files, for /proc/locks.
pub fn all() -> Vec<(u64, u64, Lock)> {
    let files = FILES.lock();
    let locks = files.iter().flat_map(|(&(device, inode), locks)| {
        let held: Vec<Lock> = locks.held.lock().clone();
        held.into_iter().map(move |lock| (device, inode, lock))
    });
    locks.collect()
}
