//! System calls that name files by handle: name_to_handle_at, open_by_handle_at.

use rumpkern::{Errno, Result};
use rumpvfs::{file::OpenFlags, names::open_location, vnode::Handle};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{task::Task, user::UserPtr};

use super::{
    context::{AT_FDCWD, credentials},
    open::{install, place},
    open_file::OpenFile,
    stat::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, resolve_at},
};

/// Longest handle of any file system.
const MAX_HANDLE_SZ: u32 = 128;
/// The type of our handles: inode number and generation.
const FILEID_INO32_GEN: i32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;

/// The part of `struct file_handle` before the handle.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Header {
    bytes: u32,
    kind: i32,
}

/// The handle.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Body {
    inode: u32,
    generation: u32,
}

fn body(handle: UserPtr<Header>) -> UserPtr<Body> {
    UserPtr::new(handle.address().wrapping_add(size_of::<Header>()))
}

/// name_to_handle_at(2).
pub fn name_to_handle_at(
    task: &Task,
    directory: i32,
    path: usize,
    handle: UserPtr<Header>,
    mount: UserPtr<i32>,
    flags: u32,
) -> Result<usize> {
    const LENGTH: u32 = size_of::<Body>() as u32;
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = if flags & AT_SYMLINK_FOLLOW == 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    let (_, location) = resolve_at(task, directory, path, flags & AT_EMPTY_PATH | follow)?;
    let found = location.vnode().handle()?;
    let room = handle.read()?.bytes;
    if room > MAX_HANDLE_SZ {
        return Err(Errno::EINVAL);
    }
    mount.write(&(location.mount.id() as i32))?;
    handle.write(&Header { bytes: LENGTH, kind: FILEID_INO32_GEN })?;
    if room < LENGTH {
        return Err(Errno::EOVERFLOW);
    }
    body(handle).write(&Body { inode: found.inode, generation: found.generation })?;
    Ok(0)
}

/// open_by_handle_at(2).
pub fn open_by_handle_at(task: &Task, mount: i32, handle: UserPtr<Header>, flags: u32) -> Result<usize> {
    if !task.credentials().capable(CAP_DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    let header = handle.read()?;
    if header.bytes == 0 || header.bytes > MAX_HANDLE_SZ {
        return Err(Errno::EINVAL);
    }
    let mount = if mount == AT_FDCWD {
        task.filesystem().working_directory()?.mount
    } else {
        place(&*task.files().get(mount)?)?.mount
    };
    if header.kind != FILEID_INO32_GEN || header.bytes as usize != size_of::<Body>() {
        return Err(Errno::ESTALE);
    }
    let Body { inode, generation } = body(handle).read()?;
    let location = mount.by_handle(Handle { inode, generation })?;
    let flags = OpenFlags::from_bits_truncate(flags) - (OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
    let file = open_location(&location, &credentials(task), flags, false)?;
    let file = OpenFile::new(file, flags | OpenFlags::LARGE_FILE, Some(location));
    install(task, file, flags.contains(OpenFlags::CLOSE_ON_EXEC))
}
