//! Who may do what: credentials, and the permission checks of POSIX on vnodes.

use alloc::sync::Arc;

use rumpkern::{Errno, Result};

use crate::vnode::{Attributes, Kind, Vnode};

/// Wants to execute, or to search a directory.
pub const EXECUTE: u32 = 1;
/// Wants to write.
pub const WRITE: u32 = 2;
/// Wants to read.
pub const READ: u32 = 4;

/// Set-user-ID.
pub const SET_UID: u32 = 0o4000;
/// Set-group-ID.
pub const SET_GID: u32 = 0o2000;
/// Sticky: only owners remove.
pub const STICKY: u32 = 0o1000;

/// On whose behalf files are accessed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// File system user.
    pub uid: u32,
    /// File system group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// May ignore permissions (CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_CHOWN and their kin).
    pub privileged: bool,
}

impl Credentials {
    /// The superuser's.
    pub fn root() -> Self {
        Credentials { uid: 0, gid: 0, groups: Arc::default(), privileged: true }
    }

    /// Whether the caller is in `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the caller counts as the file's owner. EPERM if not.
    pub fn require_owner(&self, attributes: &Attributes) -> Result<()> {
        if self.privileged || self.uid == attributes.uid { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Whether `wanted` ([`READ`], [`WRITE`], [`EXECUTE`] or-ed) is allowed. EACCES if not.
    pub fn check(&self, vnode: &Arc<dyn Vnode>, wanted: u32) -> Result<()> {
        // What every name lookup does: searching a directory costs the superuser nothing.
        if wanted == 0 || self.privileged && (wanted & EXECUTE == 0 || vnode.kind() == Kind::Directory) {
            return Ok(());
        }
        self.check_attributes(&vnode.attributes()?, wanted)
    }

    /// As [`Credentials::check`], for attributes at hand.
    pub fn check_attributes(&self, attributes: &Attributes, wanted: u32) -> Result<()> {
        let bits = attributes.permissions;
        let allowed = if self.privileged {
            let execute = attributes.kind == Kind::Directory || bits & 0o111 != 0;
            READ | WRITE | if execute { EXECUTE } else { 0 }
        } else if self.uid == attributes.uid {
            bits >> 6 & 7
        } else if self.in_group(attributes.gid) {
            bits >> 3 & 7
        } else {
            bits & 7
        };
        if wanted & !allowed == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }
}
