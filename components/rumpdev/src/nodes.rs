//! Device numbers: what opening a device node gives, and the nodes of /dev.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;
use rumpvfs::{
    dentry, device,
    file::{File, OpenFlags},
    vnode::{Creation, Kind, Vnode, device_number, device_parts},
};

use crate::{
    block, disk,
    memory::{Full, Null, Zero},
    random::Random,
    tty::{self, CurrentTerminal, TtyFile},
};

const fn number(major: u64, minor: u64) -> u64 {
    major << 8 | minor
}

/// Opens the character device `rdev`. ENXIO if there is none of that number.
pub fn open(rdev: u64, flags: OpenFlags) -> Result<Arc<dyn File>> {
    Ok(match device_parts(rdev) {
        (1, 3) => Arc::new(Null),
        (1, 5) => Arc::new(Zero),
        (1, 7) => Arc::new(Full),
        (1, 8 | 9) => Arc::new(Random),
        (4, 0 | 1 | 64) => return TtyFile::open(&tty::console::console(), flags, true),
        (5, 0) => return CurrentTerminal::open(flags),
        (5, 1) => return TtyFile::open(&tty::console::console(), flags, false),
        (5, 2) => return tty::open_master(),
        (136, number) => return tty::open_slave(number, flags),
        _ => return Err(Errno::ENXIO),
    })
}

/// Tells the virtual file system who opens these devices.
pub fn register() {
    for major in [1, 4, 5, 136] {
        let opener =
            move |_: &Arc<dyn Vnode>, minor: u32, flags: OpenFlags| open(device_number(major, minor), flags);
        device::register(Kind::Character, major, None, Arc::new(opener));
    }
    disk::register();
}

/// The character devices of /dev: name, device number, permissions.
const CHARACTER_DEVICES: [(&[u8], u64, u32); 10] = [
    (b"null", number(1, 3), 0o666),
    (b"zero", number(1, 5), 0o666),
    (b"full", number(1, 7), 0o666),
    (b"random", number(1, 8), 0o666),
    (b"urandom", number(1, 9), 0o666),
    (b"tty", number(5, 0), 0o666),
    (b"console", number(5, 1), 0o600),
    (b"ptmx", number(5, 2), 0o666),
    (b"ttyS0", number(4, 64), 0o620),
    (b"tty0", number(4, 0), 0o620),
];

const LINKS: [(&[u8], &[u8]); 4] = [
    (b"fd", b"/proc/self/fd"),
    (b"stdin", b"/proc/self/fd/0"),
    (b"stdout", b"/proc/self/fd/1"),
    (b"stderr", b"/proc/self/fd/2"),
];

/// Mount points in /dev, with their permissions.
const DIRECTORIES: [(&[u8], u32); 3] = [(b"pts", 0o755), (b"shm", 0o1777), (b"mqueue", 0o1777)];

fn add(
    directory: &Arc<dyn Vnode>,
    name: &[u8],
    kind: Kind,
    permissions: u32,
    rest: (&[u8], u64),
) -> Result<()> {
    let (target, rdev) = rest;
    match directory.create(name, &Creation { kind, permissions, uid: 0, gid: 0, target, rdev }) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Every /dev, for the nodes of disks that come later.
static FILLED: Mutex<Vec<Weak<dyn Vnode>>> = Mutex::new(Vec::new());

/// Fills a /dev; what is there already stays. Disks that come later get their nodes then.
pub fn populate(directory: &Arc<dyn Vnode>) -> Result<()> {
    let mut filled = FILLED.lock();
    filled.retain(|directory| directory.strong_count() > 0);
    filled.push(Arc::downgrade(directory));
    drop(filled);
    for (name, rdev, permissions) in CHARACTER_DEVICES {
        add(directory, name, Kind::Character, permissions, (b"", rdev))?;
    }
    for (name, target) in LINKS {
        add(directory, name, Kind::Symlink, 0o777, (target, 0))?;
    }
    for (name, permissions) in DIRECTORIES {
        add(directory, name, Kind::Directory, permissions, (b"", 0))?;
    }
    for disk in block::all() {
        add_disk(directory, disk.name.as_bytes(), disk.index)?;
    }
    Ok(())
}

/// Adds the node of a new disk to every /dev.
pub(crate) fn announce(name: &[u8], index: usize) {
    let filled = FILLED.lock().clone();
    for directory in filled.iter().filter_map(Weak::upgrade) {
        // Who has no room for a node can still make one.
        let _ = add_disk(&directory, name, index);
    }
}

/// Takes the node of a disk that is gone out of every /dev.
pub(crate) fn retract(name: &[u8], index: usize) {
    let filled = FILLED.lock().clone();
    for directory in filled.iter().filter_map(Weak::upgrade) {
        let node = directory.lookup(name).and_then(|node| node.attributes());
        // What somebody else has put there stays.
        if node.is_ok_and(|node| node.kind == Kind::Block && node.rdev == disk::number(index)) {
            let _ = directory.remove(name, false);
            dentry::forget(&directory, name);
        }
    }
}

fn add_disk(directory: &Arc<dyn Vnode>, name: &[u8], index: usize) -> Result<()> {
    add(directory, name, Kind::Block, 0o660, (b"", disk::number(index)))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::model::Memory;

    #[test]
    fn a_disk_that_comes_later_has_a_node() {
        let file_system = rumpvfs::tmpfs::TmpFs::new(Default::default(), 0o755).expect("tmpfs");
        let directory = rumpvfs::vnode::FileSystem::root(&*file_system);
        register();
        populate(&directory).expect("a /dev");
        let make = || Arc::new(Memory::new(vec![0; 4096], 4096));
        let first = make();
        let name = block::register(first.clone());
        let node = directory.lookup(name.as_bytes()).expect("its node");
        let attributes = node.attributes().expect("attributes");
        assert_eq!(attributes.kind, Kind::Block);
        let open = || device::open(&node, OpenFlags::empty());
        let opened = open().expect("the disk");
        block::unregister(&*first);
        block::unregister(&*first);
        assert!(matches!(directory.lookup(name.as_bytes()), Err(Errno::ENOENT)));
        assert!(matches!(open(), Err(Errno::ENXIO)));
        assert!(block::find(&name).is_none() && !block::all().iter().any(|disk| disk.name == name));
        // Its name is another one's as soon as nobody uses it.
        drop(first);
        let second = make();
        assert_ne!(block::register(second.clone()), name);
        drop(opened);
        assert_eq!(block::register(make()), name);
        assert!(directory.lookup(name.as_bytes()).is_ok() && open().is_ok());
        block::unregister(&*second);
    }

    #[test]
    fn unknown_devices_have_no_file() {
        assert!(matches!(open(number(77, 7), OpenFlags::default()), Err(Errno::ENXIO)));
        assert!(open(number(1, 3), OpenFlags::default()).is_ok());
    }
}
