//! Name lookup: from a path to a place.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};

use crate::{
    access::{self, Credentials},
    mount::{Location, MountFlags},
    vnode::Kind,
};

/// Longest path, its terminator included.
pub const PATH_MAX: usize = 4096;
/// Longest name.
pub const NAME_MAX: usize = 255;
/// Symbolic links followed in one lookup.
const LINKS_MAX: u32 = 40;

bitflags::bitflags! {
    /// Restrictions of a lookup, with the values of `RESOLVE_*` in openat2(2).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Resolve: u64 {
        /// No mount is crossed (EXDEV).
        const NO_XDEV = 0x01;
        /// Links like /proc/self/exe aren't followed (ELOOP).
        const NO_MAGIC_LINKS = 0x02;
        /// No symbolic link is followed (ELOOP).
        const NO_SYMLINKS = 0x04;
        /// The lookup stays below where it starts (EXDEV).
        const BENEATH = 0x08;
        /// Where the lookup starts is its root.
        const IN_ROOT = 0x10;
        /// Only what the cache has; it makes no difference here.
        const CACHED = 0x20;
    }
}

/// Where and on whose behalf names are looked up.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// The caller's root.
    pub root: &'a Location,
    /// Where relative paths start: the working directory, or that of a descriptor.
    pub base: &'a Location,
    /// The caller.
    pub credentials: &'a Credentials,
    /// Restrictions.
    pub resolve: Resolve,
}

/// The last component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Last {
    /// A name in the directory.
    Name(Vec<u8>),
    /// The directory itself ("." or a path of slashes); `root`: the path was nothing but slashes.
    Dot {
        /// See above.
        root: bool,
    },
    /// The directory above (".." was the last component; `directory` is where it led).
    DotDot,
    /// A link like /proc/self/exe was last.
    Jump,
}

/// What a walk along a path found.
pub struct Walked {
    /// The directory of the last component; for all but names, the result itself.
    pub directory: Location,
    /// The last component.
    pub last: Last,
    /// What it leads to; `None` if the name doesn't exist.
    pub target: Option<Location>,
    /// A slash follows the last component.
    pub trailing: bool,
}

impl<'a> Lookup<'a> {
    /// A lookup without restrictions.
    pub fn new(root: &'a Location, base: &'a Location, credentials: &'a Credentials) -> Self {
        Lookup { root, base, credentials, resolve: Resolve::empty() }
    }

    /// The top of the lookup.
    fn top(&self) -> &'a Location {
        if self.resolve.contains(Resolve::IN_ROOT) { self.base } else { self.root }
    }

    /// Finds what a path leads to. `follow`: also through a symbolic link at its end.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Location> {
        let walked = self.walk(path, follow)?;
        let trailing = walked.trailing;
        let target = walked.target.ok_or(Errno::ENOENT)?;
        if trailing && target.vnode().kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(target)
    }

    /// As [`Lookup::resolve`], but an empty path leads to where relative paths start (AT_EMPTY_PATH).
    pub fn resolve_or_base(&self, path: &[u8], follow: bool) -> Result<Location> {
        if path.is_empty() { Ok(self.base.clone()) } else { self.resolve(path, follow) }
    }

    /// As [`Lookup::resolve`], for a directory that is to be searched (chdir, chroot).
    pub fn resolve_directory(&self, path: &[u8]) -> Result<Location> {
        let location = self.resolve(path, true)?;
        if location.vnode().kind() != Kind::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.credentials.check(location.vnode(), access::EXECUTE)?;
        Ok(location)
    }

    /// access(2): whether `wanted` is allowed on what the location has.
    pub fn check_access(&self, location: &Location, wanted: u32) -> Result<()> {
        let kind = location.vnode().kind();
        if wanted & access::WRITE != 0 && matches!(kind, Kind::Regular | Kind::Directory | Kind::Symlink) {
            location.mount.require_writable()?;
        }
        if wanted & access::EXECUTE != 0
            && kind == Kind::Regular
            && location.mount.flags().contains(MountFlags::NO_EXECUTE)
        {
            return Err(Errno::EACCES);
        }
        self.credentials.check(location.vnode(), wanted)
    }

    /// Walks along a path up to its last component, and looks that up. Where the last component is a symbolic
    /// link and `follow` (or a slash behind it) asks for it, the walk goes on along the link, so that
    /// `directory` and `last` tell where a file would be created.
    pub fn walk(&self, path: &[u8], follow: bool) -> Result<Walked> {
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut replaced: Option<Vec<u8>> = None;
        let mut position = 0;
        let mut links = 0;
        let mut here = self.start(path)?;
        let mut last = Last::Dot { root: true };
        loop {
            let text = replaced.as_deref().unwrap_or(path);
            position += text[position..].iter().take_while(|&&byte| byte == b'/').count();
            let rest = &text[position..];
            if rest.is_empty() {
                let trailing = text.last() == Some(&b'/');
                return Ok(Walked { target: Some(here.clone()), directory: here, last, trailing });
            }
            let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let name = &rest[..length];
            let behind = &rest[length..];
            let is_last = behind.iter().all(|&byte| byte == b'/');
            let trailing = is_last && !behind.is_empty();
            position += length;
            if here.vnode().kind() != Kind::Directory {
                return Err(Errno::ENOTDIR);
            }
            self.credentials.check(here.vnode(), access::EXECUTE)?;
            match name {
                b"." => last = Last::Dot { root: false },
                b".." => {
                    here = self.up(&here)?;
                    last = Last::DotDot;
                }
                _ => {
                    if length > NAME_MAX {
                        return Err(Errno::ENAMETOOLONG);
                    }
                    let entry = match here.entry.lookup(name) {
                        Ok(entry) => entry,
                        Err(Errno::ENOENT) if is_last => {
                            let last = Last::Name(name.to_vec());
                            return Ok(Walked { directory: here, last, target: None, trailing });
                        }
                        Err(error) => return Err(error),
                    };
                    if entry.vnode().kind() == Kind::Symlink && (!is_last || follow || trailing) {
                        links += 1;
                        if links > LINKS_MAX || self.resolve.contains(Resolve::NO_SYMLINKS) {
                            return Err(Errno::ELOOP);
                        }
                        if let Some(target) = entry.vnode().jump() {
                            here = self.jump(target?)?;
                            last = Last::Jump;
                            continue;
                        }
                        let mut target = entry.vnode().read_link()?;
                        if target.is_empty() {
                            return Err(Errno::ENOENT);
                        }
                        if target[0] == b'/' {
                            here = self.start(&target)?;
                            last = Last::Dot { root: true };
                        }
                        target.extend_from_slice(behind);
                        if target.len() >= PATH_MAX {
                            return Err(Errno::ENAMETOOLONG);
                        }
                        replaced = Some(target);
                        position = 0;
                        continue;
                    }
                    if is_last {
                        let target = Location { mount: here.mount.clone(), entry };
                        let target = self.crossed(target)?;
                        let last = Last::Name(name.to_vec());
                        return Ok(Walked { directory: here, last, target: Some(target), trailing });
                    }
                    here = self.crossed(Location { mount: here.mount, entry })?;
                }
            }
        }
    }

    /// Where a path starts.
    fn start(&self, path: &[u8]) -> Result<Location> {
        if path[0] != b'/' {
            return Ok(self.base.clone());
        }
        if self.resolve.contains(Resolve::BENEATH) {
            return Err(Errno::EXDEV);
        }
        if self.resolve.contains(Resolve::NO_XDEV)
            && !alloc::sync::Arc::ptr_eq(&self.top().mount, &self.base.mount)
        {
            return Err(Errno::EXDEV);
        }
        Ok(self.top().clone())
    }

    fn crossed(&self, location: Location) -> Result<Location> {
        if !location.entry.has_mounts() {
            return Ok(location);
        }
        let entered = location.clone().enter_mounts();
        if self.resolve.contains(Resolve::NO_XDEV) && !entered.same(&location) {
            return Err(Errno::EXDEV);
        }
        Ok(entered)
    }

    fn up(&self, here: &Location) -> Result<Location> {
        if self.resolve.contains(Resolve::BENEATH) && here.same(self.base) {
            return Err(Errno::EXDEV);
        }
        let parent = here.parent(self.top());
        if self.resolve.contains(Resolve::NO_XDEV) && !alloc::sync::Arc::ptr_eq(&parent.mount, &here.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(parent)
    }

    fn jump(&self, target: Location) -> Result<Location> {
        if self.resolve.contains(Resolve::NO_MAGIC_LINKS) {
            return Err(Errno::ELOOP);
        }
        if self.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT | Resolve::NO_XDEV) {
            return Err(Errno::EXDEV);
        }
        Ok(target)
    }
}
