//! Mounts: which file system is where, and places in the tree of them ([`Location`]) with their paths.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::{rumpuser_console_write, sync::RwLock};

use crate::{
    dentry::{self, Dentry},
    vnode::{FileSystem, Kind, Statistics, Vnode},
};

bitflags::bitflags! {
    /// Properties of a mount, with the values of `MS_*` in mount(2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// Nothing changes.
        const READ_ONLY = 1;
        /// Set-user-ID bits have no effect.
        const NO_SET_UID = 2;
        /// Device nodes can't be opened.
        const NO_DEVICES = 4;
        /// Nothing is executed.
        const NO_EXECUTE = 8;
        /// Access times aren't kept.
        const NO_ACCESS_TIME = 1024;
        /// Nor those of directories.
        const NO_DIRECTORY_ACCESS_TIME = 2048;
        /// Access times are kept as far as needed.
        const RELATIVE_ACCESS_TIME = 1 << 21;
    }
}

/// A mounted file system, or a part of one (bind mount).
pub struct Mount {
    id: u64,
    file_system: Arc<dyn FileSystem>,
    root: Arc<Dentry>,
    /// What it covers; the root of everything covers nothing.
    point: Option<Location>,
    flags: AtomicU32,
    source: Vec<u8>,
    options: String,
    children: RwLock<Vec<Arc<Mount>>>,
}

/// Says on the console that a file system went though not everything could be written. `name`: its device's, or its
/// own.
pub fn report_loss(name: &str, error: Errno) {
    rumpuser_console_write(
        format!("{name}: unmounted, but not everything could be written: {error:?}\r\n").as_bytes(),
    );
}

/// A place in the tree of mounted file systems.
#[derive(Clone)]
pub struct Location {
    /// The mount it is in.
    pub mount: Arc<Mount>,
    /// The name it has there.
    pub entry: Arc<Dentry>,
}

/// What a mount is called in /proc/mounts, and its properties.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// The device, or any word.
    pub source: Vec<u8>,
    /// Properties.
    pub flags: MountFlags,
    /// The file system's own options, comma-separated, for display.
    pub options: String,
}

/// One line of /proc/self/mountinfo, taken apart.
pub struct MountRow {
    /// The mount's number and that of the mount it is on (its own for the root).
    pub id: u64,
    /// See `id`.
    pub parent: u64,
    /// `st_dev` of its files.
    pub device: u64,
    /// What part of the file system is mounted.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
    /// Properties, as in mount(8).
    pub flags: String,
    /// Type of the file system.
    pub kind: &'static str,
    /// The device.
    pub source: Vec<u8>,
    /// The file system's own options.
    pub options: String,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Mount {
    fn new(
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        point: Option<Location>,
        options: MountOptions,
    ) -> Arc<Self> {
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            file_system,
            root,
            point,
            flags: AtomicU32::new(options.flags.bits()),
            source: options.source,
            options: options.options,
            children: RwLock::new(Vec::new()),
        })
    }

    /// Mounts the first file system; its root is returned.
    pub fn root(file_system: Arc<dyn FileSystem>, options: MountOptions) -> Location {
        let entry = Dentry::root(file_system.root(), file_system.volatile());
        Location { mount: Mount::new(file_system, entry.clone(), None, options), entry }
    }

    /// Its properties.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Changes its properties (MS_REMOUNT).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// The file system.
    pub fn file_system(&self) -> &Arc<dyn FileSystem> {
        &self.file_system
    }

    /// The root of its file system, which in a bind mount is above its own.
    pub(crate) fn top(&self) -> Arc<Dentry> {
        let mut top = self.root.clone();
        while let Some(parent) = top.parent() {
            top = parent;
        }
        top
    }

    /// EROFS if nothing may change.
    pub fn require_writable(&self) -> Result<()> {
        if self.flags().contains(MountFlags::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Its number in /proc/self/mountinfo.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn visit(self: &Arc<Self>, visit: &mut dyn FnMut(&Arc<Mount>)) {
        let mut stack = Vec::from([self.clone()]);
        while let Some(mount) = stack.pop() {
            visit(&mount);
            stack.extend(mount.children.read().iter().cloned());
        }
    }

    fn has_children(&self) -> bool {
        !self.children.read().is_empty()
    }
}

impl Location {
    /// The vnode.
    pub fn vnode(&self) -> &Arc<dyn Vnode> {
        self.entry.vnode()
    }

    /// A place outside the tree for a file that has no name there (a pipe reached through /proc/self/fd).
    pub fn anonymous(vnode: Arc<dyn Vnode>, name: &[u8]) -> Location {
        let entry = Dentry::detached(vnode.clone(), None, name);
        let file_system = Arc::new(Anonymous(vnode));
        Location { mount: Mount::new(file_system, entry.clone(), None, MountOptions::default()), entry }
    }

    /// Whether both are the same place.
    pub fn same(&self, other: &Location) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry) && Arc::ptr_eq(&self.mount, &other.mount)
    }

    /// Goes to the root of what is mounted here, if something is.
    pub(crate) fn enter_mounts(mut self) -> Location {
        while self.entry.has_mounts() {
            let found = {
                let children = self.mount.children.read();
                let covers = |child: &&Arc<Mount>| {
                    child.point.as_ref().is_some_and(|point| Arc::ptr_eq(&point.entry, &self.entry))
                };
                children.iter().rfind(covers).cloned()
            };
            let Some(mount) = found else { break };
            let entry = mount.root.clone();
            self = Location { mount, entry };
        }
        self
    }

    /// Where ".." leads, with `root` as the top.
    pub fn parent(&self, root: &Location) -> Location {
        let mut at = self.clone();
        while !at.same(root) {
            if let (false, Some(parent)) = (Arc::ptr_eq(&at.entry, &at.mount.root), at.entry.parent()) {
                return Location { mount: at.mount, entry: parent }.enter_mounts();
            }
            let Some(point) = at.mount.point.clone() else { break };
            at = point;
        }
        at
    }

    /// The path as seen from `root`. `(deleted)` is appended where the name is gone, and the path begins with
    /// `(unreachable)` where `root` isn't above: what /proc/self/fd shows.
    pub fn path(&self, root: &Location) -> Vec<u8> {
        let (mut path, reachable) = self.names(root);
        if !reachable && self.mount.point.is_none() && self.entry.parent().is_none() && self.entry.removed() {
            // Without a place: the name says it all.
            return self.entry.name().to_vec();
        }
        if !reachable {
            path.splice(0..0, b"(unreachable)".iter().copied());
        }
        if self.entry.removed() {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }

    /// What getcwd(2) returns.
    pub fn working_directory(&self, root: &Location) -> Result<Vec<u8>> {
        if self.entry.removed() {
            return Err(Errno::ENOENT);
        }
        Ok(self.path(root))
    }

    fn names(&self, root: &Location) -> (Vec<u8>, bool) {
        let mut names = Vec::new();
        let mut at = self.clone();
        let reachable = loop {
            if at.same(root) {
                break true;
            }
            if let (false, Some(parent)) = (Arc::ptr_eq(&at.entry, &at.mount.root), at.entry.parent()) {
                names.push(at.entry.name());
                at.entry = parent;
            } else {
                let Some(point) = at.mount.point.clone() else { break false };
                at = point;
            }
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        (path, reachable)
    }

    /// Mounts a file system here; its root is returned. ENOTDIR unless this is a directory.
    pub fn mount(&self, file_system: Arc<dyn FileSystem>, options: MountOptions) -> Result<Location> {
        let entry = Dentry::root(file_system.root(), file_system.volatile());
        self.attach(file_system, entry, options)
    }

    /// Shows `source` here too (MS_BIND).
    pub fn bind(&self, source: &Location) -> Result<Location> {
        let mount = &source.mount;
        let options = MountOptions {
            source: mount.source.clone(),
            flags: mount.flags(),
            options: mount.options.clone(),
        };
        self.attach(mount.file_system.clone(), source.entry.clone(), options)
    }

    fn attach(
        &self,
        file_system: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        options: MountOptions,
    ) -> Result<Location> {
        if (self.vnode().kind() == Kind::Directory) != (root.vnode().kind() == Kind::Directory) {
            return Err(Errno::ENOTDIR);
        }
        if self.entry.removed() {
            return Err(Errno::ENOENT);
        }
        let mount = Mount::new(file_system, root.clone(), Some(self.clone()), options);
        self.mount.children.write().push(mount.clone());
        self.entry.add_mount();
        Ok(Location { mount, entry: root })
    }

    /// Unmounts what this is the root of. EINVAL if it is the root of no mount, EBUSY if it is used, unless
    /// `lazy`: then it vanishes from the tree, and ends when its last user does. As on Linux, that not everything can
    /// be written, because the disk is gone, is no error here: fsync(2) and sync(2) tell programs, this the console.
    pub fn unmount(self, lazy: bool) -> Result<()> {
        let Location { mount, entry } = self;
        if !Arc::ptr_eq(&entry, &mount.root) {
            return Err(Errno::EINVAL);
        }
        let Some(point) = mount.point.clone() else { return Err(Errno::EBUSY) };
        let mut siblings = point.mount.children.write();
        let Some(index) = siblings.iter().position(|other| Arc::ptr_eq(other, &mount)) else {
            return Err(Errno::EINVAL);
        };
        // The list's reference and ours; every open file and working directory in it has one more.
        if !lazy && (mount.has_children() || Arc::strong_count(&mount) > 2) {
            return Err(Errno::EBUSY);
        }
        siblings.remove(index);
        drop(siblings);
        point.entry.remove_mount();
        // What is mounted inside goes too.
        let mut inside = core::mem::take(&mut *mount.children.write());
        while let Some(child) = inside.pop() {
            if let Some(point) = &child.point {
                point.entry.remove_mount();
            }
            inside.append(&mut child.children.write());
        }
        if Arc::ptr_eq(&entry.vnode().clone(), &mount.file_system.root()) {
            dentry::purge(entry.file_system());
        }
        // With others that still use it (bind mounts, open files after a lazy unmount) it has to go on.
        let written = if Arc::strong_count(&mount.file_system) == 1 && Arc::strong_count(&mount) == 1 {
            mount.file_system.unmount()
        } else {
            mount.file_system.sync()
        };
        if let Err(error) = written {
            match mount.source.is_empty() {
                true => report_loss(mount.file_system.name(), error),
                false => report_loss(&String::from_utf8_lossy(&mount.source), error),
            }
        }
        Ok(())
    }

    /// Whether something is mounted exactly here, or this is a mount's root.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.entry, &self.mount.root)
    }

    /// statfs(2).
    pub fn statistics(&self) -> Result<Statistics> {
        let mut statistics = self.vnode().statistics()?;
        statistics.read_only |= self.mount.flags().contains(MountFlags::READ_ONLY);
        Ok(statistics)
    }

    /// Makes every mounted file system below durable (sync(2)); `self` is the root.
    pub fn sync_all(&self) -> Result<()> {
        self.for_all(|system| system.sync())
    }

    /// Leaves every mounted file system clean before the machine stops; `self` is the root.
    pub fn unmount_all(&self) -> Result<()> {
        self.for_all(|system| system.unmount())
    }

    /// Does something with every mounted file system; returns the first error.
    fn for_all(&self, act: impl Fn(&Arc<dyn FileSystem>) -> Result<()>) -> Result<()> {
        let mut systems = Vec::new();
        self.mount.visit(&mut |mount| systems.push(mount.file_system.clone()));
        let mut outcome = Ok(());
        for system in &systems {
            outcome = outcome.and(act(system));
        }
        outcome
    }

    /// What is mounted below `self`, the root of the caller.
    pub fn mount_rows(&self) -> Vec<MountRow> {
        let mut mounts = Vec::new();
        self.mount.visit(&mut |mount| mounts.push(mount.clone()));
        mounts.sort_by_key(|mount| mount.id);
        let row = |mount: &Arc<Mount>| {
            let here = Location { mount: mount.clone(), entry: mount.root.clone() };
            let (point, reachable) = here.names(self);
            let mut whole = here.clone();
            let mut root = Vec::new();
            while let Some(parent) = whole.entry.parent() {
                root.splice(0..0, [b"/", &*whole.entry.name()].concat());
                whole.entry = parent;
            }
            if root.is_empty() {
                root.push(b'/');
            }
            reachable.then(|| MountRow {
                id: mount.id,
                parent: mount.point.as_ref().map_or(mount.id, |point| point.mount.id),
                device: here.vnode().attributes().map_or(0, |attributes| attributes.device),
                root,
                point,
                flags: flag_names(mount.flags()),
                kind: mount.file_system.name(),
                source: if mount.source.is_empty() { b"none".to_vec() } else { mount.source.clone() },
                options: mount.options.clone(),
            })
        };
        mounts.iter().filter_map(row).collect()
    }
}

fn flag_names(flags: MountFlags) -> String {
    let mut text = String::from(if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" });
    for (flag, name) in [
        (MountFlags::NO_SET_UID, ",nosuid"),
        (MountFlags::NO_DEVICES, ",nodev"),
        (MountFlags::NO_EXECUTE, ",noexec"),
    ] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text.push_str(if flags.contains(MountFlags::NO_ACCESS_TIME) { ",noatime" } else { ",relatime" });
    text
}

/// The file system of a file that is in none.
struct Anonymous(Arc<dyn Vnode>);

impl FileSystem for Anonymous {
    fn name(&self) -> &'static str {
        "anon_inodefs"
    }

    fn root(&self) -> Arc<dyn Vnode> {
        self.0.clone()
    }
}
