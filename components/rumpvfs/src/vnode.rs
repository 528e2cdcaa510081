//! Vnodes: the files of a file system, open or not.

use alloc::{sync::Arc, vec::Vec};
use core::{
    any::Any,
    sync::atomic::{AtomicU32, Ordering},
};

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
    vm::Pager,
};

use crate::{
    file::{File, OpenFlags},
    mount::Location,
};

/// File types, with their `S_IFMT` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// A FIFO.
    Fifo = 0o010_000,
    /// A character device.
    Character = 0o020_000,
    /// A directory.
    Directory = 0o040_000,
    /// A block device.
    Block = 0o060_000,
    /// A regular file.
    Regular = 0o100_000,
    /// A symbolic link.
    Symlink = 0o120_000,
    /// A socket.
    Socket = 0o140_000,
}

impl Kind {
    /// From `S_IFMT` bits.
    pub fn from_mode(mode: u32) -> Option<Kind> {
        Some(match mode & 0o170_000 {
            0o010_000 => Kind::Fifo,
            0o020_000 => Kind::Character,
            0o040_000 => Kind::Directory,
            0o060_000 => Kind::Block,
            0o100_000 => Kind::Regular,
            0o120_000 => Kind::Symlink,
            0o140_000 => Kind::Socket,
            _ => return None,
        })
    }
}

/// Linux's encoding of a device number (makedev(3)).
pub fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
}

/// The major and minor number in Linux's encoding.
pub fn device_parts(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & 0xff_ff00);
    (major as u32, minor as u32)
}

/// A device number for a file system that has no device (major 0).
pub fn anonymous_device() -> u64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    device_number(0, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The time now, for the stamps of files.
pub fn now() -> Time {
    rumpuser::rumpuser_clock_realtime() as Time
}

/// Nanoseconds since 1970; negative before.
pub type Time = i64;

/// What stat(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The file system's number (`st_dev`).
    pub device: u64,
    /// The inode number, unique in the file system.
    pub inode: u64,
    /// The type.
    pub kind: Kind,
    /// Permission bits, with set-user-ID, set-group-ID and sticky (0o7777).
    pub permissions: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device nodes: which device (Linux's encoding of major and minor).
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks in use.
    pub blocks: u64,
    /// Preferred I/O size.
    pub block_size: u32,
    /// Last access.
    pub accessed: Time,
    /// Last change of the data.
    pub modified: Time,
    /// Last change of the attributes.
    pub changed: Time,
    /// Creation.
    pub born: Time,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Attributes`")]
pub struct AttributeChanges {
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
}

/// What to create in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation<'a> {
    /// The type.
    pub kind: Kind,
    /// Permission bits, the umask applied.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Symbolic links: the target.
    pub target: &'a [u8],
    /// Device nodes: which device.
    pub rdev: u64,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The name. "." and ".." are among the entries.
    pub name: &'a [u8],
    /// The inode number.
    pub inode: u64,
    /// The type.
    pub kind: Kind,
    /// Where to go on behind this entry.
    pub next: u64,
}

/// What statfs(2) tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in statfs(2)")]
pub struct Statistics {
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length: u64,
    pub read_only: bool,
    /// What tells the file system apart from others, also after the machine was started anew; 0: nothing does.
    pub identifier: u64,
}

/// What tells a file apart from all that its file system had and will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The inode number.
    pub inode: u32,
    /// Tells apart the files that had this inode number.
    pub generation: u32,
}

/// A file of a file system. Permissions are checked above, by whoever knows the caller. Names are single
/// components, neither empty nor "." nor "..". Directory methods give ENOTDIR elsewhere.
#[allow(unused_variables, reason = "the defaults ignore what they are given")]
pub trait Vnode: Send + Sync + Any {
    /// stat(2).
    fn attributes(&self) -> Result<Attributes>;

    /// The type, without the cost of the rest.
    fn kind(&self) -> Kind;

    /// chmod, chown, utimes, truncate.
    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// Finds a name in a directory.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        Err(Errno::ENOTDIR)
    }

    /// The directory that this directory is in; a root gives itself (mounts are crossed above).
    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        Err(Errno::ENOTDIR)
    }

    /// Creates a file. EEXIST if the name is taken.
    fn create(&self, name: &[u8], creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        Err(if self.kind() == Kind::Directory { Errno::EROFS } else { Errno::ENOTDIR })
    }

    /// Creates a file without a name (O_TMPFILE), which [`Vnode::link`] may name.
    fn create_unnamed(&self, creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Adds a name for `target`, a file of the same file system.
    fn link(&self, name: &[u8], target: &Arc<dyn Vnode>) -> Result<()> {
        Err(if self.kind() == Kind::Directory { Errno::EROFS } else { Errno::ENOTDIR })
    }

    /// Removes a name; `directory`: of an empty directory (rmdir), otherwise of anything else (unlink).
    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        Err(if self.kind() == Kind::Directory { Errno::EROFS } else { Errno::ENOTDIR })
    }

    /// Moves `name` to `new_name` in `new_directory` of the same file system, replacing what is there as
    /// rename(2) says. `exchange` swaps the two (RENAME_EXCHANGE); `keep` fails with EEXIST instead of replacing
    /// (RENAME_NOREPLACE).
    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Vnode>,
        new_name: &[u8],
        keep: bool,
        exchange: bool,
    ) -> Result<()> {
        Err(if self.kind() == Kind::Directory { Errno::EROFS } else { Errno::ENOTDIR })
    }

    /// Calls `visit` for the entries from `position` on (0 is the start), until it returns false. A position
    /// stays valid while other entries come and go.
    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// The target of a symbolic link.
    fn read_link(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    /// Where a link that is followed by more than its text leads (/proc/self/fd/1, /proc/self/exe); `None` for
    /// other files.
    fn jump(&self) -> Option<Result<Location>> {
        None
    }

    /// Opens the file for I/O. Usually [`crate::open::open`], which knows the right kind of [`File`]. The access mode was checked; CREATE, EXCLUSIVE and TRUNCATE were done.
    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>>;

    /// Reads from a regular file.
    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes to a regular file, which grows as needed.
    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end, as one step; returns the bytes written and the new end.
    fn append(&self, source: &mut Source<'_>) -> Result<(usize, u64)> {
        let end = self.attributes()?.size;
        let length = self.write_at(end, source)?;
        Ok((length, end + length as u64))
    }

    /// As [`File::seek_data`]. The default knows no holes.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.attributes()?.size;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if hole { size } else { offset })
    }

    /// fallocate(2): reserves (or with `punch`, zeroes) a range; `keep_size` leaves the size as it is.
    fn allocate(&self, offset: u64, length: u64, punch: bool, keep_size: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// What mmap(2) maps.
    fn pager(&self) -> Result<Arc<dyn Pager>> {
        Err(Errno::ENODEV)
    }

    /// The seals of a memory file (F_GET_SEALS).
    fn seals(&self) -> Result<u32> {
        Err(Errno::EINVAL)
    }

    /// Adds seals (F_ADD_SEALS).
    fn add_seals(&self, seals: u32) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// Makes the file durable.
    fn sync(&self, data_only: bool) -> Result<()> {
        Ok(())
    }

    /// An extended attribute.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sets an extended attribute; `create`: must be new, `replace`: must exist.
    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Removes an extended attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The names of the extended attributes.
    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    /// What [`FileSystem::by_handle`] finds the file by, also after the machine was started anew.
    fn handle(&self) -> Result<Handle> {
        Err(Errno::EOPNOTSUPP)
    }

    /// statfs(2) of the file system.
    fn statistics(&self) -> Result<Statistics>;

    /// The concrete type, for its own file system.
    fn as_any(&self) -> &dyn Any;
}

/// A file system that can be mounted.
pub trait FileSystem: Send + Sync {
    /// Its name, as in /proc/mounts.
    fn name(&self) -> &'static str;
    /// Its root directory.
    fn root(&self) -> Arc<dyn Vnode>;
    /// The file with a handle; ESTALE if there is none.
    fn by_handle(&self, _handle: Handle) -> Result<Arc<dyn Vnode>> {
        Err(Errno::ESTALE)
    }
    /// Makes everything durable and leaves what is below clean; nothing can be changed afterwards. Called when the
    /// last mount goes and when the machine stops.
    fn unmount(&self) -> Result<()> {
        self.sync()
    }
    /// Whether names come and go by themselves (/proc), so that the result of a lookup must not be kept.
    fn volatile(&self) -> bool {
        false
    }
    /// Makes everything durable.
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}
