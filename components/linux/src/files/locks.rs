//! File locks: flock(2) and fcntl(2)'s, and what becomes of them when files are closed.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use rumpkern::{Errno, Result};
use rumpvfs::locks::{self, Mode, Owner};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::task::Task;

use super::{descriptor::DescriptorTable, open_file::OpenFile};

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// `struct flock` (x86-64).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Flock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    length: i64,
    pid: i32,
    tail: i32,
}

/// Locks of an open file description are told apart by its address.
fn description(file: &OpenFile) -> u64 {
    core::ptr::from_ref(file).addr() as u64
}

/// The bytes meant, first and last.
fn range(file: &OpenFile, flock: &Flock) -> Result<(u64, u64)> {
    let base = match flock.whence {
        0 => 0,
        1 => *file.position().lock(),
        2 => file.attributes()?.size,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match flock.length {
        0 => (start, None),
        length if length > 0 => (start, Some(start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?)),
        length => (start.checked_add(length).ok_or(Errno::EINVAL)?, Some(start.wrapping_sub(1))),
    };
    let first = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    let last = match end {
        None => u64::MAX,
        Some(i64::MAX) => u64::MAX,
        Some(end) => u64::try_from(end).map_err(|_| Errno::EINVAL)?,
    };
    Ok((first, last))
}

fn owner(task: &Task, file: &OpenFile, flock: &Flock, by_description: bool) -> Result<Owner> {
    if !by_description {
        return Ok(Owner::Process(task.process().pid()));
    }
    if flock.pid != 0 { Err(Errno::EINVAL) } else { Ok(Owner::Description(description(file))) }
}

/// F_GETLK and F_OFD_GETLK.
pub(super) fn get(task: &Task, file: &OpenFile, mut flock: Flock, by_description: bool) -> Result<Flock> {
    if !matches!(flock.kind, F_RDLCK | F_WRLCK) {
        return Err(Errno::EINVAL);
    }
    let vnode = file.vnode().ok_or(Errno::EBADF)?;
    let (start, end) = range(file, &flock)?;
    let owner = owner(task, file, &flock, by_description)?;
    let wanted = locks::Lock { owner, start, end, exclusive: flock.kind == F_WRLCK };
    match locks::conflict(vnode, &wanted)? {
        None => flock.kind = F_UNLCK,
        Some(lock) => {
            flock.kind = if lock.exclusive { F_WRLCK } else { F_RDLCK };
            flock.whence = 0;
            flock.start = lock.start as i64;
            flock.length =
                if lock.end == u64::MAX { 0 } else { lock.end.saturating_sub(lock.start) as i64 + 1 };
            flock.pid = if let Owner::Process(pid) = lock.owner { pid } else { -1 };
        }
    }
    Ok(flock)
}

/// F_SETLK, F_SETLKW and their OFD forms.
pub(super) fn set(
    task: &Task,
    file: &OpenFile,
    flock: Flock,
    by_description: bool,
    wait: bool,
) -> Result<()> {
    let vnode = file.vnode().ok_or(Errno::EBADF)?;
    let (start, end) = range(file, &flock)?;
    let mode = match flock.kind {
        F_RDLCK if !file.flags().readable() => return Err(Errno::EBADF),
        F_WRLCK if !file.flags().writable() => return Err(Errno::EBADF),
        F_RDLCK => Mode::Shared,
        F_WRLCK => Mode::Exclusive,
        F_UNLCK => Mode::Unlocked,
        _ => return Err(Errno::EINVAL),
    };
    let owner = owner(task, file, &flock, by_description)?;
    if by_description {
        file.flocked.store(true, Ordering::Relaxed);
    }
    locks::set(vnode, owner, start, end, mode, wait)
}

/// flock(2).
pub fn flock(task: &Task, descriptor: i32, operation: u32) -> Result<usize> {
    const LOCK_SH: u32 = 1;
    const LOCK_EX: u32 = 2;
    const LOCK_NB: u32 = 4;
    const LOCK_UN: u32 = 8;
    let mode = match operation & !LOCK_NB {
        LOCK_SH => Mode::Shared,
        LOCK_EX => Mode::Exclusive,
        LOCK_UN => Mode::Unlocked,
        _ => return Err(Errno::EINVAL),
    };
    let file = task.files().get_io(descriptor)?;
    let vnode = file.vnode().ok_or(Errno::EBADF)?;
    file.flocked.store(true, Ordering::Relaxed);
    locks::flock(vnode, description(&file), mode, operation & LOCK_NB == 0)?;
    Ok(0)
}

/// A process closed a descriptor: its record locks on the file go (fcntl(2)).
pub(super) fn release_record_locks(_table: &DescriptorTable, file: &Arc<OpenFile>) {
    if let Some(vnode) = file.vnode() {
        Task::with_current(|task| {
            if let Some(task) = task {
                locks::release(vnode, Owner::Process(task.process().pid()));
            }
        });
    }
}

/// An open file is gone: so are its flock(2) and OFD locks.
pub(super) fn release_description_locks(file: &OpenFile) {
    if let Some(vnode) = file.vnode() {
        locks::release(vnode, Owner::Whole(description(file)));
        locks::release(vnode, Owner::Description(description(file)));
    }
}
