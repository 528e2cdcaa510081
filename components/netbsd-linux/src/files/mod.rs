//! NetBSD's file systems for programs of Linux: mounted by the rump kernel on the machine's disks or on files of the
//! image, and seen through the personality's interface of files.

mod content;
mod layout;
mod listing;
mod mount;
mod node;
mod system;
mod writeback;

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hashbrown::HashMap;
use rumpdev::block::BlockDevice;
use rumpkern::{Errno, Result, reclaim::Reclaim, wait::WaitQueue};
use rumpuser::sync::{Mutex, RwLock};
use rumpvfs::{
    mount::report_loss,
    vnode::{FileSystem, Kind, Statistics, Vnode},
};

pub use mount::MAKERS;
use node::Node;
use system::Name;

/// What the files of a mounted file system share.
pub struct Shared {
    /// The name of its type, and `f_type` of statfs(2).
    kind: &'static str,
    magic: u64,
    device: u64,
    disk: Option<Arc<dyn BlockDevice>>,
    read_only: bool,
    /// Where it is in the kernel's own tree of files.
    path: Name,
    root_inode: u64,
    /// The nodes in use: one for a file.
    nodes: Mutex<HashMap<u64, Weak<Node>>>,
    /// Held shared while names are looked up, alone while they change.
    names: RwLock<()>,
    /// Files with changed pages.
    dirty: Mutex<BTreeMap<u64, Arc<Node>>>,
    dirty_pages: AtomicUsize,
    /// The thread that writes pages waits here.
    work: WaitQueue,
    stopped: AtomicBool,
    /// A failure that nobody was told yet.
    failure: Mutex<Option<Errno>>,
}

impl Shared {
    fn is_fat(&self) -> bool {
        self.kind == "msdos"
    }

    /// Whether other machines change the files, too.
    fn is_remote(&self) -> bool {
        self.kind == mount::REMOTE
    }

    fn require_writable(&self) -> Result<()> {
        if self.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The node with an inode number, if it is in use.
    fn known(&self, inode: u64) -> Option<Arc<Node>> {
        self.nodes.lock().get(&inode).and_then(Weak::upgrade)
    }

    /// The node of a name that was found in a directory. `names` is held.
    fn node(
        self: &Arc<Self>,
        directory: &Arc<Node>,
        name: &[u8],
        place: &Name,
        stat: &layout::Stat,
    ) -> Result<Arc<Node>> {
        // Whiteouts hide what is below.
        let kind = stat.kind().ok_or(Errno::ENOENT)?;
        let node = match self.known(stat.inode).filter(|node| node.is_kind(kind)) {
            Some(node) => node,
            None => {
                let descriptor = match kind {
                    Kind::Regular => Some(self.open(directory, place)?),
                    Kind::Directory => Some(directory.with_descriptor(|at| {
                        system::open(at, place, system::READ | system::DIRECTORY, 0)
                    })?),
                    _ => None,
                };
                self.enter(Node::new(self, stat, kind, descriptor))
            }
        };
        if name != b".." {
            node.add_place(directory, name);
        }
        Ok(node)
    }

    /// Opens a regular file, for writing where that can be.
    fn open(&self, directory: &Arc<Node>, place: &Name) -> Result<i32> {
        directory.with_descriptor(|at| {
            if !self.read_only {
                match system::open(at, place, system::READ_WRITE, 0) {
                    // What nobody may write to can still be read.
                    Err(Errno::EROFS | Errno::EPERM | Errno::EACCES) => {}
                    outcome => return outcome,
                }
            }
            system::open(at, place, system::READ, 0)
        })
    }

    /// The node of a file that was just made and opened. `names` is held.
    fn opened(self: &Arc<Self>, directory: &Arc<Node>, name: &[u8], descriptor: i32) -> Result<Arc<Node>> {
        let stat = system::stat(descriptor).inspect_err(|_| system::close(descriptor))?;
        let node = self.enter(Node::new(self, &stat, Kind::Regular, Some(descriptor)));
        node.add_place(directory, name);
        Ok(node)
    }

    /// Enters a new node, unless another was faster, which is the one to use then.
    fn enter(&self, new: Arc<Node>) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let other = nodes.get(&new.inode()).and_then(Weak::upgrade);
        if let Some(other) = other.filter(|other| other.is_kind(Vnode::kind(&*new))) {
            drop(nodes);
            return other;
        }
        nodes.insert(new.inode(), Arc::downgrade(&new));
        new
    }

    /// A node has no number any more.
    fn forget(&self, node: &Node) {
        let mut nodes = self.nodes.lock();
        // Another may have taken its place.
        if nodes.get(&node.inode()).is_some_and(|other| core::ptr::eq(other.as_ptr(), node)) {
            nodes.remove(&node.inode());
        }
    }

    /// A node has another number now.
    fn renumber(&self, node: &Arc<Node>, inode: u64) {
        self.forget(node);
        node.set_inode(inode);
        self.nodes.lock().insert(inode, Arc::downgrade(node));
    }

    fn live(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn statistics(&self) -> Result<Statistics> {
        let root = self.known(self.root_inode).ok_or(Errno::EIO)?;
        let bytes = root.with_descriptor(system::statistics)?;
        Ok(layout::statistics(&bytes, self.magic))
    }

    /// Has the disk write what is in its cache.
    fn flush_disk(&self) -> Result<()> {
        self.disk.as_ref().map_or(Ok(()), |disk| disk.flush())
    }

    /// Makes everything durable.
    fn sync(&self) -> Result<()> {
        if self.read_only || self.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let before = self.failure.lock().take().map_or(Ok(()), Err);
        let written = self.write_all();
        let synced = mount::sync(&self.path);
        before.and(written).and(synced).and(self.flush_disk())
    }
}

impl Reclaim for Shared {
    fn reclaim(&self, pages: usize) -> usize {
        // Who holds the list may be waiting for memory.
        let Some(nodes) = self.nodes.try_lock() else { return 0 };
        let live: Vec<_> = nodes.values().filter_map(Weak::upgrade).collect();
        drop(nodes);
        let mut gone = 0;
        for node in live {
            if gone >= pages {
                break;
            }
            gone += node.content.shrink(self, pages - gone);
        }
        gone
    }
}

/// A mounted file system.
struct Mounted {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

impl FileSystem for Mounted {
    fn name(&self) -> &'static str {
        self.shared.kind
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.root.clone()
    }

    fn volatile(&self) -> bool {
        // Several spellings lead to a file on FAT. A server's names change, and a file's data goes there when it is closed,
        // which must not wait until a name is forgotten.
        self.shared.is_fat() || self.shared.is_remote()
    }

    fn sync(&self) -> Result<()> {
        self.shared.sync()
    }

    fn unmount(&self) -> Result<()> {
        let synced = self.shared.sync();
        if self.shared.stopped.swap(true, Ordering::AcqRel) {
            return synced;
        }
        self.shared.work.wake_all();
        // Programs may still hold files, which are of no use from now on.
        self.shared.live().iter().for_each(|node| node.close());
        // What could not be written keeps nothing.
        let lost = core::mem::take(&mut *self.shared.dirty.lock());
        drop(lost);
        let unmounted = system::unmount(&self.shared.path);
        synced.and(unmounted).and(self.shared.flush_disk())
    }
}

impl Drop for Mounted {
    /// After a lazy unmount, when the last open file is closed.
    fn drop(&mut self) {
        if let Err(error) = FileSystem::unmount(self) {
            report_loss(self.name(), error);
        }
    }
}
