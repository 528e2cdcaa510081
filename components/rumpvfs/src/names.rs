//! What programs do with names: open, create, link, remove, rename.

use alloc::{sync::Arc, vec::Vec};

use rumpkern::{Errno, Result};
use rumpuser::sync::Mutex;

use crate::{
    access::{self, Credentials},
    dentry::Dentry,
    file::{File, OpenFlags},
    mount::{Location, MountFlags},
    namei::{Last, Lookup, PATH_MAX},
    notify::{self, event},
    open::Reference,
    vnode::{AttributeChanges, Creation, Kind},
};

/// Held while a rename involves two directories, so that neither moves below the other meanwhile.
static RENAME: Mutex<()> = Mutex::new(());

/// An opened file and the name by which it was reached.
pub struct Opened {
    /// The file.
    pub file: Arc<dyn File>,
    /// Where it is.
    pub location: Location,
}

/// Opens what a location has: checks the mode and the permissions, truncates. `created`: it was just made for
/// this caller, who may do anything with it.
pub fn open_location(
    location: &Location,
    credentials: &Credentials,
    flags: OpenFlags,
    created: bool,
) -> Result<Arc<dyn File>> {
    let vnode = location.vnode();
    let kind = vnode.kind();
    if flags.contains(OpenFlags::DIRECTORY)
        && kind != Kind::Directory
        && !flags.contains(OpenFlags::TEMPORARY)
    {
        return Err(Errno::ENOTDIR);
    }
    if flags.contains(OpenFlags::PATH) {
        return Ok(Arc::new(Reference::new(vnode.clone())));
    }
    let access_mode = flags & (OpenFlags::WRITE_ONLY | OpenFlags::READ_WRITE);
    let truncate = flags.contains(OpenFlags::TRUNCATE);
    let mut wanted = 0;
    if access_mode != OpenFlags::WRITE_ONLY {
        wanted |= access::READ;
    }
    if !access_mode.is_empty() || truncate {
        wanted |= access::WRITE;
    }
    match kind {
        Kind::Symlink => return Err(Errno::ELOOP),
        Kind::Directory if wanted & access::WRITE != 0 || flags.contains(OpenFlags::CREATE) => {
            return Err(Errno::EISDIR);
        }
        Kind::Character | Kind::Block if location.mount.flags().contains(MountFlags::NO_DEVICES) => {
            return Err(Errno::EACCES);
        }
        Kind::Regular if wanted & access::WRITE != 0 => location.mount.require_writable()?,
        _ => {}
    }
    if !created {
        credentials.check(vnode, wanted)?;
    }
    if flags.contains(OpenFlags::NO_ACCESS_TIME) {
        credentials.require_owner(&vnode.attributes()?)?;
    }
    if truncate && kind == Kind::Regular && !created {
        vnode.set_attributes(&AttributeChanges { size: Some(0), ..Default::default() })?;
    }
    let file = vnode.clone().open(flags)?;
    notify::tell_entry(&location.entry, event::OPEN);
    Ok(file)
}

/// Whether removing or renaming `victim` from `directory` is allowed.
fn may_remove(directory: &Location, victim: &Dentry, credentials: &Credentials) -> Result<()> {
    credentials.check(directory.vnode(), access::WRITE | access::EXECUTE)?;
    if credentials.privileged {
        return Ok(());
    }
    let attributes = directory.vnode().attributes()?;
    let owned = attributes.uid == credentials.uid || victim.vnode().attributes()?.uid == credentials.uid;
    if attributes.permissions & access::STICKY != 0 && !owned { Err(Errno::EPERM) } else { Ok(()) }
}

/// Owner, group and mode of a file that is created in a directory, whose set-group-ID bit passes its group on.
fn inherited<'a>(
    directory: &Location,
    credentials: &Credentials,
    kind: Kind,
    permissions: u32,
) -> Result<Creation<'a>> {
    let attributes = directory.vnode().attributes()?;
    let mut creation = Creation {
        kind,
        permissions: permissions & 0o7777,
        uid: credentials.uid,
        gid: credentials.gid,
        target: b"",
        rdev: 0,
    };
    if attributes.permissions & access::SET_GID != 0 {
        creation.gid = attributes.gid;
        if kind == Kind::Directory {
            creation.permissions |= access::SET_GID;
        } else if !credentials.privileged && !credentials.in_group(attributes.gid) {
            creation.permissions &= !access::SET_GID;
        }
    }
    Ok(creation)
}

impl Lookup<'_> {
    fn may_create(&self, directory: &Location) -> Result<()> {
        directory.mount.require_writable()?;
        self.credentials.check(directory.vnode(), access::WRITE | access::EXECUTE)
    }

    /// open(2). `permissions` of a new file have the umask applied.
    pub fn open(&self, path: &[u8], flags: OpenFlags, permissions: u32) -> Result<Opened> {
        if flags.contains(OpenFlags::TEMPORARY) {
            return self.open_temporary(path, flags, permissions);
        }
        let create = flags.contains(OpenFlags::CREATE) && !flags.contains(OpenFlags::PATH);
        let exclusive = create && flags.contains(OpenFlags::EXCLUSIVE);
        let follow = !flags.contains(OpenFlags::NO_FOLLOW) && !exclusive;
        let walked = self.walk(path, follow)?;
        if create && walked.trailing && matches!(walked.last, Last::Name(_)) {
            return Err(Errno::EISDIR);
        }
        let location = match walked.target {
            Some(target) => target,
            None if !create => return Err(Errno::ENOENT),
            None => {
                let Last::Name(name) = walked.last else { return Err(Errno::ENOENT) };
                let directory = walked.directory;
                let guard = directory.entry.guard.lock();
                match directory.entry.lookup(&name) {
                    // Somebody else was faster.
                    Ok(entry) => Location { mount: directory.mount.clone(), entry },
                    Err(Errno::ENOENT) => {
                        self.may_create(&directory)?;
                        let creation = inherited(&directory, self.credentials, Kind::Regular, permissions)?;
                        let vnode = directory.vnode().create(&name, &creation)?;
                        let entry = directory.entry.created(&name, vnode);
                        drop(guard);
                        notify::created(&directory.entry, &name, entry.vnode());
                        let location = Location { mount: directory.mount, entry };
                        let file = open_location(&location, self.credentials, flags, true)?;
                        return Ok(Opened { file, location });
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if exclusive {
            return Err(Errno::EEXIST);
        }
        if walked.trailing && location.vnode().kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let file = open_location(&location, self.credentials, flags, false)?;
        Ok(Opened { file, location })
    }

    fn open_temporary(&self, path: &[u8], flags: OpenFlags, permissions: u32) -> Result<Opened> {
        if !flags.writable() || !flags.contains(OpenFlags::DIRECTORY) || flags.contains(OpenFlags::CREATE) {
            return Err(Errno::EINVAL);
        }
        let directory = self.resolve(path, !flags.contains(OpenFlags::NO_FOLLOW))?;
        if directory.vnode().kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.may_create(&directory)?;
        let creation = inherited(&directory, self.credentials, Kind::Regular, permissions)?;
        let vnode = directory.vnode().create_unnamed(&creation)?;
        let name = alloc::format!("#{}", vnode.attributes()?.inode);
        let entry = Dentry::detached(vnode, Some(directory.entry), name.as_bytes());
        let location = Location { mount: directory.mount, entry };
        let file = open_location(&location, self.credentials, flags, true)?;
        Ok(Opened { file, location })
    }

    /// mkdir, mknod, symlink, bind of a socket. `creation` gives kind, permissions (the umask applied),
    /// target and device; owner and group are found here.
    pub fn create(&self, path: &[u8], creation: &Creation<'_>) -> Result<Location> {
        if creation.kind == Kind::Symlink && creation.target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if creation.target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let is_device = matches!(creation.kind, Kind::Character | Kind::Block);
        if is_device && !self.credentials.privileged {
            return Err(Errno::EPERM);
        }
        let (directory, name) = self.new_name(path, creation.kind == Kind::Directory)?;
        let _guard = directory.entry.guard.lock();
        match directory.entry.lookup(&name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.may_create(&directory)?;
        let inherited = inherited(&directory, self.credentials, creation.kind, creation.permissions)?;
        let vnode = directory
            .vnode()
            .create(&name, &Creation { target: creation.target, rdev: creation.rdev, ..inherited })?;
        let entry = directory.entry.created(&name, vnode);
        notify::created(&directory.entry, &name, entry.vnode());
        Ok(Location { mount: directory.mount.clone(), entry })
    }

    /// Where a new name goes; `slash`: it may end in one.
    fn new_name(&self, path: &[u8], slash: bool) -> Result<(Location, Vec<u8>)> {
        let trimmed = match path.iter().rposition(|&byte| byte != b'/') {
            Some(end) if slash => &path[..=end],
            _ => path,
        };
        let walked = self.walk(trimmed, false)?;
        let Last::Name(name) = walked.last else { return Err(Errno::EEXIST) };
        if walked.target.is_some() {
            return Err(Errno::EEXIST);
        }
        if walked.trailing {
            return Err(Errno::ENOENT);
        }
        Ok((walked.directory, name))
    }

    /// link(2): another name for what `target` has.
    pub fn link(&self, target: &Location, path: &[u8]) -> Result<()> {
        let (directory, name) = self.new_name(path, false)?;
        if directory.entry.file_system() != target.entry.file_system()
            || !Arc::ptr_eq(&directory.mount, &target.mount)
        {
            return Err(Errno::EXDEV);
        }
        if target.vnode().kind() == Kind::Directory {
            return Err(Errno::EPERM);
        }
        let _guard = directory.entry.guard.lock();
        match directory.entry.lookup(&name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.may_create(&directory)?;
        directory.vnode().link(&name, target.vnode())?;
        directory.entry.created(&name, target.vnode().clone());
        notify::tell(target.vnode(), event::ATTRIB, 0, b"");
        notify::created(&directory.entry, &name, target.vnode());
        Ok(())
    }

    /// unlink(2), and rmdir(2) with `directory`.
    pub fn remove(&self, path: &[u8], is_directory: bool) -> Result<()> {
        let trimmed = match path.iter().rposition(|&byte| byte != b'/') {
            Some(end) => &path[..=end],
            None => path,
        };
        let walked = self.walk(trimmed, false)?;
        let name = match walked.last {
            Last::Name(name) => name,
            _ if !is_directory => return Err(Errno::EISDIR),
            Last::Dot { root: false } => return Err(Errno::EINVAL),
            Last::DotDot => return Err(Errno::ENOTEMPTY),
            Last::Dot { root: true } | Last::Jump => return Err(Errno::EBUSY),
        };
        let parent = walked.directory;
        let _guard = parent.entry.guard.lock();
        let entry = parent.entry.lookup(&name)?;
        let is_slashed = trimmed.len() < path.len();
        match (entry.vnode().kind() == Kind::Directory, is_directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, false) if is_slashed => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        parent.mount.require_writable()?;
        may_remove(&parent, &entry, self.credentials)?;
        if entry.has_mounts() {
            return Err(Errno::EBUSY);
        }
        parent.vnode().remove(&name, is_directory)?;
        parent.entry.forget(&name);
        notify::removed(&parent.entry, &name, entry.vnode());
        Ok(())
    }

    /// rename(2), from this lookup's path to another's; see [`Vnode::rename`] for `keep` and `exchange`.
    pub fn rename(
        &self,
        path: &[u8],
        to: &Lookup<'_>,
        new_path: &[u8],
        keep: bool,
        exchange: bool,
    ) -> Result<()> {
        if keep && exchange {
            return Err(Errno::EINVAL);
        }
        let strip =
            |path: &[u8]| path.iter().rposition(|&byte| byte != b'/').map_or(path.len(), |end| end + 1);
        let (length, new_length) = (strip(path), strip(new_path));
        let old = self.walk(&path[..length], false)?;
        let new = to.walk(&new_path[..new_length], false)?;
        let Last::Name(old_name) = old.last else { return Err(Errno::EBUSY) };
        let Last::Name(new_name) = new.last else {
            return Err(if keep { Errno::EEXIST } else { Errno::EBUSY });
        };
        let (from, into) = (old.directory, new.directory);
        if !Arc::ptr_eq(&from.mount, &into.mount) {
            return Err(Errno::EXDEV);
        }
        let one_directory = Arc::ptr_eq(&from.entry, &into.entry);
        let _rename = (!one_directory).then(|| RENAME.lock());
        let (first, second) =
            if from.entry.order() <= into.entry.order() { (&from, &into) } else { (&into, &from) };
        let _first = first.entry.guard.lock();
        let _second = (!one_directory).then(|| second.entry.guard.lock());

        let source = from.entry.lookup(&old_name)?;
        let target = match into.entry.lookup(&new_name) {
            Ok(_) if keep => return Err(Errno::EEXIST),
            Ok(target) => Some(target),
            Err(Errno::ENOENT) if exchange => return Err(Errno::ENOENT),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        let source_is_directory = source.vnode().kind() == Kind::Directory;
        if !source_is_directory && (length < path.len() || !exchange && new_length < new_path.len()) {
            return Err(Errno::ENOTDIR);
        }
        if source_is_directory && source.contains(&into.entry) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && target.contains(&from.entry)
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        from.mount.require_writable()?;
        may_remove(&from, &source, self.credentials)?;
        match &target {
            Some(target) => may_remove(&into, target, self.credentials)?,
            None => self.credentials.check(into.vnode(), access::WRITE | access::EXECUTE)?,
        }
        if let Some(target) = &target {
            if Arc::ptr_eq(target.vnode(), source.vnode()) {
                return Ok(());
            }
            let target_is_directory = target.vnode().kind() == Kind::Directory;
            match (source_is_directory, target_is_directory) {
                _ if exchange => {}
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ => {}
            }
            if target.has_mounts() {
                return Err(Errno::EBUSY);
            }
            if exchange && target_is_directory && !one_directory {
                self.credentials.check(target.vnode(), access::WRITE)?;
            }
        }
        if source.has_mounts() {
            return Err(Errno::EBUSY);
        }
        if source_is_directory && !one_directory {
            self.credentials.check(source.vnode(), access::WRITE)?;
        }
        from.vnode().rename(&old_name, into.vnode(), &new_name, keep, exchange)?;
        match &target {
            Some(target) if exchange => {
                let places = ((&from.entry, &old_name[..]), (&into.entry, &new_name[..]));
                Dentry::exchanged(&source, target, places.0, places.1);
            }
            _ => source.renamed(&from.entry, &old_name, &into.entry, &new_name),
        }
        notify::renamed((&from.entry, &old_name), (&into.entry, &new_name), source.vnode());
        Ok(())
    }

    /// readlink(2). An empty path is the link that the lookup starts at (a descriptor of O_PATH).
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let location = self.resolve_or_base(path, false)?;
        let vnode = location.vnode();
        if vnode.kind() != Kind::Symlink {
            return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
        }
        vnode.read_link()
    }
}
