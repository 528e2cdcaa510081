//! Calls that change directories: link, unlink, rename, mkdir, mknod, symlink; and those that read them.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};
use rumpvfs::vnode::{Creation, Kind};

use crate::{
    task::Task,
    user::{read_path, write_bytes},
};

use super::{
    context::{AT_FDCWD, Names},
    open::place,
    stat::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW},
};

fn creation(task: &Task, kind: Kind, mode: u32, rdev: u64) -> Creation<'static> {
    let permissions = mode & 0o7777 & !task.filesystem().umask();
    Creation { kind, permissions, uid: 0, gid: 0, target: b"", rdev }
}

/// mknodat(2).
pub fn mknodat(task: &Task, directory: i32, path: usize, mode: u32, rdev: u32) -> Result<usize> {
    const CAP_MKNOD: u32 = 27;
    let path = read_path(path)?;
    let kind = match mode & 0o170_000 {
        0 => Kind::Regular,
        bits => Kind::from_mode(bits).ok_or(Errno::EINVAL)?,
    };
    match kind {
        Kind::Directory => return Err(Errno::EPERM),
        Kind::Symlink => return Err(Errno::EINVAL),
        Kind::Character | Kind::Block if !task.credentials().capable(CAP_MKNOD) => return Err(Errno::EPERM),
        _ => {}
    }
    let names = Names::at(task, directory, &path)?;
    names.lookup().create(&path, &creation(task, kind, mode, u64::from(rdev)))?;
    Ok(0)
}

/// mknod(2).
pub fn mknod(task: &Task, path: usize, mode: u32, rdev: u32) -> Result<usize> {
    mknodat(task, AT_FDCWD, path, mode, rdev)
}

/// mkdirat(2).
pub fn mkdirat(task: &Task, directory: i32, path: usize, mode: u32) -> Result<usize> {
    let path = read_path(path)?;
    let names = Names::at(task, directory, &path)?;
    names.lookup().create(&path, &creation(task, Kind::Directory, mode & 0o1777, 0))?;
    Ok(0)
}

/// mkdir(2).
pub fn mkdir(task: &Task, path: usize, mode: u32) -> Result<usize> {
    mkdirat(task, AT_FDCWD, path, mode)
}

/// symlinkat(2).
pub fn symlinkat(task: &Task, target: usize, directory: i32, path: usize) -> Result<usize> {
    let target = read_path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = read_path(path)?;
    let names = Names::at(task, directory, &path)?;
    let creation =
        Creation { kind: Kind::Symlink, permissions: 0o777, uid: 0, gid: 0, target: &target, rdev: 0 };
    names.lookup().create(&path, &creation)?;
    Ok(0)
}

/// symlink(2).
pub fn symlink(task: &Task, target: usize, path: usize) -> Result<usize> {
    symlinkat(task, target, AT_FDCWD, path)
}

/// linkat(2).
pub fn linkat(
    task: &Task,
    old_directory: i32,
    old: usize,
    new_directory: i32,
    new: usize,
    flags: u32,
) -> Result<usize> {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (old, new) = (read_path(old)?, read_path(new)?);
    let from = Names::at(task, old_directory, &old)?;
    let target = if flags & AT_EMPTY_PATH != 0 && old.is_empty() {
        place(&*task.files().get(old_directory)?)?
    } else {
        from.lookup().resolve(&old, flags & AT_SYMLINK_FOLLOW != 0)?
    };
    let to = Names::at(task, new_directory, &new)?;
    to.lookup().link(&target, &new)?;
    Ok(0)
}

/// link(2).
pub fn link(task: &Task, old: usize, new: usize) -> Result<usize> {
    linkat(task, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// unlinkat(2).
pub fn unlinkat(task: &Task, directory: i32, path: usize, flags: u32) -> Result<usize> {
    const AT_REMOVEDIR: u32 = 0x200;
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(path)?;
    let names = Names::at(task, directory, &path)?;
    names.lookup().remove(&path, flags != 0)?;
    Ok(0)
}

/// unlink(2).
pub fn unlink(task: &Task, path: usize) -> Result<usize> {
    unlinkat(task, AT_FDCWD, path, 0)
}

/// rmdir(2).
pub fn rmdir(task: &Task, path: usize) -> Result<usize> {
    unlinkat(task, AT_FDCWD, path, 0x200)
}

/// renameat2(2).
pub fn renameat2(
    task: &Task,
    old_directory: i32,
    old: usize,
    new_directory: i32,
    new: usize,
    flags: u32,
) -> Result<usize> {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    const WHITEOUT: u32 = 4;
    if flags & !(NOREPLACE | EXCHANGE | WHITEOUT) != 0
        || flags & WHITEOUT != 0
        || flags & (NOREPLACE | EXCHANGE) == NOREPLACE | EXCHANGE
    {
        return Err(Errno::EINVAL);
    }
    let (old, new) = (read_path(old)?, read_path(new)?);
    let from = Names::at(task, old_directory, &old)?;
    let to = Names::at(task, new_directory, &new)?;
    from.lookup().rename(&old, &to.lookup(), &new, flags & NOREPLACE != 0, flags & EXCHANGE != 0)?;
    Ok(0)
}

/// renameat(2).
pub fn renameat(
    task: &Task,
    old_directory: i32,
    old: usize,
    new_directory: i32,
    new: usize,
) -> Result<usize> {
    renameat2(task, old_directory, old, new_directory, new, 0)
}

/// rename(2).
pub fn rename(task: &Task, old: usize, new: usize) -> Result<usize> {
    renameat2(task, AT_FDCWD, old, AT_FDCWD, new, 0)
}

/// readlinkat(2).
pub fn readlinkat(task: &Task, directory: i32, path: usize, to: usize, size: i32) -> Result<usize> {
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or(Errno::EINVAL)?;
    let path = read_path(path)?;
    let names = Names::at(task, directory, &path)?;
    let target = names.lookup().read_link(&path)?;
    let length = target.len().min(size);
    write_bytes(to, &target[..length])?;
    Ok(length)
}

/// readlink(2).
pub fn readlink(task: &Task, path: usize, to: usize, size: i32) -> Result<usize> {
    readlinkat(task, AT_FDCWD, path, to, size)
}

/// The value of `d_type`.
fn directory_type(kind: Kind) -> u8 {
    (kind as u32 >> 12) as u8
}

/// Reads entries in the form that `format` writes them; what doesn't fit is left for the next call.
fn entries(
    task: &Task,
    descriptor: i32,
    to: usize,
    size: u32,
    format: impl Fn(&mut Vec<u8>, &[u8], u64, u64, u8) -> usize,
) -> Result<usize> {
    let size = size as usize;
    let file = task.files().get_io(descriptor)?;
    let vnode = file.vnode().cloned().ok_or(Errno::ENOTDIR)?;
    if vnode.kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    let mut position = file.position().lock();
    let mut buffer: Vec<u8> = Vec::new();
    let mut next = *position;
    let mut too_small = false;
    // A huge buffer is filled in several calls.
    let limit = size.min(64 << 10);
    vnode.entries(*position, &mut |entry| {
        let before = buffer.len();
        format(&mut buffer, entry.name, entry.inode, entry.next, directory_type(entry.kind));
        if buffer.len() > limit {
            buffer.truncate(before);
            too_small = before == 0;
            return false;
        }
        next = entry.next;
        true
    })?;
    if too_small {
        return Err(Errno::EINVAL);
    }
    write_bytes(to, &buffer)?;
    *position = next;
    Ok(buffer.len())
}

/// getdents64(2).
pub fn getdents64(task: &Task, descriptor: i32, to: usize, size: u32) -> Result<usize> {
    entries(task, descriptor, to, size, |buffer, name, inode, next, kind| {
        let length = (19 + name.len() + 1).next_multiple_of(8);
        let start = buffer.len();
        buffer.extend_from_slice(&inode.to_le_bytes());
        buffer.extend_from_slice(&next.to_le_bytes());
        buffer.extend_from_slice(&(length as u16).to_le_bytes());
        buffer.push(kind);
        buffer.extend_from_slice(name);
        buffer.resize(start + length, 0);
        length
    })
}

/// getdents(2): the type stands in the last byte.
pub fn getdents(task: &Task, descriptor: i32, to: usize, size: u32) -> Result<usize> {
    entries(task, descriptor, to, size, |buffer, name, inode, next, kind| {
        let length = (18 + name.len() + 2).next_multiple_of(8);
        let start = buffer.len();
        buffer.extend_from_slice(&inode.to_le_bytes());
        buffer.extend_from_slice(&next.to_le_bytes());
        buffer.extend_from_slice(&(length as u16).to_le_bytes());
        buffer.extend_from_slice(name);
        buffer.resize(start + length - 1, 0);
        buffer.push(kind);
        length
    })
}

/// getcwd(2): the length with the NUL.
pub fn getcwd(task: &Task, to: usize, size: usize) -> Result<usize> {
    let (root, directory) = task.filesystem().places()?;
    let mut path = directory.working_directory(&root)?;
    path.push(0);
    if path.len() > size {
        return Err(Errno::ERANGE);
    }
    write_bytes(to, &path)?;
    Ok(path.len())
}

/// chdir(2).
pub fn chdir(task: &Task, path: usize) -> Result<usize> {
    let path = read_path(path)?;
    let location = Names::new(task)?.lookup().resolve_directory(&path)?;
    task.filesystem().set_working_directory(location);
    Ok(0)
}

/// fchdir(2).
pub fn fchdir(task: &Task, descriptor: i32) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    let location = file.location().cloned().ok_or(Errno::ENOTDIR)?;
    if location.vnode().kind() != Kind::Directory {
        return Err(Errno::ENOTDIR);
    }
    Names::new(task)?.credentials().check(location.vnode(), rumpvfs::access::EXECUTE)?;
    task.filesystem().set_working_directory(location);
    Ok(0)
}

/// chroot(2).
pub fn chroot(task: &Task, path: usize) -> Result<usize> {
    const CAP_SYS_CHROOT: u32 = 18;
    let path = read_path(path)?;
    let location = Names::new(task)?.lookup().resolve_directory(&path)?;
    if !task.credentials().capable(CAP_SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    task.filesystem().set_root(location);
    Ok(0)
}

/// umask(2).
pub fn umask(task: &Task, umask: u32) -> Result<usize> {
    Ok(task.filesystem().set_umask(umask) as usize)
}
