//! The file systems of an image.

use alloc::{sync::Arc, vec::Vec};

use image::{
    config::{Configuration, Mount as Wanted},
    rootfs::RootFs,
};
use rumpkern::{Errno, Result};
use rumpvfs::{
    access::Credentials,
    mount::{Location, Mount, MountFlags, MountOptions},
    namei::Lookup,
    tmpfs::{Limits, TmpFs},
    vnode::{Creation, FileSystem, Kind},
};

use crate::{console, procfs, sysfs};

fn options(source: &[u8], flags: MountFlags) -> MountOptions {
    MountOptions { source: source.to_vec(), flags, ..MountOptions::default() }
}

/// Mounts the root and the usual places; returns the root.
pub fn mount_root(image: RootFs<'static>) -> Result<Location> {
    let system = TmpFs::over(image, Limits::default()).ok_or(Errno::EINVAL)?;
    let root = Mount::root(system, options(b"overlay", MountFlags::RELATIVE_ACCESS_TIME));
    let harmless = MountFlags::NO_SET_UID | MountFlags::NO_DEVICES | MountFlags::RELATIVE_ACCESS_TIME;

    let devices = TmpFs::new(Limits::default(), 0o755)?;
    rumpdev::nodes::register();
    rumpdev::nodes::populate(&devices.root())?;
    type Row = (&'static [u8], &'static [u8], Arc<dyn FileSystem>, MountFlags);
    let everywhere: [Row; 7] = [
        (b"/dev", b"devtmpfs", devices, MountFlags::NO_SET_UID | MountFlags::RELATIVE_ACCESS_TIME),
        (b"/dev/pts", b"devpts", rumpdev::tty::devpts(), MountFlags::NO_SET_UID),
        (b"/dev/shm", b"tmpfs", TmpFs::new(Limits::default(), 0o1777)?, harmless),
        (b"/proc", b"proc", procfs::new(), harmless | MountFlags::NO_EXECUTE),
        (b"/sys", b"sysfs", sysfs::new(), harmless | MountFlags::NO_EXECUTE),
        (b"/tmp", b"tmpfs", TmpFs::new(Limits::default(), 0o1777)?, harmless),
        (b"/run", b"tmpfs", TmpFs::new(Limits::default(), 0o755)?, harmless),
    ];
    for (target, source, system, flags) in everywhere {
        attach(&root, target, system, options(source, flags))?;
    }
    Ok(root)
}

/// Mounts what the configuration asks for, up to what fails.
pub fn mount_configured(root: &Location, configuration: &Configuration) -> Result<()> {
    for wanted in &configuration.mounts {
        if let Err(error) = mount_one(root, wanted) {
            let target = wanted.target.escape_ascii();
            console::message(format_args!("cannot mount {} at {target}: {error:?}", wanted.kind));
            return Err(error);
        }
    }
    Ok(())
}

/// Mounts at a directory, which is created if it is absent.
fn attach(root: &Location, target: &[u8], system: Arc<dyn FileSystem>, options: MountOptions) -> Result<()> {
    directory(root, target)?.mount(system, options).map(|_| ())
}

/// The directory at an absolute path; created, with those above it, as far as it is absent.
fn directory(root: &Location, path: &[u8]) -> Result<Location> {
    let credentials = Credentials::root();
    let lookup = Lookup::new(root, root, &credentials);
    let mut so_far = Vec::new();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        so_far.push(b'/');
        so_far.extend_from_slice(name);
        let creation =
            Creation { kind: Kind::Directory, permissions: 0o755, uid: 0, gid: 0, target: b"", rdev: 0 };
        match lookup.create(&so_far, &creation) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    lookup.resolve_directory(path)
}

fn mount_one(root: &Location, wanted: &Wanted) -> Result<()> {
    let mut flags = MountFlags::RELATIVE_ACCESS_TIME;
    flags.set(MountFlags::READ_ONLY, wanted.read_only);
    let system: Arc<dyn FileSystem> = match wanted.kind.as_str() {
        "tmpfs" => TmpFs::new(Limits { bytes: wanted.size, files: 0 }, 0o755)?,
        kind => {
            let mut words = Vec::new();
            words.extend(wanted.read_only.then_some("ro"));
            words.extend(wanted.format.then_some("format"));
            crate::files::mount::make(kind, &wanted.source, &words.join(","))?
        }
    };
    attach(root, &wanted.target, system, options(&wanted.source, flags))
}
