//! What can go wrong, in terms a VFS can turn into an errno.

use alloc::string::String;

use crate::device::DeviceError;

/// Why an operation failed. A failed operation leaves the file system as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk failed (EIO).
    #[error("device: {0}")]
    Device(#[from] DeviceError),
    /// No ext4 superblock (EINVAL).
    #[error("not an ext4 file system")]
    NotExt4,
    /// The file system needs what this driver lacks; names the features (EOPNOTSUPP).
    #[error("the file system uses unsupported features: {0}")]
    UnsupportedFeatures(String),
    /// This inode or this file system uses a format that this driver lacks (EOPNOTSUPP).
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The structure on disk contradicts itself (EUCLEAN, or EIO); `e2fsck` mends it.
    #[error("corrupt file system: {0}")]
    Corrupt(&'static str),
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("file exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// ENOSPC: no free block or inode.
    #[error("no space left")]
    NoSpace,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// EFBIG.
    #[error("file too large")]
    FileTooLarge,
    /// EINVAL.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// EROFS: mounted read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// EROFS: an earlier journal write failed, so nothing more is written (a new mount recovers).
    #[error("the journal failed earlier; the file system takes no more writes")]
    Aborted,
}

/// The crate's result.
pub type Result<T, E = Error> = core::result::Result<T, E>;
