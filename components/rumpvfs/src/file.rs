//! Open files: what a descriptor refers to.

use alloc::sync::Arc;
use core::any::Any;

use rumpkern::{
    Errno, Result,
    poll::{Events, Observer},
    uio::{Sink, Source},
    vm::Pager,
};

use crate::vnode::{Attributes, Vnode};

bitflags::bitflags! {
    /// Status flags of an open file, with Linux's `O_*` values (x86-64).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Writing only.
        const WRITE_ONLY = 0o1;
        /// Reading and writing.
        const READ_WRITE = 0o2;
        /// Create if absent.
        const CREATE = 0o100;
        /// Fail if it exists.
        const EXCLUSIVE = 0o200;
        /// Do not become the controlling terminal.
        const NO_CONTROLLING_TTY = 0o400;
        /// Truncate to nothing.
        const TRUNCATE = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Never wait.
        const NON_BLOCKING = 0o4000;
        /// Writes wait for the data to be durable.
        const DATA_SYNC = 0o10000;
        /// SIGIO on readiness.
        const ASYNC = 0o20000;
        /// Bypass the page cache.
        const DIRECT = 0o40000;
        /// Files beyond 2 GiB (always on).
        const LARGE_FILE = 0o100000;
        /// Must be a directory.
        const DIRECTORY = 0o200000;
        /// Fail on a final symbolic link.
        const NO_FOLLOW = 0o400000;
        /// Do not update the access time.
        const NO_ACCESS_TIME = 0o1000000;
        /// Close on execve.
        const CLOSE_ON_EXEC = 0o2000000;
        /// Writes wait for data and metadata to be durable (with DATA_SYNC).
        const SYNC = 0o4000000;
        /// A reference to a place, not open for I/O.
        const PATH = 0o10000000;
        /// An unnamed file (with DIRECTORY).
        const TEMPORARY = 0o20000000;
    }
}

impl OpenFlags {
    /// Whether reads are allowed.
    pub fn readable(self) -> bool {
        !self.contains(OpenFlags::WRITE_ONLY) && !self.contains(OpenFlags::PATH)
    }

    /// Whether writes are allowed.
    pub fn writable(self) -> bool {
        self.intersects(OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE) && !self.contains(OpenFlags::PATH)
    }
}

/// The behaviour of an open file. Offsets, status flags and access modes are kept by the open file description
/// above it (in the personality); a method gets what it needs of them.
#[allow(unused_variables, reason = "the defaults ignore what they are given")]
pub trait File: Send + Sync + Any {
    /// Reads at `offset` (ignored where [`File::seekable`] is false). Returns the bytes read, 0 at the end.
    /// EAGAIN if it would wait and `flags` says never.
    fn read(&self, sink: &mut Sink<'_>, offset: u64, flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at `*offset`, or at the end with APPEND. `*offset` is then the position behind what was written.
    /// Returns the bytes written.
    fn write(&self, source: &mut Source<'_>, offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Whether the file has a position.
    fn seekable(&self) -> bool {
        false
    }

    /// What is ready. The default suits files that never make anybody wait.
    fn poll(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }

    /// As [`rumpkern::poll::Pollable::observe`].
    fn observe(&self, observer: &Arc<dyn Observer>) {}

    /// As [`rumpkern::poll::Pollable::unobserve`].
    fn unobserve(&self, observer: &Arc<dyn Observer>) {}

    /// Whether epoll accepts the file (EPERM for regular files and directories).
    fn pollable(&self) -> bool {
        true
    }

    /// ioctl(2). `argument` is as the program gave it, often a user address.
    fn ioctl(&self, request: u32, argument: usize) -> Result<usize> {
        Err(Errno::ENOTTY)
    }

    /// Makes the file durable (fsync; `data_only`: fdatasync).
    fn sync(&self, data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// The vnode behind it, if there is one.
    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        None
    }

    /// fstat(2). The default asks the vnode.
    fn attributes(&self) -> Result<Attributes> {
        self.vnode().ok_or(Errno::EBADF)?.attributes()
    }

    /// What mmap(2) maps. ENODEV where it cannot be.
    fn pager(&self) -> Result<Arc<dyn Pager>> {
        self.vnode().ok_or(Errno::ENODEV)?.pager()
    }

    /// The text of /proc/self/fd/N where there is no path: `pipe:[12]`.
    fn description(&self) -> alloc::string::String {
        alloc::string::String::from("anon_inode:[file]")
    }

    /// Where lseek(2) goes for SEEK_DATA (`hole` false) and SEEK_HOLE. ENXIO at or behind the end.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.vnode().ok_or(Errno::ESPIPE)?.seek_data(offset, hole)
    }

    /// The last descriptor that refers to the open file was closed.
    fn close(&self) {}

    /// The concrete type, for calls that concern one kind of file (sockets, epoll, timerfd).
    fn as_any(&self) -> &dyn Any;
}
