//! chmod, chown, utimes, truncate, fallocate.

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpvfs::{
    change::NewTime,
    mount::Location,
    vnode::{AttributeChanges, Kind},
};

use crate::{
    limits::{INFINITY, Resource},
    signal::number::SIGXFSZ,
    task::Task,
    user::{Timespec, Timeval, UserPtr, read_path},
};

use super::{
    context::{AT_FDCWD, Names, credentials},
    open::place,
    open_file::OpenFile,
    stat::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, resolve_at},
};

/// fchmodat2(2).
pub fn fchmodat2(task: &Task, directory: i32, path: usize, mode: u32, flags: u32) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (names, location) = resolve_at(task, directory, path, flags)?;
    location.change_mode(names.credentials(), mode).map(|()| 0)
}

/// fchmodat(2): the system call has no flags.
pub fn fchmodat(task: &Task, directory: i32, path: usize, mode: u32) -> Result<usize> {
    fchmodat2(task, directory, path, mode, 0)
}

/// chmod(2).
pub fn chmod(task: &Task, path: usize, mode: u32) -> Result<usize> {
    fchmodat2(task, AT_FDCWD, path, mode, 0)
}

/// fchmod(2).
pub fn fchmod(task: &Task, descriptor: i32, mode: u32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    place(&file)?.change_mode(&credentials(task), mode).map(|()| 0)
}

/// -1 leaves an identifier as it is.
fn identifier(value: u32) -> Option<u32> {
    (value != u32::MAX).then_some(value)
}

/// fchownat(2).
pub fn fchownat(task: &Task, directory: i32, path: usize, uid: u32, gid: u32, flags: u32) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (names, location) = resolve_at(task, directory, path, flags)?;
    location.change_owner(names.credentials(), identifier(uid), identifier(gid)).map(|()| 0)
}

/// chown(2).
pub fn chown(task: &Task, path: usize, uid: u32, gid: u32) -> Result<usize> {
    fchownat(task, AT_FDCWD, path, uid, gid, 0)
}

/// lchown(2).
pub fn lchown(task: &Task, path: usize, uid: u32, gid: u32) -> Result<usize> {
    fchownat(task, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

/// fchown(2).
pub fn fchown(task: &Task, descriptor: i32, uid: u32, gid: u32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    place(&file)?.change_owner(&credentials(task), identifier(uid), identifier(gid)).map(|()| 0)
}

fn new_time(time: Timespec) -> Result<NewTime> {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    match time.nanoseconds {
        UTIME_NOW => Ok(NewTime::Now),
        UTIME_OMIT => Ok(NewTime::Keep),
        nanoseconds @ 0..1_000_000_000 => {
            // Years that no stamp can tell are cut, as file systems do.
            Ok(NewTime::At(time.seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)))
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_times(task: &Task, directory: i32, path: usize, times: [NewTime; 2], flags: u32) -> Result<usize> {
    let [accessed, modified] = times;
    if path == 0 && directory != AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let file = task.files().get_io(directory)?;
        return place(&file)?.change_times(&credentials(task), accessed, modified).map(|()| 0);
    }
    let (names, location) = resolve_at(task, directory, path, flags)?;
    location.change_times(names.credentials(), accessed, modified).map(|()| 0)
}

/// utimensat(2).
pub fn utimensat(
    task: &Task,
    directory: i32,
    path: usize,
    times: UserPtr<[Timespec; 2]>,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let times = match times.non_null() {
        None => [NewTime::Now; 2],
        Some(times) => {
            let [accessed, modified] = times.read()?;
            [new_time(accessed)?, new_time(modified)?]
        }
    };
    if times == [NewTime::Keep; 2] {
        return Ok(0);
    }
    set_times(task, directory, path, times, flags)
}

/// futimesat(2).
pub fn futimesat(task: &Task, directory: i32, path: usize, times: UserPtr<[Timeval; 2]>) -> Result<usize> {
    let times = match times.non_null() {
        None => [NewTime::Now; 2],
        Some(times) => {
            let convert = |time: Timeval| {
                if !(0..1_000_000).contains(&time.microseconds) {
                    return Err(Errno::EINVAL);
                }
                new_time(Timespec { seconds: time.seconds, nanoseconds: time.microseconds * 1000 })
            };
            let [accessed, modified] = times.read()?;
            [convert(accessed)?, convert(modified)?]
        }
    };
    set_times(task, directory, path, times, 0)
}

/// utimes(2).
pub fn utimes(task: &Task, path: usize, times: UserPtr<[Timeval; 2]>) -> Result<usize> {
    futimesat(task, AT_FDCWD, path, times)
}

/// utime(2): whole seconds.
pub fn utime(task: &Task, path: usize, times: UserPtr<[i64; 2]>) -> Result<usize> {
    let times = match times.non_null() {
        None => [NewTime::Now; 2],
        Some(times) => times.read()?.map(|seconds| NewTime::At(seconds.saturating_mul(1_000_000_000))),
    };
    set_times(task, AT_FDCWD, path, times, 0)
}

/// EFBIG and SIGXFSZ beyond RLIMIT_FSIZE.
fn check_size(task: &Task, size: u64) -> Result<()> {
    let limit = task.process().limit(Resource::FileSize);
    if limit != INFINITY && size > limit {
        super::mask::raise(task, SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(())
}

fn truncate_at(task: &Task, location: &Location, size: u64) -> Result<()> {
    check_size(task, size)?;
    location.truncate(&credentials(task), size)
}

/// truncate(2).
pub fn truncate(task: &Task, path: usize, size: i64) -> Result<usize> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    let path = read_path(path)?;
    let location = Names::new(task)?.lookup().resolve(&path, true)?;
    truncate_at(task, &location, size)?;
    Ok(0)
}

/// The vnode of a regular file open for writing.
fn writable_vnode(file: &Arc<OpenFile>) -> Result<&Arc<dyn rumpvfs::vnode::Vnode>> {
    let vnode = file.vnode().filter(|vnode| vnode.kind() == Kind::Regular).ok_or(Errno::EINVAL)?;
    if file.flags().writable() { Ok(vnode) } else { Err(Errno::EINVAL) }
}

/// ftruncate(2).
pub fn ftruncate(task: &Task, descriptor: i32, size: i64) -> Result<usize> {
    let size = u64::try_from(size).map_err(|_| Errno::EINVAL)?;
    let file = task.files().get_io(descriptor)?;
    let vnode = writable_vnode(&file)?;
    check_size(task, size)?;
    // What counts is that the file was opened for writing, not its permissions now.
    vnode.set_attributes(&AttributeChanges { size: Some(size), ..Default::default() })?;
    Ok(0)
}

/// fallocate(2).
pub fn fallocate(task: &Task, descriptor: i32, mode: u32, offset: i64, length: i64) -> Result<usize> {
    const KEEP_SIZE: u32 = 1;
    const PUNCH_HOLE: u32 = 2;
    const ZERO_RANGE: u32 = 0x10;
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    let file = task.files().get_io(descriptor)?;
    if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if mode & PUNCH_HOLE != 0 && mode & (KEEP_SIZE | ZERO_RANGE) != KEEP_SIZE {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
    let vnode = file.vnode().ok_or(Errno::ENODEV)?;
    match vnode.kind() {
        Kind::Regular => {}
        Kind::Fifo => return Err(Errno::ESPIPE),
        Kind::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    let keep_size = mode & KEEP_SIZE != 0;
    if !keep_size {
        check_size(task, end as u64)?;
    }
    let (offset, length) = (offset as u64, length as u64);
    if mode & ZERO_RANGE != 0 {
        vnode.allocate(offset, length, true, true)?;
    }
    vnode.allocate(offset, length, mode & PUNCH_HOLE != 0, keep_size)?;
    Ok(0)
}
