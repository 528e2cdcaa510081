//! madvise(2), msync(2), mincore(2), mlock(2) and their kin.

use linux_raw_sys::general::{
    MADV_COLD, MADV_COLLAPSE, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED,
    MADV_DONTNEED_LOCKED, MADV_FREE, MADV_HUGEPAGE, MADV_HWPOISON, MADV_KEEPONFORK, MADV_MERGEABLE,
    MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_RANDOM,
    MADV_REMOVE, MADV_SEQUENTIAL, MADV_SOFT_OFFLINE, MADV_UNMERGEABLE, MADV_WILLNEED, MADV_WIPEONFORK,
    MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT, MS_ASYNC, MS_INVALIDATE, MS_SYNC,
};
use rumpkern::{
    Errno, Result,
    vm::{Advice, EntryFlags, Limit, Lock},
};
use rumpuser::memory::PAGE_SIZE;

use super::{CAP_IPC_LOCK, space_of};
use crate::{task::Task, user::write_bytes};

/// Pages that mincore(2) looks at in one go.
const MINCORE_STEP: usize = 4096;

fn flags(set: EntryFlags, clear: EntryFlags) -> Advice {
    Advice::Flags { set, clear }
}

/// What an advice number means. EINVAL if it means nothing.
pub(super) fn advice_of(number: u32) -> Result<Advice> {
    let none = EntryFlags::empty();
    Ok(match number {
        MADV_NORMAL | MADV_RANDOM | MADV_SEQUENTIAL | MADV_MERGEABLE | MADV_UNMERGEABLE | MADV_COLD
        | MADV_PAGEOUT | MADV_COLLAPSE => Advice::Hint,
        MADV_WILLNEED => Advice::WillNeed,
        MADV_DONTNEED => Advice::DontNeed { locked: false },
        MADV_DONTNEED_LOCKED => Advice::DontNeed { locked: true },
        MADV_FREE => Advice::Free,
        MADV_REMOVE => Advice::Remove,
        MADV_POPULATE_READ => Advice::Populate { write: false },
        MADV_POPULATE_WRITE => Advice::Populate { write: true },
        MADV_DONTFORK => flags(EntryFlags::DONT_FORK, none),
        MADV_DOFORK => flags(none, EntryFlags::DONT_FORK),
        MADV_WIPEONFORK => flags(EntryFlags::WIPE_ON_FORK, none),
        MADV_KEEPONFORK => flags(none, EntryFlags::WIPE_ON_FORK),
        MADV_HUGEPAGE => flags(EntryFlags::HUGE, EntryFlags::NO_HUGE),
        MADV_NOHUGEPAGE => flags(EntryFlags::NO_HUGE, EntryFlags::HUGE),
        MADV_DONTDUMP => flags(EntryFlags::DONT_DUMP, none),
        MADV_DODUMP => flags(none, EntryFlags::DONT_DUMP),
        MADV_HWPOISON | MADV_SOFT_OFFLINE => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    })
}

/// madvise(2).
pub fn madvise(task: &Task, address: usize, length: usize, number: u32) -> Result<usize> {
    space_of(task)?.advise(address, length, advice_of(number)?)?;
    Ok(0)
}

/// msync(2).
pub fn msync(task: &Task, address: usize, length: usize, flags: u32) -> Result<usize> {
    let (wait, later) = (flags & MS_SYNC != 0, flags & MS_ASYNC != 0);
    if flags & !(MS_SYNC | MS_ASYNC | MS_INVALIDATE) != 0 || wait && later {
        return Err(Errno::EINVAL);
    }
    space_of(task)?.sync(address, length, wait, flags & MS_INVALIDATE != 0)?;
    Ok(0)
}

/// mincore(2).
pub fn mincore(task: &Task, address: usize, length: usize, vector: usize) -> Result<usize> {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let space = space_of(task)?;
    let pages = length.div_ceil(PAGE_SIZE);
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(MINCORE_STEP);
        let start = address.checked_add(done * PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let resident = space.resident(start, count * PAGE_SIZE)?;
        write_bytes(vector.wrapping_add(done), &resident)?;
        done += count;
    }
    Ok(0)
}

/// Whether RLIMIT_MEMLOCK doesn't hold for the caller. EPERM if it may lock nothing.
fn unlimited(task: &Task) -> Result<bool> {
    if task.credentials().capable(CAP_IPC_LOCK) {
        return Ok(true);
    }
    if space_of(task)?.limit(Limit::Locked) == 0 { Err(Errno::EPERM) } else { Ok(false) }
}

/// mlock(2).
pub fn mlock(task: &Task, address: usize, length: usize) -> Result<usize> {
    mlock2(task, address, length, 0)
}

/// mlock2(2).
pub fn mlock2(task: &Task, address: usize, length: usize, flags: u32) -> Result<usize> {
    let how = match flags {
        0 => Lock::Populate,
        MLOCK_ONFAULT => Lock::OnFault,
        _ => return Err(Errno::EINVAL),
    };
    space_of(task)?.lock(address, length, how, unlimited(task)?)?;
    Ok(0)
}

/// munlock(2).
pub fn munlock(task: &Task, address: usize, length: usize) -> Result<usize> {
    space_of(task)?.lock(address, length, Lock::Unlock, true)?;
    Ok(0)
}

/// mlockall(2).
pub fn mlockall(task: &Task, flags: u32) -> Result<usize> {
    if flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 || flags & (MCL_CURRENT | MCL_FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    let (current, future) = (flags & MCL_CURRENT != 0, flags & MCL_FUTURE != 0);
    space_of(task)?.lock_all(current, future, flags & MCL_ONFAULT != 0, unlimited(task)?)?;
    Ok(0)
}

/// munlockall(2).
pub fn munlockall(task: &Task) -> Result<usize> {
    space_of(task)?.lock_all(false, false, false, true)?;
    Ok(0)
}
