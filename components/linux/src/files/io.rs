//! Reading and writing: read, write and their vectored and positioned forms, lseek, fsync.

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpvfs::{file::OpenFlags, vnode::Kind};

use crate::{
    limits::{INFINITY, Resource},
    signal::number::{SIGPIPE, SIGXFSZ},
    task::Task,
    user::{RW_MAX, is_user_range, read_iovecs},
};

use super::open_file::OpenFile;

/// `RWF_*` of preadv2: what is understood. HIPRI, DSYNC, SYNC, NOWAIT, APPEND.
const RWF_HIPRI: i32 = 1;
const RWF_DSYNC: i32 = 2;
const RWF_SYNC: i32 = 4;
const RWF_NOWAIT: i32 = 8;
const RWF_APPEND: i32 = 16;

/// Checks a user buffer and cuts its length as Linux does.
fn buffer(address: usize, length: usize) -> Result<(usize, usize)> {
    if isize::try_from(length).is_err() {
        return Err(Errno::EINVAL);
    }
    if !is_user_range(address, length) {
        return Err(Errno::EFAULT);
    }
    Ok((address, length.min(RW_MAX)))
}

/// How much of a write RLIMIT_FSIZE allows, at `offset` or at the file's own position. EFBIG and SIGXFSZ if nothing.
fn within_size_limit(task: &Task, file: &OpenFile, offset: Option<u64>, length: usize) -> Result<usize> {
    if !file.seekable() || length == 0 {
        return Ok(length);
    }
    let limit = task.process().limit(Resource::FileSize);
    if limit == INFINITY || file.vnode().is_none_or(|vnode| vnode.kind() != Kind::Regular) {
        return Ok(length);
    }
    let start = match offset {
        _ if file.flags().contains(OpenFlags::APPEND) => file.attributes()?.size,
        Some(offset) => offset,
        None => *file.position().lock(),
    };
    match limit.saturating_sub(start) {
        0 => {
            super::mask::raise(task, SIGXFSZ);
            Err(Errno::EFBIG)
        }
        room => Ok(length.min(usize::try_from(room).unwrap_or(usize::MAX))),
    }
}

/// Sends SIGPIPE to the caller where a write found no reader.
pub(super) fn with_sigpipe(task: &Task, result: Result<usize>) -> Result<usize> {
    if result == Err(Errno::EPIPE) {
        super::mask::raise(task, SIGPIPE);
    }
    result
}

/// read(2).
pub fn read(task: &Task, descriptor: i32, address: usize, length: usize) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    let (address, length) = buffer(address, length)?;
    file.read(&mut Sink::user(address, length))
}

/// write(2).
pub fn write(task: &Task, descriptor: i32, address: usize, length: usize) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let (address, length) = buffer(address, length)?;
    let length = within_size_limit(task, &file, None, length)?;
    with_sigpipe(task, file.write(&mut Source::user(address, length)))
}

fn offset(offset: i64) -> Result<u64> {
    u64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// pread64(2).
pub fn pread(task: &Task, descriptor: i32, address: usize, length: usize, position: i64) -> Result<usize> {
    let position = offset(position)?;
    let file = task.files().get_io(descriptor)?;
    let (address, length) = buffer(address, length)?;
    file.read_at(&mut Sink::user(address, length), position)
}

/// pwrite64(2).
pub fn pwrite(task: &Task, descriptor: i32, address: usize, length: usize, position: i64) -> Result<usize> {
    let position = offset(position)?;
    let file = task.files().get_io(descriptor)?;
    let (address, length) = buffer(address, length)?;
    let length = within_size_limit(task, &file, Some(position), length)?;
    file.write_at(&mut Source::user(address, length), position)
}

/// readv(2).
pub fn readv(task: &Task, descriptor: i32, vectors: usize, count: usize) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    let ranges = read_iovecs(vectors, count)?;
    file.read(&mut Sink::vectors(&ranges))
}

/// writev(2).
pub fn writev(task: &Task, descriptor: i32, vectors: usize, count: usize) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let ranges = read_iovecs(vectors, count)?;
    within_size_limit(task, &file, None, 1)?;
    with_sigpipe(task, file.write(&mut Source::vectors(&ranges)))
}

/// preadv(2).
pub fn preadv(task: &Task, descriptor: i32, vectors: usize, count: usize, low: u64) -> Result<usize> {
    let position = offset(low as i64)?;
    let file = task.files().get_io(descriptor)?;
    let ranges = read_iovecs(vectors, count)?;
    file.read_at(&mut Sink::vectors(&ranges), position)
}

/// pwritev(2).
pub fn pwritev(task: &Task, descriptor: i32, vectors: usize, count: usize, low: u64) -> Result<usize> {
    let position = offset(low as i64)?;
    let file = task.files().get_io(descriptor)?;
    let ranges = read_iovecs(vectors, count)?;
    file.write_at(&mut Source::vectors(&ranges), position)
}

/// What `RWF_*` adds to the flags of the open file.
fn per_call_flags(file: &OpenFile, rwf: i32) -> Result<OpenFlags> {
    if rwf & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut flags = file.flags();
    let add = [
        (RWF_DSYNC, OpenFlags::DATA_SYNC),
        (RWF_SYNC, OpenFlags::DATA_SYNC | OpenFlags::SYNC),
        (RWF_NOWAIT, OpenFlags::NON_BLOCKING),
        (RWF_APPEND, OpenFlags::APPEND),
    ];
    for (bit, flag) in add {
        if rwf & bit != 0 {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// Runs a transfer at `position`, or at the file's own for -1.
fn transfer(
    file: &OpenFile,
    position: i64,
    run: impl FnOnce(&mut u64) -> Result<usize>,
    moves: impl FnOnce(u64, usize) -> u64,
) -> Result<usize> {
    if position != -1 {
        if !file.takes_offsets() {
            return Err(Errno::ESPIPE);
        }
        return run(&mut offset(position)?);
    }
    if !file.seekable() {
        return run(&mut 0);
    }
    let mut current = file.position().lock();
    let size = run(&mut current)?;
    *current = moves(*current, size);
    Ok(size)
}

/// preadv2(2). The high half of the position is for 32-bit programs.
pub fn preadv2(
    task: &Task,
    descriptor: i32,
    vectors: usize,
    count: usize,
    position: i64,
    _high: u64,
    rwf: i32,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    let ranges = read_iovecs(vectors, count)?;
    let flags = per_call_flags(&file, rwf)?;
    let mut sink = Sink::vectors(&ranges);
    let run = |at: &mut u64| file.file().read(&mut sink, *at, flags);
    transfer(&file, position, run, |at, size| at.saturating_add(size as u64))
}

/// pwritev2(2).
pub fn pwritev2(
    task: &Task,
    descriptor: i32,
    vectors: usize,
    count: usize,
    position: i64,
    _high: u64,
    rwf: i32,
) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let ranges = read_iovecs(vectors, count)?;
    let flags = per_call_flags(&file, rwf)?;
    let mut source = Source::vectors(&ranges);
    let run = |at: &mut u64| file.file().write(&mut source, at, flags);
    with_sigpipe(task, transfer(&file, position, run, |at, _| at))
}

/// lseek(2).
pub fn lseek(task: &Task, descriptor: i32, distance: i64, whence: i32) -> Result<usize> {
    const SEEK_SET: i32 = 0;
    const SEEK_CUR: i32 = 1;
    const SEEK_END: i32 = 2;
    const SEEK_HOLE: i32 = 4;
    let file = task.files().get_io(descriptor)?;
    if !(SEEK_SET..=SEEK_HOLE).contains(&whence) {
        return Err(Errno::EINVAL);
    }
    if !file.seekable() {
        return if file.is_indifferent_device() { Ok(0) } else { Err(Errno::ESPIPE) };
    }
    let mut position = file.position().lock();
    let base = match whence {
        SEEK_SET => 0,
        SEEK_CUR => *position,
        SEEK_END => file.attributes()?.size,
        // SEEK_DATA and SEEK_HOLE.
        _ => {
            let from = u64::try_from(distance).map_err(|_| Errno::ENXIO)?;
            let found = file.file().seek_data(from, whence == SEEK_HOLE)?;
            *position = found;
            return usize::try_from(found).map_err(|_| Errno::EOVERFLOW);
        }
    };
    let target = i64::try_from(base).ok().and_then(|base| base.checked_add(distance));
    let target = match target {
        Some(target) if target >= 0 => target as u64,
        Some(_) => return Err(Errno::EINVAL),
        None => return Err(Errno::EOVERFLOW),
    };
    *position = target;
    Ok(target as usize)
}

/// fsync(2).
pub fn fsync(task: &Task, descriptor: i32) -> Result<usize> {
    task.files().get_io(descriptor)?.file().sync(false).map(|()| 0)
}

/// fdatasync(2).
pub fn fdatasync(task: &Task, descriptor: i32) -> Result<usize> {
    task.files().get_io(descriptor)?.file().sync(true).map(|()| 0)
}

/// sync(2).
pub fn sync(task: &Task) -> Result<usize> {
    let _ = task.filesystem().root()?.sync_all();
    Ok(0)
}

/// syncfs(2).
pub fn syncfs(task: &Task, descriptor: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if let Some(location) = file.location() {
        location.mount.file_system().sync()?;
    }
    Ok(0)
}

/// sync_file_range(2).
pub fn sync_file_range(task: &Task, descriptor: i32, from: i64, length: i64, flags: u32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if from < 0 || length < 0 || from.checked_add(length).is_none() || flags & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    if !file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if flags != 0 {
        file.file().sync(true)?;
    }
    Ok(0)
}

/// readahead(2): everything is in memory, or comes when it is needed.
pub fn readahead(task: &Task, descriptor: i32, _from: i64, _length: usize) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    if file.file().pager().is_err() || !file.seekable() {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// posix_fadvise(2).
pub fn fadvise(task: &Task, descriptor: i32, _from: i64, length: i64, advice: i32) -> Result<usize> {
    let file = task.files().get_io(descriptor)?;
    if !file.seekable() && file.vnode().is_none_or(|vnode| vnode.kind() == Kind::Fifo) {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || !(0..=5).contains(&advice) {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
