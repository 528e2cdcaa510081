//! ext4 as a mountable file system: vnodes and a page cache over the `ext4` crate and a block device.
//!
//! File data lives in the cache ([`cache`]) and is written back by fsync, by a thread every few seconds
//! ([`writeback`]), and when too much of it is changed. Space is reserved when a page is first changed, so a full
//! disk is reported by the write that filled it. Directories and attributes are the ext4 crate's business.
#![no_std]

extern crate alloc;

mod cache;
mod disk;
mod node;
mod writeback;

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ext4::{Ext4, FormatOptions, Options, ROOT, Timestamp};
use hashbrown::HashMap;
use rumpdev::block::BlockDevice;
use rumpkern::{
    Errno,
    reclaim::{self, Reclaim},
    wait::WaitQueue,
};
use rumpuser::{
    memory::PAGE_SIZE,
    rumpuser_clock_realtime, rumpuser_console_write, rumpuser_getrandom, rumpuser_memory_statistics,
    sync::{Mutex, SpinLock},
};
use rumpvfs::{
    mount::report_loss,
    vnode::{FileSystem, Handle, Vnode, anonymous_device},
};

use cache::Cached;
use disk::{Disk, errno};
use node::Node;

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;

/// How to mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Write nothing.
    pub read_only: bool,
    /// Make a file system first, if the disk is blank.
    pub format: bool,
}

/// Why a disk could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The disk has something else, or nothing.
    #[error("no ext4 file system on the disk{}", if *.blank { " (it is blank: let the mount format it)" } else { "" })]
    NotExt4 {
        /// It begins with zeros.
        blank: bool,
    },
    /// The file system says no.
    #[error("{0}")]
    Ext4(#[from] ext4::Error),
    /// There was no memory for the writeback thread.
    #[error("out of memory")]
    Memory,
}

impl From<MountError> for Errno {
    fn from(error: MountError) -> Self {
        match error {
            MountError::NotExt4 { .. } => Errno::EINVAL,
            MountError::Ext4(error) => errno(error),
            MountError::Memory => Errno::ENOMEM,
        }
    }
}

/// What the files of a mounted file system share.
struct Shared {
    ext4: Ext4,
    device: u64,
    read_only: bool,
    /// The nodes in use: one for an inode, so that there is one cache of its data.
    nodes: Mutex<HashMap<u32, Weak<Node>>>,
    /// Files with changed pages or times; they stay until these are written.
    dirty: Mutex<BTreeMap<u32, Arc<Node>>>,
    dirty_pages: AtomicUsize,
    /// A sync waits for the one before: it must not return earlier.
    syncing: Mutex<()>,
    /// Something changed since the last commit.
    changed: AtomicBool,
    /// The pages in the cache in the order in which they are considered for removal.
    clock: Mutex<alloc::collections::VecDeque<(Weak<Node>, u64)>>,
    pages: AtomicUsize,
    /// Most pages that the cache keeps if it can.
    limit: usize,
    /// The writeback thread waits here.
    work: WaitQueue,
    stop: AtomicBool,
    /// A writeback that nobody waited for failed; the next sync tells.
    failure: SpinLock<Option<Errno>>,
}

impl Shared {
    /// Notes a change, and lets the thread commit it in a while.
    fn note_change(&self) {
        if !self.changed.swap(true, Ordering::AcqRel) {
            self.work.wake_one();
        }
    }

    /// The node of an inode.
    fn node(self: &Arc<Self>, inode: u32) -> rumpkern::Result<Arc<Node>> {
        if let Some(node) = self.nodes.lock().get(&inode).and_then(Weak::upgrade) {
            return Ok(node);
        }
        let attributes = self.ext4.attributes(inode).map_err(errno)?;
        let mut nodes = self.nodes.lock();
        if let Some(node) = nodes.get(&inode).and_then(Weak::upgrade) {
            return Ok(node);
        }
        let node = Node::new(self, &attributes, Cached::new(attributes.size));
        nodes.insert(inode, Arc::downgrade(&node));
        Ok(node)
    }

    /// Writes everything that changed, and commits.
    fn sync(&self) -> rumpkern::Result<()> {
        let _syncing = self.syncing.lock();
        let before = self.failure.lock().take().map_or(Ok(()), Err);
        let written = self.write_all();
        self.changed.store(false, Ordering::Release);
        let committed = if self.read_only { Ok(()) } else { self.ext4.sync().map_err(errno) };
        before.and(written).and(committed)
    }
}

/// A mounted ext4.
pub struct Ext4Fs {
    shared: Arc<Shared>,
    root: Arc<Node>,
}

fn now() -> Timestamp {
    timestamp(rumpuser_clock_realtime() as i64)
}

fn timestamp(time: i64) -> Timestamp {
    Timestamp { seconds: time.div_euclid(SECOND), nanoseconds: time.rem_euclid(SECOND) as u32 }
}

fn time(timestamp: Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(SECOND).saturating_add(i64::from(timestamp.nanoseconds))
}

/// Whether the start of a disk is nothing but zeros.
fn is_blank(disk: &Disk) -> Result<bool, ext4::Error> {
    use ext4::BlockDevice as _;
    const LOOK: usize = 64 << 10;
    let sector = disk.block_size() as usize;
    let sectors = disk.sectors().min((LOOK / sector) as u64) as usize;
    let mut bytes = alloc::vec![0; sectors * sector];
    disk.read(0, &mut bytes)?;
    Ok(bytes.iter().all(|&byte| byte == 0))
}

/// What stat(2) calls the device: the disk's number.
fn device_number(device: &Arc<dyn BlockDevice>) -> u64 {
    let disks = rumpdev::block::all();
    let found = disks.iter().find(|disk| Arc::ptr_eq(&disk.device, device));
    found.map_or_else(anonymous_device, |disk| rumpdev::disk::number(disk.index))
}

/// Mounts the file system on a disk.
pub fn mount(device: Arc<dyn BlockDevice>, settings: Settings) -> Result<Arc<Ext4Fs>, MountError> {
    let read_only = settings.read_only || device.read_only();
    let number = device_number(&device);
    let disk = Arc::new(Disk(device));
    if !ext4::is_ext4(&*disk)? {
        let blank = is_blank(&disk)?;
        if !blank || !settings.format || read_only {
            return Err(MountError::NotExt4 { blank });
        }
        let mut uuid = [0; 16];
        rumpuser_getrandom(&mut uuid);
        // RFC 9562, version 4.
        uuid[6] = uuid[6] & 0x0f | 0x40;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        ext4::format(disk.clone(), &FormatOptions { uuid, label: "", clock: now })?;
    }
    let memory = rumpuser_memory_statistics().total as usize / PAGE_SIZE;
    let options = Options { read_only, clock: now, cache_blocks: (memory / 64).clamp(64, 8192) };
    let shared = Arc::new(Shared {
        ext4: Ext4::mount(disk, options)?,
        device: number,
        read_only,
        nodes: Mutex::new(HashMap::new()),
        dirty: Mutex::new(BTreeMap::new()),
        dirty_pages: AtomicUsize::new(0),
        syncing: Mutex::new(()),
        changed: AtomicBool::new(false),
        clock: Mutex::new(alloc::collections::VecDeque::new()),
        pages: AtomicUsize::new(0),
        limit: (memory / 4).max(64),
        work: WaitQueue::new(),
        stop: AtomicBool::new(false),
        failure: SpinLock::new(None),
    });
    let root = match shared.node(ROOT) {
        Ok(root) => root,
        Err(_) => return Err(MountError::Ext4(ext4::Error::Corrupt("root directory"))),
    };
    let cache: Arc<dyn Reclaim> = shared.clone();
    reclaim::register(&cache);
    if !read_only {
        writeback::start(&shared).map_err(|_| MountError::Memory)?;
    }
    Ok(Arc::new(Ext4Fs { shared, root }))
}

/// Mounts by the source and the options of mount(2): a disk like `/dev/vda`, and `format` where a blank one is to
/// be formatted.
pub fn make(source: &[u8], options: &str) -> rumpkern::Result<Arc<dyn FileSystem>> {
    let name = source.strip_prefix(b"/dev/").unwrap_or(source);
    let name = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
    let device = rumpdev::block::find(name).ok_or(Errno::ENOENT)?;
    let given = |wanted: &str| options.split(',').any(|option| option == wanted);
    let settings = Settings { read_only: given("ro"), format: given("format") };
    match mount(device, settings) {
        Ok(file_system) => Ok(file_system),
        Err(error) => {
            // The error number alone doesn't say what to do.
            rumpuser_console_write(alloc::format!("{name}: {error}\r\n").as_bytes());
            Err(error.into())
        }
    }
}

impl FileSystem for Ext4Fs {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.root.clone()
    }

    fn by_handle(&self, handle: Handle) -> rumpkern::Result<Arc<dyn Vnode>> {
        match self.shared.ext4.attributes(handle.inode) {
            Ok(file) if file.generation == handle.generation && file.links > 0 => {
                Ok(self.shared.node(handle.inode)?)
            }
            // Free inodes fail in several ways.
            Ok(_) | Err(ext4::Error::NotFound | ext4::Error::Corrupt(_)) => Err(Errno::ESTALE),
            Err(error) => Err(errno(error)),
        }
    }

    fn sync(&self) -> rumpkern::Result<()> {
        self.shared.sync()
    }

    fn unmount(&self) -> rumpkern::Result<()> {
        let written = self.shared.sync();
        self.shared.stop.store(true, Ordering::Release);
        self.shared.work.wake_all();
        let ended = if self.shared.read_only { Ok(()) } else { self.shared.ext4.unmount().map_err(errno) };
        // What can't be written, because the disk is gone, keeps neither it nor its pages.
        let lost = core::mem::take(&mut *self.shared.dirty.lock());
        drop(lost);
        written.and(ended)
    }
}

impl Drop for Ext4Fs {
    /// After a lazy unmount, when the last open file is closed.
    fn drop(&mut self) {
        if !self.shared.stop.load(Ordering::Acquire)
            && let Err(error) = FileSystem::unmount(self)
        {
            report_loss(self.name(), error);
        }
    }
}
