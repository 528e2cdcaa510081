//! stat(2) and its kin, statx(2), statfs(2), access(2).

use rumpkern::{Errno, Result};
use rumpvfs::{
    mount::Location,
    vnode::{Attributes, Statistics, Time, device_parts},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    task::Task,
    user::{Timespec, UserPtr, read_path},
};

use super::context::{AT_FDCWD, Names};

pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub(super) const AT_EACCESS: u32 = 0x200;
pub(super) const AT_SYMLINK_FOLLOW: u32 = 0x400;
pub(super) const AT_NO_AUTOMOUNT: u32 = 0x800;
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;
/// AT_STATX_FORCE_SYNC and AT_STATX_DONT_SYNC.
const AT_STATX_SYNC_TYPE: u32 = 0x6000;

/// `struct stat` (x86-64).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Stat {
    device: u64,
    inode: u64,
    links: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    padding: u32,
    rdev: u64,
    size: i64,
    block_size: i64,
    blocks: i64,
    accessed: Timespec,
    modified: Timespec,
    changed: Timespec,
    unused: [i64; 3],
}

/// Seconds and nanoseconds, also before 1970.
fn timespec(time: Time) -> Timespec {
    Timespec { seconds: time.div_euclid(1_000_000_000), nanoseconds: time.rem_euclid(1_000_000_000) }
}

impl From<Attributes> for Stat {
    fn from(from: Attributes) -> Self {
        Stat {
            device: from.device,
            inode: from.inode,
            links: u64::from(from.links),
            mode: from.kind as u32 | from.permissions,
            uid: from.uid,
            gid: from.gid,
            padding: 0,
            rdev: from.rdev,
            size: from.size as i64,
            block_size: i64::from(from.block_size),
            blocks: from.blocks as i64,
            accessed: timespec(from.accessed),
            modified: timespec(from.modified),
            changed: timespec(from.changed),
            unused: [0; 3],
        }
    }
}

/// Finds what the `*at` calls act on: a path, or with AT_EMPTY_PATH the descriptor itself.
pub(super) fn resolve_at(task: &Task, directory: i32, path: usize, flags: u32) -> Result<(Names, Location)> {
    // glibc's fstat passes "": the empty path costs one byte.
    let path =
        if path == 0 && flags & AT_EMPTY_PATH != 0 { alloc::vec::Vec::new() } else { read_path(path)? };
    let names = Names::at(task, directory, &path)?;
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let location = if flags & AT_EMPTY_PATH != 0 {
        names.lookup().resolve_or_base(&path, follow)?
    } else {
        names.lookup().resolve(&path, follow)?
    };
    Ok((names, location))
}

fn attributes_at(task: &Task, directory: i32, path: usize, flags: u32) -> Result<Attributes> {
    if flags & AT_EMPTY_PATH != 0 && directory >= 0 && is_empty(path)? {
        return task.files().get(directory)?.attributes();
    }
    resolve_at(task, directory, path, flags)?.1.vnode().attributes()
}

fn is_empty(path: usize) -> Result<bool> {
    Ok(path == 0 || UserPtr::<u8>::new(path).read()? == 0)
}

/// newfstatat(2).
pub fn fstatat(task: &Task, directory: i32, path: usize, to: UserPtr<Stat>, flags: u32) -> Result<usize> {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let attributes = attributes_at(task, directory, path, flags)?;
    to.write(&attributes.into()).map(|()| 0)
}

/// stat(2).
pub fn stat(task: &Task, path: usize, to: UserPtr<Stat>) -> Result<usize> {
    fstatat(task, AT_FDCWD, path, to, 0)
}

/// lstat(2).
pub fn lstat(task: &Task, path: usize, to: UserPtr<Stat>) -> Result<usize> {
    fstatat(task, AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW)
}

/// fstat(2).
pub fn fstat(task: &Task, descriptor: i32, to: UserPtr<Stat>) -> Result<usize> {
    let attributes = task.files().get(descriptor)?.attributes()?;
    to.write(&attributes.into()).map(|()| 0)
}

/// `struct statx_timestamp`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct StatxTime {
    seconds: i64,
    nanoseconds: u32,
    padding: i32,
}

/// `struct statx`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    padding: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    accessed: StatxTime,
    born: StatxTime,
    changed: StatxTime,
    modified: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    device_major: u32,
    device_minor: u32,
    mount: u64,
    direct_io: [u32; 2],
    spare: [u64; 12],
}

/// STATX_BASIC_STATS and STATX_BTIME.
const STATX_GIVEN: u32 = 0xfff;
const STATX_MNT_ID: u32 = 0x1000;
const STATX_RESERVED: u32 = 0x8000_0000;
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

fn statx_time(time: Time) -> StatxTime {
    let Timespec { seconds, nanoseconds } = timespec(time);
    StatxTime { seconds, nanoseconds: nanoseconds as u32, padding: 0 }
}

/// statx(2).
pub fn statx(
    task: &Task,
    directory: i32,
    path: usize,
    flags: u32,
    mask: u32,
    to: UserPtr<Statx>,
) -> Result<usize> {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if mask & STATX_RESERVED != 0 || flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE {
        return Err(Errno::EINVAL);
    }
    let (from, location) = if flags & AT_EMPTY_PATH != 0 && directory >= 0 && is_empty(path)? {
        let file = task.files().get(directory)?;
        (file.attributes()?, file.location().cloned())
    } else {
        let location = resolve_at(task, directory, path, flags)?.1;
        (location.vnode().attributes()?, Some(location))
    };
    let (rdev_major, rdev_minor) = device_parts(from.rdev);
    let (device_major, device_minor) = device_parts(from.device);
    let is_root = location.as_ref().is_some_and(Location::is_mount_root);
    let result = Statx {
        mask: STATX_GIVEN | if location.is_some() { STATX_MNT_ID } else { 0 },
        block_size: from.block_size,
        attributes: if is_root { STATX_ATTR_MOUNT_ROOT } else { 0 },
        links: from.links,
        uid: from.uid,
        gid: from.gid,
        mode: (from.kind as u32 | from.permissions) as u16,
        padding: 0,
        inode: from.inode,
        size: from.size,
        blocks: from.blocks,
        attributes_mask: STATX_ATTR_MOUNT_ROOT,
        accessed: statx_time(from.accessed),
        born: statx_time(from.born),
        changed: statx_time(from.changed),
        modified: statx_time(from.modified),
        rdev_major,
        rdev_minor,
        device_major,
        device_minor,
        mount: location.map_or(0, |location| location.mount.id()),
        direct_io: [0; 2],
        spare: [0; 12],
    };
    to.write(&result).map(|()| 0)
}

/// `struct statfs` (x86-64).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct StatFs {
    magic: i64,
    block_size: i64,
    blocks: u64,
    blocks_free: u64,
    blocks_available: u64,
    files: u64,
    files_free: u64,
    identifier: [i32; 2],
    name_length: i64,
    fragment_size: i64,
    flags: i64,
    spare: [i64; 4],
}

/// `device`: `st_dev` of the file system's files.
fn statfs_of(from: &Statistics, device: u64, flags: u32) -> StatFs {
    const ST_VALID: i64 = 0x20;
    const ST_READ_ONLY: i64 = 1;
    let identifier = if from.identifier == 0 { device } else { from.identifier };
    StatFs {
        magic: from.magic as i64,
        block_size: from.block_size as i64,
        blocks: from.blocks,
        blocks_free: from.blocks_free,
        blocks_available: from.blocks_free,
        files: from.files,
        files_free: from.files_free,
        identifier: [identifier as i32, (identifier >> 32) as i32],
        name_length: from.name_length as i64,
        fragment_size: from.block_size as i64,
        flags: ST_VALID | i64::from(flags) | if from.read_only { ST_READ_ONLY } else { 0 },
        spare: [0; 4],
    }
}

/// MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, NOATIME and NODIRATIME have the values of ST_* in statfs, RELATIME hasn't.
fn statfs_flags(location: &Location) -> u32 {
    location.mount.flags().bits() & 0xf | location.mount.flags().bits() & 0xc00
}

fn statfs_at(location: &Location) -> Result<StatFs> {
    let device = location.vnode().attributes()?.device;
    Ok(statfs_of(&location.statistics()?, device, statfs_flags(location)))
}

/// statfs(2).
pub fn statfs(task: &Task, path: usize, to: UserPtr<StatFs>) -> Result<usize> {
    let (_, location) = resolve_at(task, AT_FDCWD, path, 0)?;
    to.write(&statfs_at(&location)?).map(|()| 0)
}

/// fstatfs(2).
pub fn fstatfs(task: &Task, descriptor: i32, to: UserPtr<StatFs>) -> Result<usize> {
    let file = task.files().get(descriptor)?;
    let result = match (file.location(), file.vnode()) {
        (Some(location), _) => statfs_at(location)?,
        (None, Some(vnode)) => statfs_of(&vnode.statistics()?, vnode.attributes()?.device, 0),
        (None, None) => {
            const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
            let statistics = Statistics {
                magic: ANON_INODE_FS_MAGIC,
                block_size: 4096,
                name_length: 255,
                ..Statistics::default()
            };
            statfs_of(&statistics, 0, 0)
        }
    };
    to.write(&result).map(|()| 0)
}

/// faccessat2(2).
pub fn faccessat2(task: &Task, directory: i32, path: usize, mode: u32, flags: u32) -> Result<usize> {
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path(path)?;
    let mut names = Names::at(task, directory, &path)?;
    if flags & AT_EACCESS == 0 {
        names = names.with_real_ids(task);
    }
    let lookup = names.lookup();
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let location = if flags & AT_EMPTY_PATH != 0 {
        lookup.resolve_or_base(&path, follow)?
    } else {
        lookup.resolve(&path, follow)?
    };
    lookup.check_access(&location, mode).map(|()| 0)
}

/// faccessat(2): the system call has no flags.
pub fn faccessat(task: &Task, directory: i32, path: usize, mode: u32) -> Result<usize> {
    faccessat2(task, directory, path, mode, 0)
}

/// access(2).
pub fn access(task: &Task, path: usize, mode: u32) -> Result<usize> {
    faccessat2(task, AT_FDCWD, path, mode, 0)
}
