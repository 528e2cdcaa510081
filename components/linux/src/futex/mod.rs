//! Futexes: the system calls. Queues are in [`bucket`], priority inheritance in [`pi`], robust lists in [`robust`].
//!
//! A waiter enters its queue first and then looks at the word, so that the word is read (which may fault and
//! sleep) without a lock: a waker changes the word and then looks at the queue, so one of them sees the other.

pub mod bucket;
pub mod pi;
pub mod robust;

use alloc::{sync::Arc, vec::Vec};

use linux_raw_sys::general::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_LOCK_PI, FUTEX_LOCK_PI2,
    FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_TRYLOCK_PI, FUTEX_UNLOCK_PI, FUTEX_WAIT, FUTEX_WAIT_BITSET,
    FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use rumpkern::{Errno, Result, wait::WaitError};
use rumpuser::{
    NEVER, memory::USER_END, rumpuser_clock_monotonic, rumpuser_clock_realtime, rumpuser_thread_current,
    rumpuser_user_compare_exchange, rumpuser_user_load,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::bucket::{Key, Waiter};
use crate::{
    task::Task,
    user::{Timespec, UserPtr},
};

/// Any bit.
const ALL: u32 = u32::MAX;

/// futex(2).
pub fn futex(
    task: &Task,
    address: usize,
    operation: u32,
    value: u32,
    timeout: usize,
    address2: usize,
    value3: u32,
) -> Result<usize> {
    let private = operation & FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    let timespec = UserPtr::<Timespec>::new(timeout);
    // Where there is no timeout, its register is a second count.
    let count2 = timeout as u32 as usize;
    match operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) {
        FUTEX_WAIT => {
            let deadline = match timespec.non_null() {
                Some(timespec) if realtime => absolute(timespec.read()?, true)?,
                Some(timespec) => task.deadline_after(timespec.read()?.to_nanoseconds()?),
                None => NEVER,
            };
            wait(task, address, private, value, deadline, ALL)
        }
        FUTEX_WAIT_BITSET => {
            let deadline = deadline(timespec, realtime)?;
            wait(task, address, private, value, deadline, value3)
        }
        FUTEX_WAKE => Ok(bucket::wake(key(task, address, private)?, at_least_one(value), ALL)),
        FUTEX_WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => Ok(bucket::wake(key(task, address, private)?, at_least_one(value), value3)),
        FUTEX_REQUEUE => requeue(task, [address, address2], private, value, count2, None),
        FUTEX_CMP_REQUEUE => requeue(task, [address, address2], private, value, count2, Some(value3)),
        FUTEX_WAKE_OP => wake_op(task, [address, address2], private, value, count2, value3),
        FUTEX_LOCK_PI => pi::lock(task, address, private, deadline(timespec, true)?),
        FUTEX_LOCK_PI2 => pi::lock(task, address, private, deadline(timespec, realtime)?),
        FUTEX_TRYLOCK_PI => pi::try_lock(task, address, private),
        FUTEX_UNLOCK_PI => pi::unlock(task, address, private),
        // FUTEX_FD is gone; the requeueing of waiters to PI futexes is used by no current C library.
        _ => Err(Errno::ENOSYS),
    }
}

/// FUTEX_WAKE wakes one even when asked for none, as in Linux.
fn at_least_one(count: u32) -> usize {
    (count as i32).max(1) as usize
}

/// An absolute timeout as a monotonic deadline.
fn absolute(timeout: Timespec, realtime: bool) -> Result<u64> {
    let time = timeout.to_nanoseconds()?;
    if !realtime {
        return Ok(time.min(NEVER - 1));
    }
    let left = time.saturating_sub(rumpuser_clock_realtime());
    Ok(rumpuser_clock_monotonic().saturating_add(left).min(NEVER - 1))
}

fn deadline(timeout: UserPtr<Timespec>, realtime: bool) -> Result<u64> {
    match timeout.non_null() {
        Some(timeout) => absolute(timeout.read()?, realtime),
        None => Ok(NEVER),
    }
}

/// The key of a futex. EINVAL unless it is aligned, EFAULT outside the user half.
#[inline]
pub fn key(task: &Task, address: usize, private: bool) -> Result<Key> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if address >= USER_END {
        return Err(Errno::EFAULT);
    }
    let own = Key::Private { space: task.process().space_identity(), address };
    if private {
        return Ok(own);
    }
    let space = task.process().space().ok_or(Errno::EFAULT)?;
    Ok(match space.find_pager(address) {
        Some((pager, page, true)) => Key::Shared {
            object: Arc::as_ptr(&pager).cast::<()>() as usize,
            offset: page * rumpuser::memory::PAGE_SIZE as u64
                + (address % rumpuser::memory::PAGE_SIZE) as u64,
        },
        _ => own,
    })
}

fn wait(task: &Task, address: usize, private: bool, value: u32, deadline: u64, bitset: u32) -> Result<usize> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let key = key(task, address, private)?;
    let waiter = task.futex_waiter();
    bucket::enter(&waiter, key, bitset)?;
    let found = rumpuser_user_load(address);
    if found != Ok(value) {
        if bucket::leave(&waiter).is_some() {
            // The wake-up was meant for somebody who sleeps.
            bucket::wake(key, 1, bitset);
        }
        return Err(if found.is_err() { Errno::EFAULT } else { Errno::EAGAIN });
    }
    match bucket::sleep(&waiter, deadline) {
        Ok(_) => Ok(0),
        Err(_) if bucket::leave(&waiter).is_some() => Ok(0),
        Err(WaitError::TimedOut) => Err(Errno::ETIMEDOUT),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}

fn requeue(
    task: &Task,
    [from, to]: [usize; 2],
    private: bool,
    wake_count: u32,
    move_count: usize,
    expected: Option<u32>,
) -> Result<usize> {
    if (wake_count as i32) < 0 || (move_count as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let (from_key, to_key) = (key(task, from, private)?, key(task, to, private)?);
    if let Some(expected) = expected
        && rumpuser_user_load(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let (woken, moved) = bucket::requeue(from_key, to_key, wake_count as usize, move_count);
    Ok(woken + moved)
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and of the second if its old value was so.
fn wake_op(
    task: &Task,
    [first, second]: [usize; 2],
    private: bool,
    count: u32,
    count2: usize,
    encoded: u32,
) -> Result<usize> {
    let (first_key, second_key) = (key(task, first, private)?, key(task, second, private)?);
    let old = modify(second, |old| operate(encoded, old))?;
    let mut woken = bucket::wake(first_key, at_least_one(count), ALL);
    if compares(encoded, old)? {
        woken += bucket::wake(second_key, count2.max(1), ALL);
    }
    Ok(woken)
}

/// Replaces the word at `address` atomically; returns the old value.
pub(super) fn modify(address: usize, change: impl Fn(u32) -> Result<u32>) -> Result<u32> {
    let mut old = rumpuser_user_load(address)?;
    loop {
        let found = rumpuser_user_compare_exchange(address, old, change(old)?)?;
        if found == old {
            return Ok(old);
        }
        old = found;
    }
}

/// Sign-extends the 12-bit field of an encoded operation.
fn field(encoded: u32, shift: u32) -> i32 {
    (encoded << (20 - shift)) as i32 >> 20
}

fn operate(encoded: u32, old: u32) -> Result<u32> {
    let argument = field(encoded, 12) as u32;
    let shifted = encoded >> 31 != 0;
    let argument = if shifted { 1u32.wrapping_shl(argument & 31) } else { argument };
    Ok(match encoded >> 28 & 7 {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        4 => old ^ argument,
        _ => return Err(Errno::ENOSYS),
    })
}

fn compares(encoded: u32, old: u32) -> Result<bool> {
    let (old, argument) = (old as i32, field(encoded, 0));
    Ok(match encoded >> 24 & 15 {
        0 => old == argument,
        1 => old != argument,
        2 => old < argument,
        3 => old <= argument,
        4 => old > argument,
        5 => old >= argument,
        _ => return Err(Errno::ENOSYS),
    })
}

/// `struct futex_waitv`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct WaitV {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// futex_waitv(2).
pub fn futex_waitv(
    task: &Task,
    array: usize,
    count: u32,
    flags: u32,
    timeout: UserPtr<Timespec>,
    clock: u32,
) -> Result<usize> {
    const MOST: u32 = 128;
    const SIZE_U32: u32 = 2;
    if flags != 0 || count == 0 || count > MOST || array == 0 {
        return Err(Errno::EINVAL);
    }
    let realtime = match clock {
        CLOCK_REALTIME => true,
        CLOCK_MONOTONIC => false,
        _ if timeout.is_null() => false,
        _ => return Err(Errno::EINVAL),
    };
    let deadline = deadline(timeout, realtime)?;
    let wanted = UserPtr::<WaitV>::new(array).read_array(count as usize)?;
    let mut keys = Vec::with_capacity(wanted.len());
    for one in &wanted {
        if one.flags & !(SIZE_U32 | FUTEX_PRIVATE_FLAG) != 0 || one.flags & 3 != SIZE_U32 || one.reserved != 0
        {
            return Err(Errno::EINVAL);
        }
        keys.push(key(task, one.address as usize, one.flags & FUTEX_PRIVATE_FLAG != 0)?);
    }
    let waiter = Waiter::new(rumpuser_thread_current());
    bucket::prepare(&waiter);
    for (index, &key) in keys.iter().enumerate() {
        if let Err(error) = bucket::enter_one_of(&waiter, key, ALL, index as u32) {
            bucket::leave_all(&waiter, &keys);
            return Err(error);
        }
    }
    for one in &wanted {
        let found = rumpuser_user_load(one.address as usize);
        if found != Ok(one.value as u32) {
            return match bucket::leave_all(&waiter, &keys) {
                Some(index) => Ok(index),
                None if found.is_err() => Err(Errno::EFAULT),
                None => Err(Errno::EAGAIN),
            };
        }
    }
    let slept = bucket::sleep(&waiter, deadline);
    match (bucket::leave_all(&waiter, &keys), slept) {
        (Some(index), _) | (None, Ok(index)) => Ok(index),
        (None, Err(WaitError::TimedOut)) => Err(Errno::ETIMEDOUT),
        (None, Err(WaitError::Interrupted)) => Err(Errno::EINTR),
    }
}

/// Wakes one waiter of the word at an address: what the end of a task does.
pub fn wake_address(task: &Task, address: usize) {
    if let Ok(key) = key(task, address, false) {
        bucket::wake(key, 1, ALL);
    }
}

/// A task ends, or leaves its address space at execve: its robust futexes and PI futexes are given up.
pub fn task_ends(task: &Task) {
    robust::walk(task);
    pi::owner_ends(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(operation: u32, compare: u32, argument: i32, compared: i32) -> u32 {
        operation << 28 | compare << 24 | (argument as u32 & 0xfff) << 12 | compared as u32 & 0xfff
    }

    #[test]
    fn wake_op_operates_and_compares() {
        assert_eq!(operate(encode(0, 0, 5, 0), 9), Ok(5));
        assert_eq!(operate(encode(1, 0, -1, 0), 9), Ok(8));
        assert_eq!(operate(encode(2, 0, 6, 0), 9), Ok(15));
        assert_eq!(operate(encode(3, 0, 1, 0), 9), Ok(8));
        assert_eq!(operate(encode(4, 0, 3, 0), 9), Ok(10));
        assert_eq!(operate(encode(8 | 2, 0, 4, 0), 0), Ok(16));
        assert_eq!(operate(encode(5, 0, 4, 0), 0), Err(Errno::ENOSYS));
        assert_eq!(compares(encode(0, 4, 0, -1), 0), Ok(true));
        assert_eq!(compares(encode(0, 1, 0, 7), 7), Ok(false));
        assert_eq!(compares(encode(0, 9, 0, 7), 7), Err(Errno::ENOSYS));
    }
}
