//! What System V's means of communication have in common: keys, owners, permissions.
//!
//! Shared memory is [`crate::memory::shm`].

pub mod operation;
pub mod semaphore;

use rumpkern::{Errno, Result};
use rumpuser::rumpuser_clock_realtime;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::credentials::Credentials;

pub(crate) const IPC_PRIVATE: i32 = 0;
pub(crate) const IPC_CREAT: u32 = 0o1000;
pub(crate) const IPC_EXCL: u32 = 0o2000;
pub(crate) const IPC_NOWAIT: u16 = 0o4000;

pub(crate) const IPC_RMID: u32 = 0;
pub(crate) const IPC_SET: u32 = 1;
pub(crate) const IPC_STAT: u32 = 2;
pub(crate) const IPC_INFO: u32 = 3;

/// What [`Permissions::check`] asks for.
pub(crate) const READ: u32 = 4;
/// See [`READ`].
pub(crate) const WRITE: u32 = 2;

/// May do as the owner does.
const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;

/// `struct ipc64_perm`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Permissions {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub creator_uid: u32,
    pub creator_gid: u32,
    pub mode: u32,
    sequence: u16,
    padding: [u16; 3],
    unused: [u64; 2],
}

impl Permissions {
    /// Those of an object that `who` makes.
    pub fn new(who: &Credentials, key: i32, flags: u32) -> Self {
        Permissions {
            key,
            uid: who.euid,
            gid: who.egid,
            creator_uid: who.euid,
            creator_gid: who.egid,
            mode: flags & 0o777,
            ..Permissions::default()
        }
    }

    /// EACCES unless `who` has all of `wanted` ([`READ`], [`WRITE`]).
    pub fn check(&self, who: &Credentials, wanted: u32) -> Result<()> {
        let mode = if who.euid == self.uid || who.euid == self.creator_uid {
            self.mode >> 6
        } else if [self.gid, self.creator_gid]
            .into_iter()
            .any(|gid| who.egid == gid || who.groups.contains(&gid))
        {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !mode & 7 == 0 || who.capable(CAP_IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// EPERM unless `who` may change and remove the object.
    pub fn require_owner(&self, who: &Credentials) -> Result<()> {
        let owns = who.euid == self.uid || who.euid == self.creator_uid || who.capable(CAP_SYS_ADMIN);
        if owns { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// What IPC_SET may change.
    pub fn set(&mut self, wanted: &Permissions) {
        (self.uid, self.gid) = (wanted.uid, wanted.gid);
        self.mode = (self.mode & !0o777) | (wanted.mode & 0o777);
    }
}

/// The time in seconds, for the stamps of objects.
pub(crate) fn seconds() -> i64 {
    (rumpuser_clock_realtime() / 1_000_000_000) as i64
}
