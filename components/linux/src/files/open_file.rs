//! The open file description: what open(2) makes and dup(2) and fork(2) share.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rumpdev::tty::{PtyMaster, TtyFile};
use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpuser::sync::Mutex;
use rumpvfs::{
    file::{File, OpenFlags},
    mount::Location,
    notify::{self, event},
    vnode::{Attributes, Kind, Vnode},
};

use super::{epoll::Interest, signal_io::Signals};

/// Flags that fcntl(F_SETFL) changes.
pub const SETTABLE: OpenFlags = OpenFlags::APPEND
    .union(OpenFlags::NON_BLOCKING)
    .union(OpenFlags::ASYNC)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::NO_ACCESS_TIME);

/// Flags that only open(2) looks at.
const TRANSIENT: OpenFlags = OpenFlags::CREATE
    .union(OpenFlags::EXCLUSIVE)
    .union(OpenFlags::NO_CONTROLLING_TTY)
    .union(OpenFlags::TRUNCATE)
    .union(OpenFlags::CLOSE_ON_EXEC);

/// What stat(2) says of files that are nothing but a descriptor (epoll, eventfd).
const ANONYMOUS: Attributes = Attributes {
    device: 0xfffc,
    inode: 1,
    kind: Kind::Regular,
    permissions: 0o600,
    links: 1,
    uid: 0,
    gid: 0,
    rdev: 0,
    size: 0,
    blocks: 0,
    block_size: 4096,
    accessed: 0,
    modified: 0,
    changed: 0,
    born: 0,
};

/// See the module.
pub struct OpenFile {
    file: Arc<dyn File>,
    flags: AtomicU32,
    seekable: bool,
    position: Mutex<u64>,
    location: Option<Location>,
    /// Who is told of changes by signals.
    pub(super) signals: Signals,
    /// The epoll interests in it.
    watchers: Mutex<Vec<Weak<Interest>>>,
    /// Locks of the description (flock(2), F_OFD_SETLK) may be held.
    pub(super) flocked: AtomicBool,
}

impl OpenFile {
    /// A description of an opened file, and where it is if it has a name.
    pub fn new(file: Arc<dyn File>, flags: OpenFlags, location: Option<Location>) -> Arc<Self> {
        let seekable = file.seekable();
        Arc::new(OpenFile {
            file,
            flags: AtomicU32::new((flags - TRANSIENT).bits()),
            seekable,
            position: Mutex::new(0),
            location,
            signals: Signals::default(),
            watchers: Mutex::new(Vec::new()),
            flocked: AtomicBool::new(false),
        })
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The file as one kind of file.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.file.as_any().downcast_ref()
    }

    /// Status flags and access mode.
    #[inline]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Changes what may be changed of the flags (F_SETFL).
    pub fn set_flags(&self, flags: OpenFlags) {
        let wanted = (flags & SETTABLE).bits();
        let _ = self
            .flags
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(old & !SETTABLE.bits() | wanted));
    }

    /// Sets or clears one flag (FIONBIO).
    pub fn set_flag(&self, flag: OpenFlags, on: bool) {
        if on {
            self.flags.fetch_or(flag.bits(), Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag.bits(), Ordering::Relaxed);
        }
    }

    /// Whether it only names a place (O_PATH).
    pub fn is_path(&self) -> bool {
        self.flags().contains(OpenFlags::PATH)
    }

    /// Whether it has a position.
    pub fn seekable(&self) -> bool {
        self.seekable
    }

    /// Whether reads and writes may give an offset of their own: also on devices that have no position but don't
    /// mind (/dev/null, /dev/zero).
    pub fn takes_offsets(&self) -> bool {
        self.seekable || self.is_indifferent_device()
    }

    /// Whether it is a character device that takes every offset for the same.
    pub fn is_indifferent_device(&self) -> bool {
        self.vnode().is_some_and(|vnode| vnode.kind() == Kind::Character)
            && self.downcast::<TtyFile>().is_none()
            && self.downcast::<PtyMaster>().is_none()
    }

    /// The position, locked against other users of the description.
    pub fn position(&self) -> &Mutex<u64> {
        &self.position
    }

    /// The name by which it was opened.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_ref()
    }

    /// The vnode, if it has one.
    pub fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        self.location.as_ref().map(Location::vnode).or_else(|| self.file.vnode())
    }

    /// fstat(2).
    pub fn attributes(&self) -> Result<Attributes> {
        match &self.location {
            Some(location) => location.vnode().attributes(),
            None => match self.file.attributes() {
                Err(Errno::EBADF) if self.file.vnode().is_none() => Ok(ANONYMOUS),
                result => result,
            },
        }
    }

    /// Reads at the position, which moves.
    #[inline]
    pub fn read(&self, sink: &mut Sink<'_>) -> Result<usize> {
        let flags = self.flags();
        if !flags.readable() {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.read(sink, 0, flags);
        }
        let mut position = self.position.lock();
        let size = self.file.read(sink, *position, flags)?;
        self.tell(event::ACCESS);
        *position = position.saturating_add(size as u64);
        Ok(size)
    }

    /// Writes at the position, which moves.
    #[inline]
    pub fn write(&self, source: &mut Source<'_>) -> Result<usize> {
        let flags = self.flags();
        if !flags.writable() {
            return Err(Errno::EBADF);
        }
        if !self.seekable {
            return self.file.write(source, &mut 0, flags);
        }
        let mut position = self.position.lock();
        let size = self.file.write(source, &mut position, flags)?;
        self.tell(event::MODIFY);
        Ok(size)
    }

    /// Reads at a place of its own (pread). ESPIPE without a position.
    pub fn read_at(&self, sink: &mut Sink<'_>, offset: u64) -> Result<usize> {
        let flags = self.flags();
        if !flags.readable() {
            return Err(Errno::EBADF);
        }
        if !self.takes_offsets() {
            return Err(Errno::ESPIPE);
        }
        let size = self.file.read(sink, offset, flags)?;
        self.tell(event::ACCESS);
        Ok(size)
    }

    /// Writes at a place of its own (pwrite). ESPIPE without a position.
    pub fn write_at(&self, source: &mut Source<'_>, mut offset: u64) -> Result<usize> {
        let flags = self.flags();
        if !flags.writable() {
            return Err(Errno::EBADF);
        }
        if !self.takes_offsets() {
            return Err(Errno::ESPIPE);
        }
        let size = self.file.write(source, &mut offset, flags)?;
        self.tell(event::MODIFY);
        Ok(size)
    }

    /// Tells those who watch the file (inotify).
    #[inline]
    fn tell(&self, event: u32) {
        if let Some(location) = &self.location {
            notify::tell_entry(&location.entry, event);
        }
    }

    pub(super) fn add_watcher(&self, interest: &Arc<Interest>) {
        self.watchers.lock().push(Arc::downgrade(interest));
    }

    pub(super) fn remove_watcher(&self, interest: &Arc<Interest>) {
        self.watchers.lock().retain(|other| !core::ptr::eq(other.as_ptr(), Arc::as_ptr(interest)));
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        for interest in core::mem::take(self.watchers.get_mut()) {
            if let Some(interest) = interest.upgrade() {
                interest.file_closed(&*self.file);
            }
        }
        self.signals.close(&*self.file);
        if *self.flocked.get_mut() {
            super::locks::release_description_locks(self);
        }
        self.file.close();
        if !self.is_path() {
            let written = self.flags().writable();
            self.tell(if written { event::CLOSE_WRITE } else { event::CLOSE_NOWRITE });
        }
    }
}
