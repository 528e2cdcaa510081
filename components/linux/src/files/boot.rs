//! What the first process finds: /dev with its nodes, and the console as its first three descriptors.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};
use rumpvfs::{
    access::Credentials,
    file::OpenFlags,
    mount::{Location, MountFlags, MountOptions},
    namei::Lookup,
    tmpfs::{Limits, TmpFs},
    vnode::{Creation, FileSystem, Kind},
};

use super::{context::FsContext, descriptor::DescriptorTable, mount, open_file::OpenFile};

fn directory(root: &Location, path: &[u8]) -> Result<Location> {
    let credentials = Credentials::root();
    let lookup = Lookup::new(root, root, &credentials);
    let creation =
        Creation { kind: Kind::Directory, permissions: 0o755, uid: 0, gid: 0, target: b"", rdev: 0 };
    match lookup.create(path, &creation) {
        Ok(_) | Err(Errno::EEXIST) => lookup.resolve_directory(path),
        Err(error) => Err(error),
    }
}

/// Mounts a file system on a directory, which is made if it is missing.
pub fn mount_on(root: &Location, path: &[u8], source: &str, file_system: Arc<dyn FileSystem>) -> Result<()> {
    let options = MountOptions {
        source: Vec::from(source.as_bytes()),
        flags: MountFlags::NO_SET_UID | MountFlags::RELATIVE_ACCESS_TIME,
        ..Default::default()
    };
    directory(root, path)?.mount(file_system, options)?;
    Ok(())
}

/// Registers devices and file systems, and mounts /dev, /dev/pts and /dev/shm.
pub fn mount_devices(root: &Location) -> Result<()> {
    rumpdev::nodes::register();
    mount::register_built_in();
    let nodes = TmpFs::new(Limits { bytes: 0, files: 0 }, 0o755)?;
    rumpdev::nodes::populate(&nodes.root())?;
    mount_on(root, b"/dev", "devtmpfs", nodes)?;
    mount_on(root, b"/dev/pts", "devpts", rumpdev::tty::devpts())?;
    mount_on(root, b"/dev/shm", "tmpfs", TmpFs::new(Limits { bytes: 0, files: 0 }, 0o1777)?)
}

/// The context of the first process.
pub fn context(root: Location) -> Arc<FsContext> {
    FsContext::new(root)
}

/// A table with the console as standard input, output and error.
pub fn descriptors(root: &Location) -> Result<Arc<DescriptorTable>> {
    let credentials = Credentials::root();
    let lookup = Lookup::new(root, root, &credentials);
    let flags = OpenFlags::READ_WRITE | OpenFlags::LARGE_FILE;
    let opened = lookup.open(b"/dev/console", flags, 0)?;
    let console = OpenFile::new(opened.file, flags, Some(opened.location));
    let table = DescriptorTable::new();
    for _ in 0..3 {
        table.insert(console.clone(), 0, 3, false)?;
    }
    Ok(table)
}
