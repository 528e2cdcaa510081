//! Changes of a file's attributes: chmod, chown, utimes, truncate and extended attributes, with the checks
//! that POSIX asks for.

use alloc::vec::Vec;

use rumpkern::{Errno, Result};

use crate::{
    access::{self, Credentials, SET_GID, SET_UID},
    mount::Location,
    notify::{self, event},
    vnode::{AttributeChanges, Kind, Time, now},
};

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// Leave it (UTIME_OMIT).
    Keep,
    /// The time of the change (UTIME_NOW).
    Now,
    /// This.
    At(Time),
}

impl Location {
    /// chmod(2).
    pub fn change_mode(&self, credentials: &Credentials, permissions: u32) -> Result<()> {
        self.mount.require_writable()?;
        let attributes = self.vnode().attributes()?;
        if attributes.kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        credentials.require_owner(&attributes)?;
        let mut permissions = permissions & 0o7777;
        if !credentials.privileged && !credentials.in_group(attributes.gid) {
            permissions &= !SET_GID;
        }
        let changes = AttributeChanges { permissions: Some(permissions), ..Default::default() };
        self.change(&changes, event::ATTRIB)
    }

    fn change(&self, changes: &AttributeChanges, event: u32) -> Result<()> {
        self.vnode().set_attributes(changes)?;
        notify::tell_entry(&self.entry, event);
        Ok(())
    }

    /// chown(2).
    pub fn change_owner(&self, credentials: &Credentials, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.mount.require_writable()?;
        let attributes = self.vnode().attributes()?;
        if !credentials.privileged {
            let keeps_owner = uid.is_none_or(|uid| uid == attributes.uid);
            let may_group = gid.is_none_or(|gid| gid == attributes.gid || credentials.in_group(gid));
            let is_owner = credentials.uid == attributes.uid || (uid.is_none() && gid.is_none());
            if !keeps_owner || !may_group || !is_owner {
                return Err(Errno::EPERM);
            }
        }
        let mut changes = AttributeChanges { uid, gid, ..Default::default() };
        if attributes.kind == Kind::Regular {
            let cleared = without_set_id(attributes.permissions);
            changes.permissions = (cleared != attributes.permissions).then_some(cleared);
        }
        self.change(&changes, event::ATTRIB)
    }

    /// utimensat(2).
    pub fn change_times(
        &self,
        credentials: &Credentials,
        accessed: NewTime,
        modified: NewTime,
    ) -> Result<()> {
        if (accessed, modified) == (NewTime::Keep, NewTime::Keep) {
            return Ok(());
        }
        self.mount.require_writable()?;
        let attributes = self.vnode().attributes()?;
        if (accessed, modified) == (NewTime::Now, NewTime::Now) {
            if credentials.uid != attributes.uid {
                credentials.check_attributes(&attributes, access::WRITE)?;
            }
        } else {
            credentials.require_owner(&attributes)?;
        }
        let stamp = now();
        let at = |time| match time {
            NewTime::Keep => None,
            NewTime::Now => Some(stamp),
            NewTime::At(time) => Some(time),
        };
        let changes =
            AttributeChanges { accessed: at(accessed), modified: at(modified), ..Default::default() };
        self.change(&changes, event::ATTRIB)
    }

    /// truncate(2).
    pub fn truncate(&self, credentials: &Credentials, size: u64) -> Result<()> {
        match self.vnode().kind() {
            Kind::Regular => {}
            Kind::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
        self.mount.require_writable()?;
        credentials.check(self.vnode(), access::WRITE)?;
        self.change(&AttributeChanges { size: Some(size), ..Default::default() }, event::MODIFY)
    }

    /// Forgets set-user-ID and set-group-ID after an unprivileged write.
    pub fn drop_set_id(&self, credentials: &Credentials) -> Result<()> {
        if credentials.privileged {
            return Ok(());
        }
        let permissions = self.vnode().attributes()?.permissions;
        let cleared = without_set_id(permissions);
        if cleared == permissions {
            return Ok(());
        }
        let changes = AttributeChanges { permissions: Some(cleared), ..Default::default() };
        self.vnode().set_attributes(&changes)
    }

    /// getxattr(2).
    pub fn get_xattr(&self, credentials: &Credentials, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr_allowed(credentials, name, false)?;
        self.vnode().get_xattr(name)
    }

    /// setxattr(2); `create`: it must be new, `replace`: it must exist.
    pub fn set_xattr(
        &self,
        credentials: &Credentials,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.mount.require_writable()?;
        self.xattr_allowed(credentials, name, true)?;
        if value.len() > 65536 {
            return Err(Errno::E2BIG);
        }
        self.vnode().set_xattr(name, value, create, replace)
    }

    /// removexattr(2).
    pub fn remove_xattr(&self, credentials: &Credentials, name: &[u8]) -> Result<()> {
        self.mount.require_writable()?;
        self.xattr_allowed(credentials, name, true)?;
        self.vnode().remove_xattr(name)
    }

    /// listxattr(2).
    pub fn list_xattrs(&self, credentials: &Credentials) -> Result<Vec<Vec<u8>>> {
        let mut names = self.vnode().list_xattrs()?;
        if !credentials.privileged {
            names.retain(|name| !name.starts_with(b"trusted."));
        }
        Ok(names)
    }

    fn xattr_allowed(&self, credentials: &Credentials, name: &[u8], write: bool) -> Result<()> {
        if name.is_empty() || name.len() > 255 {
            return Err(Errno::ERANGE);
        }
        let refused = if write { Errno::EPERM } else { Errno::ENODATA };
        if let Some(rest) = name.strip_prefix(b"user.") {
            if rest.is_empty() {
                return Err(Errno::EINVAL);
            }
            if !matches!(self.vnode().kind(), Kind::Regular | Kind::Directory) {
                return Err(refused);
            }
            return credentials.check(self.vnode(), if write { access::WRITE } else { access::READ });
        }
        if name.starts_with(b"trusted.") {
            return if credentials.privileged { Ok(()) } else { Err(refused) };
        }
        if name.starts_with(b"security.") {
            return if write && !credentials.privileged { Err(Errno::EPERM) } else { Ok(()) };
        }
        Err(Errno::EOPNOTSUPP)
    }
}

/// Without set-user-ID, and without set-group-ID where that means what it says.
fn without_set_id(permissions: u32) -> u32 {
    let group = if permissions & 0o010 != 0 { SET_GID } else { 0 };
    permissions & !(SET_UID | group)
}
