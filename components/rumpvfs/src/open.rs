//! The open files over vnodes: regular files, directories, and references that allow no I/O (O_PATH).

use alloc::sync::Arc;
use core::any::Any;

use rumpkern::{
    Errno, Result,
    poll::Events,
    uio::{Sink, Source},
};

use crate::{
    device, fifo,
    file::{File, OpenFlags},
    vnode::{Kind, Vnode},
};

/// Opens a vnode with the kind of [`File`] that suits it: what [`Vnode::open`] usually does.
pub fn open(vnode: Arc<dyn Vnode>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    match vnode.kind() {
        Kind::Regular => Ok(Arc::new(RegularFile { vnode })),
        Kind::Directory => Ok(Arc::new(Directory { vnode })),
        Kind::Character | Kind::Block => device::open(&vnode, flags),
        Kind::Fifo => fifo::open(&vnode, flags),
        Kind::Socket => Err(Errno::ENXIO),
        Kind::Symlink => Err(Errno::ELOOP),
    }
}

/// A regular file.
pub struct RegularFile {
    vnode: Arc<dyn Vnode>,
}

impl File for RegularFile {
    fn read(&self, sink: &mut Sink<'_>, offset: u64, _flags: OpenFlags) -> Result<usize> {
        self.vnode.read_at(offset, sink)
    }

    fn write(&self, source: &mut Source<'_>, offset: &mut u64, flags: OpenFlags) -> Result<usize> {
        let length;
        if flags.contains(OpenFlags::APPEND) {
            (length, *offset) = self.vnode.append(source)?;
        } else {
            length = self.vnode.write_at(*offset, source)?;
            *offset += length as u64;
        }
        if flags.intersects(OpenFlags::DATA_SYNC | OpenFlags::SYNC) {
            self.vnode.sync(!flags.contains(OpenFlags::SYNC))?;
        }
        Ok(length)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn pollable(&self) -> bool {
        false
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.vnode.sync(data_only)
    }

    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        Some(&self.vnode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directory; read with [`Vnode::entries`] of its vnode.
pub struct Directory {
    vnode: Arc<dyn Vnode>,
}

impl File for Directory {
    fn read(&self, _sink: &mut Sink<'_>, _offset: u64, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn write(&self, _source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn pollable(&self) -> bool {
        false
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.vnode.sync(data_only)
    }

    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        Some(&self.vnode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What O_PATH opens: a place, without I/O.
pub struct Reference {
    vnode: Arc<dyn Vnode>,
}

impl Reference {
    /// A reference to a vnode.
    pub fn new(vnode: Arc<dyn Vnode>) -> Self {
        Reference { vnode }
    }
}

impl File for Reference {
    fn read(&self, _sink: &mut Sink<'_>, _offset: u64, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn write(&self, _source: &mut Source<'_>, _offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn poll(&self) -> Events {
        Events::NVAL
    }

    fn pollable(&self) -> bool {
        false
    }

    fn vnode(&self) -> Option<&Arc<dyn Vnode>> {
        Some(&self.vnode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
