//! Mounting: the disk is made known to NetBSD's kernel, which mounts it somewhere in its own tree of files.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use hashbrown::HashMap;
use image::config::Mount;
use netbsd::{disk::Disk, files, host, kernel, mounts, thread, user::rump};
use rumpdev::block::{self, BlockDevice};
use rumpkern::{
    Errno, Result,
    reclaim::{self, Reclaim},
    wait::WaitQueue,
};
use rumpuser::{
    CpuSet,
    sync::{Mutex, RwLock, SpinLock},
};
use rumpvfs::vnode::{FileSystem, Kind, anonymous_device};

use super::{
    Mounted, Shared,
    node::Node,
    system::{self, Name},
    writeback,
};
use crate::{call::Caller, errno::translate};

/// Makes a file system from the source and the options of mount(2).
type Maker = fn(source: &[u8], options: &str) -> Result<Arc<dyn FileSystem>>;

/// The kind that is reached by the network.
pub(super) const REMOTE: &str = mounts::REMOTE;

/// The kinds: NetBSD's name, and `f_type` of statfs(2).
const KINDS: [(&str, u64); 5] =
    [("ffs", 0x0001_1954), ("ext2fs", 0xef53), ("msdos", 0x4d44), ("cd9660", 0x9660), (REMOTE, 0x6969)];

/// What mount(2) of a program can ask for, by NetBSD's names and those usual on Linux.
pub const MAKERS: [(&str, Maker); 9] = [
    ("ffs", make::<0>),
    ("ufs", make::<0>),
    ("ext2fs", make::<1>),
    ("ext2", make::<1>),
    ("msdos", make::<2>),
    ("vfat", make::<2>),
    ("cd9660", make::<3>),
    ("iso9660", make::<3>),
    (REMOTE, make::<4>),
];

fn make<const KIND: usize>(source: &[u8], options: &str) -> Result<Arc<dyn FileSystem>> {
    let (kind, magic) = KINDS[KIND];
    let given = |wanted: &str| options.split(',').any(|option| option == wanted);
    if kind == REMOTE {
        crate::wait_ready();
    } else {
        crate::wait_kernel();
    }
    let disk = match source.strip_prefix(b"/dev/") {
        Some(name) => {
            let name = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
            Some((name, block::find(name).ok_or(Errno::ENOENT)?))
        }
        None => None,
    };
    let read_only =
        given("ro") || kind == "cd9660" || disk.as_ref().is_some_and(|(_, disk)| disk.read_only());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = format!("/mounted{number}");
    let wanted = Mount {
        // No disk of the kernel's own drivers has such a name.
        source: disk.as_ref().map_or_else(|| source.to_vec(), |(name, _)| device_path(name).into_bytes()),
        target: path.clone().into_bytes(),
        kind: kind.into(),
        read_only,
        format: false,
        exported_to: Vec::new(),
        size: 0,
    };
    let known = disk.as_ref().map(|(name, disk)| (name.to_string(), disk.clone()));
    if let Err(reason) = in_kernel(move || mount(number, &wanted, known)) {
        // The error number alone doesn't say what to do.
        host::console(format!("{kind}: {reason}\n").as_bytes());
        return Err(Errno::EINVAL);
    }
    let path = Name::path(path.as_bytes())?;
    let disk = disk.map(|(_, disk)| disk);
    match attach(kind, magic, &path, disk, read_only) {
        Ok(mounted) => Ok(mounted),
        Err(error) => {
            // It is of no use without its root.
            let _ = system::unmount(&path);
            Err(error)
        }
    }
}

/// Numbers of mounts.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// The kernel's name for one of the machine's disks.
fn device_path(name: &str) -> String {
    format!("/dev/machine-{name}")
}

/// Mounts; a thread of the kernel's.
fn mount(
    number: usize,
    wanted: &Mount,
    disk: Option<(String, Arc<dyn BlockDevice>)>,
) -> core::result::Result<(), String> {
    if let Some((name, disk)) = disk {
        let device = device_path(&name);
        if !files::is_device(&device) {
            // What programs make durable, the file system flushes.
            files::register_device(&device, Arc::new(Disk::new(disk, false)));
        }
    }
    mounts::mount_one(number, wanted)
}

/// Does something in a thread of the kernel's own with a process, and waits for it.
fn in_kernel(
    work: impl FnOnce() -> core::result::Result<(), String> + Send + 'static,
) -> core::result::Result<(), String> {
    struct Done {
        outcome: SpinLock<Option<core::result::Result<(), String>>>,
        ended: AtomicBool,
        waiting: WaitQueue,
    }
    let done = Arc::new(Done {
        outcome: SpinLock::new(None),
        ended: AtomicBool::new(false),
        waiting: WaitQueue::new(),
    });
    let told = done.clone();
    let main = move || {
        kernel::become_process();
        let outcome = work();
        if let Some(release) = rump::rump_pub_lwproc_releaselwp() {
            // SAFETY: the kernel's function; the LWP was made for this thread.
            unsafe { release() };
        }
        *told.outcome.lock() = Some(outcome);
        told.ended.store(true, Ordering::Release);
        told.waiting.wake_all();
    };
    if thread::spawn(String::from("mount"), CpuSet::MAX, Box::new(main)).is_err() {
        return Err("too little memory".into());
    }
    done.waiting.wait_uninterruptible(|| done.ended.load(Ordering::Acquire).then_some(()));
    let outcome = done.outcome.lock().take();
    outcome.unwrap_or(Ok(()))
}

/// The file system that the kernel has at a path.
fn attach(
    kind: &'static str,
    magic: u64,
    path: &Name,
    disk: Option<Arc<dyn BlockDevice>>,
    read_only: bool,
) -> Result<Arc<Mounted>> {
    let descriptor = system::open(system::NOWHERE, path, system::READ | system::DIRECTORY, 0)?;
    let stat = system::stat(descriptor).inspect_err(|_| system::close(descriptor))?;
    let disks = block::all();
    let is = |other: &&block::Registered| disk.as_ref().is_some_and(|disk| Arc::ptr_eq(&other.device, disk));
    let index = disks.iter().find(is).map(|disk| disk.index);
    let shared = Arc::new(Shared {
        kind,
        magic,
        device: index.map_or_else(anonymous_device, rumpdev::disk::number),
        disk,
        read_only,
        path: path.clone(),
        root_inode: stat.inode,
        nodes: Mutex::new(HashMap::new()),
        names: RwLock::new(()),
        dirty: Mutex::new(BTreeMap::new()),
        dirty_pages: AtomicUsize::new(0),
        work: WaitQueue::new(),
        stopped: AtomicBool::new(false),
        failure: Mutex::new(None),
    });
    let root = shared.enter(Node::new(&shared, &stat, Kind::Directory, Some(descriptor)));
    let cache: Arc<dyn Reclaim> = shared.clone();
    reclaim::register(&cache);
    if !read_only {
        writeback::start(&shared)?;
    }
    Ok(Arc::new(Mounted { shared, root }))
}

/// Waits until everything of the file system at a path is written.
pub fn sync(path: &Name) -> Result<()> {
    let (Some(find), Some(sync), Some(create), Some(put)) = (
        rump::rump_pub_vfs_getmp(),
        rump::rump_pub_vfs_sync(),
        rump::rump_pub_cred_create(),
        rump::rump_pub_cred_put(),
    ) else {
        return Err(Errno::ENOSYS);
    };
    let error = Caller::borrow()?.run(|| {
        let mut mount = null_mut();
        // SAFETY: the kernel's functions, with a C string, a place, and what they yield. Descriptors of the file
        // system's keep the mount meanwhile.
        unsafe {
            let error = find(path.as_c(), &mut mount);
            if error != 0 {
                return error;
            }
            let root = create(0, 0, 0, null_mut());
            let error = sync(mount, 1, root);
            put(root);
            error
        }
    });
    if error == 0 { Ok(()) } else { Err(translate(error)) }
}
