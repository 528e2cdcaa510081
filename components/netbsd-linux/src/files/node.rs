//! The files of a file system that NetBSD's kernel has mounted. Regular files and directories in use are open there;
//! others are reached by a name that they have.

use alloc::{
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use rumpkern::{
    Errno, Result,
    mappings::Mappings,
    uio::{Sink, Source},
    vm::Pager,
};
use rumpuser::{
    Frame,
    sync::{Mutex, RwLock, SpinLock},
};
use rumpvfs::{
    file::{File, OpenFlags},
    open,
    vnode::{AttributeChanges, Attributes, Creation, DirectoryEntry, Kind, Statistics, Vnode},
};

use super::{
    Shared,
    content::Content,
    layout::{self, Stat, netbsd_device, timespec},
    listing::{Listed, Listing},
    system::{self, Name, Of},
};

/// Names are listed so many at a time.
const BATCH: usize = 64;
/// Names that are remembered of a file.
const NAMES_MOST: usize = 16;
/// The descriptor of what isn't open.
const CLOSED: i32 = -1;

/// A name of a file: in which directory, and which.
struct Place {
    directory: Weak<Node>,
    name: Arc<[u8]>,
}

impl Place {
    fn is(&self, directory: &Node, name: &[u8]) -> bool {
        core::ptr::eq(self.directory.as_ptr(), directory) && *self.name == *name
    }
}

/// A file in use.
pub struct Node {
    this: Weak<Node>,
    shared: Arc<Shared>,
    /// On FAT it changes with the name.
    inode: AtomicU64,
    kind: Kind,
    descriptor: RwLock<i32>,
    places: SpinLock<Vec<Place>>,
    /// What was told when it was found.
    first: Stat,
    listing: Mutex<Listing>,
    pub(super) content: Content,
}

impl Node {
    /// A node for what a name was found to be.
    pub(super) fn new(shared: &Arc<Shared>, stat: &Stat, kind: Kind, descriptor: Option<i32>) -> Arc<Self> {
        Arc::new_cyclic(|this| Node {
            this: this.clone(),
            shared: shared.clone(),
            inode: AtomicU64::new(stat.inode),
            kind,
            descriptor: RwLock::new(descriptor.unwrap_or(CLOSED)),
            places: SpinLock::new(Vec::new()),
            first: *stat,
            listing: Mutex::new(Listing::default()),
            content: Content::new(u64::try_from(stat.size).unwrap_or(0)),
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn this(&self) -> Result<Arc<Node>> {
        self.this.upgrade().ok_or(Errno::EIO)
    }

    pub(super) fn inode(&self) -> u64 {
        self.inode.load(Ordering::Relaxed)
    }

    pub(super) fn set_inode(&self, inode: u64) {
        self.inode.store(inode, Ordering::Relaxed);
    }

    pub(super) fn is_kind(&self, kind: Kind) -> bool {
        self.kind == kind
    }

    /// Calls with the descriptor, which stays open meanwhile. EIO after the file system went.
    pub(super) fn with_descriptor<T>(&self, call: impl FnOnce(i32) -> Result<T>) -> Result<T> {
        let descriptor = self.descriptor.read();
        if *descriptor == CLOSED { Err(Errno::EIO) } else { call(*descriptor) }
    }

    /// As [`Node::with_descriptor`] inside of the same for another node, which may be this one.
    fn beside<T>(&self, other: &Node, descriptor: i32, call: impl FnOnce(i32) -> Result<T>) -> Result<T> {
        if core::ptr::eq(self, other) { call(descriptor) } else { self.with_descriptor(call) }
    }

    /// Closes the file for good.
    pub(super) fn close(&self) {
        let mut descriptor = self.descriptor.write();
        if *descriptor != CLOSED {
            system::close(core::mem::replace(&mut *descriptor, CLOSED));
        }
    }

    /// Remembers a name.
    pub(super) fn add_place(&self, directory: &Arc<Node>, name: &[u8]) {
        let mut places = self.places.lock();
        if places.iter().any(|place| place.is(directory, name)) {
            return;
        }
        let place = Place { directory: Arc::downgrade(directory), name: name.into() };
        let old = (places.len() == NAMES_MOST).then(|| places.remove(0));
        places.push(place);
        drop(places);
        drop(old);
    }

    /// Forgets a name; returns whether none is left that is known.
    fn remove_place(&self, directory: &Node, name: &[u8]) -> bool {
        let mut places = self.places.lock();
        let index = places.iter().position(|place| place.is(directory, name));
        let old = index.map(|index| places.swap_remove(index));
        let none = places.is_empty();
        drop(places);
        drop(old);
        none
    }

    /// A name by which the file is found still, and the directory that has it.
    fn place(&self) -> Option<(Arc<Node>, Name)> {
        let places: Vec<_> = {
            let places = self.places.lock();
            places.iter().map(|place| (place.directory.clone(), place.name.clone())).collect()
        };
        places.into_iter().find_map(|(directory, name)| {
            let (directory, name) = (directory.upgrade()?, Name::new(&name).ok()?);
            let stat = directory.with_descriptor(|at| system::stat_at(at, &name)).ok()?;
            (stat.inode == self.inode()).then_some((directory, name))
        })
    }

    /// Calls with a name by which the file is found.
    fn with_place<T>(&self, call: impl FnOnce(i32, &Name) -> Result<T>) -> Result<T> {
        let (directory, name) = self.place().ok_or(Errno::ENOENT)?;
        directory.with_descriptor(|at| call(at, &name))
    }

    fn is_open(&self) -> bool {
        matches!(self.kind, Kind::Regular | Kind::Directory)
    }

    fn stat(&self) -> Result<Stat> {
        if self.is_open() {
            return self.with_descriptor(system::stat);
        }
        match self.with_place(system::stat_at) {
            // Without a name it is what it was.
            Err(Errno::ENOENT) => Ok(self.first.nameless()),
            outcome => outcome,
        }
    }

    fn require_directory(&self) -> Result<()> {
        if self.kind == Kind::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
    }

    fn require_regular(&self) -> Result<()> {
        match self.kind {
            Kind::Regular => Ok(()),
            Kind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The node of a name. Names don't change meanwhile.
    fn child(&self, name: &[u8]) -> Result<Arc<Node>> {
        self.require_directory()?;
        let place = Name::new(name)?;
        let stat = self.with_descriptor(|at| system::stat_at(at, &place))?;
        self.shared.node(&self.this()?, name, &place, &stat)
    }

    /// The same file system's node.
    fn sibling<'a>(&self, other: &'a Arc<dyn Vnode>) -> Result<&'a Node> {
        let node = other.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if Arc::ptr_eq(&node.shared, &self.shared) { Ok(node) } else { Err(Errno::EXDEV) }
    }

    fn change_attributes(&self, of: &Of<'_>, changes: &AttributeChanges) -> Result<()> {
        if changes.uid.is_some() || changes.gid.is_some() {
            of.set_owner(changes.uid, changes.gid)?;
        }
        // A change of the owner clears set-user-ID.
        if let Some(permissions) = changes.permissions {
            of.set_permissions(permissions & 0o7777)?;
        }
        if changes.accessed.is_some() || changes.modified.is_some() {
            of.set_times(&[timespec(changes.accessed), timespec(changes.modified)])?;
        }
        Ok(())
    }

    /// Makes what was asked for, by the call that there is for its kind.
    fn make(&self, name: &Name, creation: &Creation<'_>) -> Result<Option<i32>> {
        let mode = creation.permissions & 0o7777;
        self.with_descriptor(|at| {
            match creation.kind {
                Kind::Regular => {
                    return system::open(at, name, system::READ_WRITE | system::CREATE, mode).map(Some);
                }
                Kind::Directory => system::make_directory(at, name, mode)?,
                Kind::Symlink => system::make_link(at, name, &Name::path(creation.target)?)?,
                Kind::Fifo => system::make_fifo(at, name, mode)?,
                Kind::Character | Kind::Block => {
                    let device = netbsd_device(creation.rdev).ok_or(Errno::EINVAL)?;
                    system::make_device(at, name, mode | creation.kind as u32, device)?;
                }
                // NetBSD makes them when a socket of its own is bound.
                Kind::Socket => return Err(Errno::EPERM),
            }
            Ok(None)
        })
    }

    /// Gives a new file its owner, where the file system has owners, and the mode that it is to have.
    fn own(&self, creation: &Creation<'_>) -> Result<()> {
        let stat = self.stat()?.attributes(0, self.kind);
        let changes = AttributeChanges {
            uid: Some(creation.uid),
            gid: Some(creation.gid),
            permissions: (creation.kind != Kind::Symlink).then_some(creation.permissions),
            ..Default::default()
        };
        if (stat.uid, stat.gid) == (creation.uid, creation.gid)
            && (creation.kind == Kind::Symlink || stat.permissions == creation.permissions & 0o7777)
        {
            return Ok(());
        }
        match self.apply(&changes) {
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(()),
            outcome => outcome,
        }
    }

    fn apply(&self, changes: &AttributeChanges) -> Result<()> {
        if self.is_open() {
            self.with_descriptor(|descriptor| self.change_attributes(&Of::Descriptor(descriptor), changes))
        } else {
            self.with_place(|at, name| self.change_attributes(&Of::Name(at, name), changes))
        }
    }

    /// A name of the node went.
    fn lost(self: &Arc<Self>, directory: &Node, name: &[u8]) {
        let nameless = self.remove_place(directory, name);
        // The number of what isn't open can be given to another file at once, and on FAT all numbers.
        if nameless && (!self.is_open() || self.shared.is_fat()) {
            self.shared.forget(self);
        }
    }

    /// Reads the directory anew.
    fn renew(&self, listing: &mut Listing) -> Result<()> {
        let mut found = Vec::new();
        self.with_descriptor(|descriptor| {
            system::read_directory(descriptor, |bytes| {
                found.extend(layout::entries(bytes).map(|entry| Listed {
                    name: entry.name.into(),
                    inode: entry.inode,
                    kind: entry.kind,
                }));
            })
        })?;
        listing.renew(found.into_iter());
        Ok(())
    }

    /// The type of an entry, for file systems whose directories don't tell.
    fn kind_of(&self, entry: &Listed) -> Kind {
        let ask = || {
            let name = Name::new(&entry.name).ok()?;
            self.with_descriptor(|at| system::stat_at(at, &name)).ok()?.kind()
        };
        entry.kind.or_else(ask).unwrap_or(Kind::Regular)
    }
}

/// What a file system hasn't (links on FAT) is EPERM on Linux.
fn never(error: Errno) -> Errno {
    if error == Errno::EOPNOTSUPP { Errno::EPERM } else { error }
}

impl Vnode for Node {
    fn attributes(&self) -> Result<Attributes> {
        Ok(self.stat()?.attributes(self.shared.device, self.kind))
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        self.shared.require_writable()?;
        if let Some(size) = changes.size {
            self.require_regular()?;
            self.resize(size)?;
        }
        if changes.modified.is_some() && self.kind == Kind::Regular {
            // Otherwise writing pages later would set the time again.
            self.flush()?;
        }
        self.apply(changes)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        let _names = self.shared.names.read();
        Ok(self.child(name)?)
    }

    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        self.require_directory()?;
        if self.inode() == self.shared.root_inode {
            return Ok(self.this()?);
        }
        let _names = self.shared.names.read();
        let known = self.places.lock().iter().find_map(|place| place.directory.upgrade());
        match known {
            Some(directory) => Ok(directory),
            None => Ok(self.child(b"..")?),
        }
    }

    fn create(&self, name: &[u8], creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        self.require_directory()?;
        self.shared.require_writable()?;
        let place = Name::new(name)?;
        let _names = self.shared.names.write();
        let opened = self.make(&place, creation).map_err(never)?;
        let node = match opened {
            Some(descriptor) => self.shared.opened(&self.this()?, name, descriptor)?,
            None => self.child(name)?,
        };
        node.own(creation)?;
        Ok(node)
    }

    fn create_unnamed(&self, creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        loop {
            // It has the name for a moment.
            let name = format!(".unnamed-{}", NEXT.fetch_add(1, Ordering::Relaxed)).into_bytes();
            match self.create(&name, creation) {
                Ok(node) => return self.remove(&name, false).map(|()| node),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Vnode>) -> Result<()> {
        self.require_directory()?;
        let node = self.sibling(target)?;
        let place = Name::new(name)?;
        let _names = self.shared.names.write();
        self.with_descriptor(|at| {
            let (directory, old) = node.place().ok_or(Errno::ENOENT)?;
            directory.beside(self, at, |from| system::link((from, &old), (at, &place)))
        })
        .map_err(never)?;
        node.add_place(&self.this()?, name);
        Ok(())
    }

    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        self.require_directory()?;
        let place = Name::new(name)?;
        let _names = self.shared.names.write();
        // In use, it stays open until its last user goes.
        let inode = self.with_descriptor(|at| system::stat_at(at, &place))?.inode;
        let node = self.shared.known(inode);
        self.with_descriptor(|at| system::remove(at, &place, directory))?;
        if let Some(node) = node {
            node.lost(self, name);
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
        self.require_directory()?;
        let to = self.sibling(new_directory)?;
        if exchange {
            return Err(Errno::EINVAL);
        }
        let (from, into) = (Name::new(name)?, Name::new(new_name)?);
        let _names = self.shared.names.write();
        let moved = self.child(name)?;
        let replaced = match to.with_descriptor(|at| system::stat_at(at, &into)) {
            Ok(_) if keep => return Err(Errno::EEXIST),
            Ok(stat) => self.shared.known(stat.inode),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        self.with_descriptor(|at| to.beside(self, at, |onto| system::rename((at, &from), (onto, &into))))?;
        if let Some(replaced) = replaced
            && !Arc::ptr_eq(&replaced, &moved)
        {
            replaced.lost(to, new_name);
        }
        moved.remove_place(self, name);
        moved.add_place(&to.this()?, new_name);
        let stat = to.with_descriptor(|at| system::stat_at(at, &into))?;
        if stat.inode != moved.inode() {
            self.shared.renumber(&moved, stat.inode);
        }
        Ok(())
    }

    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        self.require_directory()?;
        let mut position = position;
        let mut begin = position == 0;
        loop {
            // The visitor may copy to user memory, and that wait for others: not with the lock held.
            let mut batch = Vec::new();
            {
                let mut listing = self.listing.lock();
                if begin || listing.is_empty() {
                    self.renew(&mut listing)?;
                }
                listing.visit(position, |next, entry| {
                    batch.push((next, entry.clone()));
                    if batch.len() < BATCH { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
            }
            begin = false;
            for (next, entry) in &batch {
                let kind = self.kind_of(entry);
                let shown = DirectoryEntry { name: &entry.name, inode: entry.inode, kind, next: *next };
                if !visit(shown) {
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
        self.with_place(system::read_link)
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        if self.kind == Kind::Regular {
            self.follow()?;
        }
        open::open(self, flags)
    }

    fn read_at(&self, offset: u64, sink: &mut Sink<'_>) -> Result<usize> {
        self.require_regular()?;
        self.read_content(offset, sink)
    }

    fn write_at(&self, offset: u64, source: &mut Source<'_>) -> Result<usize> {
        self.require_regular()?;
        Ok(self.write_content(Some(offset), source)?.0)
    }

    fn append(&self, source: &mut Source<'_>) -> Result<(usize, u64)> {
        self.require_regular()?;
        self.write_content(None, source)
    }

    fn pager(&self) -> Result<Arc<dyn Pager>> {
        if self.kind == Kind::Regular { Ok(self.this()?) } else { Err(Errno::ENODEV) }
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        if self.shared.read_only || !self.is_open() {
            return Ok(());
        }
        self.flush()?;
        self.with_descriptor(system::sync)?;
        self.shared.flush_disk()
    }

    fn statistics(&self) -> Result<Statistics> {
        self.shared.statistics()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Pager for Node {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        if write {
            self.shared.require_writable()?;
        }
        self.fault(index, write)
    }

    fn mappings(&self) -> Option<&Mappings> {
        Some(&self.content.mappings)
    }

    fn sync(&self) -> Result<()> {
        Vnode::sync(self, true)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.content.discard(&self.shared);
        self.shared.forget(self);
        self.close();
    }
}
