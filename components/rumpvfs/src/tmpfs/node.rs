//! The files of a tmpfs.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;

use image::rootfs::Data;
use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::{
    Frame,
    memory::PAGE_SIZE,
    sync::{Mutex, RwLock, RwLockWriteGuard, SpinLock},
};

use super::{Shared, directory::Names, regular::Regular};
use crate::{
    file::{File, OpenFlags},
    open,
    vnode::{AttributeChanges, Attributes, Creation, DirectoryEntry, Kind, Statistics, Time, Vnode, now},
};

/// Names are listed so many at a time.
const BATCH: usize = 64;
/// Most bytes of extended attributes of a file.
const XATTR_SPACE: usize = 1 << 16;

/// Extended attributes by name.
type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A file.
pub struct Node {
    this: Weak<Node>,
    shared: Arc<Shared>,
    inode: u64,
    kind: Kind,
    rdev: u64,
    /// Its number in the image, if it is from there.
    from_image: Option<u32>,
    metadata: SpinLock<Metadata>,
    body: Body,
    xattrs: Mutex<Xattrs>,
}

/// What changes of a file besides its data.
#[derive(Clone, Copy)]
pub struct Metadata {
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
    pub born: Time,
    /// Has no name yet, and may get one (O_TMPFILE).
    pub unnamed: bool,
}

/// What a file has, by its kind.
pub enum Body {
    /// Data.
    Regular(Regular),
    /// Names.
    Directory(RwLock<Names>),
    /// A target.
    Symlink(Box<[u8]>),
    /// Nothing: devices, FIFOs, sockets.
    Special,
}

impl Node {
    /// A file with links and times as `metadata` says.
    pub(super) fn new(
        shared: &Arc<Shared>,
        inode: u64,
        kind: Kind,
        rdev: u64,
        from_image: Option<u32>,
        metadata: Metadata,
        body: Body,
    ) -> Arc<Node> {
        Arc::new_cyclic(|this| Node {
            this: this.clone(),
            shared: shared.clone(),
            inode,
            kind,
            rdev,
            from_image,
            metadata: SpinLock::new(metadata),
            body,
            xattrs: Mutex::new(BTreeMap::new()),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    pub(super) fn kind_of(&self) -> Kind {
        self.kind
    }

    /// Makes it the root: its own parent.
    pub(super) fn make_root(&self) {
        if let Body::Directory(names) = &self.body {
            names.write().parent = self.this.clone();
        }
    }

    fn this(&self) -> Result<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::ENOENT)
    }

    fn names(&self) -> Result<&RwLock<Names>> {
        match &self.body {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn regular(&self) -> Result<&Regular> {
        match &self.body {
            Body::Regular(regular) => Ok(regular),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn stamp(&self, data: bool) {
        let time = now();
        let mut metadata = self.metadata.lock();
        metadata.changed = time;
        if data {
            metadata.modified = time;
        }
    }

    /// Access times are kept as "relatime" says: the first access after a change.
    fn stamp_access(&self) {
        let mut metadata = self.metadata.lock();
        if metadata.accessed <= metadata.modified {
            drop(metadata);
            let time = now();
            metadata = self.metadata.lock();
            metadata.accessed = time;
        }
    }

    fn change_links(&self, by: i32) -> u32 {
        let time = now();
        let mut metadata = self.metadata.lock();
        metadata.links = metadata.links.saturating_add_signed(by);
        metadata.changed = time;
        metadata.links
    }

    /// A name of this file was removed: the last one frees it.
    fn unlinked(&self) {
        let left = self.change_links(if self.kind == Kind::Directory { -2 } else { -1 });
        if left == 0
            && let Some(number) = self.from_image
        {
            self.shared.forget_image_node(number);
        }
    }

    fn new_file(&self, creation: &Creation<'_>, parent: Weak<Node>, unnamed: bool) -> Result<Arc<Node>> {
        let time = now();
        let links = match creation.kind {
            _ if unnamed => 0,
            Kind::Directory => 2,
            _ => 1,
        };
        let metadata = Metadata {
            permissions: creation.permissions,
            uid: creation.uid,
            gid: creation.gid,
            links,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            unnamed,
        };
        let body = match creation.kind {
            Kind::Regular => Body::Regular(Regular::new(Data::Plain(&[]), super::seal::SEAL)),
            Kind::Directory => Body::Directory(RwLock::new(Names::new(parent, &[]))),
            Kind::Symlink => Body::Symlink(Box::from(creation.target)),
            _ => Body::Special,
        };
        let inode = self.shared.new_inode()?;
        Ok(Node::new(&self.shared, inode, creation.kind, creation.rdev, None, metadata, body))
    }

    /// Removes what `name` has, `node`; checks that a directory is empty.
    fn remove_found(&self, names: &mut Names, name: &[u8], node: &Arc<Node>) -> Result<()> {
        if let Body::Directory(inside) = &node.body {
            let mut inside = inside.write();
            if !inside.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            inside.removed = true;
        }
        names.remove(name, &self.shared);
        if node.kind == Kind::Directory {
            self.change_links(-1);
        }
        node.unlinked();
        Ok(())
    }
}

/// Locks the names of two directories, in the order of their numbers.
fn lock_two<'a>(
    one: &'a Node,
    other: &'a Node,
) -> Result<(RwLockWriteGuard<'a, Names>, Option<RwLockWriteGuard<'a, Names>>)> {
    let (first, second) = (one.names()?, other.names()?);
    if core::ptr::eq(one, other) {
        return Ok((first.write(), None));
    }
    if one.inode < other.inode {
        let first = first.write();
        return Ok((first, Some(second.write())));
    }
    let second = second.write();
    Ok((first.write(), Some(second)))
}

impl Vnode for Node {
    fn attributes(&self) -> Result<Attributes> {
        let (size, blocks) = match &self.body {
            Body::Regular(regular) => regular.size(),
            Body::Directory(names) => (names.read().size(), 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special => (0, 0),
        };
        let metadata = *self.metadata.lock();
        Ok(Attributes {
            device: self.shared.device,
            inode: self.inode,
            kind: self.kind,
            permissions: metadata.permissions,
            links: metadata.links,
            uid: metadata.uid,
            gid: metadata.gid,
            rdev: self.rdev,
            size,
            blocks,
            block_size: PAGE_SIZE as u32,
            accessed: metadata.accessed,
            modified: metadata.modified,
            changed: metadata.changed,
            born: metadata.born,
        })
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        self.shared.require_writable()?;
        if let Some(size) = changes.size {
            self.regular()?.resize(size, &self.shared)?;
        }
        let time = now();
        let mut metadata = self.metadata.lock();
        metadata.permissions = changes.permissions.unwrap_or(metadata.permissions);
        metadata.uid = changes.uid.unwrap_or(metadata.uid);
        metadata.gid = changes.gid.unwrap_or(metadata.gid);
        metadata.accessed = changes.accessed.unwrap_or(metadata.accessed);
        if changes.size.is_some() {
            metadata.modified = time;
        }
        metadata.modified = changes.modified.unwrap_or(metadata.modified);
        metadata.changed = time;
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        let this = self.this()?;
        let found = self.names()?.read().find(name, &this);
        Ok(found.ok_or(Errno::ENOENT)?)
    }

    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        let parent = self.names()?.read().parent.upgrade();
        Ok(parent.ok_or(Errno::ENOENT)?)
    }

    fn create(&self, name: &[u8], creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        self.shared.require_writable()?;
        let this = self.this()?;
        let mut names = self.names()?.write();
        if names.removed {
            return Err(Errno::ENOENT);
        }
        if names.find(name, &this).is_some() {
            return Err(Errno::EEXIST);
        }
        let node = self.new_file(creation, self.this.clone(), false)?;
        names.insert(name, node.clone());
        if creation.kind == Kind::Directory {
            self.change_links(1);
        }
        drop(names);
        self.stamp(true);
        Ok(node)
    }

    fn create_unnamed(&self, creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        self.shared.require_writable()?;
        self.names()?;
        Ok(self.new_file(creation, self.this.clone(), true)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Vnode>) -> Result<()> {
        self.shared.require_writable()?;
        let node = target.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?.this()?;
        if !Arc::ptr_eq(&node.shared, &self.shared) {
            return Err(Errno::EXDEV);
        }
        if node.kind == Kind::Directory {
            return Err(Errno::EPERM);
        }
        let this = self.this()?;
        let mut names = self.names()?.write();
        if names.removed {
            return Err(Errno::ENOENT);
        }
        if names.find(name, &this).is_some() {
            return Err(Errno::EEXIST);
        }
        {
            let time = now();
            let mut metadata = node.metadata.lock();
            if metadata.links == 0 && !metadata.unnamed {
                return Err(Errno::ENOENT);
            }
            metadata.links = metadata.links.checked_add(1).ok_or(Errno::EMLINK)?;
            metadata.unnamed = false;
            metadata.changed = time;
        }
        names.insert(name, node);
        drop(names);
        self.stamp(true);
        Ok(())
    }

    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        self.shared.require_writable()?;
        let this = self.this()?;
        let mut names = self.names()?.write();
        let node = names.find(name, &this).ok_or(Errno::ENOENT)?;
        match (node.kind == Kind::Directory, directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.remove_found(&mut names, name, &node)?;
        drop(names);
        self.stamp(true);
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
        self.shared.require_writable()?;
        let to = new_directory.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?.this()?;
        let from = self.this()?;
        if !Arc::ptr_eq(&to.shared, &self.shared) {
            return Err(Errno::EXDEV);
        }
        let (mut old_names, mut new_names) = lock_two(&from, &to)?;
        let source = old_names.find(name, &from).ok_or(Errno::ENOENT)?;
        let target = new_names.as_deref().unwrap_or(&old_names).find(new_name, &to);
        if new_names.as_deref().unwrap_or(&old_names).removed {
            return Err(Errno::ENOENT);
        }
        if let Some(target) = target {
            if keep {
                return Err(Errno::EEXIST);
            }
            if Arc::ptr_eq(&source, &target) {
                return Ok(());
            }
            if exchange {
                old_names.remove(name, &self.shared);
                new_names.as_deref_mut().unwrap_or(&mut old_names).remove(new_name, &self.shared);
                old_names.insert(name, target.clone());
                new_names.as_deref_mut().unwrap_or(&mut old_names).insert(new_name, source.clone());
                drop((old_names, new_names));
                moved(&source, &from, &to)?;
                moved(&target, &to, &from)?;
                from.stamp(true);
                to.stamp(true);
                return Ok(());
            }
            match (source.kind == Kind::Directory, target.kind == Kind::Directory) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ => {}
            }
            let names = new_names.as_deref_mut().unwrap_or(&mut old_names);
            to.remove_found(names, new_name, &target)?;
        } else if exchange {
            return Err(Errno::ENOENT);
        }
        old_names.remove(name, &self.shared);
        new_names.as_deref_mut().unwrap_or(&mut old_names).insert(new_name, source.clone());
        drop((old_names, new_names));
        moved(&source, &from, &to)?;
        from.stamp(true);
        to.stamp(true);
        Ok(())
    }

    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let names = self.names()?;
        self.stamp_access();
        let mut position = position;
        if position == 0 {
            let entry = DirectoryEntry { name: b".", inode: self.inode, kind: self.kind, next: 1 };
            if !visit(entry) {
                return Ok(());
            }
            position = 1;
        }
        if position == 1 {
            let parent = names.read().parent.upgrade();
            let inode = parent.map_or(self.inode, |parent| parent.inode);
            if !visit(DirectoryEntry { name: b"..", inode, kind: Kind::Directory, next: 2 }) {
                return Ok(());
            }
            position = 2;
        }
        loop {
            // The visitor may touch user memory: nothing is locked meanwhile.
            let listed = names.read().list(position, BATCH, &self.shared);
            for entry in &listed {
                let (name, inode, kind, next) = (&*entry.name, entry.inode, entry.kind, entry.next);
                if !visit(DirectoryEntry { name, inode, kind, next }) {
                    return Ok(());
                }
                position = next;
            }
            if listed.len() < BATCH {
                return Ok(());
            }
        }
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        open::open(self, flags)
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        let length = self.regular()?.read(offset, sink, &self.shared)?;
        self.stamp_access();
        Ok(length)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize> {
        self.shared.require_writable()?;
        let (length, _) = self.regular()?.write(Some(offset), source, &self.shared)?;
        if length > 0 {
            self.stamp(true);
        }
        Ok(length)
    }

    fn append(&self, source: &mut Source<'_>) -> Result<(usize, u64)> {
        self.shared.require_writable()?;
        let written = self.regular()?.write(None, source, &self.shared)?;
        if written.0 > 0 {
            self.stamp(true);
        }
        Ok(written)
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64> {
        match &self.body {
            Body::Regular(regular) => regular.seek(offset, hole),
            _ => Err(Errno::EINVAL),
        }
    }

    fn allocate(&self, offset: u64, length: u64, punch: bool, keep_size: bool) -> Result<()> {
        self.shared.require_writable()?;
        let Body::Regular(regular) = &self.body else { return Err(Errno::ENODEV) };
        regular.allocate(offset, length, punch, keep_size, &self.shared)?;
        self.stamp(true);
        Ok(())
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        match &self.body {
            Body::Regular(_) => Ok(self.this()?),
            _ => Err(Errno::ENODEV),
        }
    }

    fn seals(&self) -> Result<u32> {
        Ok(self.regular().map_err(|_| Errno::EINVAL)?.seals())
    }

    fn add_seals(&self, seals: u32) -> Result<()> {
        self.regular().map_err(|_| Errno::EINVAL)?.add_seals(seals)
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().get(name).map(|value| value.to_vec()).ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], create: bool, replace: bool) -> Result<()> {
        self.shared.require_writable()?;
        let mut xattrs = self.xattrs.lock();
        match xattrs.contains_key(name) {
            true if create => return Err(Errno::EEXIST),
            false if replace => return Err(Errno::ENODATA),
            _ => {}
        }
        let others = xattrs.iter().filter(|(other, _)| &***other != name);
        let used: usize = others.map(|(other, value)| other.len() + value.len()).sum();
        if used + name.len() + value.len() > XATTR_SPACE {
            return Err(Errno::ENOSPC);
        }
        xattrs.insert(Box::from(name), Box::from(value));
        drop(xattrs);
        self.stamp(false);
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.shared.require_writable()?;
        self.xattrs.lock().remove(name).ok_or(Errno::ENODATA)?;
        self.stamp(false);
        Ok(())
    }

    fn list_xattrs(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().keys().map(|name| name.to_vec()).collect())
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(self.shared.statistics())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Keeps ".." and link counts right after a directory moved.
fn moved(node: &Arc<Node>, from: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
    node.stamp(false);
    if let Body::Directory(names) = &node.body
        && !Arc::ptr_eq(from, to)
    {
        names.write().parent = Arc::downgrade(to);
        from.change_links(-1);
        to.change_links(1);
    }
    Ok(())
}

impl Pager for Node {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        if write {
            self.shared.require_writable()?;
            self.stamp(true);
        }
        self.regular().map_err(|_| Errno::ENODEV)?.fault(index, write, &self.shared)
    }

    fn contiguous(&self, index: u64) -> u64 {
        self.regular().map_or(1, |regular| regular.contiguous(index))
    }

    fn mappings(&self) -> Option<&Mappings> {
        self.regular().ok().map(|regular| &regular.mappings)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        match &mut self.body {
            Body::Regular(regular) => self.shared.unreserve(regular.frames()),
            Body::Directory(names) => {
                // A tree may be deeper than the stack: its nodes are dropped one by one.
                let mut stack = names.get_mut().drain();
                while let Some(node) = stack.pop() {
                    if let Some(mut node) = Arc::into_inner(node)
                        && let Body::Directory(names) = &mut node.body
                    {
                        stack.append(&mut names.get_mut().drain());
                    }
                }
            }
            _ => {}
        }
        if self.from_image.is_none() {
            self.shared.inode_freed();
        }
    }
}
