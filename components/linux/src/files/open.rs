//! Making and closing descriptors: open, close, dup, pipe, memory files, event files, epolls.

use alloc::sync::Arc;

use rumpkern::{Errno, Result};
use rumpvfs::{
    file::{File, OpenFlags},
    mount::Location,
    namei::Resolve,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    limits::Resource,
    task::Task,
    user::{UserPtr, read_bytes, read_path},
};

use super::{
    context::{AT_FDCWD, Names},
    epoll::Epoll,
    eventfd::EventFd,
    open_file::OpenFile,
};

/// Flags that open(2) knows; others are ignored, as ever.
const KNOWN: OpenFlags = OpenFlags::all();
/// Flags that count with O_PATH.
const WITH_PATH: OpenFlags =
    OpenFlags::PATH.union(OpenFlags::DIRECTORY).union(OpenFlags::NO_FOLLOW).union(OpenFlags::CLOSE_ON_EXEC);

/// Adds an open file to the caller's table.
pub fn install(task: &Task, file: Arc<OpenFile>, close_on_exec: bool) -> Result<usize> {
    let limit = task.process().limit(Resource::OpenFiles);
    Ok(task.files().insert(file, 0, limit, close_on_exec)? as usize)
}

/// Adds a file that has no name. `flags`: access mode, NON_BLOCKING, CLOSE_ON_EXEC.
pub fn install_anonymous(task: &Task, file: Arc<dyn File>, flags: OpenFlags) -> Result<usize> {
    install(task, OpenFile::new(file, flags, None), flags.contains(OpenFlags::CLOSE_ON_EXEC))
}

fn open_names(task: &Task, names: &Names, path: &[u8], flags: OpenFlags, mode: u32) -> Result<usize> {
    let mut flags = flags;
    if flags.contains(OpenFlags::PATH) {
        flags &= WITH_PATH;
    }
    if flags.contains(OpenFlags::SYNC) {
        flags |= OpenFlags::DATA_SYNC;
    }
    let permissions = mode & 0o7777 & !task.filesystem().umask();
    let opened = names.lookup().open(path, flags, permissions)?;
    let stored = flags | OpenFlags::LARGE_FILE;
    let file = OpenFile::new(opened.file, stored, Some(opened.location));
    install(task, file, flags.contains(OpenFlags::CLOSE_ON_EXEC))
}

/// openat(2).
pub fn openat(task: &Task, directory: i32, path: usize, flags: u32, mode: u32) -> Result<usize> {
    let flags = OpenFlags::from_bits_truncate(flags) & KNOWN;
    let path = read_path(path)?;
    let names = Names::at(task, directory, &path)?;
    open_names(task, &names, &path, flags, mode)
}

/// open(2).
pub fn open(task: &Task, path: usize, flags: u32, mode: u32) -> Result<usize> {
    openat(task, AT_FDCWD, path, flags, mode)
}

/// creat(2).
pub fn creat(task: &Task, path: usize, mode: u32) -> Result<usize> {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY | OpenFlags::TRUNCATE;
    openat(task, AT_FDCWD, path, flags.bits(), mode)
}

/// `struct open_how`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Reads a structure that may be larger (its tail zero) or smaller than the kernel's, but not than `least`.
pub(super) fn read_extensible<T: FromBytes + IntoBytes>(
    address: usize,
    size: usize,
    least: usize,
) -> Result<T> {
    if size < least {
        return Err(Errno::EINVAL);
    }
    if size > rumpuser::memory::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let mut value = T::new_zeroed();
    let known = size.min(size_of::<T>());
    read_bytes(address, &mut value.as_mut_bytes()[..known])?;
    for offset in known..size {
        let mut byte = [0];
        read_bytes(address.wrapping_add(offset), &mut byte)?;
        if byte != [0] {
            return Err(Errno::E2BIG);
        }
    }
    Ok(value)
}

/// openat2(2).
pub fn openat2(task: &Task, directory: i32, path: usize, how: usize, size: usize) -> Result<usize> {
    let how: OpenHow = read_extensible(how, size, size_of::<OpenHow>())?;
    let flags = u32::try_from(how.flags).ok().and_then(OpenFlags::from_bits).ok_or(Errno::EINVAL)?;
    let resolve = Resolve::from_bits(how.resolve).ok_or(Errno::EINVAL)?;
    let creates = flags.intersects(OpenFlags::CREATE | OpenFlags::TEMPORARY);
    if how.mode & !0o7777 != 0 || !creates && how.mode != 0 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(OpenFlags::PATH) && !WITH_PATH.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    let path = read_path(path)?;
    let names = if resolve.contains(Resolve::IN_ROOT) {
        // Absolute paths start at the descriptor too.
        Names::at(task, directory, b".")?
    } else {
        Names::at(task, directory, &path)?
    };
    open_names(task, &names.restricted(resolve), &path, flags, how.mode as u32)
}

/// close(2).
pub fn close(task: &Task, descriptor: i32) -> Result<usize> {
    let file = task.files().remove(descriptor)?;
    task.files().closed(&file);
    Ok(0)
}

/// close_range(2).
pub fn close_range(task: &Task, first: u32, last: u32, flags: u32) -> Result<usize> {
    const UNSHARE: u32 = 2;
    const CLOSE_ON_EXEC: u32 = 4;
    if flags & !(UNSHARE | CLOSE_ON_EXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let (first, last) = (first as usize, last as usize);
    if flags & UNSHARE != 0 {
        super::unshare(task);
    }
    if flags & CLOSE_ON_EXEC != 0 {
        task.files().mark_range(first, last);
    } else {
        task.files().close_range(first, last);
    }
    Ok(0)
}

/// dup(2).
pub fn dup(task: &Task, descriptor: i32) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    install(task, file, false)
}

fn replace(task: &Task, old: i32, new: i32, close_on_exec: bool) -> Result<usize> {
    let file = task.files().get(old)?;
    let limit = task.process().limit(Resource::OpenFiles);
    if let Some(closed) = task.files().replace(new, file, limit, close_on_exec)? {
        task.files().closed(&closed);
    }
    Ok(new as usize)
}

/// dup2(2).
pub fn dup2(task: &Task, old: i32, new: i32) -> Result<usize> {
    if old == new {
        task.files().get(old)?;
        return Ok(new as usize);
    }
    replace(task, old, new, false)
}

/// dup3(2).
pub fn dup3(task: &Task, old: i32, new: i32, flags: u32) -> Result<usize> {
    if flags & !OpenFlags::CLOSE_ON_EXEC.bits() != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    replace(task, old, new, flags != 0)
}

/// pipe2(2).
pub fn pipe2(task: &Task, descriptors: UserPtr<[i32; 2]>, flags: u32) -> Result<usize> {
    let allowed = OpenFlags::CLOSE_ON_EXEC | OpenFlags::NON_BLOCKING | OpenFlags::DIRECT;
    let flags = OpenFlags::from_bits(flags).filter(|&flags| allowed.contains(flags)).ok_or(Errno::EINVAL)?;
    let (uid, gid) = (task.credentials().fsuid, task.credentials().fsgid);
    let (reader, writer) = rumpvfs::pipe::pipe(uid, gid);
    install_pair(task, descriptors, (reader, flags), (writer, flags | OpenFlags::WRITE_ONLY))
}

/// pipe(2).
pub fn pipe(task: &Task, descriptors: UserPtr<[i32; 2]>) -> Result<usize> {
    pipe2(task, descriptors, 0)
}

/// Adds two files and writes their descriptors.
pub(super) fn install_pair(
    task: &Task,
    descriptors: UserPtr<[i32; 2]>,
    first: (Arc<dyn File>, OpenFlags),
    second: (Arc<dyn File>, OpenFlags),
) -> Result<usize> {
    let one = install_anonymous(task, first.0, first.1)? as i32;
    let other = match install_anonymous(task, second.0, second.1) {
        Ok(other) => other as i32,
        Err(error) => {
            let _ = task.files().remove(one);
            return Err(error);
        }
    };
    if let Err(error) = descriptors.write(&[one, other]) {
        let _ = (task.files().remove(one), task.files().remove(other));
        return Err(error);
    }
    Ok(0)
}

/// eventfd2(2).
pub fn eventfd2(task: &Task, counter: u32, flags: u32) -> Result<usize> {
    const SEMAPHORE: u32 = 1;
    let open_flags = OpenFlags::from_bits(flags & !SEMAPHORE)
        .filter(|&flags| (OpenFlags::CLOSE_ON_EXEC | OpenFlags::NON_BLOCKING).contains(flags))
        .ok_or(Errno::EINVAL)?;
    let file = EventFd::new(u64::from(counter), flags & SEMAPHORE != 0);
    install_anonymous(task, file, open_flags | OpenFlags::READ_WRITE)
}

/// eventfd(2).
pub fn eventfd(task: &Task, counter: u32) -> Result<usize> {
    eventfd2(task, counter, 0)
}

/// epoll_create1(2).
pub fn epoll_create1(task: &Task, flags: u32) -> Result<usize> {
    if flags & !OpenFlags::CLOSE_ON_EXEC.bits() != 0 {
        return Err(Errno::EINVAL);
    }
    install_anonymous(task, Epoll::new(), OpenFlags::from_bits_retain(flags) | OpenFlags::READ_WRITE)
}

/// epoll_create(2).
pub fn epoll_create(task: &Task, size: i32) -> Result<usize> {
    if size <= 0 { Err(Errno::EINVAL) } else { epoll_create1(task, 0) }
}

/// The place of an open file, for calls that act on what a descriptor names. A file without a name gets a
/// place of its own. EBADF if there is nothing behind it.
pub(super) fn place(file: &OpenFile) -> Result<Location> {
    match (file.location(), file.vnode()) {
        (Some(location), _) => Ok(location.clone()),
        (None, Some(vnode)) => Ok(Location::anonymous(vnode.clone(), b"")),
        (None, None) => Err(Errno::EINVAL),
    }
}
