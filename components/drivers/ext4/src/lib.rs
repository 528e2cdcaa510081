//! The ext4 file system with its journal, for disks that have to survive a power cut.
//!
//! Written after the specification at <https://docs.kernel.org/filesystems/ext4/> and checked against
//! e2fsprogs. It mounts what `mkfs.ext4` of Debian 12 makes (blocks of 1, 2 or 4 KiB), refuses what it does
//! not know by name, and [formats](fn@format) empty disks.
//!
//! # For the caller
//!
//! [`Ext4`] works on inode numbers and has its own lock. It checks the structure of the disk, not
//! permissions. The caller keeps a table of the inodes in use:
//!
//! * [`Ext4::unlink`], [`Ext4::remove_directory`] and [`Ext4::rename`] tell which inode lost a name and how many it
//!   has left. At none, call [`Ext4::evict`] when the last user of the inode is gone, at once if there is none.
//! * [`Ext4::read`] and [`Ext4::write`] of one file must not run beside [`Ext4::truncate`], [`Ext4::punch_hole`] or
//!   `evict` of the same file: they use the disk without the lock.
//! * A page cache above reads with [`Ext4::read`], brings pages back with [`Ext4::write_back`], and sets the times
//!   itself, with [`Ext4::set_attributes`]. To find out about a full disk in time it can reserve the blocks when
//!   a page gets dirty, with [`Ext4::allocate`] and `keep_size`.
//! * Nothing is written behind the caller's back: call [`Ext4::sync`] every few seconds to bound what a crash
//!   may take. A large transaction commits on its own.
//!
//! # Durability
//!
//! A change is in memory until the transaction commits, and then durable: [`Ext4::sync`] and [`Ext4::fsync`] return
//! after the disk's flush. Operations are atomic: after a crash each is there or not, and if one is
//! there, so are all before it. A file's new blocks are written before the commit (`data=ordered`).
//! If the journal can't be written, every later change fails with [`Error::Aborted`].
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod allocate;
mod attribute;
mod bytes;
mod checksum;
mod device;
mod directory;
mod directory_entry;
mod directory_unindex;
mod error;
mod extent;
mod extent_edit;
mod file;
mod filesystem;
mod format;
mod group;
mod inode;
mod journal;
mod name_index;
mod names;
mod orphan;
mod store;
mod superblock;
mod volume;

pub use device::{BlockDevice, DeviceError};
pub use directory::Entry;
pub use directory_entry::FileType;
pub use error::{Error, Result};
pub use filesystem::{AttributeChange, Attributes, Ext4, Statistics};
pub use format::{FormatOptions, format};
pub use inode::{ROOT, Timestamp};
pub use names::{NewFile, Owner, Removed, Replace};
pub use volume::{Options, is_ext4};
