//! tmpfs: files in memory, which may start from the baked image.
//!
//! One file system serves as tmpfs, as the read-only image, and as the writable overlay on the image: a node
//! that comes from the image reads and maps the image's bytes as they are, page by page, until they are
//! changed; a directory has the image's names until they are removed. So nothing is ever copied up as a
//! whole, renames and hard links are those of any tmpfs, and inode numbers never change.

mod baked;
mod directory;
mod node;
mod pages;
mod regular;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashMap;
use image::rootfs::{Data, RootFs};
use rumpkern::{Errno, Result};
use rumpuser::{
    memory::PAGE_SIZE,
    rumpuser_memory_statistics,
    sync::{Mutex, RwLock},
};

use crate::{
    access::Credentials,
    file::OpenFlags,
    mount::Location,
    names::Opened,
    vnode::{FileSystem, Kind, Statistics, Vnode, anonymous_device, now},
};
use directory::Names;
pub use node::Node;
use node::{Body, Metadata};
use regular::Regular;
pub use regular::{MAX_SIZE, seal};

/// `f_type` of statfs(2).
const MAGIC: u64 = 0x0102_1994;
/// What an inode takes of the memory, about.
const INODE_COST: u64 = 4096;
/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// How large a tmpfs may become.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes of data; 0 stands for half of the memory.
    pub bytes: u64,
    /// Files; 0 stands for as many as half of the memory has pages.
    pub files: u64,
}

/// What the nodes of one file system share.
pub struct Shared {
    device: u64,
    image: Option<RootFs<'static>>,
    image_nodes: Mutex<HashMap<u32, Arc<Node>>>,
    read_only: AtomicBool,
    pages: AtomicU64,
    pages_limit: u64,
    inodes: AtomicU64,
    inodes_limit: u64,
    next_inode: AtomicU64,
}

impl Shared {
    fn require_writable(&self) -> Result<()> {
        if self.read_only.load(Ordering::Relaxed) { Err(Errno::EROFS) } else { Ok(()) }
    }

    fn image(&self) -> Option<&RootFs<'static>> {
        self.image.as_ref()
    }

    /// ENOSPC if so many pages can't be had.
    fn can_reserve(&self, pages: u64) -> Result<()> {
        let used = self.pages.load(Ordering::Relaxed);
        let free = rumpuser_memory_statistics().free / PAGE_SIZE as u64;
        if used.saturating_add(pages) > self.pages_limit || pages > free {
            Err(Errno::ENOSPC)
        } else {
            Ok(())
        }
    }

    fn reserve(&self, pages: u64) -> Result<()> {
        let before = self.pages.fetch_add(pages, Ordering::Relaxed);
        if before + pages > self.pages_limit {
            self.unreserve(pages);
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Counts pages without which the file system can't go on.
    fn charge(&self, pages: u64) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    fn unreserve(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::Relaxed);
    }

    fn new_inode(&self) -> Result<u64> {
        if self.inodes.fetch_add(1, Ordering::Relaxed) >= self.inodes_limit {
            self.inode_freed();
            return Err(Errno::ENOSPC);
        }
        Ok(self.next_inode.fetch_add(1, Ordering::Relaxed))
    }

    fn inode_freed(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    fn forget_image_node(&self, number: u32) {
        let node = self.image_nodes.lock().remove(&number);
        drop(node);
    }

    /// The node of an inode of the image, which is in `directory`.
    fn image_node(self: &Arc<Self>, number: u32, directory: &Arc<Node>) -> Option<Arc<Node>> {
        let mut nodes = self.image_nodes.lock();
        if let Some(node) = nodes.get(&number) {
            return Some(node.clone());
        }
        let node = self.make_image_node(number, Some(directory))?;
        nodes.insert(number, node.clone());
        Some(node)
    }

    fn make_image_node(self: &Arc<Self>, number: u32, directory: Option<&Arc<Node>>) -> Option<Arc<Node>> {
        let image = self.image.as_ref()?;
        let inode = image.inode(number)?;
        let kind = Kind::from_mode(inode.mode.get())?;
        let mut rdev = 0;
        let body = match kind {
            Kind::Regular => Body::Regular(Regular::new(image.data(inode)?, seal::SEAL)),
            Kind::Symlink => Body::Symlink(image.target(inode)?.into()),
            Kind::Directory => {
                let parent = directory.map(Arc::downgrade).unwrap_or_default();
                Body::Directory(RwLock::new(Names::new(parent, image.entries(inode))))
            }
            Kind::Character | Kind::Block => {
                rdev = inode.data.get();
                Body::Special
            }
            Kind::Fifo | Kind::Socket => Body::Special,
        };
        let time = inode.modified.get().saturating_mul(SECOND);
        let metadata = Metadata {
            permissions: inode.mode.get() & 0o7777,
            uid: inode.uid.get(),
            gid: inode.gid.get(),
            links: inode.links.get(),
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            unnamed: false,
        };
        Some(Node::new(self, u64::from(number) + 1, kind, rdev, Some(number), metadata, body))
    }

    fn statistics(&self) -> Statistics {
        let pages = self.pages.load(Ordering::Relaxed);
        let inodes = self.inodes.load(Ordering::Relaxed);
        Statistics {
            magic: MAGIC,
            block_size: PAGE_SIZE as u64,
            blocks: self.pages_limit,
            blocks_free: self.pages_limit.saturating_sub(pages),
            files: self.inodes_limit,
            files_free: self.inodes_limit.saturating_sub(inodes),
            name_length: 255,
            read_only: self.read_only.load(Ordering::Relaxed),
            identifier: 0,
        }
    }
}

/// A tmpfs.
pub struct TmpFs {
    shared: Arc<Shared>,
    root: Arc<Node>,
    name: &'static str,
}

fn shared(image: Option<RootFs<'static>>, limits: Limits) -> Arc<Shared> {
    let half = rumpuser_memory_statistics().total / 2;
    let bytes = if limits.bytes == 0 { half } else { limits.bytes };
    let inodes = if limits.files == 0 { half / INODE_COST } else { limits.files };
    let image_inodes = image.as_ref().map_or(0, RootFs::inode_count) as u64;
    Arc::new(Shared {
        device: anonymous_device(),
        image,
        image_nodes: Mutex::new(HashMap::new()),
        read_only: AtomicBool::new(false),
        pages: AtomicU64::new(0),
        pages_limit: bytes / PAGE_SIZE as u64,
        inodes: AtomicU64::new(0),
        inodes_limit: inodes,
        next_inode: AtomicU64::new(image_inodes + 1),
    })
}

impl TmpFs {
    /// An empty file system; `permissions` are those of its root.
    pub fn new(limits: Limits, permissions: u32) -> Result<Arc<Self>> {
        let shared = shared(None, limits);
        let time = now();
        let metadata = Metadata {
            permissions,
            uid: 0,
            gid: 0,
            links: 2,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            unnamed: false,
        };
        let inode = shared.new_inode()?;
        let body = Body::Directory(RwLock::new(Names::new(Default::default(), &[])));
        let root = Node::new(&shared, inode, Kind::Directory, 0, None, metadata, body);
        Ok(Arc::new(TmpFs { shared, root, name: "tmpfs" }.adopt()))
    }

    /// The image, with changes kept in memory. `None` if its root is no directory.
    pub fn over(image: RootFs<'static>, limits: Limits) -> Option<Arc<Self>> {
        let shared = shared(Some(image), limits);
        let root = shared.make_image_node(0, None)?;
        shared.image_nodes.lock().insert(0, root.clone());
        (root.kind_of() == Kind::Directory).then(|| Arc::new(TmpFs { shared, root, name: "overlay" }.adopt()))
    }

    /// The image, read-only.
    pub fn image(image: RootFs<'static>) -> Option<Arc<Self>> {
        let file_system = TmpFs::over(image, Limits::default())?;
        file_system.shared.read_only.store(true, Ordering::Relaxed);
        Some(file_system)
    }

    /// Makes the root its own parent.
    fn adopt(self) -> Self {
        self.root.make_root();
        self
    }

    /// A file outside any directory (memfd_create, System V shared memory). Without `sealable`, no seals can be
    /// added.
    pub fn memory_file(
        &self,
        name: &[u8],
        credentials: &Credentials,
        permissions: u32,
        sealable: bool,
    ) -> Result<Opened> {
        let time = now();
        let metadata = Metadata {
            permissions,
            uid: credentials.uid,
            gid: credentials.gid,
            links: 0,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            unnamed: false,
        };
        let inode = self.shared.new_inode()?;
        let body = Body::Regular(Regular::new(Data::Plain(&[]), if sealable { 0 } else { seal::SEAL }));
        let node: Arc<dyn Vnode> = Node::new(&self.shared, inode, Kind::Regular, 0, None, metadata, body);
        let file = node.clone().open(OpenFlags::READ_WRITE)?;
        let shown = [b"/memfd:", name, b" (deleted)"].concat();
        Ok(Opened { file, location: Location::anonymous(node, &shown) })
    }
}

impl FileSystem for TmpFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.root.clone()
    }
}
