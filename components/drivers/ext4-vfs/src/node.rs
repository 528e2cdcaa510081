//! The files of a mounted ext4.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, Ordering},
};

use ext4::{AttributeChange, Entry, FileType, NewFile, Owner, Replace};
use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::Frame;
use rumpvfs::{
    file::{File, OpenFlags},
    open,
    vnode::{
        AttributeChanges, Attributes, Creation, DirectoryEntry, Handle, Kind, Statistics, Time, Vnode,
        device_number, device_parts,
    },
};

use crate::{Shared, cache::Cached, disk::errno, time, timestamp};

/// `f_type` of statfs(2).
const MAGIC: u64 = 0xef53;
/// Names are listed so many at a time.
const BATCH: usize = 64;

/// A file in use.
pub struct Node {
    this: Weak<Node>,
    shared: Arc<Shared>,
    inode: u32,
    kind: Kind,
    cached: Cached,
    /// It has no name left: it goes when its last user does.
    unlinked: AtomicBool,
}

fn kind(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::Regular => Kind::Regular,
        FileType::Directory => Kind::Directory,
        FileType::CharacterDevice => Kind::Character,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Symlink => Kind::Symlink,
        FileType::Unknown => return None,
    })
}

impl Node {
    /// A node for an inode.
    pub(crate) fn new(shared: &Arc<Shared>, attributes: &ext4::Attributes, cached: Cached) -> Arc<Node> {
        Arc::new_cyclic(|this| Node {
            this: this.clone(),
            shared: shared.clone(),
            inode: attributes.inode,
            kind: kind(attributes.file_type).unwrap_or(Kind::Regular),
            cached,
            unlinked: AtomicBool::new(attributes.links == 0),
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn inode(&self) -> u32 {
        self.inode
    }

    pub(crate) fn cached(&self) -> &Cached {
        &self.cached
    }

    pub(crate) fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    pub(crate) fn this(&self) -> Result<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::EIO)
    }

    fn set_unlinked(&self, unlinked: bool) {
        self.unlinked.store(unlinked, Ordering::Release);
    }

    fn require_regular(&self) -> Result<()> {
        match self.kind {
            Kind::Regular => Ok(()),
            Kind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn child(&self, name: &[u8]) -> Result<Arc<Node>> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let inode = self.shared.ext4.lookup(self.inode, name).map_err(errno)?;
        self.shared.node(inode)
    }

    /// Tells the disk when the data changed.
    pub(crate) fn store_modified(&self, modified: Time) -> Result<()> {
        let time = Some(timestamp(modified));
        let change =
            AttributeChange { modification_time: time, change_time: time, ..AttributeChange::default() };
        self.shared.ext4.set_attributes(self.inode, &change).map_err(errno)
    }

    fn changed<T>(&self, result: core::result::Result<T, ext4::Error>) -> Result<T> {
        let value = result.map_err(errno)?;
        self.shared.note_change();
        Ok(value)
    }
}

fn owner(creation: &Creation<'_>) -> Owner {
    Owner { uid: creation.uid, gid: creation.gid, permissions: creation.permissions as u16 & 0o7777 }
}

impl Vnode for Node {
    fn attributes(&self) -> Result<Attributes> {
        let attributes = self.shared.ext4.attributes(self.inode).map_err(errno)?;
        let (mut size, mut modified, mut changed) =
            (attributes.size, time(attributes.modification_time), time(attributes.change_time));
        if self.kind == Kind::Regular {
            let (cached_size, pending) = self.cached.size();
            size = cached_size;
            if let Some(pending) = pending {
                modified = pending;
                changed = changed.max(pending);
            }
        }
        Ok(Attributes {
            device: self.shared.device,
            inode: u64::from(attributes.inode),
            kind: self.kind,
            permissions: u32::from(attributes.mode) & 0o7777,
            links: attributes.links,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: device_number(attributes.device.0, attributes.device.1),
            size,
            blocks: attributes.sectors,
            block_size: self.shared.ext4.block_size() as u32,
            accessed: time(attributes.access_time),
            modified,
            changed,
            born: time(attributes.creation_time),
        })
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        if let Some(size) = changes.size {
            self.require_regular()?;
            self.resize(size)?;
        }
        let change = AttributeChange {
            permissions: changes.permissions.map(|permissions| permissions as u16 & 0o7777),
            uid: changes.uid,
            gid: changes.gid,
            access_time: changes.accessed.map(timestamp),
            modification_time: changes.modified.map(timestamp),
            change_time: None,
        };
        if changes.modified.is_some() && self.kind == Kind::Regular {
            // Otherwise writing back would set the time of the last write again.
            self.flush(true)?;
        }
        if change == AttributeChange::default() {
            return Ok(());
        }
        self.changed(self.shared.ext4.set_attributes(self.inode, &change))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        Ok(self.child(name)?)
    }

    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        Ok(self.child(b"..")?)
    }

    fn create(&self, name: &[u8], creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (major, minor) = device_parts(creation.rdev);
        let new = match creation.kind {
            Kind::Regular => NewFile::Regular,
            Kind::Directory => NewFile::Directory,
            Kind::Symlink => NewFile::Symlink(creation.target),
            Kind::Character => NewFile::CharacterDevice(major, minor),
            Kind::Block => NewFile::BlockDevice(major, minor),
            Kind::Fifo => NewFile::Fifo,
            Kind::Socket => NewFile::Socket,
        };
        let created = self.shared.ext4.create(self.inode, name, new, owner(creation));
        let inode = self.changed(created)?;
        Ok(self.shared.node(inode)?)
    }

    fn create_unnamed(&self, creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        let created = self.shared.ext4.create_unnamed(self.inode, owner(creation));
        let node = self.shared.node(self.changed(created)?)?;
        node.set_unlinked(true);
        Ok(node)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Vnode>) -> Result<()> {
        let node = target.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&node.shared, &self.shared) {
            return Err(Errno::EXDEV);
        }
        self.changed(self.shared.ext4.link(node.inode, self.inode, name))?;
        node.set_unlinked(false);
        Ok(())
    }

    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        // Held, so that the inode lives until it is known to have lost its last name.
        let node = self.child(name)?;
        let removed = if directory {
            self.shared.ext4.remove_directory(self.inode, name)
        } else {
            self.shared.ext4.unlink(self.inode, name)
        };
        if self.changed(removed)?.links == 0 {
            node.set_unlinked(true);
        }
        Ok(())
    }

    fn rename(
        &self,
        name: &[u8],
        new_directory: &Arc<dyn Vnode>,
        new_name: &[u8],
        keep: bool,
        exchange: bool,
    ) -> Result<()> {
        let to = new_directory.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&to.shared, &self.shared) {
            return Err(Errno::EXDEV);
        }
        let replaced = match to.child(new_name) {
            Ok(node) => Some(node),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        let replace = match (keep, exchange) {
            (true, _) => Replace::No,
            (_, true) => Replace::Exchange,
            _ => Replace::Yes,
        };
        let renamed = self.shared.ext4.rename(self.inode, name, to.inode, new_name, replace);
        if let Some(removed) = self.changed(renamed)?
            && removed.links == 0
            && let Some(node) = replaced
        {
            node.set_unlinked(true);
        }
        Ok(())
    }

    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        if self.kind != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut position = position;
        loop {
            let mut batch: Vec<(Vec<u8>, u32, FileType, u64)> = Vec::new();
            let collect = &mut |entry: &Entry<'_>| {
                batch.push((entry.name.to_vec(), entry.inode, entry.file_type, entry.next));
                batch.len() < BATCH
            };
            self.shared.ext4.read_directory(self.inode, position, collect).map_err(errno)?;
            for (name, inode, file_type, next) in &batch {
                let entry = DirectoryEntry {
                    name,
                    inode: u64::from(*inode),
                    kind: kind(*file_type).unwrap_or(Kind::Regular),
                    next: *next,
                };
                if !visit(entry) {
                    return Ok(());
                }
                position = *next;
            }
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        if self.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        self.shared.ext4.read_link(self.inode).map_err(errno)
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        open::open(self, flags)
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.require_regular()?;
        self.read_cached(offset, sink)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize> {
        self.require_regular()?;
        Ok(self.write_cached(Some(offset), source)?.0)
    }

    fn append(&self, source: &mut Source<'_>) -> Result<(usize, u64)> {
        self.require_regular()?;
        self.write_cached(None, source)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        self.require_regular()?;
        if offset >= self.cached.size().0 {
            return Err(Errno::ENXIO);
        }
        self.seek_cached(offset, hole)
    }

    fn allocate(&self, offset: u64, length: u64, punch: bool, keep_size: bool) -> Result<()> {
        self.require_regular().map_err(|_| Errno::ENODEV)?;
        if length == 0 {
            return Err(Errno::EINVAL);
        }
        self.allocate_space(offset, length, punch, keep_size)
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        if self.kind == Kind::Regular { Ok(self.this()?) } else { Err(Errno::ENODEV) }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if self.shared.read_only {
            return Ok(());
        }
        let written = if self.kind == Kind::Regular { self.flush(!data_only) } else { Ok(()) };
        let ext4 = &self.shared.ext4;
        let committed = if data_only { ext4.sync_data(self.inode) } else { ext4.fsync(self.inode) };
        written.and(committed.map_err(errno))
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.shared.ext4.extended_attribute(self.inode, name).map_err(errno)?.ok_or(Errno::ENODATA)
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        self.shared.ext4.extended_attributes(self.inode).map_err(errno)
    }

    fn handle(&self) -> Result<Handle> {
        let generation = self.shared.ext4.attributes(self.inode).map_err(errno)?.generation;
        Ok(Handle { inode: self.inode, generation })
    }

    fn statistics(&self) -> Result<Statistics> {
        let statistics = self.shared.ext4.statistics().map_err(errno)?;
        Ok(Statistics {
            magic: MAGIC,
            block_size: u64::from(statistics.block_size),
            blocks: statistics.blocks,
            blocks_free: statistics.available_blocks,
            files: statistics.inodes,
            files_free: statistics.free_inodes,
            name_length: 255,
            read_only: statistics.read_only,
            identifier: (u128::from_le_bytes(statistics.uuid) >> 64) as u64
                ^ u128::from_le_bytes(statistics.uuid) as u64,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Pager for Node {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        if write && self.shared.read_only {
            return Err(Errno::EROFS);
        }
        self.fault(index, write)
    }

    fn mappings(&self) -> Option<&Mappings> {
        Some(&self.cached.mappings)
    }

    fn sync(&self) -> Result<()> {
        Vnode::sync(self, true)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cached.discard(&self.shared);
        {
            let mut nodes = self.shared.nodes.lock();
            // Another node may have taken its place since the last reference went.
            if nodes.get(&self.inode).is_some_and(|node| core::ptr::eq(node.as_ptr(), self)) {
                nodes.remove(&self.inode);
            }
        }
        if self.is_unlinked() && !self.shared.read_only {
            let evicted = match self.shared.ext4.evict(self.inode) {
                // Made for a file that another node of it freed meanwhile.
                Err(ext4::Error::NotFound) => Ok(()),
                evicted => evicted,
            };
            self.shared.keep_failure(evicted.map_err(errno));
            self.shared.note_change();
        }
    }
}
