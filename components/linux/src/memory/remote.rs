//! process_vm_readv(2), process_vm_writev(2), process_madvise(2): other processes' memory.

use alloc::{sync::Arc, vec, vec::Vec};

use linux_raw_sys::general::{MADV_COLD, MADV_COLLAPSE, MADV_PAGEOUT, MADV_WILLNEED};
use rumpkern::{Errno, Result, uio::UserRange};
use rumpuser::{memory::PAGE_SIZE, rumpuser_copyin, rumpuser_copyout};

use super::advice;
use crate::{
    pidfd, registry,
    space::Space,
    task::Task,
    user::{IOV_MAX, UserPtr, read_iovecs},
};

/// May look into other users' processes.
const CAP_SYS_PTRACE: u32 = 19;

/// The space of a process that the caller may look into.
fn space_of_other(task: &Task, pid: i32) -> Result<Arc<Space>> {
    let process = match registry::task(pid) {
        Some(other) => other.process().clone(),
        None => registry::process(pid).ok_or(Errno::ESRCH)?,
    };
    let mine = task.credentials();
    let same = Arc::ptr_eq(&process, task.process());
    if !same && !mine.capable(CAP_SYS_PTRACE) {
        let theirs = process.tasks().first().map(|other| other.shared_credentials()).ok_or(Errno::ESRCH)?;
        let users = [theirs.uid, theirs.euid, theirs.suid];
        let groups = [theirs.gid, theirs.egid, theirs.sgid];
        if users.iter().any(|&uid| uid != mine.uid) || groups.iter().any(|&gid| gid != mine.gid) {
            return Err(Errno::EPERM);
        }
    }
    process.space().ok_or(Errno::ESRCH)
}

/// process_madvise(2): advice that loses no data, for another process. Returns the bytes it was given for.
pub fn process_madvise(
    task: &Task,
    descriptor: i32,
    ranges: usize,
    count: usize,
    number: u32,
    flags: u32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let process = pidfd::process_of(task, descriptor)?;
    let ranges = remote_ranges(ranges, count)?;
    let advice = advice::advice_of(number)?;
    let own = Arc::ptr_eq(&process, task.process());
    if !own && !matches!(number, MADV_COLD | MADV_PAGEOUT | MADV_WILLNEED | MADV_COLLAPSE) {
        return Err(Errno::EINVAL);
    }
    let space = space_of_other(task, process.pid())?;
    let mut done = 0;
    for (start, length) in ranges {
        if let Err(error) = space.advise(start, length, advice) {
            return if done > 0 { Ok(done) } else { Err(error) };
        }
        done += length;
    }
    Ok(done)
}

/// The remote ranges: not bound to the caller's address space, but of sane lengths.
fn remote_ranges(address: usize, count: usize) -> Result<Vec<UserRange>> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let raw = UserPtr::<[usize; 2]>::new(address).read_array(count)?;
    raw.into_iter()
        .map(
            |[base, length]| {
                if isize::try_from(length).is_ok() { Ok((base, length)) } else { Err(Errno::EINVAL) }
            },
        )
        .collect()
}

/// Copies between the caller's ranges and another space's, as far as both go; the first fault ends it.
fn transfer(local: &[UserRange], space: &Space, remote: &[UserRange], read: bool) -> Result<usize> {
    let mut buffer = vec![0; PAGE_SIZE];
    let mut local = local.iter().copied().filter(|range| range.1 > 0);
    let mut here = local.next();
    let mut done = 0;
    for &(base, length) in remote {
        let mut at = 0;
        while at < length {
            let Some((address, left)) = here else { return Ok(done) };
            let part = left.min(length - at).min(PAGE_SIZE);
            let chunk = &mut buffer[..part];
            let there = base.saturating_add(at);
            let moved = if read {
                let (copied, _) = space.read(there, chunk);
                copied - rumpuser_copyout(&chunk[..copied], address)
            } else {
                let copied = part - rumpuser_copyin(address, chunk);
                space.write(there, &chunk[..copied]).0
            };
            done += moved;
            if moved < part {
                return if done > 0 { Ok(done) } else { Err(Errno::EFAULT) };
            }
            at += part;
            here = if left > part { Some((address + part, left - part)) } else { local.next() };
        }
    }
    Ok(done)
}

#[allow(clippy::too_many_arguments, reason = "the arguments of the system call, and which one it is")]
fn process_vm(
    task: &Task,
    pid: i32,
    local: usize,
    local_count: usize,
    remote: usize,
    remote_count: usize,
    flags: u64,
    read: bool,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let local = read_iovecs(local, local_count)?;
    let remote = remote_ranges(remote, remote_count)?;
    transfer(&local, &*space_of_other(task, pid)?, &remote, read)
}

/// process_vm_readv(2).
pub fn process_vm_readv(
    task: &Task,
    pid: i32,
    local: usize,
    local_count: usize,
    remote: usize,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    process_vm(task, pid, local, local_count, remote, remote_count, flags, true)
}

/// process_vm_writev(2).
pub fn process_vm_writev(
    task: &Task,
    pid: i32,
    local: usize,
    local_count: usize,
    remote: usize,
    remote_count: usize,
    flags: u64,
) -> Result<usize> {
    process_vm(task, pid, local, local_count, remote, remote_count, flags, false)
}
