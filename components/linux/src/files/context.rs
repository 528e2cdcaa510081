//! What names are looked up in: root directory, working directory, umask.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use rumpkern::{Errno, Result};
use rumpuser::sync::SpinLock;
use rumpvfs::{
    access,
    mount::Location,
    namei::{Lookup, Resolve},
};

use crate::task::Task;

/// `dirfd` that stands for the working directory.
pub const AT_FDCWD: i32 = -100;

/// See the module. Shared between tasks with CLONE_FS.
pub struct FsContext {
    places: SpinLock<Option<(Location, Location)>>,
    umask: AtomicU32,
}

impl Default for FsContext {
    /// At the root of the first mount, once there is one.
    fn default() -> Self {
        FsContext { places: SpinLock::new(None), umask: AtomicU32::new(0o022) }
    }
}

impl FsContext {
    /// A context whose root and working directory are `root`.
    pub fn new(root: Location) -> Arc<Self> {
        Arc::new(FsContext {
            places: SpinLock::new(Some((root.clone(), root))),
            umask: AtomicU32::new(0o022),
        })
    }

    /// A copy for fork.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(FsContext {
            places: SpinLock::new(self.places.lock().clone()),
            umask: AtomicU32::new(self.umask()),
        })
    }

    /// The umask.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask; returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }

    /// The root and the working directory. ENOENT before a file system is mounted.
    pub fn places(&self) -> Result<(Location, Location)> {
        self.places.lock().clone().ok_or(Errno::ENOENT)
    }

    /// The root directory.
    pub fn root(&self) -> Result<Location> {
        self.places.lock().as_ref().map(|(root, _)| root.clone()).ok_or(Errno::ENOENT)
    }

    /// The working directory.
    pub fn working_directory(&self) -> Result<Location> {
        self.places.lock().as_ref().map(|(_, directory)| directory.clone()).ok_or(Errno::ENOENT)
    }

    /// Changes the root directory.
    pub fn set_root(&self, location: Location) {
        let mut places = self.places.lock();
        let directory = places.as_ref().map_or_else(|| location.clone(), |(_, directory)| directory.clone());
        let old = places.replace((location, directory));
        drop(places);
        drop(old);
    }

    /// Changes the working directory.
    pub fn set_working_directory(&self, location: Location) {
        let mut places = self.places.lock();
        let root = places.as_ref().map_or_else(|| location.clone(), |(root, _)| root.clone());
        let old = places.replace((root, location));
        drop(places);
        drop(old);
    }
}

/// What a lookup on behalf of a task needs, held together.
pub struct Names {
    root: Location,
    base: Location,
    credentials: access::Credentials,
    resolve: Resolve,
}

/// The credentials as the file systems see them.
pub fn credentials(task: &Task) -> access::Credentials {
    let credentials = task.credentials();
    access::Credentials {
        uid: credentials.fsuid,
        gid: credentials.fsgid,
        // Most tasks have none, and then there is nothing to allocate.
        groups: if credentials.groups.is_empty() {
            Arc::default()
        } else {
            Arc::from(&credentials.groups[..])
        },
        privileged: credentials.fsuid == 0 || credentials.capable(CAP_DAC_OVERRIDE),
    }
}

const CAP_DAC_OVERRIDE: u32 = 1;

impl Names {
    /// For a path relative to the working directory.
    pub fn new(task: &Task) -> Result<Self> {
        let (root, base) = task.filesystem().places()?;
        Ok(Names { root, base, credentials: credentials(task), resolve: Resolve::default() })
    }

    /// For a path relative to a descriptor, or to the working directory ([`AT_FDCWD`]). The descriptor isn't
    /// looked at for an absolute path, and must be a directory unless the path is empty.
    pub fn at(task: &Task, descriptor: i32, path: &[u8]) -> Result<Self> {
        let mut names = Names::new(task)?;
        if descriptor != AT_FDCWD && path.first() != Some(&b'/') {
            let file = task.files().get(descriptor)?;
            names.base = match file.location() {
                Some(location) => location.clone(),
                None if path.is_empty() => {
                    let vnode = file.vnode().ok_or(Errno::ENOTDIR)?;
                    Location::anonymous(vnode.clone(), b"")
                }
                None => return Err(Errno::ENOTDIR),
            };
        }
        Ok(names)
    }

    /// With restrictions (openat2).
    pub fn restricted(mut self, resolve: Resolve) -> Self {
        self.resolve = resolve;
        self
    }

    /// With the real user and group instead of the effective ones (access(2)).
    pub fn with_real_ids(mut self, task: &Task) -> Self {
        let credentials = task.credentials();
        self.credentials.uid = credentials.uid;
        self.credentials.gid = credentials.gid;
        self.credentials.privileged = credentials.uid == 0;
        self
    }

    /// The caller.
    pub fn credentials(&self) -> &access::Credentials {
        &self.credentials
    }

    /// The root directory.
    pub fn root(&self) -> &Location {
        &self.root
    }

    /// The lookup.
    pub fn lookup(&self) -> Lookup<'_> {
        Lookup { resolve: self.resolve, ..Lookup::new(&self.root, &self.base, &self.credentials) }
    }
}
