//! File systems whose contents are made when they are read: /proc and /sys.
//!
//! A [`Directory`] says what it has; files are functions that give text, or take it.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;

use rumpkern::{
    Errno, Result,
    uio::{Sink, Source},
};
use rumpuser::{memory::PAGE_SIZE, sync::Mutex};

use crate::{
    file::{File, OpenFlags},
    mount::Location,
    open,
    vnode::{
        AttributeChanges, Attributes, Creation, DirectoryEntry, FileSystem, Kind, Statistics, Time, Vnode,
        anonymous_device, now,
    },
};

/// Gives a file's text, or a link's target.
pub type Read = Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what is written to a file.
pub type Write = Arc<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;
/// Reads a part of a file that isn't text (/proc/self/mem).
pub type ReadAt = Arc<dyn Fn(u64, &mut Sink<'_>) -> Result<usize> + Send + Sync>;
/// Where a link leads that is more than its text.
pub type Jump = Arc<dyn Fn() -> Result<Location> + Send + Sync>;

/// A file of a generated file system.
#[derive(Clone)]
pub enum Entry {
    /// Text.
    File {
        /// Permission bits.
        permissions: u32,
        /// Gives it.
        read: Option<Read>,
        /// Takes changes.
        write: Option<Write>,
    },
    /// Bytes at offsets.
    Bytes {
        /// Permission bits.
        permissions: u32,
        /// Gives them.
        read: ReadAt,
    },
    /// A symbolic link.
    Link(Read),
    /// A link to an open file, a directory or a program of a process.
    Jump {
        /// What readlink(2) gives.
        text: Read,
        /// Where it leads.
        target: Jump,
    },
    /// A directory.
    Directory(Arc<dyn Directory>),
}

impl Entry {
    /// A text that cannot be written.
    pub fn text(read: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Self {
        Entry::File { permissions: 0o444, read: Some(Arc::new(move || Ok(read()))), write: None }
    }

    /// A text that may not be had (the process is gone).
    pub fn fallible(permissions: u32, read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Entry::File { permissions, read: Some(Arc::new(read)), write: None }
    }

    /// A text that never changes.
    pub fn constant(text: &'static str) -> Self {
        Entry::text(move || text.as_bytes().to_vec())
    }

    /// A text that can be written.
    pub fn writable(
        read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Entry::File { permissions: 0o644, read: Some(Arc::new(read)), write: Some(Arc::new(write)) }
    }

    /// A file that only its owner can write, and nobody read.
    pub fn command(write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static) -> Self {
        Entry::File { permissions: 0o200, read: None, write: Some(Arc::new(write)) }
    }

    /// A symbolic link whose target may change.
    pub fn link(read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Entry::Link(Arc::new(read))
    }

    /// A directory.
    pub fn directory(directory: impl Directory + 'static) -> Self {
        Entry::Directory(Arc::new(directory))
    }

    fn kind(&self) -> Kind {
        match self {
            Entry::File { .. } | Entry::Bytes { .. } => Kind::Regular,
            Entry::Link(_) | Entry::Jump { .. } => Kind::Symlink,
            Entry::Directory(_) => Kind::Directory,
        }
    }
}

/// What a directory has.
pub trait Directory: Send + Sync {
    /// What a name stands for.
    fn lookup(&self, name: &[u8]) -> Option<Entry>;

    /// The names that it has now, in order, each with a number that keeps its place while others come and go
    /// (at least 0, increasing), and its kind.
    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)>;

    /// Permission bits.
    fn permissions(&self) -> u32 {
        0o555
    }

    /// Owner and group of the directory and what is in it; `None`: as the directory above.
    fn owner(&self) -> Option<(u32, u32)> {
        None
    }
}

/// A directory whose names never change.
#[derive(Default)]
pub struct Fixed {
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Fixed {
    /// An empty one.
    pub fn new() -> Self {
        Fixed::default()
    }

    /// With one more name.
    pub fn with(mut self, name: &str, entry: Entry) -> Self {
        self.add(name, entry);
        self
    }

    /// Adds a name.
    pub fn add(&mut self, name: &str, entry: Entry) {
        self.entries.insert(name.as_bytes().to_vec(), entry);
    }
}

impl Directory for Fixed {
    fn lookup(&self, name: &[u8]) -> Option<Entry> {
        self.entries.get(name).cloned()
    }

    fn names(&self) -> Vec<(u64, Vec<u8>, Kind)> {
        let numbered = self.entries.iter().zip(0..);
        numbered.map(|((name, entry), number)| (number, name.clone(), entry.kind())).collect()
    }
}

/// What the files of one file system share.
struct Shared {
    name: &'static str,
    magic: u64,
    device: u64,
    mounted: Time,
    /// `st_size` of files: 0 in /proc, a page in /sys.
    file_size: u64,
}

/// A generated file system.
pub struct GeneratedFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

impl GeneratedFs {
    /// A file system with this root. `magic` and `file_size` are what statfs(2) and stat(2) show.
    pub fn new(name: &'static str, magic: u64, file_size: u64, root: Arc<dyn Directory>) -> Arc<Self> {
        let shared = Arc::new(Shared { name, magic, device: anonymous_device(), mounted: now(), file_size });
        let owner = root.owner().unwrap_or_default();
        let root = Node::new(&shared, None, 1, owner, Entry::Directory(root));
        Arc::new(GeneratedFs { shared, root })
    }
}

impl FileSystem for GeneratedFs {
    fn name(&self) -> &'static str {
        self.shared.name
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.root.clone()
    }

    fn volatile(&self) -> bool {
        true
    }
}

/// A file; made anew at every lookup. Its inode number comes from its path.
struct Node {
    this: Weak<Node>,
    shared: Arc<Shared>,
    parent: Option<Arc<Node>>,
    inode: u64,
    owner: (u32, u32),
    entry: Entry,
}

/// The inode number of a name in a directory (FNV-1a over both).
fn inode_of(directory: u64, name: &[u8]) -> u64 {
    let bytes = directory.to_le_bytes();
    let hash = bytes.iter().chain(name).fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // Old programs keep inode numbers in 32 bits.
    (hash ^ hash >> 32) & 0xffff_ffff | 2
}

impl Node {
    fn new(
        shared: &Arc<Shared>,
        parent: Option<Arc<Node>>,
        inode: u64,
        owner: (u32, u32),
        entry: Entry,
    ) -> Arc<Node> {
        let shared = shared.clone();
        Arc::new_cyclic(|this| Node { this: this.clone(), shared, parent, inode, owner, entry })
    }

    fn child(&self, name: &[u8], entry: Entry) -> Arc<Node> {
        let owner = match &entry {
            Entry::Directory(directory) => directory.owner(),
            _ => None,
        };
        let inode = inode_of(self.inode, name);
        Node::new(&self.shared, self.this.upgrade(), inode, owner.unwrap_or(self.owner), entry)
    }

    fn directory(&self) -> Result<&Arc<dyn Directory>> {
        match &self.entry {
            Entry::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn text(&self) -> Result<Vec<u8>> {
        match &self.entry {
            Entry::File { read: Some(read), .. } => read(),
            Entry::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EIO),
        }
    }
}

impl Vnode for Node {
    fn attributes(&self) -> Result<Attributes> {
        let (permissions, links, size) = match &self.entry {
            Entry::File { permissions, .. } => (*permissions, 1, self.shared.file_size),
            Entry::Bytes { permissions, .. } => (*permissions, 1, 0),
            Entry::Link(_) => (0o777, 1, 0),
            Entry::Jump { .. } => (0o700, 1, 64),
            Entry::Directory(directory) => (directory.permissions(), 2, 0),
        };
        let time = self.shared.mounted;
        Ok(Attributes {
            device: self.shared.device,
            inode: self.inode,
            kind: self.entry.kind(),
            permissions,
            links,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            size,
            blocks: 0,
            block_size: 1024,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
        })
    }

    fn kind(&self) -> Kind {
        self.entry.kind()
    }

    fn set_attributes(&self, changes: &AttributeChanges) -> Result<()> {
        // Truncation comes with O_TRUNC when a setting is written.
        let harmless = AttributeChanges { size: changes.size, ..Default::default() };
        if *changes == harmless { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        let entry = self.directory()?.lookup(name).ok_or(Errno::ENOENT)?;
        Ok(self.child(name, entry))
    }

    fn parent(&self) -> Result<Arc<dyn Vnode>> {
        self.directory()?;
        Ok(self.parent.clone().or_else(|| self.this.upgrade()).ok_or(Errno::ENOENT)?)
    }

    fn create(&self, _name: &[u8], _creation: &Creation<'_>) -> Result<Arc<dyn Vnode>> {
        // What Linux's proc and sysfs say.
        self.directory()?;
        Err(Errno::ENOENT)
    }

    fn remove(&self, _name: &[u8], _directory: bool) -> Result<()> {
        self.directory()?;
        Err(Errno::EPERM)
    }

    fn entries(&self, position: u64, visit: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<()> {
        let directory = self.directory()?;
        let above = self.parent.as_ref().map_or(self.inode, |parent| parent.inode);
        for (at, name, inode) in [(0, &b"."[..], self.inode), (1, b"..", above)] {
            let entry = DirectoryEntry { name, inode, kind: Kind::Directory, next: at + 1 };
            if at >= position && !visit(entry) {
                return Ok(());
            }
        }
        for (number, name, kind) in directory.names() {
            let at = number + 2;
            let inode = inode_of(self.inode, &name);
            if at >= position && !visit(DirectoryEntry { name: &name, inode, kind, next: at + 1 }) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        match &self.entry {
            Entry::Link(text) | Entry::Jump { text, .. } => text(),
            _ => Err(Errno::EINVAL),
        }
    }

    fn jump(&self) -> Option<Result<Location>> {
        match &self.entry {
            Entry::Jump { target, .. } => Some(target()),
            _ => None,
        }
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match &self.entry {
            Entry::Directory(_) => open::open(self, flags),
            Entry::File { read, write, .. } => {
                if flags.writable() && write.is_none() || flags.readable() && read.is_none() {
                    return Err(Errno::EACCES);
                }
                Ok(Arc::new(TextFile { vnode: self.clone(), node: self, text: Mutex::new(None) }))
            }
            Entry::Bytes { .. } => {
                Ok(Arc::new(TextFile { vnode: self.clone(), node: self, text: Mutex::new(None) }))
            }
            Entry::Link(_) | Entry::Jump { .. } => Err(Errno::ELOOP),
        }
    }

    fn statistics(&self) -> Result<Statistics> {
        Ok(Statistics {
            magic: self.shared.magic,
            block_size: PAGE_SIZE as u64,
            name_length: 255,
            ..Default::default()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file. Its text is made when it is read from the start, and stays the same for the reads that follow.
struct TextFile {
    vnode: Arc<dyn Vnode>,
    node: Arc<Node>,
    text: Mutex<Option<Vec<u8>>>,
}

impl File for TextFile {
    fn read(&self, sink: &mut Sink<'_>, offset: u64, _flags: OpenFlags) -> Result<usize> {
        if let Entry::Bytes { read, .. } = &self.node.entry {
            return read(offset, sink);
        }
        // Made without the lock: what makes it may take long, or read this very file.
        let fresh = if offset == 0 || self.text.lock().is_none() { Some(self.node.text()?) } else { None };
        let mut text = self.text.lock();
        if fresh.is_some() {
            *text = fresh;
        }
        let bytes = text.as_deref().unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        sink.put(bytes.get(start..).unwrap_or_default())
    }

    fn write(&self, source: &mut Source<'_>, offset: &mut u64, _flags: OpenFlags) -> Result<usize> {
        let Entry::File { write: Some(write), .. } = &self.node.entry else { return Err(Errno::EINVAL) };
        let mut bytes = alloc::vec![0; source.remaining().min(PAGE_SIZE)];
        let length = source.take(&mut bytes)?;
        write(&bytes[..length])?;
        *offset += length as u64;
        Ok(length)
    }

    fn seekable(&self) -> bool {
        true
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
